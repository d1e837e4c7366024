//! The floor of an exec: a small process that enters a sandbox's namespaces, becomes its user and runs the program.
//! It does nothing else that an exec needs: no output is gathered, no descendant would be killed, no seccomp filter
//! and no limit is in force.

use std::ffi::{CStr, CString};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags};

/// Uid and gid that the program runs as, inside the sandbox's user namespace.
const USER: u32 = 1000;

/// The namespaces that a sandbox has of its own.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// A process of its own that goes to the floor when it is told to: small and with one thread, so that its forks are
/// as cheap as they can be.
pub struct Floor {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    /// Starts it for the sandbox whose first process this is.
    pub fn start(pid: i32) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["floor", "--pid", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().context("no pipe")?;
        let answers = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, ask, answers })
    }

    /// One exec of `/bin/true`, timed by the process itself.
    pub fn exec(&mut self) -> Result<Duration> {
        self.ask.write_all(b"\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(Duration::from_nanos(line.trim().parse().context("the floor gave up")?))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("error: the floor can not be ended: {error}");
        }
    }
}

/// The process itself: one exec for each line that comes.
pub fn serve(pid: i32) -> Result<()> {
    let pid = Pid::from_raw(pid).context("no pid")?;
    let sandbox = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("no such process")?;
    let program = CString::new("/bin/true")?;
    let mut lines = std::io::stdin().lock();
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        line.clear();
        let started = Instant::now();
        let status = enter_and_run(&sandbox, &program)?;
        let took = started.elapsed();
        if status != 0 {
            bail!("the program ended with wait status {status:#x}");
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", took.as_nanos())?;
        out.flush()?;
    }
    Ok(())
}

fn enter_and_run(sandbox: &OwnedFd, program: &CStr) -> Result<i32> {
    let argv = [program.as_ptr(), std::ptr::null()];
    let envp = [c"PATH=/bin".as_ptr(), std::ptr::null()];
    // SAFETY: this process has one thread, so the child may go on as any program would; it makes only system calls,
    // with pointers to values that live on in it, and ends by `_exit` or execve.
    unsafe {
        match libc::fork() {
            -1 => bail!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                if libc::setns(sandbox.as_raw_fd(), NAMESPACES) != 0 {
                    libc::_exit(101);
                }
                // Only a child is in the new pid namespace.
                match libc::fork() {
                    -1 => libc::_exit(102),
                    0 => {
                        let user = libc::setgroups(0, std::ptr::null()) == 0
                            && libc::setresgid(USER, USER, USER) == 0
                            && libc::setresuid(USER, USER, USER) == 0;
                        if user {
                            libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
                        }
                        libc::_exit(103)
                    }
                    child => libc::_exit(wait(child)),
                }
            }
            child => Ok(wait(child)),
        }
    }
}

/// How a child ended, cut down to what an exit code can carry: 0 is success only.
fn wait(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is valid to write to.
    if unsafe { libc::waitpid(child, &mut status, 0) } != child {
        return 104;
    }
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 105 }
}
