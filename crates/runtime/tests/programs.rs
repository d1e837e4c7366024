//! What the seccomp profile lets pass and what it does not, seen by programs of the default image.

mod common;

use std::time::Duration;

use common::{Bench, order, podman, run};
use runtime::agent::{Activation, ExecRequest, ExitStatus, Identity};
use runtime::{ImageFacts, Slot};

const DEFAULT: &str = "localhost/warren/default:latest";

/// Calls that would open a way out, made with their raw numbers of x86-64: what each must be refused
/// with. A second line proves that the way of asking works.
const PROBE: &str = r#"
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    result = libc.syscall(*[ctypes.c_long(a) for a in arguments])
    return 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()]
NEWUSER, NEWNET, NEWTIME, FILES = 0x10000000, 0x40000000, 0x80, 0x400
seen = {
    'unshare user': call(272, NEWUSER), 'unshare net': call(272, NEWNET), 'unshare time': call(272, NEWTIME),
    'unshare files': call(272, FILES),
    'clone user': call(56, NEWUSER | 17, 0, 0, 0, 0), 'clone3': call(435, 0, 0),
    'mount': call(165, 0, 0, 0, 0, 0), 'fsopen': call(430, 0, 0), 'setns': call(308, 0, 0),
    'keyctl': call(250, 0, 0, 0, 0, 0), 'add_key': call(248, 0, 0, 0, 0, 0),
    'bpf': call(321, 0, 0, 0), 'perf': call(298, 0, 0, 0, 0, 0), 'userfaultfd': call(323, 0),
    'io_uring': call(425, 0, 0), 'open_by_handle_at': call(304, 0, 0, 0), 'chroot': call(161, 0),
    'unix': call(41, 1, 1, 0), 'inet': call(41, 2, 1, 0), 'inet6': call(41, 10, 1, 0),
    'netlink route': call(41, 16, 3, 0), 'netlink audit': call(41, 16, 3, 9), 'netlink filter': call(41, 16, 3, 12),
    'packet': call(41, 17, 3, 0), 'vsock': call(41, 40, 1, 0), 'alg': call(41, 38, 5, 0), 'bluetooth': call(41, 31, 3, 0),
    'family above 32 bits': call(41, (1 << 32) | 17, 3, 0),
    'prlimit other': call(302, 1, 7, 0, 0), 'prlimit self': call(302, 0, 7, 0, 0),
}
for name, result in seen.items():
    print(f'{name}: {result}')
"#;

const REFUSED: &str = "\
unshare user: ENOSYS
unshare net: ENOSYS
unshare time: ENOSYS
unshare files: ok
clone user: ENOSYS
clone3: ENOSYS
mount: EPERM
fsopen: EPERM
setns: EPERM
keyctl: EPERM
add_key: EPERM
bpf: EPERM
perf: EPERM
userfaultfd: EPERM
io_uring: ENOSYS
open_by_handle_at: EPERM
chroot: EPERM
unix: ok
inet: ok
inet6: ok
netlink route: ok
netlink audit: EINVAL
netlink filter: EPROTONOSUPPORT
packet: EAFNOSUPPORT
vsock: EAFNOSUPPORT
alg: EAFNOSUPPORT
bluetooth: EAFNOSUPPORT
family above 32 bits: EAFNOSUPPORT
prlimit other: EPERM
prlimit self: ok
";

