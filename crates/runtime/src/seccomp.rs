//! The seccomp profile of every sandbox: what ordinary programs call, and no more.
//!
//! Podman's default, even with all capabilities dropped, lets a sandbox open user namespaces, packet
//! and VM sockets in them, and keyrings. This one is an allow list without the mount family, handles,
//! keys, bpf, perf, userfaultfd and io_uring, with rules on arguments where a call is needed in part.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

const EPERM: u32 = 1;
const EINVAL: u32 = 22;
/// What an unknown call is answered with, so that libraries fall back to the older one.
const ENOSYS: u32 = 38;
const EPROTONOSUPPORT: u32 = 93;
const EAFNOSUPPORT: u32 = 97;

/// Flags of clone that open a namespace: NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWNS.
const NAMESPACE_FLAGS: u64 = 0x7E02_0000;
/// Unshare knows NEWTIME besides.
const UNSHARE_NAMESPACE_FLAGS: u64 = NAMESPACE_FLAGS | 0x80;

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const NETLINK_ROUTE: u64 = 0;
const NETLINK_AUDIT: u64 = 9;

/// Values of `personality` that change nothing a program was not compiled for, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// What is allowed whatever its arguments, by what it is about.
const ALLOWED: &[&str] = &[
    // Files: open, read, write, close.
    "access close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fcntl \
     fdatasync flock fsync ftruncate ioctl lseek open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 \
     read readahead readv sendfile splice sync sync_file_range syncfs tee truncate write writev cachestat",
    // Files: names, owners, modes, times, attributes.
    "chdir chmod chown fchdir fchmod fchmodat fchmodat2 fchown fchownat fgetxattr flistxattr fremovexattr fsetxattr \
     fstat fstatfs futimesat getcwd getdents getdents64 getxattr lchown lgetxattr link linkat listxattr llistxattr \
     lremovexattr lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat readlink readlinkat removexattr rename \
     renameat renameat2 rmdir setxattr stat statfs statx symlink symlinkat umask unlink unlinkat utime utimensat utimes",
    // Waiting for and watching files.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
     eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch pipe pipe2 poll ppoll pselect6 \
     select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime",
    // The older asynchronous I/O.
    "io_cancel io_destroy io_getevents io_setup io_submit",
    // Memory.
    "brk get_mempolicy madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall \
     mmap mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease \
     remap_file_pages set_mempolicy",
    // Processes and threads. `clone`, `clone3`, `unshare` and `prlimit64` have rules of their own.
    "execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list \
     get_thread_area getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid gettid ioprio_get \
     ioprio_set kill pause pidfd_getfd pidfd_open pidfd_send_signal prctl process_vm_readv process_vm_writev ptrace \
     restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
     sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
     sched_yield set_robust_list set_thread_area set_tid_address setpgid setpriority setrlimit setsid tgkill tkill vfork \
     wait4 waitid",
    // Signals.
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
     rt_tgsigqueueinfo sigaltstack",
    // Identity. Without capabilities they change nothing that one is not already.
    "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups \
     setregid setresgid setresuid setreuid setuid",
    // Sockets. `socket` and `socketpair` have rules of their own.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg \
     sendto setsockopt shutdown",
    // Messages, semaphores and shared memory of the sandbox's own namespace.
    "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget \
     semop semtimedop shmat shmctl shmdt shmget",
    // Time.
    "adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer \
     time timer_create timer_delete timer_getoverrun timer_gettime timer_settime times",
    // Confinement of oneself, and what else programs ask.
    "getrandom landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp sysinfo uname",
];

/// Calls of this architecture alone.
const ALLOWED_HERE: &[&str] = if cfg!(target_arch = "x86_64") { &["arch_prctl modify_ldt"] } else { &[] };

/// What is refused with EPERM rather than ENOSYS: the caller should learn that it may not, not that
/// the kernel is old.
const REFUSED: &[&str] = &[
    // Mounts and roots.
    "chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree pivot_root umount2",
    // Files by handle, past every directory's permission.
    "name_to_handle_at open_by_handle_at",
    // Other namespaces.
    "setns",
    // Keyrings: one quota for the mapped user, whichever sandbox.
    "add_key keyctl request_key",
    // Large attack surfaces that ordinary programs do without.
    "bpf fanotify_init lookup_dcookie perf_event_open userfaultfd vmsplice",
    // The host's own affairs.
    "acct clock_settime delete_module finit_module init_module ioperm iopl kcmp kexec_file_load kexec_load migrate_pages \
     move_pages process_madvise quotactl quotactl_fd reboot setdomainname sethostname settimeofday swapoff swapon syslog \
     sysfs uselib ustat vhangup",
];

