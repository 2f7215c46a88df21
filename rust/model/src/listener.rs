//! Listeners and filter chains (Envoy `config.listener.v3`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::format::AccessLog;
use crate::http::HttpConnectionManager;
use crate::route::WeightedCluster;
use crate::tls::ServerTls;

/// One listening address and what is done with its connections.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Unique name.
    pub name: Arc<str>,
    /// Address to bind.
    pub address: SocketAddr,
    /// False for listeners that only receive connections by original destination.
    pub bind_to_port: bool,
    /// Which way traffic goes, for telemetry.
    pub direction: Direction,
    /// What is looked at before a filter chain is chosen.
    pub inspect: Inspect,
    /// How long inspection may take; zero means no limit.
    pub inspect_timeout: Duration,
    /// After `inspect_timeout`: go on as plain TCP instead of closing.
    pub continue_on_inspect_timeout: bool,
    /// Tried by Envoy's most-specific-match rules.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// Used when no chain matches; without it the connection is closed.
    pub default_filter_chain: Option<Arc<FilterChain>>,
    /// Soft limit on octets buffered for one connection in each direction.
    pub buffer_limit: usize,
    /// `reuse_port`, backlog and other socket options.
    pub backlog: i32,
}

/// `traffic_direction` of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Not said (gateways).
    #[default]
    Unspecified,
    /// Towards the application beside the proxy.
    Inbound,
    /// From the application beside the proxy.
    Outbound,
}

/// Listener filters, in the order in which they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inspect {
    /// `envoy.filters.listener.tls_inspector`: SNI, ALPN, is it TLS.
    pub tls: bool,
    /// `envoy.filters.listener.http_inspector`: is it HTTP, which version.
    pub http: bool,
}

/// A match, a transport and a network filter.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// Name, for logs and dumps.
    pub name: Arc<str>,
    /// When this chain is used.
    pub matches: FilterChainMatch,
    /// TLS to terminate; `None` means the bytes are taken as they are.
    pub tls: Option<Arc<ServerTls>>,
    /// How long the TLS handshake may take; zero means no limit.
    pub transport_connect_timeout: Duration,
    /// What speaks on the connection.
    pub network: NetworkFilter,
}

/// `FilterChainMatch`. An empty list or `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterChainMatch {
    /// Port of the (original) destination.
    pub destination_port: Option<u16>,
    /// Prefixes of the (original) destination.
    pub destination_prefixes: Vec<Cidr>,
    /// SNI: exact names, or `*.suffix`. Lower case.
    pub server_names: Vec<Box<str>>,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: Option<TransportProtocol>,
    /// ALPN, or what HTTP inspection found (`http/1.0`, `http/1.1`, `h2c`).
    pub application_protocols: Vec<Box<str>>,
    /// Prefixes of the source.
    pub source_prefixes: Vec<Cidr>,
}

/// What TLS inspection found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TransportProtocol {
    Tls,
    RawBuffer,
}

/// An address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Network address.
    pub address: IpAddr,
    /// Prefix length in bits, at most 32 or 128.
    pub bits: u8,
}

impl Cidr {
    /// True if `ip` is within the prefix. IPv4-mapped IPv6 addresses count as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address.to_canonical(), ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32u32.saturating_sub(u32::from(self.bits));
                let (net, ip) = (u32::from(net), u32::from(ip));
                shift == 32 || net.checked_shr(shift) == ip.checked_shr(shift)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128u32.saturating_sub(u32::from(self.bits));
                let (net, ip) = (u128::from(net), u128::from(ip));
                shift == 128 || net.checked_shr(shift) == ip.checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// The terminal network filter of a chain.
#[derive(Clone, Debug)]
pub enum NetworkFilter {
    /// `envoy.filters.network.http_connection_manager`.
    Http(Arc<HttpConnectionManager>),
    /// `envoy.filters.network.tcp_proxy`.
    Tcp(Arc<TcpProxy>),
}

/// `TcpProxy`: copies octets both ways.
#[derive(Clone, Debug)]
pub struct TcpProxy {
    /// Prefix of statistics.
    pub stat_prefix: Arc<str>,
    /// Where connections go, by weight (one entry: always there).
    pub clusters: Vec<WeightedCluster>,
    /// Close after this long without an octet either way; zero means never (default 1 h).
    pub idle_timeout: Duration,
    /// Most attempts to connect (default 1).
    pub max_connect_attempts: u32,
    /// One line per connection.
    pub access_logs: Vec<Arc<AccessLog>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_edges() {
        let cidr = |s: &str, bits| Cidr { address: s.parse().unwrap(), bits };
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        assert!(cidr("0.0.0.0", 0).contains(ip("9.9.9.9")));
        assert!(cidr("10.0.0.0", 8).contains(ip("10.255.0.1")));
        assert!(!cidr("10.0.0.0", 8).contains(ip("11.0.0.1")));
        assert!(cidr("10.0.0.1", 32).contains(ip("::ffff:10.0.0.1")));
        assert!(cidr("::", 0).contains(ip("fe80::1")));
        assert!(!cidr("::", 0).contains(ip("1.2.3.4")));
    }
}
