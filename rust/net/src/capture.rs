//! The system calls of transparent capture.
//!
//! | what | system call | needs |
//! |---|---|---|
//! | where a redirected connection wanted to go (REDIRECT) | `getsockopt(SOL_IP, SO_ORIGINAL_DST)`, `getsockopt(SOL_IPV6, IP6T_SO_ORIGINAL_DST)` | |
//! | the same for TPROXY, where the socket has that address | `getsockname` | |
//! | accept for addresses of others (TPROXY) | `setsockopt(SOL_IP, IP_TRANSPARENT)`, `setsockopt(SOL_IPV6, IPV6_TRANSPARENT)` | `CAP_NET_ADMIN` |
//! | mark the proxy's own connections | `setsockopt(SOL_SOCKET, SO_MARK)` | `CAP_NET_ADMIN` |
//! | choose where they come from | `bind` | |
//! | notice peers that are gone | `SO_KEEPALIVE` and `TCP_KEEP*` | |

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpStream;
use pymesh_model::cluster::{TcpKeepalive, UpstreamBind};
use pymesh_model::listener::Capture;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The address that the client of an accepted connection wanted. `None` where the kernel does not know of any: it
/// has not redirected the connection, nor tracked it.
pub(crate) fn original_destination(stream: &TcpStream, local: SocketAddr, capture: Capture) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    // A connection over IPv4 to a socket that takes both is one of IPv4 to the tracker.
    let asked = match local.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    let found = asked.ok().and_then(|address| address.as_socket()).or(capture.transparent.then_some(local));
    found.map(|address| match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    })
}

/// Lets a listening socket accept for addresses that this machine does not have, or stops that.
///
/// # Errors
/// The process may not.
pub(crate) fn set_transparent(socket: &SockRef<'_>, address: SocketAddr, transparent: bool) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(transparent),
        SocketAddr::V6(_) => {
            // It may take connections over IPv4 as well.
            socket.set_ip_transparent_v4(transparent)?;
            socket.set_ip_transparent_v6(transparent)
        }
    }
}

/// Starts to connect with the marks and from the address that a cluster asks for.
///
/// # Errors
/// There is no source address of that IP version, it is not ours, or the process may not set a mark.
pub(crate) fn connect_from(address: SocketAddr, bind: &UpstreamBind) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(keepalive) = bind.keepalive {
        socket.set_tcp_keepalive(&probes(keepalive))?;
    }
    if let Some(mark) = bind.mark {
        socket.set_mark(mark).map_err(|error| explain(&error, "SO_MARK needs CAP_NET_ADMIN"))?;
    }
    let source = bind.sources.iter().find(|source| source.is_ipv4() == address.is_ipv4());
    match source {
        Some(source) => socket
            .bind(&(*source).into())
            .map_err(|error| explain(&error, &format!("upstream_bind_config: source address {source}")))?,
        None if bind.sources.is_empty() => {}
        None => {
            let version = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("upstream_bind_config has no source address for {version}");
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message));
        }
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(EINPROGRESS) || error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Socket options; what is not set is the system's.
fn probes(keepalive: TcpKeepalive) -> socket2::TcpKeepalive {
    let mut probes = socket2::TcpKeepalive::new();
    if let Some(idle) = keepalive.idle {
        probes = probes.with_time(idle);
    }
    if let Some(interval) = keepalive.interval {
        probes = probes.with_interval(interval);
    }
    match keepalive.probes {
        Some(count) => probes.with_retries(count),
        None => probes,
    }
}

/// What connecting without waiting answers (errno(3), Linux).
const EINPROGRESS: i32 = 115;

fn explain(error: &io::Error, hint: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}
