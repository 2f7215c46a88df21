//! The network: every socket of a run, and what may happen to its octets.
//!
//! A link has two ends. What is written at one end arrives at the other later,
//! in order, in pieces; a direction holds so many octets and no more, so that
//! a slow reader is felt by its writer. A link may be refused, lost in silence,
//! held up, or cut by a reset after some number of octets.
//!
//! Sockets behave as Linux's do where it matters: readiness is told once, by
//! an edge; what had arrived before a reset can still be read; closing with
//! octets unread sends a reset instead of a FIN.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use pymesh_engine::base::time::Time;

use super::chance::Chance;
use super::socket::{Edge, Gone, Input, Segment, Socket, SocketId};

/// How unkind the network is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// One link in so many is cut; 0: none.
    pub cuts: u64,
    /// One connect in so many is refused.
    pub refusals: u64,
    /// One connect in so many is never answered.
    pub losses: u64,
    /// One segment in so many is held up for seconds.
    pub stalls: u64,
    /// Largest ordinary delay.
    pub delay: Duration,
    /// Fewest octets that a direction holds.
    pub capacity: usize,
}

struct Listening {
    owner: usize,
    backlog: VecDeque<SocketId>,
}

pub struct Network {
    chance: Chance,
    weather: Weather,
    sockets: Vec<Socket>,
    /// Those to which something may still happen.
    live: Vec<usize>,
    listening: BTreeMap<SocketAddr, Listening>,
    next_port: u16,
    /// Grows with everything that moves.
    pub activity: u64,
}

impl Network {
    pub fn new(chance: Chance, weather: Weather) -> Network {
        let (sockets, live, listening) = (Vec::new(), Vec::new(), BTreeMap::new());
        Network { chance, weather, sockets, live, listening, next_port: 20_000, activity: 0 }
    }

    pub fn listen(&mut self, address: SocketAddr, owner: usize) {
        self.listening.entry(address).or_insert(Listening { owner, backlog: VecDeque::new() });
    }

    /// Closes a listening socket; whoever waits in its backlog is reset.
    pub fn stop_listening(&mut self, now: Time, address: SocketAddr) {
        let gone = self.listening.remove(&address);
        for id in gone.into_iter().flat_map(|listening| listening.backlog) {
            self.abort(now, id);
        }
    }

    pub fn connect(&mut self, now: Time, owner: usize, to: SocketAddr) -> SocketId {
        self.next_port += 1;
        let from = SocketAddr::from(([10, 9, 0, owner as u8], self.next_port));
        let id = SocketId(self.sockets.len());
        let cut = self.chance.one_in(self.weather.cuts);
        for (owner, local, remote, accepted) in [(owner, from, to, true), (usize::MAX, to, from, false)] {
            let room = self.chance.size(64 * 1024).max(self.weather.capacity);
            let cut_after = cut.then(|| self.chance.size(200_000));
            self.live.push(self.sockets.len());
            self.sockets.push(Socket { owner, accepted, cut_after, ..Socket::new(local, remote, room) });
        }
        match self.chance.one_in(self.weather.losses) {
            false => self.send(now, id.peer(), Segment::Connected),
            // Until the system gives up (tcp(7), tcp_syn_retries).
            true => self.sockets[id.0].arriving.push_back((now + Duration::from_secs(127), Segment::Reset)),
        }
        id
    }

    pub fn accept(&mut self, address: SocketAddr) -> Option<(SocketId, SocketAddr)> {
        let id = self.listening.get_mut(&address)?.backlog.pop_front()?;
        self.activity += 1;
        self.sockets[id.0].accepted = true;
        Some((id, self.sockets[id.0].remote))
    }

    pub fn local(&self, id: SocketId) -> SocketAddr {
        self.sockets[id.0].local
    }

    /// `None` while connecting.
    pub fn is_connected(&self, id: SocketId) -> Option<bool> {
        self.sockets[id.0].connected.as_ref().map(Result::is_ok)
    }

