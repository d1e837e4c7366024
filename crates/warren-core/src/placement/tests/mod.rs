//! What the map decides, as scripts. After every line the command and the whole map also go through
//! their bytes and must come back the same.

use std::fmt::Write as _;
use std::sync::Arc;

use types::{Generation, Incarnation, OnNodeLoss, Timestamp};

use super::*;
use crate::script::{self, Words, error, host, id, letter};

struct Script {
    map: Placement,
    index: u64,
    time: u64,
}

impl Script {
    fn apply(&mut self, kind: Kind) -> Vec<String> {
        let command = Command { time: Timestamp(self.time), kind };
        assert_eq!(decode(&encode(&command)).unwrap(), command);
        self.index += 1;
        let outcome = self.map.apply(self.index, &command);
        assert_eq!(decode_snapshot(&encode_snapshot(&self.map)).unwrap(), self.map);
        vec![show(&outcome)]
    }

    fn line(&mut self, line: &str) -> Vec<String> {
        let mut words = Words::new(line);
        let verb = words.next();
        let generation = Generation(words.number("gen", 1));
        let out = match verb {
            "at" => {
                self.time = words.next().parse().unwrap();
                Vec::new()
            }
            "up" => {
                let (owner, incarnation) = life(words.next());
                let presence = Presence {
                    member: words.number("member", 0),
                    commands: u32::try_from(words.number("knows", 0)).unwrap(),
                    ..Presence::default()
                };
                self.apply(Kind::NodeUp { host: owner, incarnation, presence })
            }
            "join" => {
                let (host, address) = (host(words.next()), words.next().to_owned());
                let commands = u32::try_from(words.number("knows", 0)).unwrap();
                let asked_at = Timestamp(words.number("asked", 0));
                let http_address = String::new();
                self.apply(Kind::Join { host, peer_address: address, http_address, commands, asked_at })
            }
            "lost" => {
                let (host, incarnation) = life(words.next());
                let restarting = words.number("restarting", 0) > 0;
                self.apply(Kind::NodeLost { host, incarnation, restarting })
            }
            "restarts" => {
                let (host, incarnation) = life(words.next());
                self.apply(Kind::NodeRestarting { host, incarnation, for_ms: words.number("for", 0) })
            }
            "propose" => {
                let (host, incarnation) = life("n1/1");
                let kind = match words.next() {
                    "restarting" => Kind::NodeRestarting { host, incarnation, for_ms: 1 },
                    "up" => Kind::NodeUp { host, incarnation, presence: Presence::default() },
                    "lost" => Kind::NodeLost { host, incarnation, restarting: false },
                    other => panic!("propose {other}"),
                };
                let may = self.map.may_propose(&kind).map_or_else(|lagging| lagging.to_string(), |()| "may".into());
                vec![format!("all know {}, {may}", self.map.commands_known_by_all())]
            }
            "nodes" => self
                .map
                .nodes()
                .map(|(host, node)| {
                    let lost = if node.lost { ", lost" } else { "" };
                    let restarting = node.restarting.map_or(String::new(), |ms| format!(", restarting for {ms}"));
                    format!("{host}/{} member {}{lost}{restarting}", node.incarnation, node.presence.member)
                })
                .collect(),
            "place" => {
                let id = id(words.next());
                let (owner, incarnation) = life(words.next());
                let mut spec = script::spec();
                spec.on_node_loss = match words.opt("loss") {
                    None => OnNodeLoss::Wait,
                    Some("restart") => OnNodeLoss::Restart,
                    Some("fail") => OnNodeLoss::Fail,
                    Some(other) => panic!("loss {other}"),
                };
                let place = Place {
                    id,
                    slot: words.opt("slot").map_or(id, script::id),
                    owner,
                    incarnation,
                    generation,
                    spec: Arc::new(spec),
                    sealed_env: script::sealed_env(),
                    expires_at: words.opt("expires").map(|text| Timestamp(text.parse().unwrap())),
                    key: words.opt("key").map(|scope| script::key(scope, words.opt("body").unwrap())),
                };
                self.apply(Kind::Place(Box::new(place)))
            }
            "move" => {
                let id = id(words.next());
                let (owner, incarnation) = life(words.next());
                let slot = script::id(words.opt("slot").unwrap());
                self.apply(Kind::Move(Move { id, slot, owner, incarnation, generation }))
            }
            "in-error" => {
                let id = id(words.next());
                let failure = Failure::from(&error(words.next()));
                let only_if_lost = words.number("only-if-lost", 0) > 0;
                self.apply(Kind::Fail { id, generation, failure, only_if_lost })
            }
            "wanted" => {
                let id = id(words.next());
                let wanted = match words.next() {
                    "running" => Wanted::Running,
                    "stopped" => Wanted::Stopped,
                    other => panic!("wanted {other}"),
                };
                self.apply(Kind::SetWanted { id, generation, wanted })
            }
            "destroy" => self.apply(Kind::Destroy { id: id(words.next()), reason: DestroyReason::Asked }),
            "expire" => {
                let id = id(words.next());
                let expires_at = Timestamp(words.next().parse().unwrap());
                self.apply(Kind::Destroy { id, reason: DestroyReason::Expired { expires_at } })
            }
            "removed" => self.apply(Kind::Removed { id: id(words.next()), generation }),
            "failed" => {
                let id = id(words.next());
                let failure = Failure::from(&error(words.next()));
                self.apply(Kind::CreateFailed { id, generation, failure })
            }
            "skip" => {
                self.index += 1;
                self.map.skip(self.index);
                vec![format!("applied {}", self.map.applied())]
            }
            "ask" => {
                let known = self.map.key(&script::key(words.next(), words.next()));
                vec![known.as_ref().map_or("not known".to_owned(), show)]
            }
            "map" => self.show(),
            other => panic!("no verb {other}"),
        };
        words.end();
        out
    }

