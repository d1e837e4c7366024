//! A process on a host, as its parent sees it.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that was started on a host. Like `std::process::Child`, it runs on when this is dropped; unlike it, the
/// host reaps it when its power is cut.
#[derive(Debug)]
pub struct Process {
    child: Arc<Mutex<Child>>,
    pid: u32,
    handle: OwnedFd,
    /// Its standard input, if it was asked to be piped.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, if it was asked to be piped.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, if it was asked to be piped.
    pub stderr: Option<ChildStderr>,
}

/// The host's share in a process.
#[derive(Debug, Clone)]
pub(crate) struct Ward(Arc<Mutex<Child>>);

impl Process {
    pub(crate) fn new(mut child: Child) -> io::Result<(Process, Ward)> {
        let pid = child.id();
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        // Not reaped yet, hence the pid is its own.
        let handle = pidfd_open(raw, PidfdFlags::empty())?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let child = Arc::new(Mutex::new(child));
        Ok((Process { child: Arc::clone(&child), pid, handle, stdin, stdout, stderr }, Ward(child)))
    }

    /// Its pid on the machine; on its host it has another one.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        lock(&self.child).try_wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        drop(self.stdin.take());
        // Without the lock, which a power cut needs meanwhile.
        loop {
            match poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        lock(&self.child).wait()
    }

    /// Waits for its end, and collects what it says on pipes until then.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait_with_output(mut self) -> io::Result<Output> {
        drop(self.stdin.take());
        let (out, err) = (self.stdout.take(), self.stderr.take());
        let (stdout, stderr) = std::thread::scope(|scope| {
            let err = scope.spawn(|| read(err));
            (read(out), err.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
        });
        Ok(Output { status: self.wait()?, stdout: stdout?, stderr: stderr? })
    }

    /// Kills it, and it alone. One that has ended is left alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends it a signal. One that has ended is left alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Ward {
    /// Reaps it where it has ended, and says whether it still runs.
    pub(crate) fn runs(&self) -> bool {
        matches!(lock(&self.0).try_wait(), Ok(None))
    }
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(source: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut source) = source {
        source.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
