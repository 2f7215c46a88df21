//! Which filter chain serves a connection (Envoy `FilterChainMatch`).
//!
//! Criteria are looked at in a fixed order: destination port, destination
//! prefix, server name, transport protocol, application protocol, direct
//! source prefix, source type, source prefix, source port. At each of them the
//! most specific value that fits is taken, or else the chains that do not ask;
//! there is no going back from a step whose chains then turn out not to fit.
//!
//! So the chains form a tree, one level for each criterion, and that is how
//! they are kept: a connection costs nine look-ups, however many chains there
//! are. Two chains that end in the same leaf could not be told apart; the tree
//! cannot be built from them.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

/// When a filter chain is used. An empty list or `None` matches everything.
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
    /// Prefixes of whoever opened the connection, though it may speak for another (PROXY protocol).
    pub direct_source_prefixes: Vec<Cidr>,
    /// From this machine, or from elsewhere.
    pub source_type: SourceType,
    /// Prefixes of the source.
    pub source_prefixes: Vec<Cidr>,
    /// Ports of the source.
    pub source_ports: Vec<u16>,
}

/// What TLS inspection found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum TransportProtocol {
    Tls,
    #[default]
    RawBuffer,
}

/// `ConnectionSourceType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// Wherever it comes from.
    #[default]
    Any,
    /// `SAME_IP_OR_LOOPBACK`: the source is 127.0.0.1, ::1, or the destination's own address.
    Local,
    /// `EXTERNAL`: any other.
    External,
}

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// Where the connection comes from, as the PROXY protocol may have told.
    pub source: SocketAddr,
    /// The peer of the socket.
    pub direct_source: IpAddr,
    /// SNI in lower case; empty if there was none.
    pub server_name: &'a str,
    /// What was found on the wire.
    pub transport: TransportProtocol,
    /// ALPN as offered, most preferred first, or what HTTP inspection found.
    pub protocols: &'a [String],
}

impl Connection<'_> {
    /// `SAME_IP_OR_LOOPBACK`, as Envoy judges it: of 127.0.0.0/8 only the first address is loopback.
    fn is_local(&self) -> bool {
        let source = self.source.ip().to_canonical();
        source == IpAddr::from([127, 0, 0, 1])
            || source == IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
            || source == self.destination.ip().to_canonical()
    }
}

/// Chains for which there is no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// `chain` could be asked for where `other` is asked for too. They may be the same one,
    /// if it says the same thing twice.
    #[allow(missing_docs)]
    Overlap { chain: usize, other: usize },
    /// The lists of `chain`, each value with each of the other lists, are too many.
    #[allow(missing_docs)]
    TooMany { chain: usize },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Overlap { chain, other } if chain == other => f.write_str("the same value stands in a list twice"),
            Unfit::Overlap { other, .. } => {
                write!(f, "filter chain {other} matches some of the same connections by the same values")
            }
            Unfit::TooMany { .. } => write!(f, "its lists combine to more than {MOST_LEAVES} cases"),
        }
    }
}

/// Leaves that a tree may have. Lists multiply, so a small configuration could ask for very many.
const MOST_LEAVES: usize = 1 << 20;

/// The tree. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct ChainTree {
    ports: Choice<u16, Destinations>,
}

type Destinations = Prefixes<ServerNames>;
/// Exact names, and wildcards without their asterisk (`.example.com`).
type ServerNames = Choice<Box<str>, Transports>;
type Transports = Choice<TransportProtocol, Protocols>;
type Protocols = Choice<Box<str>, DirectSources>;
type DirectSources = Prefixes<SourceTypes>;
type SourceTypes = Choice<SourceType, Sources>;
type Sources = Prefixes<SourcePorts>;
type SourcePorts = Choice<u16, Option<usize>>;

impl ChainTree {
    /// # Errors
    /// Two chains that cannot be told apart, or one that has too many cases.
    pub fn new<'m>(chains: impl IntoIterator<Item = &'m FilterChainMatch>) -> Result<ChainTree, Unfit> {
        let mut tree = ChainTree::default();
        let mut leaves = 0_usize;
        for (chain, matches) in chains.into_iter().enumerate() {
            leaves = leaves.saturating_add(matches.cases());
            if leaves > MOST_LEAVES {
                return Err(Unfit::TooMany { chain });
            }
            tree.insert(chain, matches)?;
        }
        Ok(tree)
    }

    fn insert(&mut self, chain: usize, matches: &FilterChainMatch) -> Result<(), Unfit> {
        let destinations = self.ports.at(matches.destination_port);
        for prefix in cases(&matches.destination_prefixes) {
            let names = destinations.at(prefix);
            for name in cases(&matches.server_names) {
                let transports = names.at(name.map(|name| name.strip_prefix('*').unwrap_or(name).into()));
                let protocols = transports.at(matches.transport_protocol);
                for protocol in cases(&matches.application_protocols) {
                    insert_source(protocols.at(protocol.cloned()), chain, matches)?;
                }
            }
        }
        Ok(())
    }

    /// The chain for a connection, by its position.
    pub fn find(&self, connection: &Connection<'_>) -> Option<usize> {
        let names = self.ports.get(&connection.destination.port())?.get(connection.destination.ip())?;
        let protocols = by_server_name(names, connection.server_name)?.get(&connection.transport)?;
        let offered = connection.protocols.iter().find_map(|name| protocols.named.get(name.as_str()));
        let types = offered.or(protocols.any.as_ref())?.get(connection.direct_source)?;
        let sources = match types.named.is_empty() {
            true => types.any.as_ref()?,
            false if connection.is_local() => types.get(&SourceType::Local)?,
            false => types.get(&SourceType::External)?,
        };
        *sources.get(connection.source.ip())?.get(&connection.source.port())?
    }
}

