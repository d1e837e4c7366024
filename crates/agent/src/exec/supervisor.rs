//! Watches one command: its output, its input, its deadline, its end, and the host's wishes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use prost::bytes::{Buf, Bytes, BytesMut};
use proto::agent::agent_frame::Frame;
use proto::agent::{AgentFrame, Exited, HostFrame, Output, Started, StdinConsumed, Stream, exited, host_frame};
use proto::agent_limits::{STDIN_WINDOW_BYTES, STREAM_FRAME_BYTES_MAX};
use proto::framing::{FrameBuffer, encode};

use crate::conn::{Conn, READ_BYTES};
use crate::exec::kill::Reaper;
use crate::exec::oom::OomWatch;
use crate::exec::plan::Plan;
use crate::exec::pty;
use crate::exec::spawn::{Command, Stage, StartFailure, read_status};
use crate::lease::{LOOK_EVERY, Lease};
use crate::refusal::Refusal;
use crate::sys::{self, Status};

/// Bytes waiting for the host above which the command's pipes are not read: then it waits as well.
const OUT_PENDING_BYTES_MAX: usize = READ_BYTES;

/// Bytes read of each stream after the command's end: the largest pipe holds no more. Without it, something that was
/// left running on purpose could keep its supervisor reading for ever.
const DRAIN_BYTES_MAX: u64 = 1 << 20;

/// How long the word that the program runs waits for the next one: of a command that ends at once the host hears in
/// one message, and is not woken while the program has the processors.
const STARTED_WAIT: Duration = Duration::from_millis(5);

/// What a terminal takes for the end of input.
const END_OF_TRANSMISSION: u8 = 4;

/// Exit codes of a shell for a program that is not there, or can not be run.
const EXIT_NOT_FOUND: i32 = 127;
const EXIT_NOT_EXECUTABLE: i32 = 126;

/// One stream of output.
struct Source {
    stream: Stream,
    fd: Option<OwnedFd>,
    total: u64,
    limit: u64,
    /// Where reading ends, once the command has ended.
    end: u64,
}

/// Standard input on its way from the host to the command.
#[derive(Default)]
struct Sink {
    fd: Option<OwnedFd>,
    queue: BytesMut,
    closing: bool,
    received: u64,
    consumed: u64,
    acknowledged: u64,
}

/// The supervisor of one command, which is the whole life of an operation process.
pub struct Supervisor {
    plan: Plan,
    socket: OwnedFd,
    connected: bool,
    input: FrameBuffer,
    out: BytesMut,
    /// Until then what is in `out` waits for more.
    out_waits_until: Option<Duration>,
    buffer: Vec<u8>,
    pid: libc::pid_t,
    status: Option<OwnedFd>,
    start_failure: Option<StartFailure>,
    sources: [Source; 2],
    sink: Sink,
    terminal: Option<OwnedFd>,
    started_at: Duration,
    timed_out: bool,
    cancelled: bool,
    oom: OomWatch,
    /// What the command runs under.
    lease: Option<Lease>,
}

impl Supervisor {
    /// Takes over a command that was just forked.
    pub fn new(conn: Conn, plan: Plan, command: Command, oom: OomWatch, lease: Option<Lease>) -> Self {
        let (socket, input, buffer) = conn.into_parts();
        let request = &plan.request;
        let source = |stream, fd, limit| Source { stream, fd, total: 0, limit, end: u64::MAX };
        let sources = [
            source(Stream::Stdout, Some(command.stdout), request.stdout_limit),
            source(Stream::Stderr, command.stderr, request.stderr_limit),
        ];
        Self {
            socket,
            connected: true,
            input,
            out: BytesMut::new(),
            out_waits_until: None,
            buffer,
            pid: command.pid,
            status: Some(command.status),
            start_failure: None,
            sources,
            sink: Sink { fd: command.stdin, ..Sink::default() },
            terminal: command.terminal,
            started_at: sys::monotonic(),
            timed_out: false,
            cancelled: false,
            oom,
            lease,
            plan,
        }
    }