#[test]
fn what_opens_a_way_out_is_refused_and_ordinary_programs_run() {
    if !podman(&["image", "exists", DEFAULT]).status.success() {
        println!("skipped: {DEFAULT} is not there, `cargo xtask` makes it");
        return;
    }
    run(|| async {
        let bench = Bench::start().await;
        let image = bench.engine.resolve_image(DEFAULT).await.expect("there");
        let slot = bench.engine.make_slot(order(DEFAULT)).await.expect("a slot");
        let identity = activate(&slot, &image).await;

        let (status, out, err) = exec(&slot, &identity, &["python3", "-c", PROBE]).await;
        assert_eq!((status, out.as_str(), err.as_str()), (ExitStatus::Code(0), REFUSED, ""));

        let programs: [(&[&str], &str); 7] = [
            (&["bash", "-c", "diff <(echo a) <(echo a) && echo $((6 * 7)) | cat"], "42\n"),
            (
                &[
                    "python3",
                    "-c",
                    "import threading as t\nx=[]\ns=[t.Thread(target=x.append,args=(i,)) for i in range(20)]\n\
                [i.start() for i in s]\n[i.join() for i in s]\nprint(sum(x))",
                ],
                "190\n",
            ),
            (
                &[
                    "python3",
                    "-c",
                    "import multiprocessing as m\nwith m.Pool(2) as p: print(sum(p.map(abs, range(-9, 1))))",
                ],
                "45\n",
            ),
            (
                &[
                    "python3",
                    "-c",
                    "import subprocess as s\nprint(s.run(['uname', '-s'], capture_output=True, text=True).stdout.strip())",
                ],
                "Linux\n",
            ),
            (
                &[
                    "python3",
                    "-c",
                    "import socket\na=socket.create_server(('127.0.0.1', 0))\nb=socket.create_connection(a.getsockname())\n\
                c,_=a.accept()\nb.send(b'hello')\nprint(c.recv(9).decode())",
                ],
                "hello\n",
            ),
            (
                &[
                    "bash",
                    "-c",
                    "cd /tmp && git init -q r && cd r && git config user.email a@b && git config user.name c && \
                echo x > f && git add f && git commit -q -m first && git log --format=%s",
                ],
                "first\n",
            ),
            (
                &[
                    "bash",
                    "-c",
                    "mkfifo /tmp/p && (echo through > /tmp/p &) && cat /tmp/p && ls -l /proc/self/fd > /dev/null",
                ],
                "through\n",
            ),
        ];
        for (command, expected) in programs {
            let (status, out, err) = exec(&slot, &identity, command).await;
            assert_eq!((status, out.as_str(), err.as_str()), (ExitStatus::Code(0), expected, ""), "{command:?}");
        }
    });
}

#[test]
fn a_limit_of_memory_and_of_processes_holds_inside() {
    run(|| async {
        let bench = Bench::start().await;
        let image = bench.engine.resolve_image(common::BUSYBOX).await.expect("there");
        let mut order = bench.order();
        order.resources.memory = 32 << 20;
        order.resources.pids = 16;
        let slot = bench.engine.make_slot(order).await.expect("a slot");
        let identity = activate(&slot, &image).await;
        // A file in memory larger than the limit: whoever writes it is killed, the agent is not.
        let fill = ["/bin/busybox", "dd", "if=/dev/zero", "of=/dev/shm/fill", "bs=1M", "count=60"];
        let (status, _, _) = exec(&slot, &identity, &fill).await;
        assert_eq!(status, ExitStatus::Signal(9));
        let (status, _, _) = exec(&slot, &identity, &["/bin/busybox", "rm", "/dev/shm/fill"]).await;
        assert_eq!(status, ExitStatus::Code(0));
        let many = "i=0; while [ $i -lt 40 ]; do /bin/busybox sleep 5 & i=$((i+1)); done 2>/dev/null; echo never";
        let (status, out, _) = exec(&slot, &identity, &["/bin/busybox", "sh", "-c", many]).await;
        assert!(status != ExitStatus::Code(0) || out.is_empty(), "40 processes ran: {out}");
        slot.agent().hello().await.expect("the agent answers");
    });
}

async fn activate(slot: &Slot, image: &ImageFacts) -> Identity {
    let identity = Identity { sandbox_id: slot.id.to_string(), generation: 1, spec_digest: vec![7; 32], leased: false };
    let agent = slot.agent();
    agent.reserve(&identity).await.expect("reserved");
    let bytes = |(name, value): &(String, String)| (name.clone().into_bytes(), value.clone().into_bytes());
    let activation = Activation {
        env: image.env.iter().map(bytes).collect(),
        image_user: Some(image.user.clone()).filter(|user| !user.is_empty()),
        ..Activation::default()
    };
    agent.activate(&identity, activation).await.expect("active");
    identity
}

async fn exec(slot: &Slot, identity: &Identity, command: &[&str]) -> (ExitStatus, String, String) {
    let request = ExecRequest {
        exec_id: "test".to_owned(),
        argv: command.iter().map(|word| word.as_bytes().to_vec()).collect(),
        deadline: Some(Duration::from_secs(60)),
        ..ExecRequest::default()
    };
    let outcome = slot.agent().run(identity.generation, request, None, 1 << 20).await.expect("it runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (outcome.exit.status, text(&outcome.stdout), text(&outcome.stderr))
}