    /// Takes what there is room for; 0 when there is none.
    pub fn write(&mut self, now: Time, id: SocketId, octets: &[u8]) -> Result<usize, Gone> {
        let (socket, peer) = (&self.sockets[id.0], &self.sockets[id.peer().0]);
        assert!(!socket.closed && !socket.write_shut, "{id:?} is written to after it was closed");
        if socket.reset {
            return Err(Gone);
        }
        let room = peer.capacity.saturating_sub(peer.in_flight + peer.unread.len());
        let n = room.min(octets.len());
        if n == 0 && !octets.is_empty() {
            self.sockets[id.0].blocked = true;
            return Ok(0);
        }
        if n > 0 {
            self.sockets[id.peer().0].in_flight += n;
            self.send(now, id.peer(), Segment::Octets(octets[..n].to_vec()));
        }
        Ok(n)
    }

    pub fn read(&mut self, id: SocketId, most: usize) -> Input {
        let socket = &mut self.sockets[id.0];
        assert!(!socket.closed, "{id:?} is read from after it was closed");
        let n = socket.unread.len().min(most);
        if n == 0 {
            return match (socket.reset, socket.fin_arrived) {
                (true, _) => Input::Reset,
                (false, true) => Input::End,
                (false, false) => Input::Nothing,
            };
        }
        let octets = socket.unread.as_slice()[..n].to_vec();
        socket.unread.advance(n);
        self.activity += 1;
        let has_room = socket.in_flight + socket.unread.len() < socket.capacity;
        let writer = &mut self.sockets[id.peer().0];
        if has_room && std::mem::take(&mut writer.blocked) {
            writer.edge.writable = true;
        }
        Input::Octets(octets)
    }

    /// Closes one half.
    pub fn shutdown(&mut self, now: Time, id: SocketId) {
        let socket = &mut self.sockets[id.0];
        if !socket.write_shut && !socket.closed && !socket.reset {
            socket.write_shut = true;
            self.send(now, id.peer(), Segment::Fin);
        }
    }

    pub fn close(&mut self, now: Time, id: SocketId) {
        if !self.sockets[id.0].unread.is_empty() {
            return self.abort(now, id);
        }
        self.shutdown(now, id);
        self.sockets[id.0].closed = true;
    }

    /// Closes by a reset.
    pub fn abort(&mut self, now: Time, id: SocketId) {
        let socket = &mut self.sockets[id.0];
        if !socket.closed {
            socket.closed = true;
            socket.unread.clear();
            if !socket.reset {
                self.send(now, id.peer(), Segment::Reset);
            }
        }
    }

    /// Everything with an edge that belongs to `owner`.
    pub fn edges(&self, owner: usize) -> Vec<SocketId> {
        let is_ready = |at: &&usize| self.sockets[**at].owner == owner && self.sockets[**at].is_ready();
        self.live.iter().filter(is_ready).map(|at| SocketId(*at)).collect()
    }

    pub fn take_edge(&mut self, id: SocketId) -> Edge {
        self.activity += 1;
        std::mem::take(&mut self.sockets[id.0].edge)
    }

    /// Whose sockets have edges or wait to be accepted: a bit for each actor.
    pub fn ready(&self) -> u64 {
        let edges = self.live.iter().map(|at| &self.sockets[*at]).filter(|socket| socket.is_ready());
        let backlogs = self.listening.values().filter(|listening| !listening.backlog.is_empty());
        let owners = edges.map(|socket| socket.owner).chain(backlogs.map(|listening| listening.owner));
        owners.fold(0, |all, owner| all | 1 << owner)
    }

    /// When the next segment arrives.
    pub fn next_arrival(&self) -> Option<Time> {
        self.live.iter().filter_map(|at| self.sockets[*at].arriving.front()).map(|(due, _)| *due).min()
    }

