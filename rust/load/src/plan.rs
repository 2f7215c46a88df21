//! What is to be sent where, how fast and for how long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::tls::{ClientTls, Profile, SecretName, Validation, Versions};
use pymesh_tls::{SecretStore, TlsError};
use rustls::time_provider::DefaultTimeProvider;
use rustls::ClientConfig;

use crate::request::Request;
use crate::schedule::Arrivals;

/// A whole run. Workers read it and never change it.
#[derive(Clone)]
pub struct Plan {
    /// Where connections go to.
    pub address: SocketAddr,
    /// What they are wrapped in.
    pub tls: Option<Tls>,
    /// What is spoken on them.
    pub protocol: Protocol,
    /// At least one; they take turns.
    pub requests: Arc<[Request]>,
    /// Threads.
    pub workers: usize,
    /// Connections of all workers together.
    pub connections: usize,
    /// Requests that a connection carries at a time; 1 with HTTP/1.1, which is never pipelined.
    pub streams: usize,
    /// When a request begins.
    pub pace: Pace,
    /// When no more begin.
    pub end: End,
    /// What begins in the first part of the run is sent and not counted.
    pub warm_up: Duration,
    /// How long a request may take from its intended start, and a connection until it can be used.
    pub timeout: Duration,
}

/// The HTTP version, chosen beforehand: with TLS it is asked for by ALPN, in the clear the target is trusted to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1 {
        /// Otherwise each request has a connection of its own and says so.
        keep_alive: bool,
    },
    /// HTTP/2.
    Http2,
}

/// When a request begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When the one before it, in the same place of the same connection, has ended.
    Closed,
    /// At its intended start.
    Open {
        /// Requests per second of all workers together.
        rate: f64,
        /// How they are spread.
        arrivals: Arrivals,
    },
}

/// When no more requests begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// So long after the warm-up.
    After(Duration),
    /// When so many have begun after the warm-up.
    Requests(u64),
}

/// A worker's part of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub worker: usize,
    /// How many there are.
    pub of: usize,
}

impl Share {
    /// This worker's part of a number of equal things.
    pub fn of(self, all: u64) -> u64 {
        let (worker, of) = (self.worker as u64, (self.of as u64).max(1));
        all / of + u64::from(worker < all % of)
    }
}

/// How the target is spoken to over TLS.
#[derive(Clone)]
pub struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: Option<String>,
}

impl Tls {
    /// `roots` judge the target's certificate, which has to be valid for `server_name`; without them any will do.
    /// `identity` is a chain and its key. Everything is PEM.
    ///
    /// # Errors
    /// Material that cannot be read, or a name that cannot be sent.
    pub fn new(
        protocol: Protocol,
        server_name: Option<String>,
        roots: Option<&[u8]>,
        identity: Option<(&[u8], &[u8])>,
    ) -> Result<Tls, String> {
        let store = Arc::new(SecretStore::new(Arc::new(DefaultTimeProvider)));
        let trust = SecretName::from("--cacert");
        let own = SecretName::from("--cert");
        if let Some(roots) = roots {
            store.put_trust(&trust, roots).map_err(|error| error.to_string())?;
        }
        if let Some((chain, key)) = identity {
            store.put_identity(&own, chain, key).map_err(|error| error.to_string())?;
        }
        let tls = ClientTls {
            certificate: identity.map(|_| own),
            validation: roots.map(|_| Validation {
                trust,
                profile: Profile::Pki { match_server_name: true },
                san_matches: Vec::new(),
                pins: Default::default(),
            }),
            sni: server_name.as_deref().map(Into::into),
            alpn: vec![match protocol {
                Protocol::Http1 { .. } => b"http/1.1".to_vec(),
                Protocol::Http2 => b"h2".to_vec(),
            }],
            versions: Versions::default(),
            ciphers: Vec::new(),
        };
        let config = pymesh_tls::client_config(&tls, &store).map_err(|error: TlsError| error.to_string())?;
        Ok(Tls { config, server_name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (all, of) in [(10, 3), (2, 4), (7, 1), (0, 2)] {
            let shares: Vec<u64> = (0..of).map(|worker| Share { worker, of }.of(all)).collect();
            assert_eq!(shares.iter().sum::<u64>(), all);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
