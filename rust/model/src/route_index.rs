//! Finds virtual hosts and routes among thousands without looking at each.
//!
//! The rules stay Envoy's: the most specific domain, then the *first* route that matches. The index only says which can
//! be left out. Every literal (a domain, the path of an exact or prefix match) is filed under a hash that is made octet
//! by octet, so one walk along a request's path meets every prefix that is configured at its length. Whoever asks
//! still compares: two literals with one hash cost a comparison, never a wrong answer. A small table has no index;
//! looking at eight routes is faster than hashing.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::route::{PathMatch, Route, VirtualHost};

/// Up to this many are looked at one by one.
const FEW: usize = 8;

/// The index of one route table, in the order of its virtual hosts.
#[derive(Clone, Debug, Default)]
pub struct TableIndex {
    /// Some route looks at more of a request than its authority and path, or is a matter of luck.
    pub reads_fields: bool,
    /// `None`: few domains.
    pub hosts: Option<HostIndex>,
    /// For each virtual host; `None`: few routes.
    pub routes: Vec<Option<PathIndex>>,
}

impl TableIndex {
    /// Indexes what is large enough to gain by it.
    pub fn new(virtual_hosts: &[VirtualHost]) -> TableIndex {
        let domains: usize = virtual_hosts.iter().map(|host| host.domains.len()).sum();
        let looks_further = |host: &VirtualHost| {
            host.require_tls
                || host.routes.iter().map(|route| &route.matches).any(|rule| {
                    rule.grpc || rule.fraction.is_some() || !rule.headers.is_empty() || !rule.metadata.is_empty()
                })
        };
        TableIndex {
            reads_fields: virtual_hosts.iter().any(looks_further),
            hosts: (domains > FEW).then(|| HostIndex::new(virtual_hosts)),
            routes: virtual_hosts.iter().map(PathIndex::new).collect(),
        }
    }
}

/// Domains by kind: exact names, `*suffix`, `prefix*`, `*`.
#[derive(Clone, Debug, Default)]
pub struct HostIndex {
    exact: Filed,
    /// Hashed from their ends.
    suffixes: Filed,
    suffix_lengths: Vec<usize>,
    prefixes: Filed,
    prefix_lengths: Vec<usize>,
    any: Option<u32>,
}

impl HostIndex {
    fn new(virtual_hosts: &[VirtualHost]) -> HostIndex {
        let mut index = HostIndex::default();
        for (at, host) in numbered(virtual_hosts) {
            for domain in &host.domains {
                match domain.as_bytes() {
                    b"*" => index.any = index.any.or(Some(at)),
                    [b'*', suffix @ ..] => {
                        index.suffixes.file(folded(suffix.iter().rev()), at);
                        index.suffix_lengths.push(suffix.len());
                    }
                    [prefix @ .., b'*'] => {
                        index.prefixes.file(folded(prefix.iter()), at);
                        index.prefix_lengths.push(prefix.len());
                    }
                    exact => index.exact.file(folded(exact.iter()), at),
                }
            }
        }
        sort_lengths(&mut index.suffix_lengths);
        sort_lengths(&mut index.prefix_lengths);
        index
    }

    /// The virtual host for `host` (any case). `fits` compares a host with the domains of a virtual host and says how
    /// well the best of them fits.
    pub fn find<S: Ord>(&self, host: &[u8], mut fits: impl FnMut(usize) -> Option<S>) -> Option<usize> {
        let mut best: Option<(S, usize)> = None;
        let mut look = |found: &[u32]| {
            for at in found {
                let at = *at as usize;
                let Some(score) = fits(at) else { continue };
                // Of equals the first in the table.
                if best.as_ref().is_none_or(|(most, first)| score > *most || score == *most && at < *first) {
                    best = Some((score, at));
                }
            }
        };
        look(self.exact.at(folded(host.iter())));
        walk(host.iter().rev(), &self.suffix_lengths, |hash| look(self.suffixes.at(hash)));
        walk(host.iter(), &self.prefix_lengths, |hash| look(self.prefixes.at(hash)));
        best.map(|(_, at)| at).or(self.any.map(|at| at as usize))
    }
}

