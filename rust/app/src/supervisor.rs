//! What whoever supervises the process is told: systemd by `sd_notify`, others by a file with the process id.
//!
//! After a binary upgrade the main process is another one. systemd learns that from `MAINPID` (the unit needs
//! `Type=notify` and `NotifyAccess=all`), others from the file, which is replaced as a whole.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

/// See the module.
pub(crate) struct Supervisor {
    pid_file: Option<PathBuf>,
    /// It was told that this process serves.
    knows_us: bool,
}

impl Supervisor {
    pub fn new(pid_file: Option<PathBuf>) -> Supervisor {
        Supervisor { pid_file, knows_us: false }
    }

    /// This process serves, and is the one to be supervised.
    pub fn ready(&mut self) {
        self.knows_us = true;
        let pid = std::process::id();
        notify(&format!("READY=1\nMAINPID={pid}\n"));
        let Some(path) = &self.pid_file else { return };
        if let Err(error) = replace(path, pid) {
            eprintln!("{}: {error}; the process id is {pid}", path.display());
        }
    }

    /// This process has been told to end, and nobody has taken its place.
    pub fn stopping(&self) {
        // A process that never came to serve says nothing about the one that does.
        if self.knows_us {
            notify("STOPPING=1\n");
        }
    }

    /// Takes the file away, unless it is another process's by now.
    pub fn ended(&self) {
        let Some(path) = &self.pid_file else { return };
        let is_ours = fs::read_to_string(path).is_ok_and(|text| text.trim() == std::process::id().to_string());
        if is_ours {
            let _gone = fs::remove_file(path);
        }
    }
}

/// A reader sees the old number or the new one, never a part.
fn replace(path: &Path, pid: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{pid}"));
    fs::write(&beside, format!("{pid}\n"))?;
    fs::rename(&beside, path)
}

/// sd_notify(3): a datagram to the socket that the environment names; `@` stands for an abstract address.
fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match name.to_string_lossy().strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        eprintln!("cannot notify the supervisor at {}: {error}", name.to_string_lossy());
    }
}
