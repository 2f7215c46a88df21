//! Who the endpoints of a cluster are, and who we are to them, as certificates say: what metrics tell of both ends.

use std::sync::Arc;

use pymesh_tls::{SecretStore, Session};

use super::host::Host;
use super::{ClusterRuntime, HostKey};
use crate::telemetry::Principals;

impl Host {
    /// Remembers whom a connection has found.
    pub fn identify(&mut self, tls: Option<&Session>) {
        let found = tls.and_then(Session::peer).and_then(|peer| peer.sans.uri.first());
        if self.principal.as_deref() != found.map(String::as_str) {
            self.principal = found.map(|uri| uri.as_str().into());
        }
    }
}

impl ClusterRuntime {
    /// Both ends of the connections to a host, once there was one.
    pub fn principals(&self, host: Option<HostKey>, secrets: &SecretStore) -> Principals {
        let Some(host) = host.and_then(|host| self.hosts.get(host)) else { return Principals::default() };
        let Some(peer) = host.principal.clone() else { return Principals::default() };
        let own = self.socket_for(&host.endpoint).tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        let own = own.map(|own| pymesh_tls::presented_uris(std::slice::from_ref(own), secrets, None));
        let own: Option<Arc<str>> = own.and_then(|uris| uris.first().map(|uri| uri.as_str().into()));
        Principals { own, peer: Some(peer) }
    }
}
