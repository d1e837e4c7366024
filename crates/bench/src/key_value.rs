//! A client of etcd's gateway, and of our member that speaks the same two calls.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::http::Client;

/// One connection to one member.
pub struct KeyValue(Client);

impl KeyValue {
    /// A client of the member at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self(Client::tcp(address, ""))
    }

    /// Puts a pair; the time until it is acknowledged.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<Duration> {
        let body = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) });
        let started = Instant::now();
        let answer = self.0.call("POST", "/v3/kv/put", Some(&body))?;
        let took = started.elapsed();
        answer.expect(200)?;
        Ok(took)
    }

    /// Puts a pair; the time that the member itself took, HTTP not counted. Only our members say it.
    pub fn put_and_tell(&mut self, key: &[u8], value: &[u8]) -> Result<Duration> {
        let body = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) });
        let answer = self.0.call("POST", "/v3/kv/put", Some(&body))?.expect(200)?.json()?;
        answer["took_ns"].as_u64().map(Duration::from_nanos).context("the member does not say how long it took")
    }

    /// Reads a key linearizably; the time until the answer. An error where nothing is there.
    pub fn range(&mut self, key: &[u8]) -> Result<Duration> {
        let key = BASE64.encode(key);
        let body = json!({ "key": key });
        let started = Instant::now();
        let answer = self.0.call("POST", "/v3/kv/range", Some(&body))?;
        let took = started.elapsed();
        let answer = answer.expect(200)?.json()?;
        let found = &answer["kvs"][0];
        if found["key"] != key || found["value"].as_str().is_none_or(str::is_empty) {
            bail!("not what was put: {answer}");
        }
        Ok(took)
    }
}
