//! Which certificate we present: looked up by name in each handshake.

use std::fmt;
use std::sync::Arc;

use pymesh_model::tls::SecretName;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::certificate::dns_covers;
use crate::secret::Identity;
use crate::SecretStore;

/// Names of identities and the store that has them.
pub(crate) struct Presented {
    pub(crate) names: Vec<SecretName>,
    pub(crate) store: Arc<SecretStore>,
}

impl Presented {
    fn choose(&self, sni: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        identity(&self.names, &self.store, sni, schemes).map(|identity| identity.certified.clone())
    }
}

/// The first identity whose names cover `sni` and whose key the peer can verify, of ECDSA if there is one, as in Envoy: it
/// is cheaper. A name counts for more than a key, and any identity is better than none. No schemes: the peer has not said
/// what it can verify.
fn identity(
    names: &[SecretName],
    store: &SecretStore,
    sni: Option<&str>,
    schemes: &[SignatureScheme],
) -> Option<Arc<Identity>> {
    let loaded = names.iter().filter_map(|name| store.identity(name));
    if names.len() < 2 {
        return loaded.into_iter().next();
    }
    let covers =
        |identity: &Identity| sni.is_some_and(|sni| identity.dns_names().iter().any(|dns| dns_covers(dns, sni)));
    let fits = |identity: &Identity| schemes.is_empty() || identity.certified.key.choose_scheme(schemes).is_some();
    // The first of equals: `max_by_key` would take the last.
    let is_ecdsa = |identity: &Identity| identity.certified.key.algorithm() == SignatureAlgorithm::ECDSA;
    loaded.rev().max_by_key(|identity| (covers(identity), fits(identity), is_ecdsa(identity)))
}

/// The URIs of the certificate that a server with these identities presents to a client
/// that asks for `sni` (`By` of `x-forwarded-client-cert`).
pub fn presented_uris(names: &[SecretName], store: &SecretStore, sni: Option<&str>) -> Vec<String> {
    identity(names, store, sni, &[]).map_or_else(Vec::new, |identity| identity.uris().to_vec())
}

/// Who such a certificate says that the server is: its first URI, else its first DNS name, else its subject.
pub fn presented_name(names: &[SecretName], store: &SecretStore, sni: Option<&str>) -> Option<String> {
    let identity = identity(names, store, sni, &[])?;
    let leaf = identity.chain.first()?;
    Some(leaf.sans.uri.first().or(leaf.sans.dns.first()).unwrap_or(&leaf.subject).clone())
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presented").field(&self.names).finish()
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(None, schemes)
    }

    fn has_certs(&self) -> bool {
        !self.names.is_empty()
    }
}