/// The routes of one virtual host by the literal of their path.
#[derive(Clone, Debug, Default)]
pub struct PathIndex {
    exact: Filed,
    prefixes: Filed,
    /// Of the prefixes, ascending.
    lengths: Vec<usize>,
    /// Regular expressions and CONNECT: looked at for every path, in order.
    rest: Vec<u32>,
}

impl PathIndex {
    /// `None` if there are too few routes, or too few whose path says anything.
    fn new(host: &VirtualHost) -> Option<PathIndex> {
        if host.routes.len() <= FEW {
            return None;
        }
        let mut index = PathIndex::default();
        for (at, route) in numbered(&host.routes) {
            index.insert(at, route);
        }
        sort_lengths(&mut index.lengths);
        (index.rest.len() < host.routes.len()).then_some(index)
    }

    fn insert(&mut self, at: u32, route: &Route) {
        match &route.matches.path {
            PathMatch::Exact(path) => self.exact.file(folded(path.as_bytes().iter()), at),
            PathMatch::Prefix(prefix) | PathMatch::SeparatedPrefix(prefix) => {
                self.prefixes.file(folded(prefix.as_bytes().iter()), at);
                self.lengths.push(prefix.len());
            }
            PathMatch::Regex(_) | PathMatch::Connect => self.rest.push(at),
        }
    }

    /// The first route of the table for which `matches` is true. It is asked about routes whose literal may fit `path`
    /// (the target without its query), and about those without a literal.
    pub fn first(&self, path: &[u8], mut matches: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut best: Option<u32> = None;
        let mut look = |found: &[u32]| {
            let earlier = found.iter().take_while(|at| best.is_none_or(|best| **at < best));
            if let Some(at) = earlier.copied().find(|at| matches(*at as usize)) {
                best = Some(at);
            }
        };
        let whole = walk(path.iter(), &self.lengths, |hash| look(self.prefixes.at(hash)));
        look(self.exact.at(whole));
        look(&self.rest);
        best.map(|at| at as usize)
    }
}

/// Positions by hash, each list ascending.
#[derive(Clone, Debug, Default)]
struct Filed(HashMap<u64, Vec<u32>, BuildHasherDefault<AsIs>>);

impl Filed {
    fn file(&mut self, hash: u64, at: u32) {
        let list = self.0.entry(hash).or_default();
        if list.last() != Some(&at) {
            list.push(at);
        }
    }

    fn at(&self, hash: u64) -> &[u32] {
        self.0.get(&hash).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The keys are hashes already.
#[derive(Clone, Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        // The table takes its tag from the upper bits, its place from the lower.
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = folded(bytes.iter());
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// FNV-1a, ASCII case folded: literals that differ in case share a list, and whoever asks compares.
const START: u64 = 0xcbf2_9ce4_8422_2325;

fn step(hash: u64, octet: u8) -> u64 {
    (hash ^ u64::from(octet.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3)
}

fn folded<'a>(octets: impl Iterator<Item = &'a u8>) -> u64 {
    octets.fold(START, |hash, octet| step(hash, *octet))
}

/// Tells the hash at each of the ascending `lengths`; returns the hash of the whole.
fn walk<'a>(octets: impl Iterator<Item = &'a u8>, lengths: &[usize], mut at: impl FnMut(u64)) -> u64 {
    let mut lengths = lengths.iter().copied().peekable();
    let mut hash = START;
    if lengths.next_if_eq(&0).is_some() {
        at(hash);
    }
    for (n, octet) in octets.enumerate() {
        hash = step(hash, *octet);
        if lengths.next_if_eq(&(n + 1)).is_some() {
            at(hash);
        }
    }
    hash
}

fn sort_lengths(lengths: &mut Vec<usize>) {
    lengths.sort_unstable();
    lengths.dedup();
}

fn numbered<T>(items: &[T]) -> impl Iterator<Item = (u32, &T)> {
    (0..).zip(items)
}
