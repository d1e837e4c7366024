//! How a cluster is, out of what one of its nodes answered, and what is wrong with it in words.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::node_ls::nodes_table;

/// Voters of a cluster that has enough nodes.
const VOTERS: usize = 3;

/// What was seen.
pub struct Seen {
    health: Value,
    nodes: Vec<Value>,
    /// How many sandboxes have which status.
    sandboxes: BTreeMap<String, u64>,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn sandboxes(count: u64) -> String {
    format!("{count} sandbox{}", if count == 1 { "" } else { "es" })
}

impl Seen {
    /// Out of three answers.
    pub fn new(health: Value, nodes: Vec<Value>, sandboxes: &[Value]) -> Self {
        let mut counts = BTreeMap::new();
        for sandbox in sandboxes {
            *counts.entry(text(&sandbox["status"]).to_owned()).or_default() += 1;
        }
        Self { health, nodes, sandboxes: counts }
    }

    /// Whether a majority answered.
    pub fn quorum(&self) -> bool {
        self.health["quorum"] == true
    }

    fn ids(&self, roles: &[&str]) -> Vec<&str> {
        self.nodes.iter().filter(|node| roles.contains(&text(&node["role"]))).map(|node| text(&node["id"])).collect()
    }

    fn voters(&self) -> Vec<&str> {
        self.ids(&["leader", "voter"])
    }

    /// The node that leads; none where none is known.
    fn leader(&self) -> Option<&str> {
        self.health["leader"].as_str().filter(|_| self.quorum())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let total: u64 = self.sandboxes.values().sum();
        let mut sandboxes = json!(self.sandboxes);
        sandboxes["total"] = json!(total);
        let mut status = json!({
            "cluster": self.health["cluster"],
            "node": self.health["node"],
            "quorum": self.quorum(),
            "voters": self.voters(),
            "learners": self.ids(&["learner"]),
            "nodes": self.nodes,
            "sandboxes": sandboxes,
            "problems": self.problems(),
        });
        if let Some(leader) = self.leader() {
            status["leader"] = json!(leader);
        }
        status
    }

    /// For people.
    pub fn text(&self) -> String {
        let list = |ids: Vec<&str>| if ids.is_empty() { "none".to_owned() } else { ids.join(" ") };
        let mut lines = vec![
            format!("cluster    {}", text(&self.health["cluster"])),
            format!("asked      {}", text(&self.health["node"])),
            format!("leader     {}", self.leader().unwrap_or("none is known")),
            format!("quorum     {}", if self.quorum() { "yes" } else { "NO" }),
            format!("voters     {}", list(self.voters())),
            format!("learners   {}", list(self.ids(&["learner"]))),
        ];
        let counts: Vec<String> = self.sandboxes.iter().map(|(status, count)| format!("{count} {status}")).collect();
        lines.push(format!("sandboxes  {}", if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }));
        let mut out = format!("{}\n\n{}\n", lines.join("\n"), nodes_table(&self.nodes));
        let problems = self.problems();
        if problems.is_empty() {
            out.push_str("nothing is wrong\n");
        }
        for problem in problems {
            out.push_str(&format!("! {problem}\n"));
        }
        out
    }

