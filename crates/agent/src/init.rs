//! PID 1: accepts, answers what concerns the agent itself, forks for everything else, reaps, and never waits.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use prost::bytes::BytesMut;
use proto::agent::agent_frame::Frame;
use proto::agent::request::Operation;
use proto::agent::{AgentFrame, ErrorCode, HostFrame, Request, host_frame};
use proto::agent_limits::REQUEST_FRAME_BYTES_MAX;
use proto::framing::{FrameBuffer, encode};

use crate::conn::{Conn, READ_BYTES};
use crate::lease::{Lease, Watch};
use crate::refusal::Refusal;
use crate::state::{Defaults, State};
use crate::sys::{self, Forked, Waited, check};
use crate::{exec, files, listener};

/// Connections whose first frame is not there yet. The host sends it at once; beyond this the oldest is closed.
const WAITING_MAX: usize = 64;

/// How long a first frame may take.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections taken in one go, before what waits is looked at again.
const ACCEPT_BATCH: usize = 16;

/// How long the listener rests when a connection can not even be turned away.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Events taken from the kernel in one go.
const EVENTS_MAX: usize = 32;

/// Signals read in one go: there are three kinds, and the kernel holds one of each.
const SIGNALS_MAX: usize = 3;

/// Dead processes reaped in one go: orphans may come as fast as they are reaped, for ever.
const REAP_BATCH: usize = 64;

/// A connection without its first frame.
struct Waiting {
    fd: OwnedFd,
    input: FrameBuffer,
    until: Duration,
}

/// The state of PID 1.
pub struct Init {
    listener: UnixListener,
    epoll: OwnedFd,
    signals: OwnedFd,
    spare: Option<OwnedFd>,
    prepared: exec::Prepared,
    state: State,
    lease: Watch,
    /// More may be dead than were reaped.
    reaping: bool,
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    /// The listener is out of the epoll set until then.
    resting_until: Option<Duration>,
    buffer: Vec<u8>,
}

