//! `/metrics`: what Prometheus is told, on a listener of its own. It shows no secret and no sandbox's id.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Context;
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use types::Status;

use crate::config::MetricsListen;
use crate::operations::DEFAULT_TEMPLATE;
use crate::view::View;

/// Connections that are held open at once.
const CONNECTIONS_MAX: usize = 64;

/// How long a client may take to ask.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Seconds that a scrape may go on while the node ends.
const SHUTDOWN_SECONDS: u64 = 1;

/// Every status, so that one which nothing has is shown as 0.
const STATUSES: [Status; 6] =
    [Status::Creating, Status::Running, Status::Paused, Status::Stopped, Status::Error, Status::Unreachable];

/// Binds where the configuration says; none where it says off. The default address may be another node's of this
/// host: that is told, and the node goes without.
///
/// # Errors
/// An address that was asked for can not be bound.
pub fn bind(listen: MetricsListen) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = listen.address() else { return Ok(None) };
    match TcpListener::bind(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if listen == MetricsListen::Default => {
            tracing::warn!(%address, %error, "no metrics: the default address can not be bound; set metrics_listen");
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("metrics_listen: cannot bind {address}")),
    }
}

/// Serves for as long as the process lives. Returns where it listens.
///
/// # Errors
/// The listener can not be used.
pub fn serve(listener: TcpListener, view: Arc<View>) -> anyhow::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let view = web::Data::from(view);
    let server = HttpServer::new(move || App::new().app_data(view.clone()).route("/metrics", web::get().to(scrape)))
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(REQUEST_WITHIN)
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .disable_signals()
        .listen(listener)?
        .run();
    actix::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the listener of the metrics ended");
        }
    });
    Ok(address)
}

