//! The doctor on this host, and on one that it is told is broken.

mod common;

use runtime::{EngineConfig, FindingState, examine};
use types::{ClusterId, HostId};

#[test]
fn a_host_on_which_slots_are_made_lacks_nothing() {
    common::run(|| async {
        let bench = common::Bench::start().await;
        bench.engine.make_slot(bench.order()).await.expect("a slot");
        let findings = examine(bench.engine.config());
        for finding in &findings {
            println!("{:?} {}: {} ({:?})", finding.state, finding.check, finding.says, finding.mend);
        }
        let missing: Vec<_> = findings.iter().filter(|finding| finding.state == FindingState::Missing).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(findings.len() > 15);
    });
}

#[test]
fn what_is_missing_is_said_with_what_mends_it() {
    let mut config = EngineConfig::new(ClusterId::new("test"), HostId::new("test"), "/nowhere/warren-agent".into());
    config.oci_runtime = Some("no-such-runtime".to_owned());
    config.socket = Some("/nowhere/podman.sock".into());
    let findings = examine(&config);
    for check in ["agent", "OCI runtime", "podman"] {
        let finding = findings.iter().find(|finding| finding.check == check).expect(check);
        assert_eq!(finding.state, FindingState::Missing, "{finding:?}");
        assert!(finding.mend.is_some(), "{finding:?}");
    }
}

#[test]
fn a_dynamic_agent_is_refused() {
    let config = EngineConfig::new(ClusterId::new("test"), HostId::new("test"), "/bin/ls".into());
    let finding = examine(&config).into_iter().find(|finding| finding.check == "agent").expect("agent");
    assert_eq!(finding.state, FindingState::Missing, "{finding:?}");
}
