//! Mirroring: a request is sent to other clusters as well, and nobody waits for what they answer.
//!
//! Each mirror is an exchange of its own without a client ([`super::detached`]). It is begun when the first attempt of
//! the request has an endpoint, with a copy of its head as the route has left it; a retry is not mirrored again, nor is
//! a request that the proxy answers itself. What has come of the body by then is copied too, and what comes later as it
//! comes ([`Engine::mirror_data`], [`Engine::end_mirrors`]).
//!
//! # Invariants
//! * [`Exchange::mirrors`] names those that are still being told the request. They are forgotten with its end, and go on
//!   alone; if it is over before its end, they are cut off, since the rest will not come.
//! * A mirror never holds the request back: what it has not taken waits in its own exchange, up to [`ROOM`]; one that
//!   falls behind further is cut off (`retry_or_shadow_abandoned` of the request's cluster). Envoy lets a slow mirror
//!   hold the client back; that would be noticed.
//! * A tunnel is not mirrored: its octets are a conversation, and the mirror's half would be said by nobody.

use std::time::Duration;

use pymesh_http::{Known, RequestHead};
use pymesh_model::route::{HeaderMutation, Mirror, MirrorCluster, MirrorHost};

use super::detached::{Detached, Owner};
use super::edit;
use super::forward::{append_forwarded_for, decimal};
use super::sending::time_for_attempt;
use super::{Exchange, ExchangeKey};
use crate::cluster::{ClusterKey, HostKey};
use crate::engine::Engine;
use crate::route;
use crate::telemetry::{details, Flags};

/// Octets of a request that may wait for its mirror: what Envoy keeps of a request that it mirrors, if not told otherwise.
const ROOM: usize = 1 << 20;

/// The route has the request mirrored, as far as it can be.
pub(super) fn is_mirrored(exchange: &Exchange) -> bool {
    let forward = exchange.forward();
    forward.is_some_and(|forward| !forward.mirrors.is_empty()) && !exchange.tunnel.is_asked()
}

impl Engine {
    /// The request is about to go to `host`: so does a copy to each of the route's mirrors that is its turn.
    #[cold]
    pub(super) fn begin_mirrors(&mut self, key: ExchangeKey, cluster: ClusterKey, host: HostKey) {
        let Some(mut exchange) = self.exchanges.lend(key) else { return };
        let chosen = self.clusters.get(cluster).and_then(|cluster| cluster.hosts.get(host));
        exchange.endpoint = chosen.map(|host| host.endpoint.clone());
        let forward = exchange.forward().cloned();
        // One throw for all of them, as in Envoy: those with equal shares mirror the same requests.
        let throw = self.rng.below(1_000_000);
        for mirror in forward.iter().flat_map(|forward| forward.mirrors.iter()) {
            if throw < u64::from(mirror.fraction) {
                self.begin_mirror(&mut exchange, mirror);
            }
        }
        self.exchanges.give_back(key, exchange);
    }

    fn begin_mirror(&mut self, exchange: &mut Exchange, mirror: &Mirror) {
        let name = match &mirror.cluster {
            MirrorCluster::One(name) => Some(&**name),
            MirrorCluster::Header(header) => {
                exchange.request.headers.get(header.as_bytes()).and_then(|name| std::str::from_utf8(name).ok())
            }
        };
        let Some(cluster) = name.and_then(|name| self.cluster_named(name)) else { return };
        let Some(routed) = &exchange.routed else { return };
        let Some(forward) = routed.forward() else { return };
        let timeout = exchange.timeout_override.unwrap_or(forward.timeout);
        let connection_idle = exchange.http.as_ref().map_or(Duration::ZERO, |http| http.config.timeouts.stream_idle);
        let detached = Detached {
            idle_timeout: forward.idle_timeout.unwrap_or(connection_idle),
            tells_the_way: true,
            ..Detached::of(Owner::Mirror)
        };
        let mut head = std::mem::take(&mut self.scratch.request);
        head.clone_from(&exchange.request);
        self.rewrite_for_mirror(&mut head, exchange, mirror, timeout);
        if !head.is_well_formed() {
            // What configuration has made of it is no request.
            self.scratch.request = head;
            return;
        }
        let begun = self.begin_detached(detached, cluster, timeout, |request| std::mem::swap(request, &mut head));
        self.scratch.request = head;
        let body = &exchange.request_body;
        if !body.waiting().is_empty() {
            self.request_data(begun, body.waiting());
        }
        match body.is_complete() {
            true => self.request_ended(begun, &mut body.trailers.clone()),
            false => exchange.mirrors.push(begun),
        }
    }

