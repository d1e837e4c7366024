//! At the sandbox's limits the agent answers, says which, and recovers.

use runtime::agent::{AgentStage, ExecEvent, ExitStatus, RefusalCode};

use crate::support::{GENERATION, Podman, argv, sh, wait_until};

#[test]
fn out_of_memory_is_told_and_survived() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    for (request, status) in
        [(argv(&["tail", "/dev/zero"]), ExitStatus::Signal(9)), (sh("tail /dev/zero; exit $?"), ExitStatus::Code(137))]
    {
        let exit = sandbox.run(request).exit;
        assert_eq!((exit.status, exit.oom), (status, true));
    }
    let exit = sandbox.run(sh("kill -9 $$")).exit;
    assert_eq!((exit.status, exit.oom), (ExitStatus::Signal(9), false));
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
}

#[test]
fn at_the_limit_of_processes_the_agent_answers_and_kills() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    sandbox.wait(async {
        let script = "(while :; do sleep 1000 & done) 2>/dev/null; sleep 1000 & echo full; exec sleep 1000";
        let mut stream = sandbox.agent.exec(GENERATION, sh(script)).await.unwrap();
        while !matches!(stream.next().await.unwrap(), Some(ExecEvent::Output { .. })) {}

        assert_eq!(sandbox.agent.hello().await.unwrap().stage, AgentStage::Active);
        let refused = sandbox.agent.run(GENERATION, argv(&["true"]), None, 100).await.unwrap_err();
        assert_eq!(refused.refusal_code(), Some(RefusalCode::ResourceLimit), "{refused}");
        let refused = sandbox.agent.stat(GENERATION, b"/", false).await.unwrap_err();
        assert_eq!(refused.refusal_code(), Some(RefusalCode::ResourceLimit), "{refused}");

        stream.input().cancel().await.unwrap();
        while !matches!(stream.next().await.unwrap(), Some(ExecEvent::Exited(_))) {}
    });
    wait_until("all are dead", || sandbox.others().is_empty());
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
}

#[test]
fn a_fork_bomb_is_ended() {
    let mut podman = Podman::start();
    let image = podman.busybox_image();
    let sandbox = podman.sandbox(&image).active();
    let mut request = sh("f() { f 2>/dev/null | f 2>/dev/null & }; f; while :; do f; done 2>/dev/null");
    request.deadline = Some(std::time::Duration::from_secs(1));
    let exit = sandbox.run(request).exit;
    assert!(exit.timed_out || exit.status == ExitStatus::Code(2), "{exit:?}");
    wait_until("all are dead", || sandbox.others().is_empty());
    assert_eq!(sandbox.sh("echo alive"), "alive\n");
}
