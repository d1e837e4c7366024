//! The node is killed at each step of create, delete, stop and start, and started again. After it, what the host
//! holds is what the placement says, nothing was lost that was acknowledged, nothing was done twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::crash_points::{CREATES, DELETES, EXPIRY, FAILURES, FAREWELLS, MOVES, REJOINS, STARTS, STOPS, Sandbox};
use tests::strangers::Strangers;
use tests::{Answer, Cases, Node, Options, within_settling};

/// A start of the node is killed, and the one after it.
const BEGINNINGS: &[&[&str]] = &[
    &["node.identified"],
    &["node.up"],
    &["node.swept"],
    &["adopt.examined"],
    &["adopt.examined:2", "node.up", "node.swept"],
];

/// Points that have a case of their own.
const OTHERS: &[&str] = &["create.winner_answered", "slot.made", "exec.answered"];

/// Milliseconds after its requests at which the node is killed in each round of the storm.
const STORM_MOMENTS_MS: [u64; 6] = [15, 60, 150, 300, 500, 800];

/// Creates in each round of the storm.
const STORM_CLIENTS: usize = 4;

#[test]
fn every_point_of_the_crash_tables_is_tried() {
    let tables = std::fs::read_to_string(tests::engine::workspace().join("docs/crash-tables.md"));
    let tables = tables.expect("the crash tables are there");
    let rows = tables.lines().filter(|line| line.starts_with("| "));
    // In the last column, where several may stand; a name in italics is not in the code.
    let written: BTreeSet<&str> = rows
        .filter_map(|row| row.trim_end_matches(['|', ' ']).rsplit('|').next())
        .flat_map(|cell| cell.split(','))
        .filter_map(|name| name.trim().strip_prefix('`')?.strip_suffix('`'))
        .collect();
    let beginnings =
        BEGINNINGS.iter().flat_map(|points| points.iter()).map(|point| point.split(':').next().unwrap_or(point));
    let tried: BTreeSet<&str> = (CREATES.iter().map(|(point, ..)| *point))
        .chain(DELETES.iter().map(|(point, ..)| *point))
        .chain(STOPS.iter().copied())
        .chain(STARTS.iter().map(|(point, _)| *point))
        .chain(FAILURES.iter().copied())
        .chain(OTHERS.iter().copied())
        .chain([EXPIRY])
        .chain(MOVES.iter().copied())
        .chain(FAREWELLS.iter().copied())
        .chain(REJOINS.iter().copied())
        .chain(beginnings)
        .collect();
    assert!(written.len() > 20, "the tables are not read as they are written: {written:?}");
    assert_eq!(written.difference(&tried).collect::<Vec<_>>(), Vec::<&&str>::new(), "written down and not tried");
    assert_eq!(tried.difference(&written).collect::<Vec<_>>(), Vec::<&&str>::new(), "tried and not written down");
}

#[test]
fn whatever_it_dies_of_it_comes_back_in_order() {
    let mut cases = Cases::of("crash");
    let mut crash = Crash::begin();
    for (point, warm, expected) in CREATES {
        let slot = if *warm { "warm" } else { "cold" };
        cases.case(&format!("create, {slot} slot, killed at {point}"), || crash.create(point, *warm, *expected));
    }
    for (point, answered, expected) in DELETES {
        cases.case(&format!("delete, killed at {point}"), || crash.delete(point, *answered, *expected));
    }
    for point in STOPS {
        cases.case(&format!("stop, killed at {point}"), || crash.stop(point));
    }
    for (point, by_itself) in STARTS {
        cases.case(&format!("start, killed at {point}"), || crash.start(point, *by_itself));
    }
    for points in BEGINNINGS {
        cases.case(&format!("started and killed at {}", points.join(", then ")), || crash.beginning(points));
    }
    for point in FAILURES {
        cases.case(&format!("a create that fails, killed at {point}"), || crash.failing_create(point));
    }
    cases.case("a create whose key another one won, killed at create.winner_answered", || crash.lost_key());
    cases.case("the pool makes a slot, killed at slot.made", || crash.refill());
    cases.case("exec, killed at exec.answered", || crash.exec());
    cases.case(&format!("its time has come, killed at {EXPIRY}"), || crash.expiry());
    cases.case("a file half written", || crash.half_a_file());
    cases.case("killed again and again in the midst of creates", || crash.storm());
    cases.case("strangers were not touched", || crash.strangers_are_as_they_were());
    cases.finish();
}

/// One node through all cases, with a sandbox of the very beginning and with strangers beside it.
struct Crash {
    node: Node,
    /// Made before the first crash: id and what it holds.
    oldest: String,
    strangers: Strangers,
    number: u32,
}

