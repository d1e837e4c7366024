//! The few calls that the demonstration makes, over HTTP like any other client's.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A call that takes longer than this is broken. Longer than a cold create on a slow host.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Connections that are kept for the next call.
const IDLE_CONNECTIONS: usize = 3;

/// A node's API under one key.
pub struct Client {
    agent: ureq::Agent,
    base: String,
    key: String,
}

/// What a command in a sandbox did.
pub struct ExecResult {
    pub exit_code: i64,
    pub stdout: String,
    pub stderr: String,
}

impl Client {
    /// `url` is the node's, without the API's prefix.
    pub fn new(url: &str, key: &str) -> Client {
        Client::with_idle_connections(url, key, IDLE_CONNECTIONS)
    }

    /// A client that opens a connection for each call, so that a balancer chooses each time.
    pub fn of_single_calls(url: &str, key: &str) -> Client {
        Client::with_idle_connections(url, key, 0)
    }

    fn with_idle_connections(url: &str, key: &str, count: usize) -> Client {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(CALL_TIMEOUT))
            // The error's body says what is wrong, so the status is looked at here.
            .http_status_as_error(false)
            // A node on this host is not reached through anybody's proxy.
            .proxy(None)
            .max_idle_connections(count)
            .build()
            .into();
        Client { agent, base: format!("{url}/api/v1"), key: key.to_owned() }
    }

    /// The answer of the health route, or why it is not healthy.
    pub fn health(&self) -> Result<Value> {
        parse("GET /health", self.agent.get(format!("{}/health", self.base)).call()?, 200)
    }

    /// The cluster's members as the node shows them.
    pub fn nodes(&self) -> Result<Vec<Value>> {
        let request = self.agent.get(format!("{}/nodes", self.base)).header("X-API-Key", &self.key);
        let all = parse("GET /nodes", request.call()?, 200)?;
        all.as_array().cloned().with_context(|| format!("not a list: {all}"))
    }

    /// Creates a sandbox of the default image and returns it as the node shows it.
    pub fn create(&self, timeout_seconds: u64) -> Result<Value> {
        let request = self.agent.post(format!("{}/sandboxes", self.base)).header("X-API-Key", &self.key);
        parse("POST /sandboxes", request.send_json(json!({ "timeout": timeout_seconds }))?, 201)
    }

    /// A sandbox as the node shows it.
    pub fn get(&self, id: &str) -> Result<Value> {
        let url = format!("{}/sandboxes/{id}", self.base);
        parse("GET", self.agent.get(&url).header("X-API-Key", &self.key).call()?, 200)
    }

    /// Starts a sandbox that was stopped.
    pub fn start(&self, id: &str) -> Result<()> {
        let request = self.agent.post(format!("{}/sandboxes/{id}/start", self.base)).header("X-API-Key", &self.key);
        parse("POST start", request.send_empty()?, 200)?;
        Ok(())
    }

    /// The ids of all sandboxes.
    pub fn list(&self) -> Result<Vec<String>> {
        let url = format!("{}/sandboxes", self.base);
        let all = parse("GET /sandboxes", self.agent.get(&url).header("X-API-Key", &self.key).call()?, 200)?;
        let ids = all.as_array().with_context(|| format!("not a list: {all}"))?.iter().map(|one| one["id"].as_str());
        ids.map(|id| id.map(str::to_owned).with_context(|| format!("a sandbox without an id in {all}"))).collect()
    }

    /// Writes a file. The path must need no percent-encoding.
    pub fn write(&self, id: &str, path: &str, bytes: &[u8]) -> Result<()> {
        let request = self.agent.put(self.file(id, path)).header("X-API-Key", &self.key);
        parse("PUT files", request.content_type("application/octet-stream").send(bytes)?, 200)?;
        Ok(())
    }

    /// Reads a file back.
    pub fn read(&self, id: &str, path: &str) -> Result<Vec<u8>> {
        let mut response = self.agent.get(self.file(id, path)).header("X-API-Key", &self.key).call()?;
        let body = response.body_mut().read_to_vec().context("the file's bytes did not come through")?;
        if response.status() != 200 {
            bail!("GET files answered {}: {}", response.status(), String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// Runs a command to its end.
    pub fn exec(&self, id: &str, argv: &[&str], workdir: &str, timeout_seconds: u64) -> Result<ExecResult> {
        let request = self.agent.post(format!("{}/sandboxes/{id}/exec", self.base)).header("X-API-Key", &self.key);
        let body = json!({ "cmd": argv, "workdir": workdir, "timeout": timeout_seconds });
        let answer = parse("POST exec", request.send_json(body)?, 200)?;
        let text =
            |field: &str| answer[field].as_str().map(str::to_owned).with_context(|| format!("no {field} in {answer}"));
        Ok(ExecResult {
            exit_code: answer["exit_code"].as_i64().with_context(|| format!("no exit_code in {answer}"))?,
            stdout: text("stdout")?,
            stderr: text("stderr")?,
        })
    }

    /// Deletes a sandbox and sees that it is gone.
    pub fn delete(&self, id: &str) -> Result<()> {
        let url = format!("{}/sandboxes/{id}", self.base);
        parse("DELETE", self.agent.delete(&url).header("X-API-Key", &self.key).call()?, 204)?;
        parse("GET of a deleted sandbox", self.agent.get(&url).header("X-API-Key", &self.key).call()?, 404)?;
        Ok(())
    }

    fn file(&self, id: &str, path: &str) -> String {
        format!("{}/sandboxes/{id}/files?path={path}", self.base)
    }
}

fn parse(what: &str, mut response: ureq::http::Response<ureq::Body>, expected: u16) -> Result<Value> {
    let status = response.status();
    let text =
        response.body_mut().read_to_string().with_context(|| format!("{what}: the answer did not come through"))?;
    if status != expected {
        bail!("{what} answered {status}, not {expected}: {}", text.trim());
    }
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("{what} did not answer with JSON: {text}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with the given bytes and returns what was asked.
    fn serve_once(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                let count = stream.read(&mut buffer).unwrap();
                assert!(count > 0, "the client closed early");
                request.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request).into_owned()
        });
        (url, server)
    }

    #[test]
    fn an_error_body_reaches_the_caller() {
        let (url, server) = serve_once(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 23\r\nConnection: close\r\n\r\n{\"error\":\"no capacity\"}",
        );
        let error = format!("{:#}", Client::new(&url, "k").read("some-id", "/f").unwrap_err());
        assert!(error.contains("503") && error.contains("no capacity"), "{error}");
        let request = server.join().unwrap().to_lowercase();
        assert!(request.starts_with("get /api/v1/sandboxes/some-id/files?path=/f "), "{request}");
        assert!(request.contains("x-api-key: k"), "{request}");
    }

    #[test]
    fn health_of_a_healthy_node_is_its_answer() {
        let (url, server) =
            serve_once("HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{\"status\":\"ok\"}");
        assert_eq!(Client::new(&url, "k").health().unwrap()["status"], "ok");
        server.join().unwrap();
    }
}
