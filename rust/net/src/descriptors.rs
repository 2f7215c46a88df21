//! File descriptors: how many there may be, and one in reserve.

use std::fs::File;
use std::io;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// More are of no use: each has a connection behind it, which takes memory.
const MOST: u64 = 1 << 20;
/// What listeners, logs, xDS, the admin pages and filters need.
const RESERVED: u64 = 128;

/// Raises the soft limit to the hard one; says how many descriptors the process may have.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST).min(MOST);
    let current = limit.current.unwrap_or(MOST);
    if current >= most {
        return current.min(MOST);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: limit.maximum }) {
        Ok(()) => most,
        Err(_) => current,
    }
}

/// Connections of clients with so many descriptors: each may need another one to an endpoint (Envoy's advice).
pub fn connections_for(descriptors: u64) -> u64 {
    (descriptors.saturating_sub(RESERVED) / 2).max(1)
}

/// A descriptor that is given up to accept a connection when there is no other, so that it can be closed: left in the
/// queue it would wake the worker again and again, and its client would wait in vain.
pub(crate) struct Spare(Option<File>);

impl Spare {
    pub fn new() -> Spare {
        Spare(File::open("/dev/null").ok())
    }

    /// Runs `accept` with the reserve given up; takes it back afterwards. False if there was none.
    pub fn with(&mut self, accept: impl FnOnce() -> bool) -> bool {
        if self.0.is_none() {
            *self = Spare::new();
        }
        let accepted = self.0.take().is_some() && accept();
        *self = Spare::new();
        accepted
    }
}

/// The process, or the system, has no descriptor left (accept(2)).
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE].iter().any(|out| errno == Some(out.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_descriptors_at_most() {
        assert_eq!(connections_for(1024), 448);
        assert_eq!(connections_for(100), 1);
        assert!(raise_descriptor_limit() > 0);
    }
}