async fn scrape(view: web::Data<View>) -> HttpResponse {
    match text(&view) {
        Ok(text) => HttpResponse::Ok().insert_header((CONTENT_TYPE, prometheus::TEXT_FORMAT)).body(text),
        Err(error) => {
            tracing::error!(%error, "the metrics can not be written down");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// The whole text: what was recorded, and what is so now.
pub fn text(view: &View) -> prometheus::Result<String> {
    let now = Now::default();
    now.group(view)?;
    now.log(view)?;
    now.pool(view)?;
    now.sandboxes(view)?;
    now.peers(view)?;
    let mut families = view.insight().instruments.gather();
    families.extend(now.0.gather());
    families.sort_by(|left, right| left.name().cmp(right.name()));
    TextEncoder::new().encode_to_string(&families)
}

/// What is so at the moment of a scrape. A registry for each: what is gone leaves no trace in the next.
#[derive(Default)]
struct Now(Registry);

impl Now {
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn gauge(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        self.gauges(name, help, &[])?.with_label_values::<&str>(&[]).set(signed(value));
        Ok(())
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> prometheus::Result<()> {
        self.counters(name, help, &[])?.with_label_values::<&str>(&[]).inc_by(value);
        Ok(())
    }

    fn group(&self, view: &View) -> prometheus::Result<()> {
        let insight = view.insight();
        let group = insight.group();
        let applied = view.placement().applied();
        // Published each tick; what is applied is committed.
        let committed = group.committed.max(applied);
        let quorum = insight.quorum_lately() && view.leader().is_some();
        self.gauge("warren_is_leader", "Whether this node leads", u64::from(group.leads))?;
        self.gauge("warren_quorum", "Whether a majority has answered for this node lately", u64::from(quorum))?;
        self.gauge("warren_raft_term", "The present term", group.term)?;
        self.gauge("warren_raft_commit_index", "The last index known to be committed", committed)?;
        self.gauge("warren_raft_apply_index", "The last index that is applied", applied)?;
        self.gauge("warren_raft_last_index", "The last index in the log", group.last_index.max(committed))?;
        self.gauge("warren_raft_snapshot_index", "The index of the kept snapshot", group.snapshot_index)?;
        self.gauge("warren_raft_log_entries", "Entries in the log", group.log_entries as u64)?;
        let members = self.gauges("warren_raft_members", "Members of the log's group", &["role"])?;
        members.with_label_values(&["voter"]).set(signed(group.voters.len() as u64));
        members.with_label_values(&["learner"]).set(signed(group.learners.len() as u64));
        let left = self.register(prometheus::Gauge::new("warren_lease_seconds_left", "What is left of its lease")?)?;
        left.set(Duration::from_millis(insight.lease_left_ms()).as_secs_f64());
        let build = self.gauges("warren_build_info", "Always 1", &["build", "runtime"])?;
        build.with_label_values(&[insight.myself().build.as_str(), view.runtime()]).set(1);
        Ok(())
    }

    fn log(&self, view: &View) -> prometheus::Result<()> {
        let log = view.insight().instruments.log();
        self.counter("warren_log_batches_total", "Batches made durable", log.batches)?;
        self.counter("warren_log_flushes_total", "Groups of batches flushed together", log.flushes)?;
        let syncs = self.counters("warren_log_syncs_total", "Waits for the disk", &["file"])?;
        syncs.with_label_values(&["log"]).inc_by(log.log_syncs);
        syncs.with_label_values(&["other"]).inc_by(log.other_syncs);
        self.counter("warren_log_bytes_total", "Bytes handed to the disk", log.bytes)
    }

    fn pool(&self, view: &View) -> prometheus::Result<()> {
        let pool = &view.insight().instruments.pool;
        let (hits, misses) = pool.hits_and_misses();
        let template = [DEFAULT_TEMPLATE];
        let gauge = |name, help, value| -> prometheus::Result<()> {
            self.gauges(name, help, &["template"])?.with_label_values(&template).set(signed(value));
            Ok(())
        };
        gauge("warren_pool_ready", "Warm slots that stand ready", view.pool_ready())?;
        gauge("warren_pool_target", "Warm slots that should", pool.target())?;
        let claims = self.counters("warren_pool_claims_total", "Claims of slots", &["template", "result"])?;
        claims.with_label_values(&[DEFAULT_TEMPLATE, "hit"]).inc_by(hits);
        claims.with_label_values(&[DEFAULT_TEMPLATE, "miss"]).inc_by(misses);
        Ok(())
    }

    fn sandboxes(&self, view: &View) -> prometheus::Result<()> {
        let placement = Arc::clone(&view.placement());
        let mut counts: BTreeMap<&str, u64> = STATUSES.iter().map(|status| (status.as_str(), 0)).collect();
        let mine = placement.newest_first().filter(|record| record.place.owner == *view.me());
        for record in mine {
            *counts.entry(view.show(record).status.as_str()).or_default() += 1;
        }
        let sandboxes = self.gauges("warren_sandboxes", "Sandboxes of this node", &["status"])?;
        for (status, count) in counts {
            sandboxes.with_label_values(&[status]).set(signed(count));
        }
        self.gauge("warren_cluster_sandboxes", "Sandboxes in the map", placement.len() as u64)?;
        let tombstones = placement.tombstones().count() as u64;
        self.gauge(
            "warren_cluster_tombstones",
            "Destroyed sandboxes whose owner still has to remove them",
            tombstones,
        )?;
        let lost = placement.nodes().filter(|(_, node)| node.lost).count() as u64;
        let nodes = self.gauges("warren_cluster_nodes", "Nodes in the map", &["state"])?;
        nodes.with_label_values(&["lost"]).set(signed(lost));
        nodes.with_label_values(&["present"]).set(signed(placement.nodes().count() as u64 - lost));
        Ok(())
    }

    fn peers(&self, view: &View) -> prometheus::Result<()> {
        let peer = &["peer"];
        let up = self.gauges("warren_peer_link_up", "Whether a link leads to this peer", peer)?;
        let connections = self.counters("warren_peer_connections_total", "Connections made to this peer", peer)?;
        let waiting = self.gauges("warren_peer_queue_messages", "Messages that wait for this peer", peer)?;
        let waiting_bytes = self.gauges("warren_peer_queue_bytes", "Bytes that wait for this peer", peer)?;
        let sent = self.counters("warren_peer_sent_messages_total", "Messages handed to the kernel", peer)?;
        let sent_bytes = self.counters("warren_peer_sent_bytes_total", "Bytes handed to the kernel", peer)?;
        let dropped =
            self.counters("warren_peer_dropped_messages_total", "Messages that were not sent", &["peer", "reason"])?;
        for link in view.cluster().links() {
            let (host, counters) = (link.host.as_str(), &link.counters);
            up.with_label_values(&[host]).set(i64::from(link.up));
            connections.with_label_values(&[host]).inc_by(counters.connections);
            waiting.with_label_values(&[host]).set(signed(counters.waiting as u64));
            waiting_bytes.with_label_values(&[host]).set(signed(counters.waiting_bytes as u64));
            sent.with_label_values(&[host]).inc_by(counters.sent);
            sent_bytes.with_label_values(&[host]).inc_by(counters.sent_bytes);
            for (reason, count) in [
                ("queue_full", counters.dropped_full),
                ("not_connected", counters.dropped_down),
                ("too_large", counters.dropped_too_large),
                ("connection_lost", counters.dropped_lost),
            ] {
                dropped.with_label_values(&[host, reason]).inc_by(count);
            }
        }
        Ok(())
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use peers::Security;
    use types::{ClusterId, HostId};

    use super::*;
    use crate::cluster::Cluster;
    use crate::identity::ToldOf;
    use crate::instruments::Where;
    use crate::nodes::Group;

    fn view(peers: &[&str]) -> View {
        let told = |host: &&str| ToldOf { host: HostId::new(*host), member: 2, peer_address: "127.0.0.1:9".to_owned() };
        let security = Security::plaintext_on_loopback(ClusterId::new("c"), HostId::new("me")).unwrap();
        let told_of: Vec<_> = peers.iter().map(told).collect();
        let cluster = Cluster::new(HostId::new("me"), security, &told_of);
        View::new(HostId::new("me"), "runc".to_owned(), Arc::new(cluster))
    }

    fn value(text: &str, sample: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
    }

    #[test]
    fn only_an_address_that_was_asked_for_has_to_be_free() {
        // Where it fails, somebody else holds it: as good.
        let _holds_it = TcpListener::bind(crate::config::METRICS_LISTEN);
        assert!(bind(MetricsListen::Default).unwrap().is_none());
        assert!(bind(MetricsListen::Off).unwrap().is_none());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked_for = MetricsListen::At(taken.local_addr().unwrap());
        let error = format!("{:#}", bind(asked_for).unwrap_err());
        assert!(error.starts_with("metrics_listen: cannot bind 127.0.0.1:"), "{error}");
        drop(taken);
        assert!(bind(asked_for).unwrap().is_some());
    }

    #[tokio::test]
    async fn labels_are_escaped_and_every_family_is_there_once() {
        let view = view(&["two\"lines\nand \\"]);
        let text = text(&view).unwrap();
        assert_eq!(value(&text, r#"warren_peer_link_up{peer="two\"lines\nand \\"}"#), 0.0);
        let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut unique = families.clone();
        unique.dedup();
        assert_eq!(families, unique, "sorted, each once");
        // What the operator is promised by `docs/metrics.md`.
        let listed = include_str!("../../../docs/metrics.md");
        for family in families {
            let name = family.split(' ').next().unwrap();
            assert!(listed.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
        }
    }

    #[tokio::test]
    async fn what_is_so_now_is_shown_as_it_is() {
        let view = view(&[]);
        let before = text(&view).unwrap();
        assert_eq!(value(&before, "warren_quorum"), 0.0);
        assert_eq!(value(&before, r#"warren_sandboxes{status="running"}"#), 0.0);
        view.insight().set_group(Group {
            term: 7,
            leads: true,
            committed: 9,
            voters: vec![1, 2, 3],
            ..Group::default()
        });
        view.insight().instruments.pool.set(4, (5, 6));
        view.set_pool_ready(3);
        view.insight().instruments.execs.ended(Where::Elsewhere, false, Duration::from_millis(3));
        let after = text(&view).unwrap();
        for (sample, wanted) in [
            ("warren_is_leader", 1.0),
            ("warren_raft_term", 7.0),
            ("warren_raft_commit_index", 9.0),
            (r#"warren_raft_members{role="voter"}"#, 3.0),
            (r#"warren_pool_ready{template="default"}"#, 3.0),
            (r#"warren_pool_target{template="default"}"#, 4.0),
            (r#"warren_pool_claims_total{result="hit",template="default"}"#, 5.0),
            (r#"warren_exec_seconds_count{outcome="error",owner="elsewhere"}"#, 1.0),
            (r#"warren_exec_seconds_bucket{outcome="error",owner="elsewhere",le="0.002"}"#, 0.0),
            (r#"warren_exec_seconds_bucket{outcome="error",owner="elsewhere",le="0.005"}"#, 1.0),
        ] {
            assert_eq!(value(&after, sample), wanted, "{sample}");
        }
    }
}
