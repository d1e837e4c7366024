//! The entries of a directory, in bounded frames.

use std::io;

use prost::Message;
use proto::agent::agent_frame::Frame;
use proto::agent::{End, Entries, List};
use proto::agent_limits::ENTRIES_FRAME_BYTES;

use crate::conn::Conn;
use crate::files::{absolute, at, entry, host_gone};
use crate::refusal::Refusal;

/// Sends the entries as the directory gives them, then how many they were.
pub fn run(conn: &mut Conn, request: &List) -> Result<(), Refusal> {
    let path = absolute(&request.path)?;
    let mut entries = Vec::new();
    let (mut bytes, mut total) = (0, 0);
    for found in std::fs::read_dir(path).map_err(at(path))? {
        let found = found.map_err(at(path))?;
        let metadata = match found.metadata() {
            Ok(metadata) => metadata,
            // Gone since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(at(&found.path())(error)),
        };
        let entry = entry::of(&found.path(), &metadata);
        bytes += entry.encoded_len();
        total += 1;
        entries.push(entry);
        if bytes >= ENTRIES_FRAME_BYTES {
            let entries = std::mem::take(&mut entries);
            conn.send(Frame::Entries(Entries { entries })).map_err(|error| host_gone(&error))?;
            bytes = 0;
        }
    }
    if !entries.is_empty() {
        conn.send(Frame::Entries(Entries { entries })).map_err(|error| host_gone(&error))?;
    }
    conn.send(Frame::End(End { total })).map_err(|error| host_gone(&error))
}
