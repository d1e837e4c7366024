//! The lease's end in sandboxes that do what they can to see it late. How late it is seen is printed.

use std::fs;

use runtime::agent::{AgentError, ExecRequest, ExecStream};
use serde_json::json;

use crate::support::{GENERATION, Podman, Sandbox, boottime_ms, sh, wait_until};

/// Writes the boot clock's time, in seconds with two digits, for as long as it runs: the last sign of user code.
const SIGN: &str = "while read now idle < /proc/uptime; do echo $now; done >> /tmp/last";

/// For ever forking.
const BOMB: &str = "f() { while :; do f & done; }; f 2>/dev/null";

/// For ever forking and exiting, outside every supervisor: orphans of PID 1.
const CHAIN: &str = "f() { (f &) ; exit; }; f & f & f & f &";

async fn start(sandbox: &Sandbox<'_>, request: ExecRequest) -> ExecStream {
    sandbox.agent.exec(GENERATION, request).await.unwrap()
}

/// Runs `scripts` beside a sign of life, lets the lease run out, and says how late that was for them.
fn at_the_end(what: &str, more: serde_json::Value, scripts: &[&str], detach: bool, strained: impl Fn(&Sandbox<'_>)) {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    podman.lease.set(boottime_ms() + 3_600_000);
    let sandbox = podman.sandbox_with(&image, more).leased();
    let streams = sandbox.wait(async {
        let mut streams = vec![start(&sandbox, sh(SIGN)).await];
        wait_until("it shows signs", || sandbox.root("/tmp/last").exists());
        for script in scripts {
            let stream = start(&sandbox, ExecRequest { detach, ..sh(script) }).await;
            streams.push(stream);
        }
        streams
    });
    strained(&sandbox);

    let end = boottime_ms() + 200;
    podman.lease.set(end);
    // The node hears nothing and says nothing: it might as well be dead.
    wait_until("the lease is over", || boottime_ms() > end);
    wait_until("all are as good as dead", || sandbox.is_doomed());
    let doomed = boottime_ms() - end;
    wait_until("all are dead", || sandbox.others().is_empty());
    let gone = boottime_ms();
    let signs = fs::read_to_string(sandbox.root("/tmp/last")).unwrap();
    // The very last may have been cut short.
    let sign = signs.trim().lines().rev().nth(1).unwrap().replace('.', "").parse::<u64>().unwrap() * 10;
    let told = sandbox.wait(async {
        let mut told = Vec::new();
        for mut stream in streams {
            let end = loop {
                match stream.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break "ended before",
                    Err(AgentError::LeaseLapsed) => break "told why",
                    Err(AgentError::Interrupted) => break "cut off",
                    Err(other) => panic!("{other:?}"),
                }
            };
            told.push(end);
        }
        told
    });
    let lease = sandbox.wait(sandbox.agent.hello()).unwrap().lease;
    assert!(lease.expired);
    assert_eq!(lease.lapses, 1);
    let seen = lease.last_lapse_boottime_ms.unwrap() - end;
    let (sign, gone) = (sign.saturating_sub(end), gone - end);
    eprintln!(
        "{what}: seen by PID 1 after {seen} ms, no user code after {doomed} ms (last sign {sign} ms), all gone after {gone} \
         ms; {told:?}"
    );
    // Not one of them got away, and the agent is as good as before.
    podman.lease.set(boottime_ms() + 3_600_000);
    sandbox.until_back();
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
    wait_until("nothing runs but the agent", || sandbox.others().is_empty());
}

fn busy(sandbox: &Sandbox<'_>, count: usize) {
    wait_until("it is busy", || sandbox.others().len() >= count);
}

fn cpu(quota_us: u64, pids: u64) -> serde_json::Value {
    json!({"resource_limits": {
        "pids": {"limit": pids}, "cpu": {"quota": quota_us, "period": 100_000},
        "memory": {"limit": 512 << 20, "swap": 512 << 20},
    }})
}

#[test]
fn a_quiet_sandbox() {
    at_the_end("quiet", json!({}), &["sleep 1000"], false, |_| {});
}

#[test]
fn a_fork_bomb_at_the_limit_of_processes() {
    at_the_end("fork bomb", cpu(200_000, 256), &[BOMB], true, |sandbox| busy(sandbox, 100));
}

#[test]
fn orphans_that_fork_and_exit_for_ever() {
    at_the_end("exit chains", cpu(200_000, 128), &[CHAIN], true, |sandbox| busy(sandbox, 2));
}

#[test]
fn many_busy_loops_with_a_tenth_of_a_processor() {
    let loops = "i=0; while [ $i -lt 200 ]; do while :; do :; done & i=$((i+1)); done; wait";
    at_the_end("200 loops on 0.1 cpu", cpu(10_000, 256), &[loops], false, |sandbox| busy(sandbox, 150));
}

#[test]
fn a_fork_bomb_with_a_tenth_of_a_processor() {
    at_the_end("fork bomb on 0.1 cpu", cpu(10_000, 256), &[BOMB], true, |sandbox| busy(sandbox, 60));
}