    /// Until the command has ended and the host knows.
    pub fn run(mut self) -> ! {
        let prepared =
            sys::set_nonblocking(self.socket.as_raw_fd(), true).and_then(|()| sys::signal_fd(&[libc::SIGCHLD]));
        let mut reaper = match prepared {
            Ok(signals) => Reaper::new(self.pid, signals),
            Err(error) => {
                // Nothing can be watched without it; the command dies with its supervisor (PDEATHSIG).
                self.send(Refusal::os("the command can not be watched", &error).into_frame().frame);
                self.flush();
                sys::exit(1)
            }
        };
        self.take_frames(&mut reaper);
        let deadline = match self.plan.request.deadline_ms {
            0 => None,
            millis => Some(self.started_at.saturating_add(Duration::from_millis(millis))),
        };

        while reaper.first_status.is_none() || self.status.is_some() {
            let lease = self.lease.map(Lease::left);
            if lease == Some(Duration::ZERO) {
                self.lapse(&mut reaper);
            }
            let left = deadline.map(|deadline| deadline.saturating_sub(sys::monotonic()));
            if left == Some(Duration::ZERO) && reaper.first_status.is_none() {
                self.timed_out = true;
                reaper.kill_all();
            }
            self.turn(&mut reaper, left.into_iter().chain(lease.map(|lease| lease.min(LOOK_EVERY))).min());
        }
        if let Some(failure) = self.start_failure.take() {
            self.report_start_failure(&failure);
        } else {
            if !self.plan.request.detach || self.timed_out || self.cancelled {
                reaper.kill_all();
            }
            let ended_at = sys::monotonic();
            for source in &mut self.sources {
                source.end = source.total + DRAIN_BYTES_MAX;
            }
            while self.sources.iter().any(|source| source.fd.is_some()) {
                self.drain_turn(&mut reaper);
            }
            self.report_end(&reaper, ended_at);
        }
        while self.connected && !self.out.is_empty() {
            self.drain_turn(&mut reaper);
        }
        sys::exit(0)
    }

    /// The node's lease is over, and the command with it. The host is told first: PID 1 does not wait for long.
    fn lapse(&mut self, reaper: &mut Reaper) -> ! {
        self.send(Refusal::lease_lapsed().into_frame().frame);
        self.flush();
        reaper.kill_all();
        while self.connected && !self.out.is_empty() {
            self.drain_turn(reaper);
        }
        sys::exit(0)
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self, reaper: &mut Reaper, timeout: Option<Duration>) {
        let watch = |fd: Option<RawFd>, events| libc::pollfd { fd: fd.unwrap_or(-1), events, revents: 0 };
        let raw = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
        let room = self.has_room();
        let out_waits = self.out_waits_until.map(|until| until.saturating_sub(sys::monotonic()));
        let flushing = !self.out.is_empty() && out_waits.is_none();
        let socket_events = libc::POLLIN | if flushing { libc::POLLOUT } else { 0 };
        let timeout = timeout.into_iter().chain(out_waits).min();
        let mut fds = [
            watch(Some(reaper.fd()), libc::POLLIN),
            watch(raw(&self.status), libc::POLLIN),
            watch(self.connected.then(|| self.socket.as_raw_fd()), socket_events),
            watch(raw(&self.sources[0].fd).filter(|_| room), libc::POLLIN),
            watch(raw(&self.sources[1].fd).filter(|_| room), libc::POLLIN),
            watch(raw(&self.sink.fd).filter(|_| !self.sink.queue.is_empty()), libc::POLLOUT),
        ];
        if sys::poll(&mut fds, timeout).is_err() {
            // ENOMEM at worst: the next turn tries again.
            return;
        }
        let [signals, status, socket, stdout, stderr, stdin] = fds.map(|fd| fd.revents != 0);

        if status {
            self.start_failure = self.status.take().and_then(|status| read_status(status.as_raw_fd()));
            if self.start_failure.is_none() {
                self.send(Some(Frame::Started(Started { pid: self.pid })));
                self.out_waits_until = Some(sys::monotonic().saturating_add(STARTED_WAIT));
            }
        }
        if socket {
            self.read_socket(reaper);
        }
        for (ready, index) in [(stdout, 0), (stderr, 1)] {
            if ready && self.has_room() {
                self.read_source(index);
            }
        }
        if stdin {
            self.write_sink();
        }
        if signals {
            reaper.reap();
        }
        // Room may have come only now, and nothing else may ever wake us: the host waits for this.
        self.flush_unless_it_waits();
        self.acknowledge_stdin();
        self.flush_unless_it_waits();
    }