    /// What is wrong, the worst first.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.quorum() {
            problems.push(
                "no majority answers: nothing can be created, deleted, stopped or started; sandboxes that run go on, and \
                 what is shown here may be old"
                    .to_owned(),
            );
        }
        if let Some(reason) = self.health["reason"].as_str() {
            problems.push(format!("the node that was asked does not work: {reason}"));
        }
        self.of_voters(&mut problems);
        for node in &self.nodes {
            self.of_node(node, &mut problems);
        }
        self.of_versions(&mut problems);
        if let Some(count) = self.sandboxes.get("error") {
            problems.push(format!("in error: {}", sandboxes(*count)));
        }
        problems
    }

    fn of_voters(&self, problems: &mut Vec<String>) {
        let voters = self.voters().len();
        let away = self.nodes.iter().filter(|node| ["leader", "voter"].contains(&text(&node["role"])));
        let away = away.filter(|node| node["state"] != "up" || node["reachable"] != true).count();
        if self.quorum() && away > 0 {
            problems.push(format!(
                "{} of {voters} voters answer: {}",
                voters - away,
                if (voters - away - 1) * 2 > voters { "one more may go" } else { "one more lost ends the quorum" }
            ));
        }
        if self.quorum() && self.nodes.len() >= VOTERS && voters < VOTERS {
            problems.push(format!(
                "only {voters} of {} nodes vote yet: the loss of one that does ends the quorum",
                self.nodes.len()
            ));
        }
    }

    fn of_node(&self, node: &Value, problems: &mut Vec<String>) {
        let id = text(&node["id"]);
        let held = node["capacity"]["sandboxes"].as_u64().unwrap_or_default();
        match text(&node["state"]) {
            "lost" => problems.push(format!("node {id} is lost, with {}", sandboxes(held))),
            "joined" => problems.push(format!("node {id} was let in and has not been up yet")),
            "restarting" => problems.push(format!("node {id} restarts")),
            _ if node["reachable"] == false => {
                problems.push(format!("node {id} can not be reached from the node that was asked"));
            }
            _ => {}
        }
        if let Some(why) = node["closed"].as_str() {
            problems.push(format!("node {id} takes no new sandboxes: {why}"));
        }
        if node["state"] == "up" && node["role"] == "outside" {
            problems.push(format!("node {id} is not in the log's group yet"));
        }
    }

    fn of_versions(&self, problems: &mut Vec<String>) {
        let builds: BTreeSet<&str> = self.nodes.iter().filter_map(|node| node["versions"]["build"].as_str()).collect();
        if builds.len() > 1 {
            problems.push(format!("the nodes run different builds: {}", Vec::from_iter(builds).join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, role: &str, state: &str, reachable: bool) -> Value {
        json!({
            "id": id, "role": role, "state": state, "here": id == "a", "reachable": reachable,
            "capacity": {"sandboxes": 1, "memory_promised": 0},
            "versions": {"build": "0.1.0 (abc)", "commands": 1}, "addresses": {}
        })
    }

    fn health(quorum: bool) -> Value {
        json!({"status": "ok", "cluster": "c", "node": "a", "leader": "b", "quorum": quorum, "voters": ["a", "b", "c"]})
    }

    fn three(state: &str, reachable: bool) -> Vec<Value> {
        vec![node("a", "voter", "up", true), node("b", "leader", "up", true), node("c", "voter", state, reachable)]
    }

    fn running() -> Vec<Value> {
        vec![json!({"status": "running"}), json!({"status": "running"}), json!({"status": "stopped"})]
    }

    #[test]
    fn a_whole_cluster_has_nothing_wrong() {
        let seen = Seen::new(health(true), three("up", true), &running());
        assert!(seen.quorum());
        assert_eq!(seen.problems(), Vec::<String>::new());
        let shown = seen.text();
        assert!(shown.contains("leader     b\nquorum     yes\nvoters     a b c\nlearners   none\n"), "{shown}");
        assert!(
            shown.contains("sandboxes  2 running, 1 stopped\n") && shown.ends_with("nothing is wrong\n"),
            "{shown}"
        );
        let json = seen.json();
        assert_eq!((&json["leader"], &json["quorum"], &json["problems"]), (&json!("b"), &json!(true), &json!([])));
        assert_eq!(json["sandboxes"], json!({"running": 2, "stopped": 1, "total": 3}));
    }

    #[test]
    fn a_lost_node_is_told_of_with_what_it_means() {
        let seen = Seen::new(health(true), three("lost", false), &[]);
        assert_eq!(
            seen.problems(),
            ["2 of 3 voters answer: one more lost ends the quorum", "node c is lost, with 1 sandbox"]
        );
    }

    #[test]
    fn without_a_quorum_no_leader_is_named() {
        let seen = Seen::new(health(false), three("up", false), &running());
        assert!(!seen.quorum() && seen.json().get("leader").is_none());
        let problems = seen.problems();
        assert!(problems[0].starts_with("no majority answers"), "{problems:?}");
        assert_eq!(problems[1..], ["node c can not be reached from the node that was asked"]);
        assert!(seen.text().contains("leader     none is known\nquorum     NO\n"));
    }

    #[test]
    fn what_is_unfinished_is_said() {
        let mut nodes = vec![
            node("a", "leader", "up", true),
            node("b", "outside", "up", true),
            node("c", "outside", "joined", false),
        ];
        nodes[1]["closed"] = json!("the node is starting");
        nodes[1]["versions"]["build"] = json!("0.2.0 (def)");
        let seen = Seen::new(health(true), nodes, &[json!({"status": "error"})]);
        assert_eq!(
            seen.problems(),
            [
                "only 1 of 3 nodes vote yet: the loss of one that does ends the quorum",
                "node b takes no new sandboxes: the node is starting",
                "node b is not in the log's group yet",
                "node c was let in and has not been up yet",
                "the nodes run different builds: 0.1.0 (abc), 0.2.0 (def)",
                "in error: 1 sandbox",
            ]
        );
    }
}