    /// What a mirrored request says that the request does not.
    fn rewrite_for_mirror(&mut self, head: &mut RequestHead, exchange: &Exchange, mirror: &Mirror, timeout: Duration) {
        let virtual_host = exchange.routed.as_ref().and_then(|x| x.table.virtual_hosts.get(x.virtual_host));
        if virtual_host.is_some_and(|host| host.attempt_count_in_request) {
            head.headers.set_known(Known::XEnvoyAttemptCount, b"1");
        }
        let of_request = || {
            let forward = exchange.forward()?;
            time_for_attempt(exchange, forward, self.now)
        };
        if let Some(limit) = Some(timeout).filter(|limit| !limit.is_zero()).or_else(of_request) {
            let millis = decimal(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            head.headers.set_known(Known::XEnvoyExpectedRqTimeoutMs, millis.as_bytes());
        }
        let mut text = std::mem::take(&mut self.text);
        for mutation in &mirror.headers {
            match mutation {
                HeaderMutation::Remove(name) => drop(head.headers.remove(name.as_bytes())),
                HeaderMutation::RemoveMatching(names) => {
                    head.headers.retain(|_, name, _| !names.matches(name));
                }
                HeaderMutation::Append(add) => {
                    text.clear();
                    self.render_value(exchange, add, &mut text);
                    if !text.is_empty() || add.keep_empty {
                        edit::add(&mut head.headers, add, &text);
                    }
                }
            }
        }
        match &mirror.host {
            MirrorHost::Same => {}
            MirrorHost::Literal(host) => head.set_authority(host.as_bytes()),
            MirrorHost::Suffixed => {
                text.clear();
                suffixed(head.authority(), &mut text);
                head.set_authority(&text);
            }
        }
        self.text = text;
        head.headers.set(b"x-envoy-internal", b"true");
    }

    /// Octets of a mirrored request have come.
    #[cold]
    pub(super) fn mirror_data(&mut self, key: ExchangeKey, data: &[u8]) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let mut mirrors = std::mem::take(&mut exchange.mirrors);
        mirrors.retain(|mirror| {
            let Some(told) = self.exchanges.get(*mirror) else { return false };
            if told.request_body.waiting().len() > ROOM {
                self.abandon_mirror(key, *mirror);
                return false;
            }
            self.request_data(*mirror, data);
            true
        });
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.mirrors = mirrors;
        }
    }

    /// It takes too little of what it is told.
    fn abandon_mirror(&mut self, key: ExchangeKey, mirror: ExchangeKey) {
        let cluster = self.exchanges.get(key).and_then(|exchange| exchange.cluster);
        if let Some(cluster) = cluster.and_then(|cluster| self.clusters.get(cluster)) {
            cluster.stats.retry_or_shadow_abandoned.inc();
        }
        self.abandon(mirror, Flags::NONE, details::MIRROR_TOO_SLOW);
    }

    /// A mirrored request is complete. From here on its mirrors are on their own.
    #[cold]
    pub(super) fn end_mirrors(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let mut mirrors = std::mem::take(&mut exchange.mirrors);
        let trailers = exchange.request_body.trailers.clone();
        for mirror in mirrors.drain(..) {
            self.request_ended(mirror, &mut trailers.clone());
        }
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.mirrors = mirrors;
        }
    }

    /// An exchange is over: mirrors that have not been told the whole request will not be.
    pub(super) fn cut_mirrors(&mut self, exchange: &mut Exchange) {
        for mirror in exchange.mirrors.drain(..) {
            self.abandon(mirror, Flags::DOWNSTREAM_REMOTE_RESET, details::HTTP2_REMOTE_RESET);
        }
    }
}

/// The endpoint of a mirror, or of a question, is told by whom it is asked, as every proxy on the way is.
pub(super) fn tell_the_way(exchange: &mut Exchange, text: &mut Vec<u8>) {
    if let Some(own) = exchange.upstream_local {
        append_forwarded_for(&mut exchange.request.headers, own.ip(), text);
    }
}

/// `-shadow` stands behind the name, in front of a port. An IPv6 address stays as it is: with a suffix it is no host.
fn suffixed(authority: &[u8], out: &mut Vec<u8>) {
    let end = route::path::split_port(authority).map_or(authority.len(), |(at, _)| at);
    let (name, port) = authority.split_at_checked(end).unwrap_or((authority, &[]));
    out.extend_from_slice(name);
    if !name.starts_with(b"[") {
        out.extend_from_slice(b"-shadow");
    }
    out.extend_from_slice(port);
}

#[cfg(test)]
mod tests {
    use super::suffixed;

    #[test]
    fn hosts_of_mirrored_requests() {
        for (host, wanted) in [
            ("shop", "shop-shadow"),
            ("shop.test:8080", "shop.test-shadow:8080"),
            ("10.0.0.1", "10.0.0.1-shadow"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]:80"),
        ] {
            let mut out = Vec::new();
            suffixed(host.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
        }
    }
}
