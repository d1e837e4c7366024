//! A file's bytes, streamed.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use prost::bytes::Bytes;
use proto::agent::agent_frame::Frame;
use proto::agent::{Data, End, ReadFile};
use proto::agent_limits::CHUNK_BYTES_MAX;

use crate::conn::Conn;
use crate::files::{absolute, at, entry, host_gone};
use crate::refusal::Refusal;

/// Sends what the file is, then its bytes, then how many they were.
pub fn run(conn: &mut Conn, request: &ReadFile) -> Result<(), Refusal> {
    let path = absolute(&request.path)?;
    // Not blocking: a pipe without a writer would hang here.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = opened.map_err(at(path))?;
    let metadata = file.metadata().map_err(at(path))?;
    if metadata.is_dir() {
        return Err(at(path)(std::io::Error::from_raw_os_error(libc::EISDIR)));
    }
    if !metadata.is_file() {
        return Err(Refusal::invalid("path", "not a regular file"));
    }
    if request.offset > 0 {
        file.seek(SeekFrom::Start(request.offset)).map_err(at(path))?;
    }
    let mut left = if request.length == 0 { u64::MAX } else { request.length };
    conn.send(Frame::Entry(entry::of(path, &metadata))).map_err(|error| host_gone(&error))?;

    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    let mut total = 0;
    // To its end as it is now, not as its size was: files of /proc say 0, logs grow.
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let length = file.read(&mut buffer[..room]).map_err(at(path))?;
        if length == 0 {
            break;
        }
        total += length as u64;
        left -= length as u64;
        let data = Bytes::copy_from_slice(&buffer[..length]);
        conn.send(Frame::Data(Data { data })).map_err(|error| host_gone(&error))?;
    }
    conn.send(Frame::End(End { total })).map_err(|error| host_gone(&error))
}
