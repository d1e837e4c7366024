//! The contract's calls, as a test says them.

use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::http::{Answer, Call};
use crate::wait::within_settling;

/// What every path starts with.
const PREFIX: &str = "/api/v1";

/// A node's API under one key. Its calls fail the test where no whole answer comes; [`Api::call`] does not.
#[derive(Debug, Clone)]
pub struct Api {
    address: SocketAddr,
    key: String,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Its exit code, as a shell would say it.
    pub code: i64,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Api {
    /// The API at an address.
    #[must_use]
    pub fn new(address: SocketAddr, key: &str) -> Self {
        Self { address, key: key.to_owned() }
    }

    /// A request with the key. `path` comes after the prefix.
    #[must_use]
    pub fn call<'a>(&self, method: &str, path: &str) -> Call<'a> {
        self.call_without_key(method, path).header("X-API-Key", &self.key)
    }

    /// A request without the key.
    #[must_use]
    pub fn call_without_key<'a>(&self, method: &str, path: &str) -> Call<'a> {
        Call::new(self.address, method, &format!("{PREFIX}{path}"))
    }

    /// The node's base URL and key, for other programs.
    #[must_use]
    pub fn url_and_key(&self) -> (String, String) {
        (format!("http://{}", self.address), self.key.clone())
    }

    #[track_caller]
    fn answer(&self, call: &Call<'_>) -> Answer {
        match call.send() {
            Ok(answer) => answer,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.answer(&self.call("GET", path))
    }

    /// DELETE.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.answer(&self.call("DELETE", path))
    }

    /// POST with a JSON body.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.answer(&self.call("POST", path).json(body))
    }

    /// POST without a body.
    #[track_caller]
    pub fn post_nothing(&self, path: &str) -> Answer {
        self.answer(&self.call("POST", path))
    }

    /// A create under an idempotency key.
    #[track_caller]
    pub fn create_keyed(&self, key: &str, body: &Value) -> Answer {
        self.answer(&self.call("POST", "/sandboxes").header("Idempotency-Key", key).json(body))
    }

    /// Creates a sandbox and returns its id.
    #[track_caller]
    pub fn create(&self, body: &Value) -> String {
        id_of(&self.post("/sandboxes", body).expect(201).json())
    }

    /// A sandbox as it is shown.
    #[track_caller]
    pub fn sandbox(&self, id: &str) -> Value {
        self.get(&format!("/sandboxes/{id}")).expect(200).json()
    }

    /// A sandbox's status.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.sandbox(id)["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a sandbox is shown with this status, and returns how it is shown.
    ///
    /// # Panics
    /// It never is.
    #[track_caller]
    pub fn becomes(&self, id: &str, status: &str) -> Value {
        within_settling(&format!("{id} is {status}"), || {
            let answer = self.get(&format!("/sandboxes/{id}"));
            if answer.status == 200 && answer.json()["status"] == status {
                Ok(answer.json())
            } else {
                Err(answer.text())
            }
        })
    }

    /// All sandboxes, newest first; `query` starts with `?` or is empty.
    #[track_caller]
    pub fn list(&self, query: &str) -> Vec<Value> {
        match self.get(&format!("/sandboxes{query}")).expect(200).json() {
            Value::Array(sandboxes) => sandboxes,
            other => panic!("a list that is {other}"),
        }
    }

    /// The ids of a list.
    #[track_caller]
    pub fn ids(&self, query: &str) -> Vec<String> {
        self.list(query).iter().map(id_of).collect()
    }

    /// Ends a sandbox.
    #[track_caller]
    pub fn destroy(&self, id: &str) {
        let answer = self.delete(&format!("/sandboxes/{id}")).expect(204);
        assert!(answer.body.is_empty());
    }

    /// Stops a sandbox.
    #[track_caller]
    pub fn stop(&self, id: &str) {
        let answer = self.post_nothing(&format!("/sandboxes/{id}/stop")).expect(200);
        assert_eq!(answer.json(), json!({ "status": "stopped" }));
    }

    /// Starts a sandbox.
    #[track_caller]
    pub fn start(&self, id: &str) {
        let answer = self.post_nothing(&format!("/sandboxes/{id}/start")).expect(200);
        assert_eq!(answer.json(), json!({ "status": "running" }));
    }

    /// An exec with a body of its own.
    #[track_caller]
    pub fn exec_with(&self, id: &str, body: &Value) -> Answer {
        self.post(&format!("/sandboxes/{id}/exec"), body)
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn exec(&self, id: &str, argv: &[&str]) -> Ran {
        let answer = self.exec_with(id, &json!({ "cmd": argv })).expect(200).json();
        let text = |field: &str| answer[field].as_str().map(str::to_owned);
        match (answer["exit_code"].as_i64(), text("stdout"), text("stderr")) {
            (Some(code), Some(out), Some(err)) => Ran { code, out, err },
            _ => panic!("not the answer of an exec: {answer}"),
        }
    }

    /// Runs a command that has to succeed, and returns its output without the last line's end.
    #[track_caller]
    pub fn output(&self, id: &str, argv: &[&str]) -> String {
        let ran = self.exec(id, argv);
        assert_eq!(ran.code, 0, "{argv:?}: {ran:?}");
        ran.out.trim_end_matches('\n').to_owned()
    }

    /// A variable as a command sees it. By a shell: not every image has `printenv`.
    #[track_caller]
    pub fn variable(&self, id: &str, name: &str) -> String {
        self.output(id, &["sh", "-c", &format!("echo \"${name}\"")])
    }

    /// Asks about a file by its path; `rest` is the route after `/files`.
    #[must_use]
    pub fn file<'a>(&self, method: &str, id: &str, rest: &str, path: &str) -> Call<'a> {
        self.call(method, &format!("/sandboxes/{id}/files{rest}?path={}", encoded(path)))
    }

    /// Reads a file.
    #[track_caller]
    pub fn read(&self, id: &str, path: &str) -> Vec<u8> {
        self.answer(&self.file("GET", id, "", path)).expect(200).body
    }

    /// Writes a file.
    #[track_caller]
    pub fn write(&self, id: &str, path: &str, content: &[u8]) {
        let answer = self.answer(&self.file("PUT", id, "", path).bytes(content)).expect(200);
        assert_eq!(answer.json(), json!({ "success": true }));
    }

    /// The names in a directory, sorted.
    #[track_caller]
    pub fn names(&self, id: &str, path: &str) -> Vec<String> {
        let listed = self.answer(&self.file("GET", id, "/list", path)).expect(200).json();
        let mut names: Vec<String> = listed
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry["name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }
}

/// The id of a shown sandbox.
#[track_caller]
pub fn id_of(sandbox: &Value) -> String {
    match sandbox["id"].as_str() {
        Some(id) => id.to_owned(),
        None => panic!("a sandbox without an id: {sandbox}"),
    }
}

/// A text as it may stand in a query.
#[must_use]
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
