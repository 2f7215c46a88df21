//! The listening sockets of the process, by address.
//!
//! The side thread opens and closes; each worker holds duplicates of its share. A group of sockets is
//!
//! ```text
//! lent -> open -> leaving -> gone
//!           ^--------'             (the address is wanted again)
//! ```
//!
//! *Lent* sockets belong to a predecessor that still serves them ([`Bound::take_over`] ends that): they are left as they
//! are when they turn out not to be wanted. *Leaving* ones turn new clients away and complete what is under
//! way ([`listen`]). What a successor has taken is dropped here without a word: there it goes on.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use socket2::{SockRef, Type};

use crate::listen::{self, SocketOptions, LAST_HANDSHAKES};

/// See the module.
pub(crate) struct Bound {
    workers: usize,
    groups: HashMap<SocketAddr, Group>,
    /// A predecessor's, that no configuration has asked for so far.
    lent: HashMap<SocketAddr, Vec<TcpListener>>,
    has_predecessor: bool,
    /// Where we have listened before.
    left: HashSet<SocketAddr>,
}

struct Group {
    sockets: Vec<TcpListener>,
    options: SocketOptions,
    /// They are a predecessor's: nothing may be changed about them.
    is_lent: bool,
    /// Set once the address is not wanted any more: when its sockets close.
    leaving: Option<Instant>,
}

impl Bound {
    pub fn new(workers: usize, lent: HashMap<SocketAddr, Vec<TcpListener>>, has_predecessor: bool) -> Bound {
        Bound { workers, groups: HashMap::new(), lent, has_predecessor, left: HashSet::new() }
    }

    /// Sees to it that somebody listens there.
    ///
    /// # Errors
    /// In words, with a remedy.
    pub fn want(&mut self, address: SocketAddr, options: SocketOptions) -> Result<(), String> {
        if let Some(group) = self.groups.get_mut(&address) {
            return group.stay().map_err(|error| format!("cannot listen on {address} again: {error}"));
        }
        let (sockets, is_lent) = match self.lent.remove(&address) {
            Some(sockets) => (sockets, true),
            None => match listen::open(address, options, self.workers) {
                Ok(sockets) => (sockets, false),
                // The predecessor may have come to listen there after it lent its sockets: see `take_over`.
                Err(_) if self.has_predecessor => (Vec::new(), true),
                // A worker may be about to close its share of what was here.
                Err(error) if self.left.contains(&address) => {
                    (listen::more(address, options, self.workers).map_err(|_| error)?, false)
                }
                Err(error) => return Err(error),
            },
        };
        self.groups.insert(address, Group { sockets, options, is_lent, leaving: None });
        Ok(())
    }

    /// Begins to close whatever is bound elsewhere.
    pub fn leave_all_but(&mut self, wanted: &[SocketAddr], now: Instant) {
        let unwanted: Vec<SocketAddr> = self.groups.keys().filter(|at| !wanted.contains(at)).copied().collect();
        for address in unwanted {
            let Some(group) = self.groups.get_mut(&address) else { continue };
            if !group.is_lent {
                group.leave(now);
            } else if let Some(group) = self.groups.remove(&address) {
                self.lent.insert(address, group.sockets);
            }
        }
    }

    /// From here on we serve what a predecessor did: the sockets are ours, one for each worker at least. Returns
    /// the addresses of those that it has lent.
    ///
    /// # Errors
    /// There is an address that we cannot listen on.
    pub fn take_over(&mut self) -> Result<Vec<SocketAddr>, String> {
        // What may fail comes first: until then nothing was changed.
        for (address, group) in self.groups.iter_mut().filter(|(_, group)| group.sockets.is_empty()) {
            let opened = listen::more(*address, group.options, self.workers);
            group.sockets = opened.map_err(|error| listen::explain(*address, group.options, &error))?;
            group.is_lent = false;
        }
        let mut kept = Vec::new();
        for (address, group) in self.groups.iter_mut().filter(|(_, group)| group.is_lent) {
            kept.push(*address);
            let missing = self.workers.saturating_sub(group.sockets.len());
            match listen::more(*address, group.options, missing) {
                Ok(more) => group.sockets.extend(more),
                Err(error) => eprintln!("workers share the sockets of {address}: {error}"),
            }
        }
        for group in self.groups.values_mut() {
            group.is_lent = false;
        }
        self.has_predecessor = false;
        self.lent.clear();
        Ok(kept)
    }

