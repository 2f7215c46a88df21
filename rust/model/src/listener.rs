//! Listeners and filter chains (Envoy `config.listener.v3`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use crate::chain_match::{Cidr, Connection, FilterChainMatch, SourceType, TransportProtocol, Unfit};

use crate::chain_match::ChainTree;
use crate::filter::{ConnectionAuthz, Rbac};
use crate::format::AccessLog;
use crate::http::HttpConnectionManager;
use crate::route::WeightedCluster;
use crate::stats::Stats;
use crate::tls::ServerTls;

/// One listening address and what is done with its connections.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Unique name.
    pub name: Arc<str>,
    /// Address to bind.
    pub address: SocketAddr,
    /// An IPv6 wildcard address takes connections over IPv4 as well.
    pub ipv4_compat: bool,
    /// False for listeners that only receive connections by original destination.
    pub bind_to_port: bool,
    /// What is done with connections that were meant for another address.
    pub capture: Capture,
    /// Which way traffic goes, for telemetry.
    pub direction: Direction,
    /// What looks at a connection before a filter chain is chosen, in this order.
    pub listener_filters: Vec<ListenerFilter>,
    /// How long they may take; zero means no limit.
    pub listener_filters_timeout: Duration,
    /// After that: go on with what is known instead of closing.
    pub continue_on_listener_filters_timeout: bool,
    /// Found by Envoy's most-specific-match rules.
    pub filter_chains: FilterChains,
    /// Used when no chain matches; without it the connection is closed.
    pub default_filter_chain: Option<Arc<FilterChain>>,
    /// One line for each connection, when it is over.
    pub access_logs: Vec<Arc<AccessLog>>,
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

/// How a listener treats connections that the kernel redirected to it: the
/// client wanted another address, the original destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// The original destination becomes the local address
    /// (`envoy.filters.listener.original_dst`; implied by `use_original_dst`).
    pub restore: bool,
    /// `use_original_dst`: the listener at that address, if there is one, takes over.
    pub hand_off: bool,
    /// `transparent`: the socket accepts for addresses that this machine does not have (TPROXY).
    pub transparent: bool,
}

/// Looks at a connection before its filter chain is chosen.
#[derive(Clone, Debug)]
pub struct ListenerFilter {
    /// What it looks for.
    pub kind: ListenerFilterKind,
    /// `filter_disabled`: connections that it leaves alone.
    pub disabled: Option<Predicate>,
}

/// The listener filters that there are.
#[derive(Clone, Debug)]
pub enum ListenerFilterKind {
    /// `envoy.filters.listener.tls_inspector`: SNI, ALPN, is it TLS.
    TlsInspector,
    /// `envoy.filters.listener.http_inspector`: is it HTTP, which version.
    HttpInspector,
    /// `envoy.filters.listener.proxy_protocol`: who the peer speaks for.
    ProxyProtocol(ProxyProtocol),
}

/// `ProxyProtocol`: the header that it reads is taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// `allow_requests_without_proxy_protocol`: a connection may begin without a header. Then
    /// whoever may connect may also say whom it speaks for.
    pub is_optional: bool,
    /// Version 1 is not in `disallowed_versions`.
    pub allows_v1: bool,
    /// Version 2 is not in `disallowed_versions`.
    pub allows_v2: bool,
}

/// `ListenerFilterChainMatchPredicate`: which connections are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// Every one.
    Any,
    /// Those whose (original) destination port is in the range.
    DestinationPort(std::ops::Range<u32>),
    /// Those that are not meant by another.
    Not(Box<Predicate>),
    /// Those that all of these mean.
    And(Vec<Predicate>),
    /// Those that one of these means.
    Or(Vec<Predicate>),
}

impl Predicate {
    /// True if a connection to this port is meant.
    pub fn holds(&self, destination_port: u16) -> bool {
        match self {
            Predicate::Any => true,
            Predicate::DestinationPort(range) => range.contains(&destination_port.into()),
            Predicate::Not(other) => !other.holds(destination_port),
            Predicate::And(all) => all.iter().all(|one| one.holds(destination_port)),
            Predicate::Or(any) => any.iter().any(|one| one.holds(destination_port)),
        }
    }
}

/// The chains of a listener, and how one is found.
#[derive(Clone, Debug, Default)]
pub struct FilterChains {
    chains: Vec<Arc<FilterChain>>,
    tree: ChainTree,
}

impl FilterChains {
    /// # Errors
    /// Chains that cannot be told apart.
    pub fn new(chains: Vec<Arc<FilterChain>>) -> Result<FilterChains, Unfit> {
        let tree = ChainTree::new(chains.iter().map(|chain| &chain.matches))?;
        Ok(FilterChains { chains, tree })
    }

    /// In the order of the configuration.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<FilterChain>> {
        self.chains.iter()
    }

    /// The position of the chain that serves a connection.
    pub fn find(&self, connection: &Connection<'_>) -> Option<usize> {
        self.tree.find(connection)
    }
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
    /// How long the TLS handshake may take (Envoy: no limit; ours: 15 s); zero means no limit.
    pub transport_connect_timeout: Duration,
    /// Who decides before that whether the connection may pass, in order.
    pub policies: Vec<ConnectionPolicy>,
    /// What speaks on the connection.
    pub network: NetworkFilter,
    /// Of which chain it is another generation.
    pub lineage: Lineage,
}

/// Filter chains of one lineage differ in their Python filters alone: a connection of one may go on with another.
#[derive(Clone, Debug, Default)]
pub struct Lineage(Arc<()>);

impl Lineage {
    /// A new one is that of no other chain; a clone is the same.
    pub fn is(&self, other: &Lineage) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A network filter that decides whether a connection may pass.
#[derive(Clone, Debug)]
pub enum ConnectionPolicy {
    /// `envoy.filters.network.rbac`: access policies.
    Rbac(Arc<Rbac>),
    /// `envoy.filters.network.ext_authz`: a service.
    ExtAuthz(Arc<ConnectionAuthz>),
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
    /// `max_downstream_connection_duration`: close at this age; zero means never.
    pub max_connection_duration: Duration,
    /// Most attempts to connect (default 1).
    pub max_connect_attempts: u32,
    /// `hash_policy`: the address of the client has a hash, for consistent hashing.
    pub hash_source_ip: bool,
    /// One line per connection.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// What is counted in Istio's metrics; `None`: the standard.
    pub stats: Option<Arc<Stats>>,
}
