//! Listening sockets, opened for all workers at once.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// One listening socket for each worker, bound to the same address.
///
/// # Errors
/// What the system says, with the address and a remedy.
pub(crate) fn open(address: SocketAddr, backlog: i32, workers: usize) -> Result<Vec<mio::net::TcpListener>, String> {
    // SO_REUSEPORT would let two proxies share a port without noticing. A
    // socket without it cannot be bound where anybody listens already.
    let probe = bind(address, false).map_err(|error| explain(address, &error))?;
    // Port 0: all workers take the port that the first one got.
    let address = probe.local_addr().ok().and_then(|a| a.as_socket()).unwrap_or(address);
    drop(probe);
    (0..workers)
        .map(|_| {
            let socket = bind(address, true)?;
            socket.listen(backlog)?;
            Ok(mio::net::TcpListener::from_std(socket.into()))
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| explain(address, &error))
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    if !shared {
        // Binding alone does not conflict with a listener that has SO_REUSEADDR; listening does.
        socket.listen(1)?;
    }
    Ok(socket)
}

fn explain(address: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; stop it or choose another port",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => "check the listener's address",
    };
    format!("cannot listen on {address}: {error}\nhint: {hint}")
}
