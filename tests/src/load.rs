//! Clients that ask again until they are answered, whatever happens to the nodes: what they were told is what has to be
//! true afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{Api, id_of};
use crate::http::Answer;
use crate::wait::within;

/// A node that says nothing for so long is asked no more; the request may still be carried out.
const PATIENCE: Duration = Duration::from_secs(20);

/// Until a request is answered with what was asked for, through however many nodes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(150);

/// What the clients do with each sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// It is made under a key of its own.
    Create,
    /// Also a command runs in it, and every second one is deleted.
    CreateExecDelete,
}

/// Several clients with one purse of keys.
pub struct Load {
    name: String,
    doors: Vec<Api>,
    work: Work,
    keys: usize,
    next: AtomicUsize,
    ended: AtomicBool,
    given_up: AtomicBool,
    /// Answers that were not what was asked for, by what they were.
    refused: Mutex<BTreeMap<String, usize>>,
    told: Mutex<Told>,
}

/// What the clients were told.
#[derive(Debug, Default)]
struct Told {
    made: BTreeMap<String, (String, Instant)>,
    deleted: BTreeSet<String>,
    executed: usize,
}

impl Load {
    /// So many keys with this name, asked for through these nodes.
    #[must_use]
    pub fn new(name: &str, doors: Vec<Api>, work: Work, keys: usize) -> Self {
        Self {
            name: name.to_owned(),
            doors,
            work,
            keys,
            next: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            refused: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// One client, until the keys are used up or no more are to be begun. What is begun is brought to its end.
    ///
    /// # Panics
    /// An answer says that what was asked for is impossible, or a command's output is another's.
    pub fn client(&self, number: usize) {
        // A door for each request, the same in each run.
        let mut random = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number as u64 + 1);
        let mut door = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            &self.doors[usize::try_from(random >> 33).unwrap_or_default() % self.doors.len()]
        };
        while !self.ended.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.keys {
                return;
            }
            let key = format!("{}-{number}", self.name);
            let id = self.create(&key, &mut door);
            if self.work == Work::CreateExecDelete {
                self.execute(&key, &id, door());
                if number % 2 == 1 {
                    self.delete(&id, &mut door);
                }
            }
        }
    }

    /// When this is dropped no further key is begun. Where it is dropped by a panic, nobody waits for answers any more.
    #[must_use]
    pub fn ends_with_this(&self) -> Ends<'_> {
        Ends(self)
    }

    /// Begins so many clients in this scope.
    pub fn begin<'scope>(&'scope self, scope: &'scope std::thread::Scope<'scope, '_>, clients: usize) {
        for number in 0..clients {
            scope.spawn(move || {
                // One that fails must not leave the others without an end.
                let fails = GivesUp(self);
                self.client(number);
                std::mem::forget(fails);
            });
        }
    }

    /// Waits until so many keys have their sandbox.
    ///
    /// # Panics
    /// They never do.
    #[track_caller]
    pub fn has_made(&self, count: usize) {
        within(ANSWERED_WITHIN, "creates under way", || {
            let made = self.told().made.len();
            assert!(!self.given_up.load(Ordering::Relaxed), "a client has failed");
            if made >= count { Ok(()) } else { Err(format!("{made} made")) }
        });
    }

    /// How many keys have their sandbox.
    #[must_use]
    pub fn made_count(&self) -> usize {
        self.told().made.len()
    }

    /// Each key's sandbox.
    #[must_use]
    pub fn made(&self) -> BTreeMap<String, String> {
        self.told().made.iter().map(|(key, (id, _))| (key.clone(), id.clone())).collect()
    }

    /// The sandboxes that were acknowledged before a moment.
    #[must_use]
    pub fn made_before(&self, moment: Instant) -> BTreeSet<String> {
        let told = self.told();
        told.made.values().filter(|(_, when)| *when < moment).map(|(id, _)| id.clone()).collect()
    }

    /// The sandboxes that have to be there: acknowledged and not deleted.
    #[must_use]
    pub fn alive(&self) -> BTreeSet<String> {
        let told = self.told();
        told.made.values().map(|(id, _)| id.clone()).filter(|id| !told.deleted.contains(id)).collect()
    }

    /// What the clients did and heard, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        let told = self.told();
        let refused = self.refused.lock().expect("no client has panicked");
        let refused: Vec<String> = refused.iter().map(|(what, count)| format!("{count} x {what}")).collect();
        let (made, executed, deleted) = (told.made.len(), told.executed, told.deleted.len());
        format!("{made} made, {executed} commands, {deleted} deleted; asked again after {}", refused.join(", "))
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().expect("no client has panicked")
    }

    fn create<'a>(&self, key: &str, door: &mut impl FnMut() -> &'a Api) -> String {
        let id = self.until_answered(key, || {
            let call = door().call("POST", "/sandboxes").header("Idempotency-Key", key).json(&json!({}));
            self.expected("create", call.patience(PATIENCE).send(), &[201])
        });
        let id = id_of(&id.json());
        self.told().made.insert(key.to_owned(), (id.clone(), Instant::now()));
        id
    }

    /// Once: nobody may run a command twice that asks once.
    fn execute(&self, key: &str, id: &str, door: &Api) {
        let body = json!({ "cmd": ["echo", key] });
        let call = door.call("POST", &format!("/sandboxes/{id}/exec")).json(&body).patience(PATIENCE);
        if let Ok(answer) = self.expected("exec", call.send(), &[200]) {
            assert_eq!(answer.json()["stdout"], json!(format!("{key}\n")), "the output of another's command");
            self.told().executed += 1;
        }
    }

    fn delete<'a>(&self, id: &str, door: &mut impl FnMut() -> &'a Api) {
        self.until_answered(id, || {
            let call = door().call("DELETE", &format!("/sandboxes/{id}")).patience(PATIENCE);
            // An earlier one whose answer was lost may have done it.
            self.expected("delete", call.send(), &[202, 204, 404])
        });
        self.told().deleted.insert(id.to_owned());
    }

    #[track_caller]
    fn until_answered(&self, what: &str, mut ask: impl FnMut() -> Result<Answer, String>) -> Answer {
        within(ANSWERED_WITHIN, what, || {
            assert!(!self.given_up.load(Ordering::Relaxed), "the test has failed elsewhere");
            ask()
        })
    }

    fn expected(&self, what: &str, answer: io::Result<Answer>, wanted: &[u16]) -> Result<Answer, String> {
        match answer {
            Ok(answer) if wanted.contains(&answer.status) => Ok(answer),
            Ok(answer) if answer.status != 503 => {
                panic!("{what}: {} {}", answer.status, answer.text())
            }
            Ok(answer) => {
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                self.refuse(what, body["code"].as_str().unwrap_or("503"));
                Err(answer.text())
            }
            Err(error) => {
                self.refuse(what, &error.kind().to_string());
                Err(error.to_string())
            }
        }
    }

    fn refuse(&self, what: &str, how: &str) {
        let mut refused = self.refused.lock().expect("no client has panicked");
        *refused.entry(format!("{what}: {how}")).or_default() += 1;
    }
}

/// What a load lasts as long as.
pub struct Ends<'a>(&'a Load);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
        if std::thread::panicking() {
            self.0.given_up.store(true, Ordering::Relaxed);
        }
    }
}

struct GivesUp<'a>(&'a Load);

impl Drop for GivesUp<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
        self.0.given_up.store(true, Ordering::Relaxed);
    }
}