    fn show(&self) -> Vec<String> {
        let mut out = vec![format!("applied {}, clock {}", self.map.applied(), self.map.clock().0)];
        for record in self.map.newest_first() {
            let Place { id, slot, owner, incarnation, generation, expires_at, .. } = &record.place;
            let mut line = format!("{} on {owner}/{incarnation} gen {generation}", letter(*id));
            if slot != id {
                write!(line, " in {}", letter(*slot)).unwrap();
            }
            write!(line, ", {:?}, created {} at {}", record.wanted, record.created_index, record.created_at.0).unwrap();
            if let Some(end) = expires_at {
                write!(line, ", expires {}", end.0).unwrap();
            }
            if let Some(failure) = &record.failure {
                write!(line, ", in error: {}", failure.code.as_str()).unwrap();
            }
            out.push(line);
        }
        for owner in [host("n1"), host("n2")] {
            let Load { sandboxes, memory, cpu } = self.map.load(&owner);
            // Every sandbox of these scripts has one processor.
            assert_eq!(cpu, sandboxes * 1_000_000_000, "{owner}");
            if sandboxes > 0 {
                out.push(format!("{owner} has {sandboxes}, {} MiB", memory >> 20));
            }
        }
        for (id, generation, Holder { owner, slot }) in self.map.remains() {
            out.push(format!("remains of {} in {} on {owner} gen {generation}", letter(id), letter(*slot)));
        }
        for (id, tombstone) in self.map.tombstones() {
            let Tombstone { owner, slot, generation } = tombstone;
            out.push(format!("tombstone {} of {} on {owner} gen {generation}", letter(*id), letter(*slot)));
        }
        out
    }
}

fn life(text: &str) -> (types::HostId, Incarnation) {
    let (name, incarnation) = text.split_once('/').unwrap();
    (host(name), Incarnation(incarnation.parse().unwrap()))
}

fn show(outcome: &Outcome) -> String {
    match outcome {
        Outcome::NodeUp => "node is up".into(),
        Outcome::NodeStale => "node is stale".into(),
        Outcome::Joined { member } => format!("joined as {member}"),
        Outcome::NodeLost => "node is lost".into(),
        Outcome::NodeRestarting => "node restarts".into(),
        Outcome::Placed { generation } => format!("placed gen {generation}"),
        Outcome::AlreadyPlaced { winner } => format!("already placed as {}", letter(*winner)),
        Outcome::Refused(refusal) => {
            let error = refusal.error();
            let gone =
                if let Refusal::KeyGone { id } = refusal { format!(" ({})", letter(*id)) } else { String::new() };
            format!("refused {}: {}{gone}", error.code.as_str(), error.message)
        }
        Outcome::Wanted(wanted) => format!("wanted {wanted:?}"),
        Outcome::Destroyed => "destroyed".into(),
        Outcome::Kept { expires_at } => match expires_at {
            Some(end) => format!("kept until {}", end.0),
            None => "kept for ever".into(),
        },
        Outcome::Removed => "removed".into(),
        Outcome::Failed => "failed".into(),
        Outcome::InError => "in error".into(),
        Outcome::Unknown => "unknown".into(),
    }
}

#[track_caller]
fn check(text: &str) {
    let mut script = Script { map: Placement::default(), index: 0, time: 0 };
    script::check(text, |line| script.line(line));
}

mod keys;
mod moves;
mod nodes;
mod sandboxes;