    /// A successor accepts on these: ours go, whatever is in their queues is its own.
    pub fn give_away(&mut self, kept: &[SocketAddr]) {
        self.groups.retain(|address, _| !kept.contains(address));
    }

    /// A worker's share of an address: duplicates of its sockets.
    pub fn share(&self, address: SocketAddr, worker: usize) -> io::Result<Vec<TcpListener>> {
        let Some(group) = self.groups.get(&address) else { return Ok(Vec::new()) };
        let count = group.sockets.len();
        let is_ours = |at: usize| at % self.workers == worker || (count < self.workers && at == worker % count.max(1));
        let ours = group.sockets.iter().enumerate().filter(|(at, _)| is_ours(*at));
        ours.map(|(_, socket)| socket.try_clone()).collect()
    }

    /// When the sockets of an address close that is not wanted any more.
    pub fn leaving(&self, address: SocketAddr) -> Option<Instant> {
        self.groups.get(&address)?.leaving
    }

    /// Closes what has left.
    pub fn forget_left(&mut self, now: Instant) {
        let left = &mut self.left;
        self.groups.retain(|address, group| {
            let stays = group.leaving.is_none_or(|until| until > now);
            if !stays {
                left.insert(*address);
            }
            stays
        });
    }

    /// Duplicates of every socket that serves, for a successor.
    pub fn duplicate(&self) -> io::Result<Vec<OwnedFd>> {
        let open = self.groups.values().filter(|group| group.leaving.is_none());
        open.flat_map(|group| &group.sockets).map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }
}

impl Group {
    fn leave(&mut self, now: Instant) {
        if self.leaving.is_some() {
            return;
        }
        self.leaving = Some(now + LAST_HANDSHAKES);
        for socket in &self.sockets {
            // Without the filter it closes all the same; a connection made in the last moment may be lost.
            if let Err(error) = listen::turn_away(socket) {
                eprintln!("closing a listening socket without turning clients away first: {error}");
            }
        }
    }

    fn stay(&mut self) -> io::Result<()> {
        if self.leaving.take().is_some() {
            self.sockets.iter().try_for_each(listen::take_in)?;
        }
        Ok(())
    }
}