impl Crash {
    fn begin() -> Self {
        let node = Node::start(Options { pool: 1, ..Options::default() });
        let strangers = Strangers::make();
        let oldest = node.api().create(&json!({ "env": { "OLDEST": "yes" }, "timeout": null }));
        node.api().write(&oldest, "/tmp/oldest", b"from the beginning");
        node.settles();
        Self { node, oldest, strangers, number: 0 }
    }

    /// A label, key and secret that no other case has. Whatever became of the case before, the node runs.
    fn fresh(&mut self) -> String {
        if !self.node.is_healthy() {
            self.node.restart();
        }
        self.number += 1;
        format!("case-{}", self.number)
    }

    fn dies_at(&mut self, point: &str, ask: impl FnOnce(&Node) -> std::io::Result<Answer>) {
        let answer = self.is_asked_and_dies_at(point, ask);
        assert!(answer.is_err(), "it was answered although the node died at {point}: {answer:?}");
    }

    fn is_asked_and_dies_at(
        &mut self,
        point: &str,
        ask: impl FnOnce(&Node) -> std::io::Result<Answer>,
    ) -> std::io::Result<Answer> {
        // First: else what is still being tidied, or a slot half made, brings the next life to its point at its start.
        self.node.settles();
        self.node.restart_with_kill_point(point);
        self.node.settles();
        let answer = ask(&self.node);
        self.node.wait_for_kill_point(point);
        answer
    }

    /// Brings the node back and demands that all is in order, within the contract's time.
    fn comes_back(&mut self) {
        let prepared = self.node.held().prepared();
        let started = Instant::now();
        self.node.restart();
        self.node.settles();
        println!("  (in order after {:.2} s)", started.elapsed().as_secs_f64());
        let placed = self.node.api().ids("");
        let held = self.node.held();
        for slot in prepared.iter().filter(|slot| !placed.contains(slot)) {
            assert!(!held.containers.contains_key(slot), "slot {slot} was prepared for another and is still there");
        }
        let api = self.node.api();
        assert_eq!(api.variable(&self.oldest, "OLDEST"), "yes");
        assert_eq!(api.read(&self.oldest, "/tmp/oldest"), b"from the beginning");
    }

    fn runs(&self, id: &str) {
        within_settling(&format!("{id} runs"), || match self.node.api().sandbox(id) {
            shown if shown["status"] == "running" => Ok(()),
            shown => Err(shown.to_string()),
        });
    }

    fn create(&mut self, point: &str, warm: bool, expected: Sandbox) {
        let name = self.fresh();
        let mut body = json!({ "labels": { "case": name }, "env": { "CASE": name } });
        if !warm {
            body["storage"] = json!({ "tmpfs": [{ "path": "/scratch", "size": "1m" }] });
        }
        self.dies_at(point, |node| {
            let call = node.api().call("POST", "/sandboxes").header("Idempotency-Key", &name).json(&body);
            call.send()
        });
        self.comes_back();
        let query = format!("?label=case:{name}");
        let found = self.node.api().ids(&query);
        let right = match expected {
            Sandbox::Absent => found.is_empty(),
            Sandbox::Either => found.len() <= 1,
            Sandbox::Present => found.len() == 1,
        };
        assert!(right, "{expected:?} was expected, these are there: {found:?}");
        // It comes up by itself, not because somebody asks again.
        found.iter().for_each(|id| self.runs(id));
        let again = self.node.api().create_keyed(&name, &body).expect(201).json();
        let id = tests::api::id_of(&again);
        assert_eq!(again["status"], "running", "{again}");
        assert!(found.is_empty() || found == std::slice::from_ref(&id), "{found:?} were there, the retry made {id}");
        assert_eq!(self.node.api().ids(&query), std::slice::from_ref(&id));
        assert_eq!(self.node.api().variable(&id, "CASE"), name);
        self.destroy(&id);
        self.node.settles();
    }

    fn delete(&mut self, point: &str, answered: bool, expected: Sandbox) {
        let name = self.fresh();
        let id = self.node.api().create(&json!({ "labels": { "case": name } }));
        let answer =
            self.is_asked_and_dies_at(point, |node| node.api().call("DELETE", &format!("/sandboxes/{id}")).send());
        assert!(answer.is_err() || answered, "it was answered although the node died at {point}: {answer:?}");
        self.comes_back();
        let path = format!("/sandboxes/{id}");
        let found = self.node.api().get(&path);
        if found.status == 200 {
            assert_eq!(expected, Sandbox::Either, "it is still there: {}", found.text());
            self.runs(&id);
            self.node.api().destroy(&id);
        }
        self.node.api().get(&path).expect_error(404, "not_found");
        self.node.api().delete(&path).expect_error(404, "not_found");
        self.is_forgotten(&id);
    }

