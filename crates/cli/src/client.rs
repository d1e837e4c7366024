//! A node's API, as the command line asks it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Time to a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Time to a whole answer. Longer than a node waits for a majority.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of an answer: more than the list of every sandbox that a cluster is made for.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// Where to ask, and as whom.
#[derive(clap::Args, Debug, Clone)]
pub struct Connection {
    /// URL of any node of the cluster.
    #[arg(long, env = "WARREN_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// API key. Better by the variable: arguments are everybody's to read.
    #[arg(long, env = "WARREN_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

/// How an answer is printed.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What a node answered.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Value,
}

impl Answer {
    /// The code of an error; empty where it is none.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

/// Ends a command of a client: what went wrong is a line for its user, not a trace for whoever built it.
pub fn told(ended: Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// A client of one node.
pub struct Client {
    agent: ureq::Agent,
    base: String,
    key: Option<String>,
}

impl Client {
    /// A client that has not asked anything yet.
    ///
    /// # Errors
    /// The URL can be none of a node.
    pub fn new(connection: &Connection) -> Result<Self> {
        let url = connection.url.trim_end_matches('/');
        if !url.starts_with("http://") {
            bail!("--url: {url:?} does not begin with http://, and this build speaks nothing else");
        }
        let agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_global(Some(ANSWER_WITHIN))
            // The body of an error says what is wrong, so the status is looked at here.
            .http_status_as_error(false)
            // A cluster stands on its users' own network.
            .proxy(None)
            .build()
            .into();
        let key = connection.api_key.clone().filter(|key| !key.is_empty());
        Ok(Self { agent, base: format!("{url}/api/v1"), key })
    }

    /// Asks, and takes any answer that the API can give, but not that the key is wrong.
    ///
    /// # Errors
    /// No whole answer came, or the key opens nothing; in words for the user.
    pub fn ask(&self, path: &str) -> Result<Answer> {
        let url = format!("{}{path}", self.base);
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.key {
            request = request.header("X-API-Key", key);
        }
        let unreached = || format!("cannot reach a node at {url}; --url or WARREN_URL says where one is");
        let mut response = request.call().with_context(unreached)?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .with_context(|| format!("the answer of {url} broke off or is no text"))?;
        let body: Value = serde_json::from_str(&text)
            .with_context(|| format!("{url} answers {status} and does not speak this API; is it a Warren node?"))?;
        let answer = Answer { status, body };
        match answer.code() {
            "missing_api_key" => bail!("{url} asks for an API key: --api-key or WARREN_API_KEY"),
            "invalid_api_key" => bail!("{url} does not know this API key: --api-key or WARREN_API_KEY"),
            _ => Ok(answer),
        }
    }

    /// The body of an answer that has to be a good one.
    ///
    /// # Errors
    /// As [`Client::ask`], or the node refuses.
    pub fn get(&self, path: &str) -> Result<Value> {
        let answer = self.ask(path)?;
        if answer.status != 200 {
            let why = answer.body["error"].as_str().unwrap_or("it does not say why");
            bail!("{}{path} answers {}: {why}", self.base, answer.status);
        }
        Ok(answer.body)
    }
}
