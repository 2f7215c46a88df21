//! Listening sockets: opened for all workers at once, and closed without losing what is in their queues.
//!
//! The kernel completes handshakes by itself. When a listening socket is closed, connections that wait in its queue are
//! reset, although their clients may have sent a request already; with SO_REUSEPORT that holds for each socket of
//! the group. So a socket closes in two steps: [`turn_away`] lets it ignore new SYNs, while handshakes under way are
//! completed and accepted for [`LAST_HANDSHAKES`]; then it closes with an empty queue. A client whose SYN was
//! ignored sends it again and finds whoever listens then, or nobody.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use pymesh_model::listener::Listener;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use crate::capture;

/// How long handshakes under way may take: a round trip between services, with something to spare.
pub(crate) const LAST_HANDSHAKES: Duration = Duration::from_millis(100);

/// What a listening socket is told beside its address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    pub backlog: i32,
    /// `[::]` takes IPv4 as well.
    pub ipv4_compat: bool,
    /// It accepts for addresses that this machine does not have.
    pub transparent: bool,
}

impl SocketOptions {
    pub fn of(listener: &Listener) -> SocketOptions {
        SocketOptions {
            backlog: listener.backlog,
            ipv4_compat: listener.ipv4_compat,
            transparent: listener.capture.transparent,
        }
    }
}

/// One listening socket for each worker, bound to the same address.
///
/// # Errors
/// What the system says, with the address and a remedy.
pub(crate) fn open(address: SocketAddr, options: SocketOptions, workers: usize) -> Result<Vec<TcpListener>, String> {
    // SO_REUSEPORT would let two proxies share a port without noticing. A
    // socket without it cannot be bound where anybody listens already.
    let probe = probe(address, options).map_err(|error| explain(address, options, &error))?;
    // Port 0: all workers take the port that the first one got.
    let address = probe.local_addr().ok().and_then(|a| a.as_socket()).unwrap_or(address);
    drop(probe);
    more(address, options, workers).map_err(|error| explain(address, options, &error))
}

/// Further sockets where sockets of ours are open already.
pub(crate) fn more(address: SocketAddr, options: SocketOptions, count: usize) -> io::Result<Vec<TcpListener>> {
    (0..count)
        .map(|_| {
            let socket = bind(address, options, true)?;
            socket.listen(options.backlog)?;
            Ok(socket.into())
        })
        .collect()
}

/// Lets a listening socket ignore SYNs; handshakes under way go on.
///
/// # Errors
/// The system refuses a filter.
pub(crate) fn turn_away(socket: &TcpListener) -> io::Result<()> {
    SockRef::from(socket).attach_filter(&WITHOUT_SYN)
}

/// Undoes [`turn_away`].
///
/// # Errors
/// The system does not take the filter off.
pub(crate) fn take_in(socket: &TcpListener) -> io::Result<()> {
    match SockRef::from(socket).detach_filter() {
        // It could not be attached.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Classic BPF over a segment, which starts with the TCP header: drop what has SYN among its flags, keep the rest.
const WITHOUT_SYN: [SockFilter; 4] = {
    const LOAD_OCTET: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const JUMP_IF_SET: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const FLAGS: u32 = 13; // RFC 9293 section 3.1
    const SYN: u32 = 0x02;
    [
        SockFilter::new(LOAD_OCTET, 0, 0, FLAGS),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

fn probe(address: SocketAddr, options: SocketOptions) -> io::Result<Socket> {
    let socket = bind(address, options, false)?;
    // It is closed at once, and nobody may have come in meanwhile. Not every system lets everybody do this; then the
    // moment is one in which a client may have come in vain.
    let _best_effort = socket.attach_filter(&WITHOUT_SYN);
    // Binding alone does not conflict with a listener that has SO_REUSEADDR; listening does.
    socket.listen(1)?;
    Ok(socket)
}

fn bind(address: SocketAddr, options: SocketOptions, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!options.ipv4_compat)?;
    }
    if options.transparent {
        capture::set_transparent(&SockRef::from(&socket), address, true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The error with a remedy.
pub(crate) fn explain(address: SocketAddr, options: SocketOptions, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; stop it or choose another port",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        io::ErrorKind::PermissionDenied if options.transparent => {
            "`transparent` needs root or CAP_NET_ADMIN, ports below 1024 CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => "check the listener's address",
    };
    format!("cannot listen on {address}: {error}\nhint: {hint}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const OPTIONS: SocketOptions = SocketOptions { backlog: 16, ipv4_compat: false, transparent: false };

    #[test]
    fn a_socket_that_turns_away_keeps_what_it_has() {
        let [socket] = <[TcpListener; 1]>::try_from(open("127.0.0.1:0".parse().unwrap(), OPTIONS, 1).unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let early = TcpStream::connect(address).unwrap();
        turn_away(&socket).unwrap();
        let late = TcpStream::connect_timeout(&address, Duration::from_millis(200));
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let (_, from) = socket.accept().unwrap();
        assert_eq!(from, early.local_addr().unwrap());
        take_in(&socket).unwrap();
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn an_address_in_use_is_refused_but_may_be_shared_knowingly() {
        let held = open("127.0.0.1:0".parse().unwrap(), OPTIONS, 2).unwrap();
        let address = held[0].local_addr().unwrap();
        let error = open(address, OPTIONS, 1).unwrap_err();
        assert!(error.contains("another process listens there"), "{error}");
        assert_eq!(more(address, OPTIONS, 2).unwrap()[1].local_addr().unwrap(), address);
    }
}