    fn destroy(&self, id: &str) {
        self.node.api().destroy(id);
        self.is_forgotten(id);
    }

    /// Waits until nothing of it is left and the map was told, so that no later life comes back to it.
    fn is_forgotten(&self, id: &str) {
        within_settling("its removal is in the log", || {
            let told = format!("outcome=Removed sandbox=Some({id})");
            if self.node.log().contains(&told) { Ok(()) } else { Err("not yet".to_owned()) }
        });
        assert!(!self.node.held().containers.contains_key(id));
    }

    fn with_a_file(&mut self) -> (String, String) {
        let name = self.fresh();
        let id = self.node.api().create(&json!({ "env": { "CASE": name } }));
        self.node.api().write(&id, "/tmp/file", name.as_bytes());
        (id, name)
    }

    fn has_its_file(&self, id: &str, name: &str) {
        let api = self.node.api();
        assert_eq!(api.read(id, "/tmp/file"), name.as_bytes());
        assert_eq!(api.variable(id, "CASE"), name);
        self.destroy(id);
    }

    fn stop(&mut self, point: &str) {
        let (id, name) = self.with_a_file();
        self.dies_at(point, |node| node.api().call("POST", &format!("/sandboxes/{id}/stop")).send());
        self.comes_back();
        within_settling("it is stopped", || match self.node.api().status(&id).as_str() {
            "stopped" => Ok(()),
            other => Err(other.to_owned()),
        });
        self.node.api().stop(&id);
        self.node.api().start(&id);
        self.has_its_file(&id, &name);
    }

    fn start(&mut self, point: &str, by_itself: bool) {
        let (id, name) = self.with_a_file();
        self.node.api().stop(&id);
        self.dies_at(point, |node| node.api().call("POST", &format!("/sandboxes/{id}/start")).send());
        self.comes_back();
        if by_itself {
            self.runs(&id);
        }
        self.node.api().start(&id);
        self.runs(&id);
        self.has_its_file(&id, &name);
    }

    fn beginning(&mut self, points: &[&str]) {
        let (running, name) = self.with_a_file();
        let (stopped, other) = self.with_a_file();
        self.node.api().stop(&stopped);
        for point in points {
            self.node.restart_into_kill_point(point);
        }
        self.comes_back();
        self.runs(&running);
        assert_eq!(self.node.api().status(&stopped), "stopped");
        self.node.api().start(&stopped);
        self.has_its_file(&running, &name);
        self.has_its_file(&stopped, &other);
    }

    /// Several creates under one key at once: the node dies when the first of the losers is told of the winner.
    fn lost_key(&mut self) {
        let name = self.fresh();
        let body = json!({ "labels": { "case": name } });
        let point = "create.winner_answered";
        self.node.settles();
        self.node.restart_with_kill_point(point);
        let api = self.node.api().clone();
        let answers: Vec<_> = std::thread::scope(|scope| {
            let ask = || api.call("POST", "/sandboxes").header("Idempotency-Key", &name).json(&body).send();
            let clients: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
            clients.into_iter().map(|client| client.join().expect("a client")).collect()
        });
        self.node.wait_for_kill_point(point);
        self.comes_back();
        let id = tests::api::id_of(&self.node.api().create_keyed(&name, &body).expect(201).json());
        for answer in answers.into_iter().flatten() {
            assert_eq!(answer.expect(201).json()["id"], id.as_str());
        }
        assert_eq!(self.node.api().ids(&format!("?label=case:{name}")), std::slice::from_ref(&id));
        self.runs(&id);
        self.destroy(&id);
    }

    /// The node dies when the slot that follows a claimed one is there.
    fn refill(&mut self) {
        let name = self.fresh();
        let body = json!({ "labels": { "case": name } });
        let answer = self.is_asked_and_dies_at("slot.made", |node| {
            node.api().call("POST", "/sandboxes").header("Idempotency-Key", &name).json(&body).send()
        });
        self.comes_back();
        let id = tests::api::id_of(&self.node.api().create_keyed(&name, &body).expect(201).json());
        if let Ok(answer) = answer {
            assert_eq!(answer.expect(201).json()["id"], id.as_str());
        }
        self.destroy(&id);
    }

    /// What was due is gone in the next life, without anybody asking.
    fn expiry(&mut self) {
        let name = self.fresh();
        let body = json!({ "timeout": 1 });
        let answer = self.is_asked_and_dies_at(EXPIRY, |node| {
            node.api().call("POST", "/sandboxes").header("Idempotency-Key", &name).json(&body).send()
        });
        let id = tests::api::id_of(&answer.expect("it was made before").expect(201).json());
        self.comes_back();
        within_settling("it has expired", || {
            let answer = self.node.api().get(&format!("/sandboxes/{id}"));
            if answer.status == 404 { Ok(()) } else { Err(answer.text()) }
        });
        self.is_forgotten(&id);
    }

