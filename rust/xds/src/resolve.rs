//! Names to addresses, for clusters that are found by DNS.
//!
//! Each name is looked up for itself: one that fails keeps the addresses that it had and takes none from the others. That
//! a name does not exist, or has no address, is an answer like any other, as in Envoy: its endpoints are gone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dns_lookup::{AddrFamily, AddrInfoHints, LookupErrorKind, SockType};
use pymesh_model::endpoint::{Endpoint, Endpoints};
use tokio::sync::mpsc;

use crate::translate::{DnsFamily, DnsSettings, DnsTarget};

/// Rest after a look-up that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What a resolver found.
pub(crate) type Answer = (Arc<DnsSettings>, Endpoints);

/// Looks the names of one cluster up again and again.
pub(crate) async fn run(settings: Arc<DnsSettings>, answers: mpsc::Sender<Answer>) {
    let mut known = Known::new(&settings);
    // The first answer is due even if nothing was found: the cluster must not keep the others waiting.
    let mut is_due = true;
    loop {
        let asked: Vec<_> = settings.targets.iter().map(|target| look_up(target, settings.family)).collect();
        let mut rest = settings.refresh;
        for (index, question) in asked.into_iter().enumerate() {
            match question.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(addresses) => is_due |= known.learn(index, addresses),
                Err(error) => {
                    rest = RETRY;
                    eprintln!("dns: {error}; the last answer stays in use");
                }
            }
        }
        if std::mem::take(&mut is_due) && answers.send((settings.clone(), known.endpoints(&settings))).await.is_err() {
            return;
        }
        tokio::time::sleep(rest).await;
    }
}

/// Looks the names of a cluster up once.
///
/// # Errors
/// One of them cannot be looked up now.
pub(crate) async fn once(settings: &DnsSettings) -> Result<Endpoints, String> {
    let mut known = Known::new(settings);
    let asked: Vec<_> = settings.targets.iter().map(|target| look_up(target, settings.family)).collect();
    for (index, question) in asked.into_iter().enumerate() {
        known.learn(index, question.await.unwrap_or_else(|error| Err(error.to_string()))?);
    }
    Ok(known.endpoints(settings))
}

/// A question that is under way on a thread of its own: the system's resolver blocks.
fn look_up(target: &DnsTarget, family: DnsFamily) -> tokio::task::JoinHandle<Result<Vec<IpAddr>, String>> {
    let host = target.host.clone();
    tokio::task::spawn_blocking(move || {
        let hints = AddrInfoHints {
            address: match family {
                DnsFamily::V4Only => AddrFamily::Inet.into(),
                DnsFamily::V6Only => AddrFamily::Inet6.into(),
                DnsFamily::V4Preferred | DnsFamily::V6Preferred | DnsFamily::All => 0,
            },
            socktype: SockType::Stream.into(),
            ..AddrInfoHints::default()
        };
        match dns_lookup::getaddrinfo(Some(&host), None, Some(hints)) {
            Ok(found) => Ok(found.filter_map(Result::ok).map(|one| one.sockaddr.ip()).collect()),
            Err(error) if matches!(error.kind(), LookupErrorKind::NoName | LookupErrorKind::NoData) => Ok(Vec::new()),
            Err(error) => Err(format!("{host}: {}", std::io::Error::from(error))),
        }
    })
}

/// What each name answered last, in the order of its resolver.
struct Known {
    addresses: Vec<Vec<IpAddr>>,
    first_only: bool,
}

impl Known {
    fn new(settings: &DnsSettings) -> Known {
        Known { addresses: vec![Vec::new(); settings.targets.len()], first_only: settings.first_only }
    }

    /// Whether that is news. The order alone is none, except where the first address is all that is used.
    fn learn(&mut self, index: usize, addresses: Vec<IpAddr>) -> bool {
        let Some(known) = self.addresses.get_mut(index) else { return false };
        let is_news = match self.first_only {
            true => known.first() != addresses.first(),
            false => sorted(known) != sorted(&addresses),
        };
        *known = addresses;
        is_news
    }

    fn endpoints(&self, settings: &DnsSettings) -> Endpoints {
        let mut endpoints = settings.shape.clone();
        for (target, addresses) in settings.targets.iter().zip(&self.addresses) {
            let mut addresses = of_family(addresses.clone(), settings.family);
            if settings.first_only {
                addresses.truncate(1);
            }
            if let Some(locality) = endpoints.localities.get_mut(target.locality) {
                locality.endpoints.extend(addresses.iter().map(|ip| endpoint(target, *ip)));
            }
        }
        crate::translate::by_priority(&mut endpoints);
        endpoints
    }
}

fn endpoint(target: &DnsTarget, ip: IpAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint { address: SocketAddr::new(ip, target.port), ..target.template.clone() })
}

fn sorted(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}

/// The addresses that a `dns_lookup_family` leaves, each once, in the order of the resolver.
fn of_family(mut addresses: Vec<IpAddr>, family: DnsFamily) -> Vec<IpAddr> {
    let mut seen = std::collections::BTreeSet::new();
    addresses.retain(|ip| seen.insert(*ip));
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|ip| ip.is_ipv4());
    match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::V4Preferred => {
            if v4.is_empty() {
                v6
            } else {
                v4
            }
        }
        DnsFamily::V6Preferred => {
            if v6.is_empty() {
                v4
            } else {
                v6
            }
        }
        DnsFamily::All => addresses,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let both = vec![ip("::1"), ip("127.0.0.1"), ip("127.0.0.1")];
        assert_eq!(of_family(both.clone(), DnsFamily::V4Only), [ip("127.0.0.1")]);
        assert_eq!(of_family(both.clone(), DnsFamily::V6Preferred), [ip("::1")]);
        assert_eq!(of_family(vec![ip("::1")], DnsFamily::V4Preferred), [ip("::1")]);
        assert_eq!(of_family(both, DnsFamily::All).len(), 2);
    }

    #[test]
    fn each_name_is_news_for_itself() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut known = Known { addresses: vec![Vec::new(), Vec::new()], first_only: false };
        assert!(known.learn(0, vec![ip("10.0.0.1"), ip("10.0.0.2")]));
        assert!(!known.learn(0, vec![ip("10.0.0.2"), ip("10.0.0.1")]), "turned round");
        assert!(known.learn(1, vec![ip("10.0.0.3")]));
        assert!(known.learn(0, vec![ip("10.0.0.2")]));
        assert!(known.learn(1, Vec::new()), "the name is gone");
        assert_eq!(known.addresses, [vec![ip("10.0.0.2")], vec![]]);
        assert!(!known.learn(2, vec![ip("10.0.0.4")]));
        let mut one = Known { addresses: vec![Vec::new()], first_only: true };
        assert!(one.learn(0, vec![ip("10.0.0.1"), ip("10.0.0.2")]));
        assert!(one.learn(0, vec![ip("10.0.0.2"), ip("10.0.0.1")]));
        assert!(!one.learn(0, vec![ip("10.0.0.2")]));
    }
}