/// What a predecessor has sent, sorted by the addresses that the sockets really have.
///
/// # Errors
/// Something that is no listening TCP socket.
pub fn inherit(sockets: Vec<OwnedFd>) -> Result<HashMap<SocketAddr, Vec<TcpListener>>, String> {
    let mut sorted: HashMap<SocketAddr, Vec<TcpListener>> = HashMap::new();
    for socket in sockets {
        let facts = SockRef::from(&socket);
        let listens = facts.is_listener().unwrap_or(false) && facts.r#type().is_ok_and(|kind| kind == Type::STREAM);
        let address = facts.local_addr().ok().and_then(|address| address.as_socket());
        let (true, Some(address)) = (listens, address) else {
            return Err("the running process has sent something that is no listening TCP socket".to_owned());
        };
        facts.set_nonblocking(true).map_err(|error| format!("inherited socket of {address}: {error}"))?;
        sorted.entry(address).or_default().push(TcpListener::from(socket));
    }
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const OPTIONS: SocketOptions = SocketOptions { backlog: 16, ipv4_compat: false, transparent: false };

    fn bound(workers: usize) -> (Bound, SocketAddr) {
        // A port that was free a moment ago: the tests need its number beforehand.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut bound = Bound::new(workers, HashMap::new(), false);
        bound.want(address, OPTIONS).unwrap();
        (bound, address)
    }

    fn successor(of: &Bound, workers: usize) -> Bound {
        Bound::new(workers, inherit(of.duplicate().unwrap()).unwrap(), true)
    }

    #[test]
    fn each_worker_gets_a_socket_of_its_own() {
        let (bound, address) = bound(3);
        for worker in 0..3 {
            assert_eq!(bound.share(address, worker).unwrap().len(), 1);
        }
    }

    #[test]
    fn fewer_workers_than_before_take_all_sockets() {
        let (old, address) = bound(3);
        let mut new = successor(&old, 2);
        new.want(address, OPTIONS).unwrap();
        assert_eq!(new.take_over().unwrap(), [address]);
        let shares: Vec<usize> = (0..2).map(|worker| new.share(address, worker).unwrap().len()).collect();
        assert_eq!(shares, [2, 1]);
    }

    #[test]
    fn more_workers_than_before_get_sockets_of_their_own_at_the_takeover() {
        let (old, address) = bound(1);
        let mut new = successor(&old, 3);
        new.want(address, OPTIONS).unwrap();
        assert_eq!(new.duplicate().unwrap().len(), 1);
        new.take_over().unwrap();
        assert_eq!(new.duplicate().unwrap().len(), 3);
    }

    #[test]
    fn a_listener_that_the_predecessor_gets_meanwhile_is_taken_over_too() {
        let (mut old, _) = bound(1);
        let mut new = successor(&old, 1);
        let late = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        old.want(late, OPTIONS).unwrap();
        new.want(late, OPTIONS).unwrap();
        // Ours is another socket: the old one has a queue of its own to empty.
        assert_eq!(new.take_over().unwrap(), []);
        let now = Instant::now();
        old.leave_all_but(&[], now);
        // Until then the kernel gives some of the clients to the old one, and they ask again.
        old.forget_left(now + LAST_HANDSHAKES);
        TcpStream::connect(late).unwrap();
        new.share(late, 0).unwrap()[0].accept().unwrap();
    }

    #[test]
    fn an_address_of_somebody_else_ends_the_takeover() {
        let (old, _) = bound(1);
        let mut new = successor(&old, 1);
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
        new.want(foreign.local_addr().unwrap(), OPTIONS).unwrap();
        assert!(new.take_over().is_err());
    }

    #[test]
    fn what_was_lent_is_given_back_as_it_was() {
        let (old, address) = bound(1);
        let mut new = successor(&old, 1);
        new.want(address, OPTIONS).unwrap();
        new.leave_all_but(&[], Instant::now());
        drop(new);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn what_a_successor_has_taken_goes_on() {
        let (mut old, address) = bound(1);
        let waiting = TcpStream::connect(address).unwrap();
        let mut new = successor(&old, 1);
        new.want(address, OPTIONS).unwrap();
        old.give_away(&new.take_over().unwrap());
        drop(old);
        let share = new.share(address, 0).unwrap();
        assert_eq!(share[0].accept().unwrap().1, waiting.local_addr().unwrap());
    }

    #[test]
    fn an_address_may_come_back_while_it_leaves() {
        let (mut bound, address) = bound(1);
        let now = Instant::now();
        bound.leave_all_but(&[], now);
        assert!(bound.leaving(address).is_some());
        bound.want(address, OPTIONS).unwrap();
        bound.forget_left(now + LAST_HANDSHAKES);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn an_address_may_come_back_before_the_last_worker_has_closed_it() {
        let (mut bound, address) = bound(1);
        let now = Instant::now();
        let slow = bound.share(address, 0).unwrap();
        bound.leave_all_but(&[], now);
        bound.forget_left(now + LAST_HANDSHAKES);
        bound.want(address, OPTIONS).unwrap();
        drop(slow);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn nothing_but_listening_sockets_is_inherited() {
        let (bound, address) = bound(1);
        let connection = TcpStream::connect(address).unwrap();
        assert!(inherit(vec![connection.into()]).is_err());
        drop(bound);
    }
}
