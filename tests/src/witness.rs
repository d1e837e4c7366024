//! Clients that call one sandbox all the time, through every node, and remember which of its lives has answered: a call
//! that an older life took after a newer one has answered is one call too many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::api::Api;
use crate::http::Answer;

/// Where a life of the sandbox has its name.
const NAME_FILE: &str = "/tmp/life";

/// A node that says nothing for so long is asked again: longer than any test keeps one frozen.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a life is called that nobody has named.
const NEXT: &str = "next";

/// Watches one sandbox.
pub struct Witness {
    id: String,
    doors: Vec<Api>,
    ended: AtomicBool,
    calls: AtomicU64,
    heard: Mutex<Vec<Heard>>,
    refused: Mutex<BTreeMap<(usize, String), u64>>,
}

/// A call that was taken.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Through which node.
    pub door: usize,
    /// When the client began.
    pub began: Instant,
    /// When it had the answer.
    pub ended: Instant,
    /// Whether the life that was named took it; else a later one did.
    pub first: bool,
}

impl Witness {
    /// Names the sandbox's present life, to tell it from later ones.
    #[must_use]
    pub fn of(id: &str, doors: Vec<Api>) -> Self {
        doors[0].write(id, NAME_FILE, b"first");
        Self {
            id: id.to_owned(),
            doors,
            ended: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            heard: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Begins a client at each node, each for as long as the guard that comes back.
    #[must_use]
    pub fn begin<'scope>(&'scope self, scope: &'scope std::thread::Scope<'scope, '_>) -> Watches<'scope> {
        for door in 0..self.doors.len() {
            scope.spawn(move || {
                while !self.ended.load(Ordering::Relaxed) {
                    self.call(door);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        Watches(self)
    }

    fn call(&self, door: usize) {
        let command = format!("cat {NAME_FILE} 2>/dev/null || echo {NEXT}");
        let body = json!({ "cmd": ["sh", "-c", command] });
        let call = self.doors[door].call("POST", &format!("/sandboxes/{}/exec", self.id)).json(&body);
        let began = Instant::now();
        let answer = call.patience(PATIENCE).send();
        let ended = Instant::now();
        self.calls.fetch_add(1, Ordering::Relaxed);
        match answer {
            // A command that was killed has been taken all the same, but says nothing.
            Ok(answer) if answer.status == 200 && answer.json()["exit_code"] == json!(0) => {
                let first = answer.json()["stdout"] == json!("first");
                self.heard.lock().unwrap_or_else(PoisonError::into_inner).push(Heard { door, began, ended, first });
            }
            Ok(answer) => self.refuse(door, &format!("{} {}", answer.status, code(&answer))),
            Err(error) => self.refuse(door, &error.kind().to_string()),
        }
    }

    fn refuse(&self, door: usize, how: &str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry((door, how.to_owned())).or_default() += 1;
    }

    /// The calls that were taken.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls that the first life took although they were begun when a later one had answered already.
    #[must_use]
    pub fn too_late(&self) -> Vec<Heard> {
        let heard = self.heard();
        let Some(next) = heard.iter().filter(|heard| !heard.first).map(|heard| heard.ended).min() else {
            return Vec::new();
        };
        heard.into_iter().filter(|heard| heard.first && heard.began > next).collect()
    }

    /// What the clients heard, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        let heard = self.heard();
        let first = heard.iter().filter(|heard| heard.first).count();
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let refused: Vec<String> =
            refused.iter().map(|((door, how), count)| format!("{count} x {how} by node {door}")).collect();
        let calls = self.calls.load(Ordering::Relaxed);
        let next = heard.len() - first;
        format!("{calls} calls: {first} taken by the first life, {next} by the next; {}", refused.join(", "))
    }
}

fn code(answer: &Answer) -> String {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match answer.status {
        200 => format!("exit code {}", body["exit_code"]),
        _ => body["code"].as_str().unwrap_or_default().to_owned(),
    }
}

/// For as long as this is there, clients call.
pub struct Watches<'a>(&'a Witness);

impl Drop for Watches<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_an_older_life_took_too_late_is_found() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let heard = |began, ended, first| Heard { door: 0, began: at(began), ended: at(ended), first };
        let witness = |heard: Vec<Heard>| Witness {
            id: String::new(),
            doors: Vec::new(),
            ended: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            heard: Mutex::new(heard),
            refused: Mutex::default(),
        };
        let good = vec![heard(0, 1, true), heard(2, 5, false), heard(4, 6, true)];
        assert_eq!(witness(good.clone()).too_late().len(), 0, "both were under way together");
        let bad = [good, vec![heard(6, 7, true)]].concat();
        assert_eq!(witness(bad).too_late().len(), 1);
    }
}