    /// Makes everything arrive that is due.
    pub fn deliver(&mut self, now: Time) {
        for place in 0..self.live.len() {
            let at = self.live[place];
            while self.sockets[at].arriving.front().is_some_and(|(due, _)| *due <= now) {
                let Some((_, segment)) = self.sockets[at].arriving.pop_front() else { break };
                self.arrive(now, SocketId(at), segment);
                self.activity += 1;
            }
        }
        let sockets = &self.sockets;
        self.live.retain(|at| !sockets[*at].closed || !sockets[*at].arriving.is_empty() || sockets[at ^ 1].is_open());
    }

    fn arrive(&mut self, now: Time, id: SocketId, segment: Segment) {
        match segment {
            Segment::Connected if self.sockets[id.0].owner == usize::MAX => self.on_syn(now, id),
            Segment::Connected => {
                self.sockets[id.0].connected = Some(Ok(()));
                self.sockets[id.0].edge.writable = true;
            }
            Segment::Octets(octets) => {
                let socket = &mut self.sockets[id.0];
                socket.in_flight -= octets.len();
                if socket.closed {
                    return self.send(now, id.peer(), Segment::Reset);
                }
                if let Some(left) = &mut socket.cut_after {
                    if *left < octets.len() {
                        self.reset(id);
                        return self.reset(id.peer());
                    }
                    *left -= octets.len();
                }
                socket.unread.extend(&octets);
                socket.edge.readable = true;
            }
            Segment::Fin => {
                self.sockets[id.0].fin_arrived = true;
                self.sockets[id.0].edge.readable = true;
                self.sockets[id.0].edge.closed = true;
            }
            Segment::Reset => self.reset(id),
        }
    }

    fn on_syn(&mut self, now: Time, id: SocketId) {
        let refused = self.chance.one_in(self.weather.refusals);
        let listening = self.listening.get_mut(&self.sockets[id.0].local).filter(|_| !refused);
        match listening {
            Some(listening) => {
                listening.backlog.push_back(id);
                self.sockets[id.0].owner = listening.owner;
                self.sockets[id.0].connected = Some(Ok(()));
                self.sockets[id.0].edge.writable = true;
                self.send(now, id.peer(), Segment::Connected);
            }
            None => {
                self.sockets[id.0].closed = true;
                self.send(now, id.peer(), Segment::Reset);
            }
        }
    }

    fn reset(&mut self, id: SocketId) {
        let socket = &mut self.sockets[id.0];
        if socket.owner == usize::MAX {
            return;
        }
        socket.connected.get_or_insert(Err(Gone));
        socket.reset = true;
        socket.arriving.clear();
        socket.in_flight = 0;
        socket.edge = Edge { readable: true, writable: true, closed: true, failed: true };
    }

    /// Puts a segment on its way to `to`, behind those that are there.
    fn send(&mut self, now: Time, to: SocketId, segment: Segment) {
        self.activity += 1;
        let mut delay = self.chance.below(self.weather.delay.as_nanos() as u64 + 1);
        if self.chance.one_in(self.weather.stalls) {
            delay += self.chance.range(1_000_000, 20_000_000_000);
        }
        let socket = &mut self.sockets[to.0];
        if socket.reset {
            return;
        }
        let earliest = socket.arriving.back().map_or(now, |(due, _)| *due);
        let due = earliest.max(now + Duration::from_nanos(delay));
        socket.arriving.push_back((due, segment));
    }

    /// Sockets that somebody still holds, for a dump.
    pub fn open(&self) -> Vec<String> {
        let open = |socket: &&Socket| !socket.closed && socket.owner != usize::MAX;
        let show = |socket: &Socket| {
            let Socket { owner, local, remote, in_flight, unread, connected, fin_arrived, reset, .. } = socket;
            format!(
                "actor {owner}: {local} <- {remote}: {in_flight} in flight, {} unread, connected {}, fin {fin_arrived}, reset {reset}, shut {}, blocked {}",
                unread.len(), connected.is_some(), socket.write_shut, socket.blocked
            )
        };
        self.sockets.iter().filter(open).map(show).collect()
    }
}
