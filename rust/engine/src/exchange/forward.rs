//! Header fields that a proxy adds, removes and rewrites on the way.

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_http::Known;
use pymesh_model::http::{ClientCert, Forwarding};
use pymesh_model::route::{Forward, HostRewrite};
use pymesh_tls::PeerIdentity;

use super::{ids, Exchange, ExchangeKey, Routed};
use crate::engine::Engine;
use crate::route;

impl Engine {
    /// What the client said about itself is made true, before routing sees it.
    pub(super) fn sanitize_request(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(http) = exchange.http.clone() else { return };
        let Some(conn) = exchange.down.and_then(|down| self.conns.get(down)) else { return };
        let scheme = exchange.request.scheme;
        let forwarding = &http.config.forwarding;
        if forwarding.use_remote_address {
            if !forwarding.skip_xff_append {
                append_forwarded_for(exchange, conn.remote.ip(), &mut self.text);
            }
            if forwarding.xff_trusted_hops == 0 {
                exchange.request.headers.set_known(Known::XForwardedProto, scheme.as_str().as_bytes());
            }
        }
        let headers = &mut exchange.request.headers;
        if !headers.contains_known(Known::XForwardedProto) {
            headers.append_known(Known::XForwardedProto, scheme.as_str().as_bytes());
        }
        let peer = conn.tls.as_ref().and_then(|tls| tls.peer());
        forward_client_cert(exchange, forwarding, peer, conn.tls.is_some(), &mut self.text);
        let headers = &mut exchange.request.headers;
        headers.remove_known(Known::XEnvoyExpectedRqTimeoutMs);
        headers.remove_known(Known::XEnvoyAttemptCount);
        headers.remove_known(Known::XEnvoyDecoratorOperation);
        if http.config.generate_request_id {
            let is_edge = forwarding.use_remote_address && !http.config.preserve_external_request_id;
            if is_edge || !headers.contains_known(Known::XRequestId) {
                headers.set_known(Known::XRequestId, &ids::request_id(&mut self.rng));
            }
        }
        if let Some(via) = &http.config.via {
            headers.append_known(Known::Via, via.as_bytes());
        }
    }

