//! File operations, each in a process of its own with the rights of the sandbox's user.
//!
//! The process keeps the agent's uid, so that user code can neither signal nor trace it, and takes the user's
//! file-system ids and no capability: what it may do is what the user may do.

mod entry;
mod list;
mod read;
mod remove;
mod rights;
mod write;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use proto::agent::agent_frame::Frame;
use proto::agent::request::Operation;
use proto::agent::{Done, ErrorCode, Mkdir, Stat};
use proto::agent_limits::PATH_BYTES_MAX;

use crate::conn::Conn;
use crate::refusal::Refusal;
use crate::state::Defaults;
use crate::sys;
use crate::users::Database;

/// Permission bits of a directory for which none were asked.
const DIRECTORY_MODE: u32 = 0o755;

/// Permission bits that can be asked for.
const MODE_MASK: u32 = 0o7777;

/// Runs in an operation process of its own and ends with it.
pub fn run(mut conn: Conn, operation: Operation, defaults: &Defaults) -> ! {
    if let Err(refusal) = operate(&mut conn, operation, defaults) {
        // The host may be gone; the process ends either way.
        let _ = conn.send_refusal(refusal);
    }
    sys::exit(0)
}

fn operate(conn: &mut Conn, operation: Operation, defaults: &Defaults) -> Result<(), Refusal> {
    let user = Database::load().resolve("", defaults)?;
    if user.uid != 0 {
        crate::home::make(&user);
    }
    rights::take(&user).map_err(|error| Refusal::os("the user's rights can not be taken", &error))?;
    let sent = match operation {
        Operation::ReadFile(request) => return read::run(conn, &request),
        Operation::WriteFile(request) => return write::run(conn, &request),
        Operation::List(request) => return list::run(conn, &request),
        Operation::Stat(request) => conn.send(stat(&request)?),
        Operation::Mkdir(request) => conn.send(mkdir(&request)?),
        Operation::Remove(request) => conn.send(remove::run(&request)?),
        _ => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    };
    sent.map_err(|error| host_gone(&error))
}

/// The host no longer listens: nobody will read this.
fn host_gone(error: &io::Error) -> Refusal {
    Refusal::new(ErrorCode::Internal, format!("the host can not be told: {error}"))
}

/// Checks a path's form.
fn absolute(path: &[u8]) -> Result<&Path, Refusal> {
    if path.len() >= PATH_BYTES_MAX {
        return Err(Refusal::invalid("path", "too long"));
    }
    if path.contains(&0) {
        return Err(Refusal::invalid("path", "holds NUL"));
    }
    if path.first() != Some(&b'/') {
        return Err(Refusal::invalid("path", "must be absolute"));
    }
    Ok(Path::new(OsStr::from_bytes(path)))
}

/// What failed at a path.
fn at(path: &Path) -> impl Fn(io::Error) -> Refusal + '_ {
    |error| Refusal::os(&path.display().to_string(), &error)
}

fn stat(request: &Stat) -> Result<Frame, Refusal> {
    let path = absolute(&request.path)?;
    let metadata = if request.follow { path.metadata() } else { path.symlink_metadata() };
    Ok(Frame::Entry(entry::of(path, &metadata.map_err(at(path))?)))
}

fn mkdir(request: &Mkdir) -> Result<Frame, Refusal> {
    let path = absolute(&request.path)?;
    let mode = match request.mode & MODE_MASK {
        0 => DIRECTORY_MODE,
        mode => mode,
    };
    if let Some(parent) = path.parent() {
        make_parents(parent).map_err(at(path))?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        // A directory that is there already is what was asked for; a link to one as well.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other.map_err(at(path))?,
    }
    Ok(Frame::Done(Done::default()))
}

/// Makes a directory and those above it.
fn make_parents(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path) {
        // Something that is no directory stands in the way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
        other => other,
    }
}
