//! A script's or the app's end of a link: what it has to send, and what it reads.

use super::environment::{note, Environment};
use super::socket::{Input, SocketId};

pub struct Wire {
    pub id: SocketId,
    pub out: Vec<u8>,
    /// Octets of `out` that were written, and all before them.
    pub written: usize,
    /// The half is closed behind the last octet.
    pub ends: bool,
    ended: bool,
    read_size: usize,
    pub may_have_more: bool,
}

impl Wire {
    pub fn new(id: SocketId, read_size: usize) -> Wire {
        Wire { id, out: Vec::new(), written: 0, ends: false, ended: false, read_size, may_have_more: false }
    }

    /// Writes what the network takes; false if the peer is gone.
    pub fn flush(&mut self, env: &mut Environment, who: &str) -> bool {
        while self.written < self.out.len() {
            match env.network.write(env.now, self.id, &self.out[self.written..]) {
                Ok(0) => return true,
                Ok(n) => self.written += n,
                Err(_) => return false,
            }
        }
        if self.ends && !self.ended {
            self.ended = true;
            note!(env, who, "{:?} ends its half", self.id);
            env.network.shutdown(env.now, self.id);
        }
        true
    }

    pub fn is_flushed(&self) -> bool {
        self.written == self.out.len()
    }

    /// Reads once.
    pub fn read(&mut self, env: &mut Environment, who: &str) -> Input {
        let input = env.network.read(self.id, self.read_size);
        self.may_have_more = matches!(&input, Input::Octets(_));
        if let Input::Octets(octets) = &input {
            note!(env, who, "{:?} reads {} ({:x})", self.id, octets.len(), super::payload::digest(octets));
        }
        input
    }
}