    /// What the route says about the request on its way upstream.
    pub(super) fn prepare_request(&mut self, key: ExchangeKey, routed: &Routed, forward: &Arc<Forward>) {
        let Some(mut exchange) = self.exchanges.lend(key) else { return };
        let timeout = effective_timeout(&exchange, forward);
        exchange.timeout_override = timeout;
        let timeout = timeout.unwrap_or(forward.timeout);
        if !timeout.is_zero() {
            let millis = decimal(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            exchange.request.headers.set_known(Known::XEnvoyExpectedRqTimeoutMs, millis.as_bytes());
        }
        self.edit_request_headers(&mut exchange, routed);
        if let Some(rewrite) = &forward.path_rewrite {
            let path = route::rewrite::path(rewrite, &routed.route.matches, exchange.request.path());
            if let Some(path) = path {
                if exchange.original_path.is_none() {
                    exchange.original_path = Some(exchange.request.path().to_vec());
                }
                let original = exchange.original_path.clone().unwrap_or_default();
                exchange.request.headers.set_known(Known::XEnvoyOriginalPath, &original);
                exchange.request.set_path(&path);
            }
        }
        let mut host = std::mem::take(&mut self.text);
        host.clear();
        match &forward.host_rewrite {
            Some(HostRewrite::Literal(literal)) => host.extend_from_slice(literal.as_bytes()),
            Some(HostRewrite::Header(name)) => {
                host.extend_from_slice(exchange.request.headers.get(name.as_bytes()).unwrap_or_default());
            }
            Some(HostRewrite::Endpoint) | None => {}
        }
        if !host.is_empty() {
            if forward.append_x_forwarded_host {
                let old = exchange.request.authority().to_vec();
                exchange.request.headers.append_known(Known::XForwardedHost, &old);
            }
            exchange.request.set_authority(&host);
        }
        self.text = host;
        if exchange.expects_continue {
            // We answer it ourselves.
            exchange.request.headers.remove_known(Known::Expect);
        }
        self.exchanges.give_back(key, exchange);
    }

    /// What the proxy adds to a response of an upstream.
    pub(super) fn finish_upstream_headers(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if let (Some(started), Some(received)) = (exchange.upstream_started, exchange.response_received) {
            let millis = decimal(received.since(started).as_millis() as u64);
            exchange.response.headers.set_known(Known::XEnvoyUpstreamServiceTime, millis.as_bytes());
        }
        let counts = exchange.routed.as_ref().is_some_and(|routed| {
            let vhost = routed.table.virtual_hosts.get(routed.virtual_host);
            vhost.is_some_and(|vhost| vhost.attempt_count_in_response)
        });
        if counts {
            let attempt = decimal(u64::from(exchange.attempt));
            exchange.response.headers.set_known(Known::XEnvoyAttemptCount, attempt.as_bytes());
        }
    }
}

/// A small number in decimal, without allocating.
pub(crate) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

pub(crate) fn decimal(mut n: u64) -> Decimal {
    let mut decimal = Decimal { digits: [b'0'; 20], start: 20 };
    loop {
        decimal.start -= 1;
        if let Some(digit) = decimal.digits.get_mut(decimal.start) {
            *digit = b'0' + (n % 10) as u8;
        }
        n /= 10;
        if n == 0 || decimal.start == 0 {
            return decimal;
        }
    }
}

fn append_forwarded_for(exchange: &mut Exchange, ip: IpAddr, text: &mut Vec<u8>) {
    let headers = &mut exchange.request.headers;
    text.clear();
    if let Some(old) = headers.get_known(Known::XForwardedFor).filter(|old| !old.is_empty()) {
        text.extend_from_slice(old);
        text.push(b',');
    }
    let _infallible = write!(text, "{}", ip.to_canonical());
    headers.set_known(Known::XForwardedFor, text);
}

/// The timeout that `grpc-timeout` asks for, if the route honours it.
fn effective_timeout(exchange: &Exchange, forward: &Forward) -> Option<Duration> {
    let cap = forward.grpc_timeout_max?;
    let wanted = route::grpc::timeout(exchange.request.headers.get_known(Known::GrpcTimeout)?)?;
    Some(if cap.is_zero() { wanted } else { wanted.min(cap) })
}

/// `x-forwarded-client-cert` (Envoy, "x-forwarded-client-cert").
fn forward_client_cert(
    exchange: &mut Exchange,
    how: &Forwarding,
    peer: Option<&PeerIdentity>,
    is_tls: bool,
    text: &mut Vec<u8>,
) {
    let headers = &mut exchange.request.headers;
    let ours = peer.filter(|_| is_tls);
    match (how.client_cert, ours) {
        (ClientCert::AlwaysForwardOnly, _) | (ClientCert::ForwardOnly, Some(_)) => {}
        (ClientCert::Sanitize | ClientCert::ForwardOnly, _)
        | (ClientCert::AppendForward | ClientCert::SanitizeSet, None) => {
            headers.remove_known(Known::XForwardedClientCert);
        }
        (ClientCert::AppendForward | ClientCert::SanitizeSet, Some(peer)) => {
            text.clear();
            let old = headers.get_known(Known::XForwardedClientCert);
            if let Some(old) = old.filter(|_| how.client_cert == ClientCert::AppendForward) {
                text.extend_from_slice(old);
                text.push(b',');
            }
            text.extend_from_slice(b"Hash=");
            for byte in peer.sha256 {
                let _infallible = write!(text, "{byte:02x}");
            }
            let details = how.client_cert_details;
            if details.subject {
                text.extend_from_slice(b";Subject=\"");
                for &byte in peer.subject.as_bytes() {
                    if byte == b'"' {
                        text.push(b'\\');
                    }
                    text.push(byte);
                }
                text.push(b'"');
            }
            if details.uri {
                for uri in &peer.sans.uri {
                    let _infallible = write!(text, ";URI={uri}");
                }
            }
            if details.dns {
                for dns in &peer.sans.dns {
                    let _infallible = write!(text, ";DNS={dns}");
                }
            }
            headers.set_known(Known::XForwardedClientCert, text);
        }
    }
}
