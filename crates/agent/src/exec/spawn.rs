//! The fork of a command and its way from the agent's rights to the user's.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::caps;
use crate::exec::plan::Plan;
use crate::exec::pty;
use crate::sys::{self, Forked, check};

/// How much sooner than the agent the kernel takes a command when memory runs out.
const OOM_SCORE_ADJ: &[u8] = b"500";

/// Where the child keeps the status pipe while everything else is closed.
const STATUS_FD: RawFd = 3;

/// Bytes of a failure report: stage and errno.
const REPORT_BYTES: usize = 8;

/// A started command, seen from its supervisor.
pub struct Command {
    /// Pid inside the sandbox.
    pub pid: libc::pid_t,
    /// Where standard input goes.
    pub stdin: Option<OwnedFd>,
    /// Where standard output comes from; of a terminal, everything.
    pub stdout: OwnedFd,
    /// Where standard error comes from.
    pub stderr: Option<OwnedFd>,
    /// The terminal, for its size.
    pub terminal: Option<OwnedFd>,
    /// Ends without a byte when the program runs.
    pub status: OwnedFd,
}

/// How far the child came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Becoming the user.
    Setup = 1,
    /// Entering the directory.
    Chdir = 2,
    /// Running the program.
    Exec = 3,
}

/// Why the program does not run.
#[derive(Debug)]
pub struct StartFailure {
    /// Where it failed.
    pub stage: Stage,
    /// With what.
    pub error: io::Error,
}

/// Reads the status pipe once it is readable: None means that the program runs, or that the child died before.
pub fn read_status(status: RawFd) -> Option<StartFailure> {
    let mut report = [0; REPORT_BYTES];
    // So few bytes are written and read whole.
    if sys::read(status, &mut report).ok()? != REPORT_BYTES {
        return None;
    }
    let (stage, errno) = report.split_first_chunk::<4>()?;
    let stage = match i32::from_ne_bytes(*stage) {
        2 => Stage::Chdir,
        3 => Stage::Exec,
        _ => Stage::Setup,
    };
    let errno = i32::from_ne_bytes(errno.try_into().ok()?);
    Some(StartFailure { stage, error: io::Error::from_raw_os_error(errno) })
}

/// Forks the command, whose bounding set is `bounding` before it becomes its user. The calling process becomes its
/// subreaper and keeps only the right to kill.
pub fn start(plan: &Plan, bounding: u64) -> io::Result<Command> {
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    let (status, status_child) = sys::pipe()?;
    let request = &plan.request;

    let (child_fds, command_fds, terminal) = if request.tty {
        let pty = pty::open(&plan.user, request.cols, request.rows)?;
        let (stdin, stdout) = (pty.master.try_clone()?, pty.master.try_clone()?);
        ([Some(pty.slave), None, None], (Some(stdin), stdout, None), Some(pty.master))
    } else {
        let (stdin_child, stdin) = if request.stdin {
            let (read, write) = sys::pipe()?;
            (read, Some(write))
        } else {
            (sys::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDONLY, 0)?, None)
        };
        let (stdout, stdout_child) = sys::pipe()?;
        let (stderr, stderr_child) = sys::pipe()?;
        ([Some(stdin_child), Some(stdout_child), Some(stderr_child)], (stdin, stdout, Some(stderr)), None)
    };
    let (stdin, stdout, stderr) = command_fds;
    for fd in stdin.iter().chain([&stdout]).chain(&stderr) {
        sys::set_nonblocking(fd.as_raw_fd(), true)?;
    }

    let first = child_fds[0].as_ref().map_or(-1, AsRawFd::as_raw_fd);
    let fds = child_fds.each_ref().map(|fd| fd.as_ref().map_or(first, AsRawFd::as_raw_fd));
    let mut pointers = Pointers::new(plan);
    match sys::fork()? {
        Forked::Child => become_command(plan, bounding, &mut pointers, fds, &mut status_child.as_raw_fd()),
        Forked::Parent(pid) => {
            // From here on the supervisor only watches and kills.
            caps::set(caps::SUPERVISOR)?;
            Ok(Command { pid, stdin, stdout, stderr, terminal, status })
        }
    }
}