fn insert_source(direct: &mut DirectSources, chain: usize, matches: &FilterChainMatch) -> Result<(), Unfit> {
    let source_type = Some(matches.source_type).filter(|kind| *kind != SourceType::Any);
    for prefix in cases(&matches.direct_source_prefixes) {
        let sources = direct.at(prefix).at(source_type);
        for prefix in cases(&matches.source_prefixes) {
            let ports = sources.at(prefix);
            for port in cases(&matches.source_ports) {
                if let Some(other) = ports.at(port.copied()).replace(chain) {
                    return Err(Unfit::Overlap { chain, other });
                }
            }
        }
    }
    Ok(())
}

/// The name itself, then ever shorter suffixes: for `a.b.c` these are `.b.c` and `.c`.
fn by_server_name<'t>(names: &'t ServerNames, name: &str) -> Option<&'t Transports> {
    if names.named.is_empty() || name.is_empty() {
        return names.any.as_ref();
    }
    let suffixes = name.match_indices('.').filter(|(at, _)| *at > 0 && at + 1 < name.len());
    let suffixes = suffixes.filter_map(|(at, _)| name.get(at..));
    std::iter::once(name).chain(suffixes).find_map(|name| names.named.get(name)).or(names.any.as_ref())
}

/// Each value of a list, or the one case of not asking.
fn cases<T>(list: &[T]) -> impl Iterator<Item = Option<&T>> {
    list.iter().map(Some).chain(list.is_empty().then_some(None))
}

impl FilterChainMatch {
    fn cases(&self) -> usize {
        let lists = [
            self.destination_prefixes.len(),
            self.server_names.len(),
            self.application_protocols.len(),
            self.direct_source_prefixes.len(),
            self.source_prefixes.len(),
            self.source_ports.len(),
        ];
        lists.into_iter().fold(1, |product, length| product.saturating_mul(length.max(1)))
    }
}

/// A criterion that is met by one value, or not asked for.
#[derive(Clone, Debug)]
struct Choice<K, T> {
    named: HashMap<K, T>,
    any: Option<T>,
}

impl<K, T> Default for Choice<K, T> {
    fn default() -> Self {
        Choice { named: HashMap::new(), any: None }
    }
}

impl<K: Hash + Eq, T: Default> Choice<K, T> {
    fn at(&mut self, key: Option<K>) -> &mut T {
        match key {
            Some(key) => self.named.entry(key).or_default(),
            None => self.any.get_or_insert_with(T::default),
        }
    }

    fn get(&self, key: &K) -> Option<&T> {
        self.named.get(key).or(self.any.as_ref())
    }
}

/// A criterion that is met by an address within a prefix, or not asked for. The longest prefix wins.
#[derive(Clone, Debug)]
struct Prefixes<T> {
    /// By family and length, longest first.
    lengths: Vec<(bool, u8, HashMap<IpAddr, T>)>,
    any: Option<T>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Prefixes { lengths: Vec::new(), any: None }
    }
}

impl<T: Default> Prefixes<T> {
    fn at(&mut self, prefix: Option<&Cidr>) -> &mut T {
        let Some(prefix) = prefix else { return self.any.get_or_insert_with(T::default) };
        let (network, bits) = (prefix.network(), prefix.canonical_bits());
        let is_v4 = network.is_ipv4();
        let place = self.lengths.iter().position(|(v4, length, _)| *v4 == is_v4 && *length == bits);
        let place = place.unwrap_or_else(|| {
            let place = self.lengths.partition_point(|(_, length, _)| *length > bits);
            self.lengths.insert(place, (is_v4, bits, HashMap::new()));
            place
        });
        // Found or inserted above.
        #[allow(clippy::indexing_slicing)]
        self.lengths[place].2.entry(network).or_default()
    }

    fn get(&self, ip: IpAddr) -> Option<&T> {
        let ip = ip.to_canonical();
        let fitting = self.lengths.iter().filter(|(is_v4, _, _)| *is_v4 == ip.is_ipv4());
        let found = fitting.filter_map(|(_, bits, networks)| networks.get(&masked(ip, *bits))).next();
        found.or(self.any.as_ref())
    }
}

/// An address prefix. IPv4-mapped IPv6 addresses count as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// An address of the network.
    pub address: IpAddr,
    /// Prefix length in bits, at most 32 or 128.
    pub bits: u8,
}

impl Cidr {
    /// True if `ip` is within the prefix.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (network, ip) = (self.network(), ip.to_canonical());
        network.is_ipv4() == ip.is_ipv4() && masked(ip, self.canonical_bits()) == network
    }

    /// The first address of the prefix.
    pub fn network(&self) -> IpAddr {
        masked(self.address.to_canonical(), self.canonical_bits())
    }

    fn canonical_bits(&self) -> u8 {
        let is_mapped = self.address.is_ipv6() && self.address.to_canonical().is_ipv4();
        if is_mapped {
            self.bits.saturating_sub(96)
        } else {
            self.bits
        }
    }
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::from((u32::from(ip) & mask).to_be_bytes())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
            IpAddr::from((u128::from(ip) & mask).to_be_bytes())
        }
    }
}

#[cfg(test)]
mod tests;
