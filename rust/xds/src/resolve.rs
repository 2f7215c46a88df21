//! Names to addresses, for clusters that are found by DNS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::endpoint::{Endpoint, Endpoints};
use tokio::sync::mpsc;

use crate::translate::{DnsFamily, DnsSettings, DnsTarget};

/// Rest after a failed look-up; the last good answer stays in use. Without one
/// the cluster is empty, as in Envoy: it must not keep the others waiting.
const RETRY: Duration = Duration::from_secs(2);

/// What a resolver found.
pub(crate) type Answer = (Arc<DnsSettings>, Endpoints);

/// Looks the names of one cluster up again and again.
pub(crate) async fn run(settings: Arc<DnsSettings>, answers: mpsc::Sender<Answer>) {
    let mut has_answered = false;
    loop {
        let (answer, rest) = match look_up(&settings).await {
            Ok(endpoints) => (Some(endpoints), settings.refresh),
            Err(error) => {
                eprintln!("dns: {error}; the last answer stays in use");
                ((!has_answered).then(|| settings.shape.clone()), RETRY)
            }
        };
        if let Some(endpoints) = answer {
            has_answered = true;
            if answers.send((settings.clone(), endpoints)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(rest).await;
    }
}

async fn look_up(settings: &DnsSettings) -> Result<Endpoints, String> {
    let mut endpoints = settings.shape.clone();
    for target in &settings.targets {
        let found = tokio::net::lookup_host((target.host.as_str(), target.port))
            .await
            .map_err(|error| format!("{}: {error}", target.host))?;
        let mut addresses = of_family(found.map(|address| address.ip()).collect(), settings.family);
        if settings.first_only {
            addresses.truncate(1);
        }
        if let Some(locality) = endpoints.localities.get_mut(target.locality) {
            locality.endpoints.extend(addresses.iter().map(|ip| endpoint(target, *ip)));
        }
    }
    crate::translate::by_priority(&mut endpoints);
    Ok(endpoints)
}

fn endpoint(target: &DnsTarget, ip: IpAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint { address: SocketAddr::new(ip, target.port), ..target.template.clone() })
}

/// The addresses that a `dns_lookup_family` leaves, each once.
fn of_family(mut addresses: Vec<IpAddr>, family: DnsFamily) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
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
}
