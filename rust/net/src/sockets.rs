//! Sockets of one worker, in step with the engine's connections.

use std::io;
use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use pymesh_engine::ConnKey;
use pymesh_model::cluster::UpstreamBind;
use rustix::io::Errno;
use rustix::net::{recv, send, RecvFlags, SendFlags};

use crate::capture;

/// A socket and what epoll last said about it.
pub(crate) struct Socket {
    pub key: ConnKey,
    pub stream: TcpStream,
    pub connecting: bool,
    /// Epoll is edge triggered: what it said stays true until a read or write finds otherwise.
    pub readable: bool,
    pub read_closed: bool,
    pub writable: bool,
}

/// What reading brought.
pub(crate) enum Input {
    Octets(usize),
    End,
    Nothing,
    Failed(io::Error),
}

impl Socket {
    // Both are the bare system call: that of libc makes itself a point at which its thread may be cancelled, with two
    // atomic operations that nobody needs here.

    pub fn read(&mut self, buffer: &mut [u8]) -> Input {
        let room = buffer.len();
        match recv(&self.stream, buffer, RecvFlags::empty()) {
            Ok((0, _)) => Input::End,
            Ok((n, _)) => {
                // A short read has emptied the socket; the next edge says when there is more.
                self.readable = n == room || self.read_closed;
                Input::Octets(n)
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Input::Nothing
            }
            Err(Errno::INTR) => Input::Nothing,
            Err(error) => Input::Failed(error.into()),
        }
    }

    /// Octets written; 0 when the socket takes no more now.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match send(&self.stream, octets, SendFlags::NOSIGNAL) {
            Ok(n) => Ok(n),
            Err(Errno::AGAIN) => {
                self.writable = false;
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// All sockets, each at the index of its connection.
#[derive(Default)]
pub(crate) struct Sockets {
    places: Vec<Option<Box<Socket>>>,
}

impl Sockets {
    pub fn insert(
        &mut self,
        registry: &Registry,
        first_token: usize,
        key: ConnKey,
        mut stream: TcpStream,
        connecting: bool,
    ) -> io::Result<()> {
        let token = Token(first_token + key.index());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        // Small writes must not wait for acknowledgements of earlier ones.
        let _best_effort = stream.set_nodelay(true);
        if self.places.len() <= key.index() {
            self.places.resize_with(key.index() + 1, || None);
        }
        if let Some(place) = self.places.get_mut(key.index()) {
            // Whoever was here is gone from the engine: dropping closes it.
            *place = Some(Box::new(Socket {
                key,
                stream,
                connecting,
                readable: false,
                read_closed: false,
                writable: !connecting,
            }));
        }
        Ok(())
    }

    pub fn at(&mut self, index: usize) -> Option<&mut Socket> {
        self.places.get_mut(index)?.as_deref_mut()
    }

    pub fn get(&mut self, key: ConnKey) -> Option<&mut Socket> {
        self.at(key.index()).filter(|socket| socket.key == key)
    }

    pub fn close(&mut self, key: ConnKey) {
        if let Some(place) = self.places.get_mut(key.index()) {
            if place.as_ref().is_some_and(|socket| socket.key == key) {
                *place = None;
            }
        }
    }

    pub fn shutdown_write(&mut self, key: ConnKey) {
        if let Some(socket) = self.get(key) {
            // The peer may be gone already, which is what is wanted.
            let _gone = socket.stream.shutdown(Shutdown::Write);
        }
    }
}

/// Starts to connect.
pub(crate) fn connect(address: SocketAddr, bind: &UpstreamBind) -> io::Result<TcpStream> {
    match *bind == UpstreamBind::default() {
        true => TcpStream::connect(address),
        false => capture::connect_from(address, bind),
    }
}