/// Arrays for execve, made before the fork.
struct Pointers {
    argv: Vec<*const libc::c_char>,
    /// `/bin/sh`, the script (filled in when it is known), the arguments.
    script_argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

impl Pointers {
    fn new(plan: &Plan) -> Self {
        let array = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>();
        let mut script_argv = vec![plan.script_shell.as_ptr(), ptr::null()];
        script_argv.extend(array(&plan.argv[1..]));
        Self { argv: array(&plan.argv), script_argv, envp: array(&plan.envp) }
    }
}

/// In the child: system calls only, nothing is allocated.
fn become_command(plan: &Plan, bounding: u64, pointers: &mut Pointers, fds: [RawFd; 3], status: &mut RawFd) -> ! {
    let stage = match become_user(plan, bounding, fds, status) {
        Err(error) => fail(*status, Stage::Setup, &error),
        // SAFETY: the path is a valid C string.
        Ok(()) => match check(unsafe { libc::chdir(plan.workdir.as_ptr()) }) {
            Err(error) => fail(*status, Stage::Chdir, &error),
            Ok(_) => Stage::Exec,
        },
    };
    let mut result = libc::ENOENT;
    for candidate in &plan.candidates {
        // SAFETY: all strings and the null-ended arrays outlive the call.
        unsafe { libc::execve(candidate.as_ptr(), pointers.argv.as_ptr(), pointers.envp.as_ptr()) };
        match io::Error::last_os_error().raw_os_error().unwrap_or(0) {
            libc::ENOENT | libc::ENOTDIR => {}
            // Another directory of PATH may have it in a form that runs.
            libc::EACCES => result = libc::EACCES,
            libc::ENOEXEC => {
                pointers.script_argv[1] = candidate.as_ptr();
                let (shell, argv) = (plan.script_shell.as_ptr(), pointers.script_argv.as_ptr());
                // SAFETY: as above.
                unsafe { libc::execve(shell, argv, pointers.envp.as_ptr()) };
                // Without a shell it is a file that can not be run.
                result = libc::ENOEXEC;
                break;
            }
            other => {
                result = other;
                break;
            }
        }
    }
    fail(*status, stage, &io::Error::from_raw_os_error(result))
}

fn become_user(plan: &Plan, bounding: u64, fds: [RawFd; 3], status: &mut RawFd) -> io::Result<()> {
    let user = &plan.user;
    let capabilities = if user.uid == 0 { caps::ROOT } else { caps::NONE };
    // SAFETY: plain integers and pointers to values that outlive each call.
    unsafe {
        check(libc::setsid())?;
        let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        // Where it can not be raised the command is still the larger process, which the kernel takes first.
        let _ = sys::write(score, OOM_SCORE_ADJ);

        for (from, to) in fds.into_iter().zip(0..) {
            sys::dup2(from, to)?;
        }
        sys::dup2(*status, STATUS_FD)?;
        *status = STATUS_FD;
        check(libc::fcntl(STATUS_FD, libc::F_SETFD, libc::FD_CLOEXEC))?;
        sys::close_from(STATUS_FD + 1);
        if plan.request.tty {
            check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }

        // An ignored SIGPIPE would be inherited through execve.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()))?;
        libc::umask(0o022);

        caps::drop_bounding_and_ambient(bounding, capabilities)?;
        raw(libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()))?;
        raw(libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid))?;
        raw(libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid))?;
    }
    // From a uid that is not 0 setresuid clears nothing: this does.
    caps::set(capabilities)?;
    // After the change of user, which clears it: should the supervisor be killed, its command does not run on unseen.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
}

fn raw(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn fail(status: RawFd, stage: Stage, error: &io::Error) -> ! {
    let mut report = [0; REPORT_BYTES];
    report[..4].copy_from_slice(&(stage as i32).to_ne_bytes());
    report[4..].copy_from_slice(&error.raw_os_error().unwrap_or(0).to_ne_bytes());
    // If the supervisor is gone there is nobody to tell.
    let _ = sys::write(status, &report);
    sys::exit(127)
}
