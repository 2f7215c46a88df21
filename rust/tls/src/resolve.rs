//! Which certificate we present: looked up by name in each handshake.

use std::fmt;
use std::sync::Arc;

use pymesh_model::tls::SecretName;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::SignatureScheme;

use crate::certificate::dns_covers;
use crate::secret::Identity;
use crate::SecretStore;

/// Names of identities and the store that has them.
pub(crate) struct Presented {
    pub(crate) names: Vec<SecretName>,
    pub(crate) store: Arc<SecretStore>,
}

impl Presented {
    fn choose(&self, sni: Option<&str>) -> Option<Arc<CertifiedKey>> {
        identity(&self.names, &self.store, sni).map(|identity| identity.certified.clone())
    }
}

/// The first identity whose names cover `sni`, otherwise the first there is.
fn identity(names: &[SecretName], store: &SecretStore, sni: Option<&str>) -> Option<Arc<Identity>> {
    let loaded = || names.iter().filter_map(|name| store.identity(name));
    if let (Some(sni), true) = (sni, names.len() > 1) {
        let covers = |dns: &String| dns_covers(dns, sni);
        if let Some(identity) = loaded().find(|identity| identity.dns_names().iter().any(covers)) {
            return Some(identity);
        }
    }
    loaded().next()
}

/// The URIs of the certificate that a server with these identities presents to a client
/// that asks for `sni` (`By` of `x-forwarded-client-cert`).
pub fn presented_uris(names: &[SecretName], store: &SecretStore, sni: Option<&str>) -> Vec<String> {
    identity(names, store, sni).map_or_else(Vec::new, |identity| identity.uris().to_vec())
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presented").field(&self.names).finish()
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(None)
    }

    fn has_certs(&self) -> bool {
        !self.names.is_empty()
    }
}