impl Init {
    /// Prepares the process and binds the socket.
    pub fn start(socket: &Path, lease: &Path) -> io::Result<Self> {
        // Nothing of the sandbox may trace it or read its memory, whatever its uid.
        sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
        open_standard_streams()?;
        sys::reset_signals();
        let signals = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT])?;
        // SAFETY: the new descriptor is owned by nobody else.
        let epoll = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        let listener = listener::bind(socket)?;
        let init = Self {
            listener,
            epoll,
            signals,
            spare: listener::spare(),
            prepared: exec::Prepared::look(),
            state: State::Bare,
            lease: Watch::new(Lease::open(lease)),
            reaping: false,
            waiting: VecDeque::new(),
            resting_until: None,
            buffer: vec![0; READ_BYTES],
        };
        init.watch(init.signals.as_raw_fd())?;
        init.watch(init.listener.as_raw_fd())?;
        Ok(init)
    }

    /// Until the sandbox is stopped.
    pub fn run(mut self) -> ! {
        // SAFETY: an array of plain integers.
        let mut events: [libc::epoll_event; EVENTS_MAX] = unsafe { std::mem::zeroed() };
        loop {
            let timeout = if self.reaping { 0 } else { self.timeout_ms() };
            // SAFETY: the array is valid for its length.
            let count =
                unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), EVENTS_MAX as i32, timeout) };
            // An interruption, or no memory for a moment: look again.
            for event in &events[..usize::try_from(count).unwrap_or(0)] {
                let fd = event.u64 as RawFd;
                if fd == self.signals.as_raw_fd() {
                    self.on_signal();
                } else if fd == self.listener.as_raw_fd() {
                    self.on_callers();
                } else {
                    self.on_input(fd);
                }
            }
            if self.reaping {
                self.reap();
            }
            self.on_time();
        }
    }

    fn watch(&self, fd: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
        // SAFETY: both descriptors are open and the event is valid.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) }).map(drop)
    }

    fn unwatch(&self, fd: RawFd) {
        // SAFETY: as above; taking out what is not in does nothing.
        unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    }

    fn timeout_ms(&self) -> i32 {
        let next = self.waiting.front().map(|waiting| waiting.until).into_iter();
        let next = next.chain(self.resting_until).chain(self.lease.next_look()).min();
        next.map_or(-1, |until| {
            let left = until.saturating_sub(sys::monotonic()).as_micros().div_ceil(1000);
            i32::try_from(left).unwrap_or(i32::MAX)
        })
    }

    fn on_time(&mut self) {
        self.lease.look();
        let now = sys::monotonic();
        while self.waiting.front().is_some_and(|waiting| waiting.until <= now) {
            self.waiting.pop_front();
        }
        if self.resting_until.is_some_and(|until| until <= now) && self.watch(self.listener.as_raw_fd()).is_ok() {
            self.resting_until = None;
        }
    }

    fn on_signal(&mut self) {
        // Who sends them faster than they are read, as the sandbox's root can, must not hold this loop: what is left is
        // reported again.
        for _ in 0..SIGNALS_MAX {
            let Some((signal, sender)) = sys::next_signal(self.signals.as_fd()) else { break };
            // Only the host stops a sandbox. With PID 1 the kernel ends everything in it.
            if matches!(signal, libc::SIGTERM | libc::SIGINT) && sender == 0 {
                sys::exit(0);
            }
        }
        self.reaping = true;
    }

    fn reap(&mut self) {
        self.reaping = (0..REAP_BATCH).all(|_| match sys::wait_any() {
            Waited::Ended(pid, _) => {
                self.lease.on_end(pid);
                true
            }
            Waited::Running | Waited::None => false,
        });
    }

    fn on_callers(&mut self) {
        for _ in 0..ACCEPT_BATCH {
            match listener::accept(self.listener.as_raw_fd()) {
                Ok(fd) if listener::is_host(fd.as_raw_fd()) => self.take(fd),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => return self.turn_away(),
                    Some(libc::EINTR | libc::ECONNABORTED) => {}
                    _ => return,
                },
            }
        }
    }

    /// No descriptor is left for a caller: it is closed with the spare one's, or left waiting for a moment.
    fn turn_away(&mut self) {
        self.waiting.pop_front();
        self.spare = None;
        let turned_away = listener::accept(self.listener.as_raw_fd());
        drop(turned_away);
        self.spare = listener::spare();
        if self.spare.is_none() {
            self.unwatch(self.listener.as_raw_fd());
            self.resting_until = Some(sys::monotonic().saturating_add(ACCEPT_PAUSE));
        }
    }

    fn take(&mut self, fd: OwnedFd) {
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        let raw = fd.as_raw_fd();
        if self.watch(raw).is_ok() {
            let until = sys::monotonic().saturating_add(FIRST_FRAME_TIMEOUT);
            self.waiting.push_back(Waiting { fd, input: FrameBuffer::new(), until });
            // Mostly it is there already.
            self.on_input(raw);
        }
    }

    fn on_input(&mut self, fd: RawFd) {
        // An event of a connection that was closed since, in the same batch.
        let Some(index) = self.waiting.iter().position(|waiting| waiting.fd.as_raw_fd() == fd) else { return };
        let waiting = &mut self.waiting[index];
        match sys::read(fd, &mut self.buffer) {
            Ok(0) => {
                self.waiting.remove(index);
                return;
            }
            Ok(length) => waiting.input.extend(&self.buffer[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(_) => {
                self.waiting.remove(index);
                return;
            }
        }
        let request = match waiting.input.next_message::<HostFrame>(REQUEST_FRAME_BYTES_MAX) {
            Ok(None) => return,
            Ok(Some(HostFrame { frame: Some(host_frame::Frame::Request(request)) })) => Ok(request),
            Ok(Some(_)) => Err(Refusal::invalid("request", "a connection begins with a request")),
            Err(error) => Err(Refusal::invalid("request", error.to_string())),
        };
        let Some(waiting) = self.waiting.remove(index) else { return };
        self.unwatch(fd);
        match request.and_then(|request| self.answer(request, waiting.fd.as_raw_fd(), waiting.input)) {
            Ok(None) => {}
            Ok(Some(frame)) => reply(&waiting.fd, AgentFrame { frame: Some(frame) }),
            Err(refusal) => reply(&waiting.fd, refusal.into_frame()),
        }
    }

    /// Answers at once, or hands the connection to a child and has nothing to say.
    fn answer(&mut self, request: Request, fd: RawFd, input: FrameBuffer) -> Result<Option<Frame>, Refusal> {
        let generation = request.generation;
        let Some(operation) = request.operation else {
            return Err(Refusal::new(ErrorCode::Unsupported, "this agent does not know the operation"));
        };
        match operation {
            Operation::Hello(_) => return Ok(Some(Frame::Hello(self.lease.report(self.state.hello())))),
            Operation::Reserve(reserve) => {
                self.state.reserve(generation, reserve)?;
                return Ok(Some(Frame::Done(self.state.done())));
            }
            Operation::Activate(activate) => {
                self.state.activate(generation, activate)?;
                if self.state.is_active_and_leased() {
                    self.lease.arm();
                }
                return Ok(Some(Frame::Done(self.lease.report_done(self.state.done()))));
            }
            _ => {}
        }
        let defaults = self.state.serving(generation)?;
        // After the call was read: what comes from here on is killed at the lease's end.
        self.lease.check()?;
        match sys::fork() {
            Ok(Forked::Parent(_)) => Ok(None),
            Ok(Forked::Child) => {
                // SAFETY: the parent's owner of this descriptor is never dropped in this process, which ends by `_exit`.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                let conn = Conn::new(fd, input, std::mem::take(&mut self.buffer));
                operate(operation, conn, defaults, &self.prepared, self.lease.lease())
            }
            Err(error) => {
                let why = format!("no process can be started in the sandbox: {error}");
                Err(Refusal::new(ErrorCode::ResourceLimit, why))
            }
        }
    }
}

/// The operation process: it owns the connection and nothing else of PID 1.
fn operate(
    operation: Operation,
    conn: Conn,
    defaults: &Defaults,
    prepared: &exec::Prepared,
    lease: Option<Lease>,
) -> ! {
    let fd = conn.raw();
    // The listener above all: whoever holds it answers in PID 1's name.
    sys::close_all_but(fd, prepared.oom_counter.as_ref().map_or(fd, AsRawFd::as_raw_fd));
    if sys::set_nonblocking(fd, false).is_err() {
        sys::exit(1);
    }
    match operation {
        Operation::Exec(request) => exec::run(conn, request, defaults, prepared, lease),
        other => files::run(conn, other, defaults),
    }
}

/// Answers from PID 1. A reply is small and the socket fresh, so it fits; a host that is gone needs none.
fn reply(fd: &OwnedFd, frame: AgentFrame) {
    let mut bytes = BytesMut::new();
    encode(&frame, &mut bytes);
    let _ = sys::send(fd.as_raw_fd(), &bytes);
}

/// Descriptors 0 to 2 must be taken, whatever started the agent: a pipe that got one of them would be lost on the
/// way to a command.
fn open_standard_streams() -> io::Result<()> {
    loop {
        let fd = sys::openat(libc::AT_FDCWD, c"/dev/null", libc::O_RDWR, 0)?;
        if fd.as_raw_fd() > 2 {
            return Ok(());
        }
        // Kept open for good.
        std::mem::forget(fd);
    }
}