    /// After the command's end: what its pipes still hold goes out, as fast as the host takes it.
    fn drain_turn(&mut self, reaper: &mut Reaper) {
        for index in 0..self.sources.len() {
            if self.has_room() && self.sources[index].fd.is_some() && !self.read_source(index) {
                // Nothing is left in it, and whoever may still hold it is no part of the command any more.
                self.sources[index].fd = None;
            }
        }
        self.flush();
        if self.connected && !self.out.is_empty() {
            let events = libc::POLLIN | libc::POLLOUT;
            let mut fds = [libc::pollfd { fd: self.socket.as_raw_fd(), events, revents: 0 }];
            if sys::poll(&mut fds, None).is_ok() && fds[0].revents & !libc::POLLOUT != 0 {
                self.read_socket(reaper);
            }
        }
    }

    fn has_room(&self) -> bool {
        !self.connected || self.out.len() < OUT_PENDING_BYTES_MAX
    }

    /// Reads a stream once. False if nothing is there now.
    fn read_source(&mut self, index: usize) -> bool {
        let source = &mut self.sources[index];
        let Some(fd) = &source.fd else { return false };
        let length = match sys::read(fd.as_raw_fd(), &mut self.buffer) {
            Ok(0) => {
                source.fd = None;
                return false;
            }
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // EIO: the last program left the terminal.
            Err(_) => {
                source.fd = None;
                return false;
            }
        };
        let offset = source.total;
        source.total += length as u64;
        if source.total >= source.end {
            source.fd = None;
        }
        let wanted = match source.limit {
            0 => length,
            limit => length.min(usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX)),
        };
        if wanted > 0 && self.connected {
            let stream = source.stream.into();
            let data = Bytes::copy_from_slice(&self.buffer[..wanted]);
            self.send(Some(Frame::Output(Output { stream, offset, data })));
        }
        true
    }

    fn read_socket(&mut self, reaper: &mut Reaper) {
        match sys::read(self.socket.as_raw_fd(), &mut self.buffer) {
            Ok(0) => self.disconnect(),
            Ok(length) => {
                self.input.extend(&self.buffer[..length]);
                self.take_frames(reaper);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.disconnect(),
        }
    }

    fn take_frames(&mut self, reaper: &mut Reaper) {
        while self.connected {
            match self.input.next_message::<HostFrame>(STREAM_FRAME_BYTES_MAX) {
                Ok(Some(message)) => self.on_frame(reaper, message.frame),
                Ok(None) => return,
                // A host that can not be understood is a host that is gone.
                Err(_) => self.disconnect(),
            }
        }
    }

    fn on_frame(&mut self, reaper: &mut Reaper, frame: Option<host_frame::Frame>) {
        use host_frame::Frame as Host;
        match frame {
            Some(Host::Data(data)) => self.on_stdin(data.data),
            Some(Host::CloseStdin(_)) => {
                if self.terminal.is_some() {
                    self.sink.queue.extend_from_slice(&[END_OF_TRANSMISSION]);
                } else {
                    self.sink.closing = true;
                }
                self.write_sink();
            }
            Some(Host::Signal(signal)) if signal.number == libc::SIGKILL => reaper.kill_all(),
            Some(Host::Signal(signal)) if (1..=libc::SIGRTMAX()).contains(&signal.number) => {
                reaper.signal_first(signal.number);
            }
            Some(Host::Resize(size)) => {
                if let Some(terminal) = &self.terminal {
                    // Only a size can be wrong, and any size fits.
                    let _ = pty::resize(terminal.as_raw_fd(), size.cols, size.rows);
                }
            }
            Some(Host::Cancel(_)) => {
                self.cancelled = true;
                reaper.kill_all();
            }
            // Nothing that this version knows: a newer host may send what older agents can do without.
            Some(Host::Signal(_) | Host::Request(_) | Host::Finish(_)) | None => {}
        }
    }

    fn on_stdin(&mut self, data: Bytes) {
        self.sink.received += data.len() as u64;
        if self.sink.received.saturating_sub(self.sink.consumed) > STDIN_WINDOW_BYTES {
            // It would take memory without bound: not the host that we know.
            return self.disconnect();
        }
        if self.sink.fd.is_none() || self.sink.closing {
            self.sink.consumed += data.len() as u64;
            return;
        }
        self.sink.queue.extend_from_slice(&data);
        self.write_sink();
    }

    fn write_sink(&mut self) {
        let sink = &mut self.sink;
        while let Some(fd) = &sink.fd {
            if sink.queue.is_empty() {
                if sink.closing {
                    sink.fd = None;
                }
                return;
            }
            match sys::write(fd.as_raw_fd(), &sink.queue) {
                Ok(length) => {
                    sink.queue.advance(length);
                    sink.consumed += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody reads it any more: what comes is thrown away, as a broken pipe does.
                Err(_) => {
                    sink.fd = None;
                    sink.consumed += sink.queue.len() as u64;
                    sink.queue.clear();
                }
            }
        }
    }

    fn acknowledge_stdin(&mut self) {
        // A terminal's end of input is in the queue as well, but no byte of the host's.
        let total = self.sink.consumed.min(self.sink.received);
        if self.sink.acknowledged < total && self.has_room() {
            self.sink.acknowledged = total;
            self.send(Some(Frame::StdinConsumed(StdinConsumed { total })));
        }
    }

    /// The host is gone without a word: the command runs on, with nobody to feed it or to listen.
    fn disconnect(&mut self) {
        self.connected = false;
        self.out.clear();
        self.sink.closing = true;
        self.write_sink();
    }

    fn send(&mut self, frame: Option<Frame>) {
        if self.connected {
            self.out_waits_until = None;
            encode(&AgentFrame { frame }, &mut self.out);
        }
    }

    fn flush_unless_it_waits(&mut self) {
        if self.out_waits_until.is_none_or(|until| until <= sys::monotonic()) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.out_waits_until = None;
        while self.connected && !self.out.is_empty() {
            match sys::send(self.socket.as_raw_fd(), &self.out) {
                Ok(length) => self.out.advance(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What the host sent before it went, a Cancel perhaps, is still to be read: that ends in `disconnect`.
                Err(_) => {
                    self.out.clear();
                    return;
                }
            }
        }
    }

    fn report_start_failure(&mut self, failure: &StartFailure) {
        let program = self.plan.argv[0].to_string_lossy().into_owned();
        let (code, why) = match (failure.stage, failure.error.raw_os_error().unwrap_or(0)) {
            (Stage::Setup, _) => {
                let refusal = Refusal::os("the command could not become its user", &failure.error);
                return self.send(refusal.into_frame().frame);
            }
            (Stage::Chdir, _) => {
                let why = format!("{}: {}", self.plan.workdir.to_string_lossy(), failure.error);
                return self.send(Refusal::invalid("workdir", why).into_frame().frame);
            }
            (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => (EXIT_NOT_FOUND, "not found".to_owned()),
            (Stage::Exec, libc::EACCES) => (EXIT_NOT_EXECUTABLE, "permission denied".to_owned()),
            (Stage::Exec, _) => (EXIT_NOT_EXECUTABLE, failure.error.to_string()),
        };
        let message = format!("warren: {program}: {why}\n");
        let stderr_total = message.len() as u64;
        self.send(Some(Frame::Output(Output { stream: Stream::Stderr.into(), offset: 0, data: message.into() })));
        self.send(Some(Frame::Exited(Exited {
            status: Some(exited::Status::ExitCode(code)),
            stderr_total,
            duration_us: micros(sys::monotonic().saturating_sub(self.started_at)),
            ..Exited::default()
        })));
    }

    fn report_end(&mut self, reaper: &Reaper, ended_at: Duration) {
        let Some(status) = reaper.first_status else {
            let refusal = Refusal::new(proto::agent::ErrorCode::Internal, "the command's exit status was not seen");
            return self.send(refusal.into_frame().frame);
        };
        // A shell passes its child's signal 9 on as 137.
        let died_of_kill = matches!(status, Status::Signaled(libc::SIGKILL) | Status::Exited(137));
        let oom = died_of_kill && !self.timed_out && !self.cancelled && self.oom.has_risen();
        self.send(Some(Frame::Exited(Exited {
            status: Some(match status {
                Status::Exited(code) => exited::Status::ExitCode(code),
                Status::Signaled(signal) => exited::Status::Signal(signal),
            }),
            oom,
            timed_out: self.timed_out,
            cancelled: self.cancelled,
            stdout_total: self.sources[0].total,
            stderr_total: self.sources[1].total,
            duration_us: micros(ended_at.saturating_sub(self.started_at)),
        })));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
