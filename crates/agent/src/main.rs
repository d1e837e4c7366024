//! PID 1 of every sandbox: runs commands and moves files for the host, on one unix socket.
//!
//! It knows its protocol and the kernel, and nothing else of Warren: no placement, no engine, no network.

mod caps;
mod conn;
mod exec;
mod files;
mod home;
mod init;
mod lease;
mod listener;
mod refusal;
mod state;
mod sys;
mod users;
mod warden;

use std::path::{Path, PathBuf};

use proto::lease_layout::PATH_INSIDE as LEASE_PATH;

/// Where the socket is if no argument says otherwise.
const SOCKET_PATH: &str = "/run/warren/sock";

fn main() {
    let socket = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(SOCKET_PATH), PathBuf::from);
    match init::Init::start(&socket, Path::new(LEASE_PATH)) {
        Ok(init) => init.run(),
        Err(error) => {
            eprintln!("warren-agent: {}: {error}", socket.display());
            std::process::exit(1);
        }
    }
}
