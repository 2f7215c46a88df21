//! One socket of the network, as its owner and the network see it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use pymesh_engine::base::buffer::Buffer;
use pymesh_engine::base::time::Time;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketId(pub(super) usize);

impl SocketId {
    /// Half of all sockets, for choices that need no chance.
    pub fn is_even(self) -> bool {
        (self.0 >> 1).is_multiple_of(2)
    }

    pub(super) fn peer(self) -> SocketId {
        SocketId(self.0 ^ 1)
    }
}

/// What epoll would tell of a socket, once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    pub readable: bool,
    pub writable: bool,
    pub closed: bool,
    pub failed: bool,
}

/// What reading brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    Octets(Vec<u8>),
    Nothing,
    End,
    Reset,
}

/// The peer is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

/// What travels.
pub(super) enum Segment {
    Connected,
    Octets(Vec<u8>),
    Fin,
    Reset,
}

/// One end's state.
pub(super) struct Socket {
    pub owner: usize,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub arriving: VecDeque<(Time, Segment)>,
    pub in_flight: usize,
    pub unread: Buffer,
    pub capacity: usize,
    /// `None` until connected.
    pub connected: Option<Result<(), Gone>>,
    /// Its owner knows it: until it is accepted nobody hears of its edges.
    pub accepted: bool,
    pub fin_arrived: bool,
    pub reset: bool,
    /// The owner has closed it, or its half.
    pub closed: bool,
    pub write_shut: bool,
    /// A write was refused for want of room.
    pub blocked: bool,
    pub edge: Edge,
    /// Octets that may still arrive here before the link is cut.
    pub cut_after: Option<usize>,
}

impl Socket {
    pub fn new(local: SocketAddr, remote: SocketAddr, capacity: usize) -> Socket {
        Socket {
            owner: usize::MAX,
            local,
            remote,
            arriving: VecDeque::new(),
            in_flight: 0,
            unread: Buffer::default(),
            capacity,
            connected: None,
            accepted: false,
            fin_arrived: false,
            reset: false,
            closed: false,
            write_shut: false,
            blocked: false,
            edge: Edge::default(),
            cut_after: None,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.accepted && !self.closed && self.edge != Edge::default()
    }

    /// Its owner may still send.
    pub fn is_open(&self) -> bool {
        !self.closed && !self.reset
    }
}