    /// What ran has run once; nobody runs it again.
    fn exec(&mut self) {
        let (id, name) = self.with_a_file();
        self.dies_at("exec.answered", |node| {
            let body = json!({ "cmd": ["sh", "-c", "echo once >> /tmp/count"] });
            node.api().call("POST", &format!("/sandboxes/{id}/exec")).json(&body).send()
        });
        self.comes_back();
        assert_eq!(self.node.api().read(&id, "/tmp/count"), b"once\n");
        self.has_its_file(&id, &name);
    }

    fn half_a_file(&mut self) {
        let (id, name) = self.with_a_file();
        let api = self.node.api().clone();
        let half = vec![b'x'; 256 << 10];
        std::thread::scope(|scope| {
            let upload = scope.spawn(|| api.file("PUT", &id, "", "/tmp/file").announce(1 << 20).bytes(&half).send());
            // It has no name yet: what can be seen is who writes it.
            within_settling("the agent writes it", || match self.node.held().processes_of(&id).len() {
                0 | 1 => Err("only the agent is there".to_owned()),
                _ => Ok(()),
            });
            self.node.kill9();
            assert!(upload.join().expect("a client").is_err());
        });
        self.comes_back();
        within_settling("its writer is gone", || match self.node.held().processes_of(&id).as_slice() {
            [_agent] => Ok(()),
            more => Err(format!("{more:?}")),
        });
        assert_eq!(self.node.api().names(&id, "/tmp"), ["file"]);
        self.has_its_file(&id, &name);
    }

    /// A create that failed for good after its commit keeps its error under its key.
    fn failing_create(&mut self, point: &str) {
        let name = self.fresh();
        // Refused by its own agent, after the commit; of another shape than the warm slots, so its slot is made.
        let body = json!({ "labels": { "case": name }, "user": "nobody-there", "writable_rootfs": false });
        self.dies_at(point, |node| {
            node.api().call("POST", "/sandboxes").header("Idempotency-Key", &name).json(&body).send()
        });
        self.comes_back();
        within_settling("nothing of it is left", || match self.node.api().ids(&format!("?label=case:{name}")) {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        });
        for _ in 0..2 {
            self.node.api().create_keyed(&name, &body).expect_error(422, "unprocessable");
        }
        self.node.settles();
    }

    /// Creates under way from several clients, each with its key, the node killed in the midst of them.
    fn storm(&mut self) {
        let name = self.fresh();
        let body = json!({ "labels": { "case": name } });
        let keys =
            |round: usize| (0..STORM_CLIENTS).map(|number| format!("{name}-{round}-{number}")).collect::<Vec<_>>();
        let mut acknowledged: Vec<(String, Value)> = Vec::new();
        for (round, moment) in STORM_MOMENTS_MS.into_iter().enumerate() {
            self.node.restart();
            let api = self.node.api().clone();
            let answers: Vec<_> = std::thread::scope(|scope| {
                let (api, body) = (&api, &body);
                let ask = |key: String| {
                    let answer = api.call("POST", "/sandboxes").header("Idempotency-Key", &key).json(body).send();
                    (key, answer)
                };
                let clients: Vec<_> = keys(round).into_iter().map(|key| scope.spawn(move || ask(key))).collect();
                // Not a wait for anything: each round is killed at another moment.
                std::thread::sleep(Duration::from_millis(moment));
                self.node.kill9();
                clients.into_iter().map(|client| client.join().expect("a client")).collect()
            });
            for (key, answer) in answers {
                if let Ok(answer) = answer {
                    acknowledged.push((key, answer.expect(201).json()["id"].clone()));
                }
            }
        }
        let all = STORM_MOMENTS_MS.len() * STORM_CLIENTS;
        println!("  ({} of {all} creates were acknowledged)", acknowledged.len());
        self.comes_back();
        for (key, id) in &acknowledged {
            assert_eq!(self.node.api().create_keyed(key, &body).expect(201).json()["id"], *id, "{key}");
        }
        for key in (0..STORM_MOMENTS_MS.len()).flat_map(keys) {
            self.node.api().create_keyed(&key, &body).expect(201);
        }
        let made = self.node.api().ids(&format!("?label=case:{name}"));
        assert_eq!(made.len(), all, "as many sandboxes as keys");
        for id in &made {
            assert_eq!(self.node.api().output(id, &["echo", "on"]), "on");
            self.destroy(id);
        }
        self.node.settles();
    }

    fn strangers_are_as_they_were(&self) {
        self.strangers.are_as_they_were();
    }
}