/// The profile as the engine reads it.
#[must_use]
pub fn profile() -> Value {
    let architecture = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    let mut rules = vec![
        allow(&names(ALLOWED), json!([])),
        allow(&names(ALLOWED_HERE), json!([])),
        refuse(&names(REFUSED), EPERM, json!([])),
        allow(&["clone"], json!([masked(0, NAMESPACE_FLAGS, 0)])),
        allow(&["unshare"], json!([masked(0, UNSHARE_NAMESPACE_FLAGS, 0)])),
        // Its flags lie in memory, where a filter can not look; libraries fall back to clone.
        refuse(&["clone3"], ENOSYS, json!([])),
        // Its own limits only: at an equal uid it would change those of others.
        allow(&["prlimit64"], json!([equal(0, 0)])),
        refuse(&["prlimit64"], EPERM, json!([compare(0, 0, "SCMP_CMP_NE")])),
        allow(&["socketpair"], json!([equal(0, AF_UNIX)])),
    ];
    rules.extend(PERSONALITIES.iter().map(|value| allow(&["personality"], json!([equal(0, *value)]))));
    rules.extend(socket_rules());
    rules.retain(|rule| rule["names"].as_array().is_some_and(|names| !names.is_empty()));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        // No 32-bit sub-architecture: its one call for all sockets takes a pointer.
        "archMap": [{"architecture": architecture, "subArchitectures": []}],
        "syscalls": rules,
    })
}

/// Unix, IPv4, IPv6 and netlink's routes; the rest is refused as a kernel without it would. Every
/// other value is named, since a filter has no "otherwise" but the default.
fn socket_rules() -> Vec<Value> {
    let socket = &["socket"];
    let mut rules: Vec<Value> =
        [AF_UNIX, AF_INET, AF_INET6].iter().map(|family| allow(socket, json!([equal(0, *family)]))).collect();
    rules.push(allow(socket, json!([equal(0, AF_NETLINK), equal(2, NETLINK_ROUTE)])));
    for protocol in NETLINK_ROUTE + 1..=NETLINK_AUDIT {
        // With any other error than EINVAL, `su` and its kin give up.
        let errno = if protocol == NETLINK_AUDIT { EINVAL } else { EPROTONOSUPPORT };
        rules.push(refuse(socket, errno, json!([equal(0, AF_NETLINK), equal(2, protocol)])));
    }
    let above = compare(2, NETLINK_AUDIT, "SCMP_CMP_GT");
    rules.push(refuse(socket, EPROTONOSUPPORT, json!([equal(0, AF_NETLINK), above])));
    for family in (0..AF_NETLINK).filter(|family| ![AF_UNIX, AF_INET, AF_INET6].contains(family)) {
        rules.push(refuse(socket, EAFNOSUPPORT, json!([equal(0, family)])));
    }
    rules.push(refuse(socket, EAFNOSUPPORT, json!([compare(0, AF_NETLINK, "SCMP_CMP_GT")])));
    rules
}

/// Writes the profile into `state_dir`, whole or not at all, and answers its path.
pub(crate) fn install(state_dir: &Path) -> io::Result<PathBuf> {
    let path = state_dir.join("seccomp.json");
    let partial = state_dir.join(format!(".seccomp.json.{}", std::process::id()));
    fs::write(&partial, profile().to_string())?;
    fs::rename(&partial, &path)?;
    Ok(path)
}

fn names(groups: &[&'static str]) -> Vec<&'static str> {
    groups.iter().flat_map(|group| group.split_whitespace()).collect()
}

fn allow(names: &[&str], arguments: Value) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": arguments})
}

fn refuse(names: &[&str], errno: u32, arguments: Value) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": arguments})
}

fn equal(index: u32, value: u64) -> Value {
    compare(index, value, "SCMP_CMP_EQ")
}

fn masked(index: u32, mask: u64, value: u64) -> Value {
    json!({"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"})
}

fn compare(index: u32, value: u64, operation: &str) -> Value {
    json!({"index": index, "value": value, "valueTwo": 0, "op": operation})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_call_is_both_allowed_and_refused_or_named_twice() {
        let allowed = names(ALLOWED);
        let refused = names(REFUSED);
        let all: BTreeSet<_> = allowed.iter().chain(&refused).collect();
        assert_eq!(all.len(), allowed.len() + refused.len());
    }

    #[test]
    fn what_opens_a_way_out_is_never_allowed_outright() {
        let free = names(ALLOWED);
        for call in
            ["clone", "clone3", "unshare", "setns", "mount", "keyctl", "bpf", "socket", "io_uring_setup", "prlimit64"]
        {
            assert!(!free.contains(&call), "{call} is allowed whatever its arguments");
        }
    }

    #[test]
    fn every_socket_family_has_exactly_one_verdict() {
        for family in 0..64_u64 {
            for protocol in 0..32_u64 {
                let verdicts: Vec<Value> = socket_rules()
                    .into_iter()
                    .filter(|rule| {
                        rule["args"].as_array().expect("a list").iter().all(|argument| {
                            let actual = if argument["index"] == 0 { family } else { protocol };
                            let value = argument["value"].as_u64().expect("a number");
                            match argument["op"].as_str() {
                                Some("SCMP_CMP_EQ") => actual == value,
                                Some("SCMP_CMP_GT") => actual > value,
                                other => panic!("an operation that this test does not know: {other:?}"),
                            }
                        })
                    })
                    .collect();
                assert_eq!(verdicts.len(), 1, "family {family}, protocol {protocol}");
                let allowed = verdicts[0]["action"] == "SCMP_ACT_ALLOW";
                assert_eq!(allowed, [1, 2, 10].contains(&family) || (family == 16 && protocol == 0));
            }
        }
    }
}
