//! Header fields that a proxy adds, removes and rewrites on the way.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use pymesh_http::{Headers, Known, RequestHead, Scheme, Version};
use pymesh_model::http::{ClientCert, Forwarding};
use pymesh_model::route::{Forward, HostRewrite};

use super::{ids, Exchange, ExchangeKey, Routed};
use crate::engine::Engine;
use crate::route;
use crate::telemetry::{details, Facts};

impl Engine {
    /// What the client said about itself is made true, before routing sees it.
    pub(super) fn sanitize_request(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key).map(|exchange| &mut **exchange) else { return };
        let Some(http) = exchange.http.as_ref() else { return };
        let Some(conn) = exchange.down.and_then(|down| self.conns.get(down)) else { return };
        // Not what the client of HTTP/2 claims in `:scheme`.
        let transport = if conn.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let forwarding = &http.config.forwarding;
        remove_twins(&mut exchange.request.headers);
        let is_internal = is_internal(forwarding, &exchange.request.headers, conn.remote.ip());
        let is_edge = forwarding.use_remote_address && !is_internal;
        exchange.is_internal = is_internal;
        match is_internal {
            true => exchange.request.headers.set(b"x-envoy-internal", b"true"),
            false => remove_orders(&mut exchange.request.headers, is_edge),
        }
        if forwarding.use_remote_address {
            let client = client_address(&exchange.request.headers, forwarding.xff_trusted_hops, conn.remote.ip());
            if is_edge {
                self.text.clear();
                write_ip(client, &mut self.text);
                exchange.request.headers.set_known(Known::XEnvoyExternalAddress, &self.text);
            }
            if !forwarding.skip_xff_append {
                append_forwarded_for(&mut exchange.request.headers, conn.remote.ip(), &mut self.text);
            }
            if forwarding.xff_trusted_hops == 0 {
                exchange.request.headers.set_known(Known::XForwardedProto, transport.as_str().as_bytes());
            }
        }
        let headers = &mut exchange.request.headers;
        if !headers.contains_known(Known::XForwardedProto) {
            headers.append_known(Known::XForwardedProto, transport.as_str().as_bytes());
        }
        // HTTP/1 has no scheme of its own: it is the one that the first proxy saw.
        if exchange.request.version != Version::Http2 {
            let told = headers.get_known(Known::XForwardedProto).and_then(Scheme::from_name);
            exchange.request.scheme = told.unwrap_or(transport);
        }
        let facts = exchange.facts.as_deref().filter(|_| conn.tls.is_some());
        forward_client_cert(&mut exchange.request.headers, forwarding, facts, &mut self.text);
        let headers = &mut exchange.request.headers;
        if http.config.generate_request_id {
            let is_replaced = is_edge && !http.config.preserve_external_request_id;
            if is_replaced || !headers.contains_known(Known::XRequestId) {
                headers.set_known(Known::XRequestId, &ids::request_id(&mut self.rng));
            }
        }
        if let Some(via) = &http.config.via {
            headers.append_known(Known::Via, via.as_bytes());
        }
    }

    /// What the route says about the request on its way upstream.
    pub(super) fn prepare_request(&mut self, key: ExchangeKey) {
        let Some(mut exchange) = self.exchanges.lend(key) else { return };
        exchange.limit_time();
        self.edit_request_headers(&mut exchange);
        let mut host = std::mem::take(&mut self.text);
        exchange.rewrite(&mut host);
        self.text = host;
        if exchange.answers_expect() {
            exchange.request.headers.remove_known(Known::Expect);
        }
        self.exchanges.give_back(key, exchange);
    }

    /// What the proxy adds to a response of an upstream.
    pub(super) fn finish_upstream_headers(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        // From the end of the request, if it came to an end before it was answered.
        if exchange.tunnel.is_asked() {
            return;
        }
        if let (Some(complete), Some(received)) = (exchange.request_received, exchange.response_received) {
            let millis = decimal(u64::try_from(received.since(complete).as_millis()).unwrap_or(u64::MAX));
            exchange.response.headers.set_known(Known::XEnvoyUpstreamServiceTime, millis.as_bytes());
        }
    }

    /// How many attempts the response took, also if it is the proxy's own; none for a request that was never to be
    /// forwarded, or has outlived what the connection manager allows, which knows of no attempts.
    pub(super) fn tell_attempts(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key).filter(|exchange| exchange.attempt > 0) else { return };
        if exchange.is_local && OVERDUE.contains(&&*exchange.details) {
            return;
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

impl Exchange {
    /// How long its route lets the request take.
    fn limit_time(&mut self) {
        let Some(forward) = self.routed.as_ref().and_then(Routed::forward) else { return };
        let general = self.http.as_ref().map_or(Duration::ZERO, |http| http.config.timeouts.max_stream_duration);
        let duration = max_duration(&self.request, forward, general);
        self.max_duration = duration.unwrap_or_default();
        self.timeout_override = effective_timeout(&self.request, forward);
        // The server keeps the same time, if any.
        match duration.filter(|_| forward.stream.is_set() && route::matcher::is_grpc(&self.request)) {
            None => {}
            Some(Duration::ZERO) => {
                self.request.headers.remove_known(Known::GrpcTimeout);
            }
            Some(limit) => {
                let told = route::grpc::timeout_value(limit);
                self.request.headers.set_known(Known::GrpcTimeout, told.as_bytes());
            }
        }
        if self.is_internal {
            if let Some(ordered) = take_millis(&mut self.request.headers, b"x-envoy-upstream-rq-timeout-ms") {
                self.timeout_override = Some(ordered);
            }
        }
    }

    /// Its path and its host, as the route rewrites them; `host` is memory to work with.
    fn rewrite(&mut self, host: &mut Vec<u8>) {
        let Exchange { routed, request, .. } = self;
        let Some((routed, forward)) = routed.as_ref().and_then(|routed| Some((routed, routed.forward()?))) else {
            return;
        };
        if let Some(rewrite) = forward.path_rewrite.as_ref().filter(|_| !request.path().is_empty()) {
            let path = route::rewrite::path(rewrite, &routed.route.matches, request.path());
            let original = request.path().to_vec();
            request.headers.set_known(Known::XEnvoyOriginalPath, &original);
            request.set_path(&path);
        }
        host.clear();
        match &forward.host_rewrite {
            Some(HostRewrite::Literal(literal)) => host.extend_from_slice(literal.as_bytes()),
            Some(HostRewrite::Header(name)) => {
                host.extend_from_slice(request.headers.get(name.as_bytes()).unwrap_or_default());
            }
            Some(HostRewrite::Endpoint) | None => {}
        }
        if !host.is_empty() {
            rewrite_host(request, host, forward.append_x_forwarded_host);
        }
    }
}

/// Answers of the connection manager, not of the router.
const OVERDUE: [&str; 3] =
    [details::MAX_DURATION_TIMEOUT, details::STREAM_IDLE_TIMEOUT, details::REQUEST_OVERALL_TIMEOUT];

/// Sends the request to another host; the old one is told in `x-envoy-original-host`.
pub(super) fn rewrite_host(request: &mut RequestHead, host: &[u8], append_x_forwarded_host: bool) {
    let old = request.authority().to_vec();
    if append_x_forwarded_host {
        request.headers.append_known(Known::XForwardedHost, &old);
    }
    request.headers.set_known(Known::XEnvoyOriginalHost, &old);
    request.set_authority(host);
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

/// What a caller may tell a proxy only from an address that the configuration calls internal. The list is Envoy's.
const ORDERS: [&[u8]; 15] = [
    b"x-envoy-expected-rq-timeout-ms",
    b"x-envoy-force-trace",
    b"x-envoy-hedge-on-per-try-timeout",
    b"x-envoy-internal",
    b"x-envoy-ip-tags",
    b"x-envoy-max-retries",
    b"x-envoy-original-url",
    b"x-envoy-retriable-header-names",
    b"x-envoy-retriable-status-codes",
    b"x-envoy-retry-grpc-on",
    b"x-envoy-retry-on",
    b"x-envoy-upstream-alt-stat-name",
    b"x-envoy-upstream-rq-per-try-timeout-ms",
    b"x-envoy-upstream-rq-timeout-alt-response",
    b"x-envoy-upstream-rq-timeout-ms",
];
/// What one proxy tells the next, and nobody from outside.
const BEHIND_THE_EDGE: [&[u8]; 3] =
    [b"x-envoy-decorator-operation", b"x-envoy-downstream-service-cluster", b"x-envoy-downstream-service-node"];

/// What proxies alone may say of a request: an application believes it.
fn is_of_proxies(known: Option<Known>, name: &[u8]) -> bool {
    use Known::{XForwardedClientCert, XForwardedFor, XForwardedHost, XForwardedProto, XRequestId};
    matches!(known, Some(XForwardedClientCert | XForwardedFor | XForwardedHost | XForwardedProto | XRequestId))
        || name.starts_with(b"x-envoy-")
        || name == b"forwarded"
}

/// An application that reads names as variables, as CGI and WSGI do, cannot tell `x_forwarded_for` from the field that
/// was made true. Other names with underscores are the configuration's to allow.
fn remove_twins(headers: &mut Headers) {
    let is_twin = |known: Option<Known>, name: &[u8]| {
        if known.is_some() || !name.contains(&b'_') {
            return false;
        }
        let dashed: Vec<u8> = name.iter().map(|octet| if *octet == b'_' { b'-' } else { *octet }).collect();
        is_of_proxies(Known::from_name(&dashed), &dashed)
    };
    if headers.iter().any(|field| is_twin(field.known, field.name)) {
        headers.retain(|known, name, _| !is_twin(known, name));
    }
}

/// What is not believed in a head is not let in behind it. Nor is what would ask for something: no proxy has looked there
/// (RFC 9110 section 6.5.1).
pub(super) fn clean_trailers(trailers: &mut Headers) {
    use Known::{Cookie, Expect, ProxyAuthorization, Range};
    remove_twins(trailers);
    trailers.retain(|known, name, _| {
        !matches!(known, Some(Cookie | Expect | ProxyAuthorization | Range)) && !is_of_proxies(known, name)
    });
}

fn remove_orders(headers: &mut Headers, is_edge: bool) {
    let is_order = |name: &[u8]| {
        name.starts_with(b"x-envoy-") && (ORDERS.contains(&name) || is_edge && BEHIND_THE_EDGE.contains(&name))
    };
    if headers.iter().any(|field| is_order(field.name)) {
        headers.retain(|_, name, _| !is_order(name));
    }
}

/// The only proxy that has seen the request is this one or, if that does not use the peer's address, the one before it,
/// and the client's address is one of `internal_address_config`.
fn is_internal(how: &Forwarding, headers: &Headers, peer: IpAddr) -> bool {
    if how.internal.is_empty() {
        return false;
    }
    let address = match (how.use_remote_address, headers.get_known(Known::XForwardedFor)) {
        (true, None) => Some(peer),
        // More than one address is no address.
        (false, Some(told)) if how.xff_trusted_hops == 0 => {
            std::str::from_utf8(told).ok().and_then(|told| told.trim().parse().ok())
        }
        _ => None,
    };
    address.is_some_and(|address| how.internal.iter().any(|range| range.contains(address)))
}

/// Who sent the request to the first proxy that is trusted: the peer, or the address that
/// the nearest of `hops` trusted proxies has added to `x-forwarded-for`.
fn client_address(headers: &Headers, hops: u32, peer: IpAddr) -> IpAddr {
    let told = hops.checked_sub(1).and_then(|behind| {
        let value = std::str::from_utf8(headers.get_known(Known::XForwardedFor)?).ok()?;
        value.rsplit(',').nth(behind as usize)?.trim().parse().ok()
    });
    told.unwrap_or(peer).to_canonical()
}

/// The client of a request whose headers have been made true, as far as proxies in front are believed: the peer, or one
/// that `x-forwarded-for` names (Envoy's `remote_ip`).
pub(crate) fn trusted_client(headers: &Headers, how: &Forwarding, peer: IpAddr) -> IpAddr {
    if !how.use_remote_address {
        return client_address(headers, how.xff_trusted_hops.saturating_add(1), peer);
    }
    match how.xff_trusted_hops {
        0 => peer.to_canonical(),
        // The peer has been added by now, unless that is left out.
        hops => client_address(headers, hops + u32::from(!how.skip_xff_append), peer),
    }
}

pub(super) fn append_forwarded_for(headers: &mut Headers, ip: IpAddr, text: &mut Vec<u8>) {
    text.clear();
    if let Some(old) = headers.get_known(Known::XForwardedFor).filter(|old| !old.is_empty()) {
        text.extend_from_slice(old);
        text.push(b',');
    }
    write_ip(ip.to_canonical(), text);
    headers.set_known(Known::XForwardedFor, text);
}

/// What `Display` writes, for the kind of address that most clients have without its machinery.
fn write_ip(ip: IpAddr, text: &mut Vec<u8>) {
    let IpAddr::V4(ip) = ip else {
        let _infallible = write!(text, "{ip}");
        return;
    };
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            text.push(b'.');
        }
        if octet >= 100 {
            text.push(b'0' + octet / 100);
        }
        if octet >= 10 {
            text.push(b'0' + octet / 10 % 10);
        }
        text.push(b'0' + octet % 10);
    }
}

/// The route's timeout as `grpc-timeout` has it, with the deprecated `max_grpc_timeout` (Envoy's rules, zero included).
fn effective_timeout(request: &RequestHead, forward: &Forward) -> Option<Duration> {
    let limits = forward.grpc_timeout.filter(|_| route::matcher::is_grpc(request))?;
    let wanted = grpc_timeout(request).unwrap_or_default();
    let wanted = wanted.checked_sub(limits.offset).filter(|left| !left.is_zero()).unwrap_or(wanted);
    let is_capped = !limits.max.is_zero() && (wanted.is_zero() || limits.max < wanted);
    Some(if is_capped { limits.max } else { wanted })
}

/// How long the exchange may last: as `grpc-timeout` says where the route honours it, else as route or connection
/// manager say; `None` where nobody says anything. Zero means no limit.
fn max_duration(request: &RequestHead, forward: &Forward, general: Duration) -> Option<Duration> {
    match (grpc_timeout(request), forward.stream.grpc) {
        (Some(wanted), Some(limits)) => {
            let capped = if limits.max.is_zero() { wanted } else { wanted.min(limits.max) };
            // What is over already is over at once.
            Some(capped.saturating_sub(limits.offset).max(Duration::from_nanos(1)))
        }
        _ => forward.stream.max.or(Some(general).filter(|general| !general.is_zero())),
    }
}

/// A time that a trusted client orders. The order goes no further, also if it is no number.
fn take_millis(headers: &mut Headers, name: &[u8]) -> Option<Duration> {
    let millis = headers.get(name).and_then(|millis| std::str::from_utf8(millis).ok()?.parse().ok());
    headers.remove(name);
    millis.map(Duration::from_millis)
}

/// What the client says in `grpc-timeout`, in whole milliseconds as Envoy takes it; nobody is cut short by that.
fn grpc_timeout(request: &RequestHead) -> Option<Duration> {
    let wanted = route::grpc::timeout(request.headers.get_known(Known::GrpcTimeout)?)?;
    let millis = u64::try_from(wanted.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    Some(Duration::from_millis(millis))
}

/// `x-forwarded-client-cert` (Envoy, "x-forwarded-client-cert").
pub(crate) fn forward_client_cert(headers: &mut Headers, how: &Forwarding, tls: Option<&Facts>, text: &mut Vec<u8>) {
    let ours = tls.and_then(|tls| Some((tls, tls.peer.as_ref()?)));
    match (how.client_cert, ours) {
        (ClientCert::AlwaysForwardOnly, _) | (ClientCert::ForwardOnly, Some(_)) => {}
        (ClientCert::Sanitize | ClientCert::ForwardOnly, _)
        | (ClientCert::AppendForward | ClientCert::SanitizeSet, None) => {
            headers.remove_known(Known::XForwardedClientCert);
        }
        (ClientCert::AppendForward | ClientCert::SanitizeSet, Some((tls, peer))) => {
            text.clear();
            let old = headers.get_known(Known::XForwardedClientCert);
            if let Some(old) = old.filter(|_| how.client_cert == ClientCert::AppendForward) {
                text.extend_from_slice(old);
                text.push(b',');
            }
            for uri in &tls.own_uris {
                let _infallible = write!(text, "By={uri};");
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

#[cfg(test)]
mod tests {
    use pymesh_tls::PeerIdentity;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name.as_bytes(), value.as_bytes());
        }
        headers
    }

    #[test]
    fn what_proxies_say_has_no_twin_and_no_trailer() {
        let forged = [
            ("x_forwarded_client_cert", "URI=spiffe://a/b"),
            ("x-forwarded_for", "10.0.0.1"),
            ("x_envoy_internal", "true"),
        ];
        let mut head = headers(&[&forged[..], &[("x_mine", "1"), ("content_length", "1"), ("range", "a")]].concat());
        remove_twins(&mut head);
        assert_eq!(head, headers(&[("x_mine", "1"), ("content_length", "1"), ("range", "a")]));
        let asked = [("x-request-id", "1"), ("forwarded", "for=a"), ("cookie", "a"), ("range", "a"), ("expect", "a")];
        let mut trailers = headers(&[&forged[..], &asked, &[("x-checksum", "1"), ("grpc-status", "0")]].concat());
        clean_trailers(&mut trailers);
        assert_eq!(trailers, headers(&[("x-checksum", "1"), ("grpc-status", "0")]));
    }

    #[test]
    fn a_time_that_is_none_is_no_order_and_goes_no_further() {
        for (told, time) in [("200", Some(Duration::from_millis(200))), ("200x", None), ("", None)] {
            let mut head = headers(&[("x-envoy-upstream-rq-timeout-ms", told), ("x-a", "b")]);
            assert_eq!(take_millis(&mut head, b"x-envoy-upstream-rq-timeout-ms"), time);
            assert_eq!(head, headers(&[("x-a", "b")]));
        }
    }

    #[test]
    fn an_address_is_written_as_it_is_displayed() {
        for ip in ["0.0.0.0", "10.96.0.1", "100.9.99.110", "255.255.255.255", "::1", "2001:db8::a:0:0:1"] {
            let mut text = b"before,".to_vec();
            write_ip(ip.parse().unwrap(), &mut text);
            assert_eq!(String::from_utf8(text).unwrap(), format!("before,{ip}"));
        }
    }

    #[test]
    fn orders_from_outside_are_removed() {
        let told = headers(&[
            ("x-envoy-internal", "true"),
            ("x-envoy-attempt-count", "2"),
            ("x-envoy-max-retries", "9"),
            ("x-envoy-decorator-operation", "x"),
            ("x-other", "1"),
        ]);
        for (is_edge, left) in [
            (false, &["x-envoy-attempt-count", "x-envoy-decorator-operation", "x-other"][..]),
            (true, &["x-envoy-attempt-count", "x-other"]),
        ] {
            let mut headers = told.clone();
            remove_orders(&mut headers, is_edge);
            let names: Vec<&str> = headers.iter().filter_map(|f| std::str::from_utf8(f.name).ok()).collect();
            assert_eq!(names, left);
        }
    }

    #[test]
    fn the_client_is_behind_the_trusted_proxies() {
        let peer = IpAddr::from([127, 0, 0, 1]);
        let chain = headers(&[("x-forwarded-for", "192.0.2.9, 192.0.2.2,nonsense")]);
        let of = |hops| client_address(&chain, hops, peer).to_string();
        assert_eq!([of(2), of(3)], ["192.0.2.2", "192.0.2.9"]);
        for hops in [0, 1, 4] {
            assert_eq!(of(hops), peer.to_string());
        }
        assert_eq!(client_address(&Headers::new(), 1, peer), peer);
    }

    #[test]
    fn both_ends_of_mutual_tls_are_told() {
        let peer = PeerIdentity {
            subject: "CN=\"c\"".into(),
            issuer: String::new(),
            serial: String::new(),
            sans: pymesh_tls::SubjectAltNames { uri: vec!["spiffe://d/c".into()], ..Default::default() },
            sha256: [0xab; 32],
            not_before: 0,
            not_after: 0,
        };
        let unspecified = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        let facts = Facts {
            remote: unspecified,
            direct_remote: unspecified,
            local: unspecified,
            server_name: None,
            peer: Some(peer),
            own_uris: vec!["spiffe://d/s".into()],
            tls_version: None,
            tls_cipher: None,
            peer_id: 1,
            id: 1,
            chain: "".into(),
            metadata: Default::default(),
        };
        let mut how = Forwarding { client_cert: ClientCert::AppendForward, ..Forwarding::default() };
        how.client_cert_details.subject = true;
        how.client_cert_details.uri = true;
        let ours = format!("By=spiffe://d/s;Hash={};Subject=\"CN=\\\"c\\\"\";URI=spiffe://d/c", "ab".repeat(32));
        let told = headers(&[("x-forwarded-client-cert", "Hash=1")]);
        for (client_cert, tls, wanted) in [
            (ClientCert::AppendForward, Some(&facts), Some(format!("Hash=1,{ours}"))),
            (ClientCert::SanitizeSet, Some(&facts), Some(ours.clone())),
            (ClientCert::SanitizeSet, None, None),
            (ClientCert::Sanitize, Some(&facts), None),
            (ClientCert::AlwaysForwardOnly, None, Some("Hash=1".into())),
        ] {
            let mut headers = told.clone();
            forward_client_cert(&mut headers, &Forwarding { client_cert, ..how.clone() }, tls, &mut Vec::new());
            let value = headers.get_known(Known::XForwardedClientCert);
            assert_eq!(value.map(String::from_utf8_lossy).as_deref(), wanted.as_deref());
        }
    }

    #[test]
    fn the_old_host_is_told() {
        let mut request = RequestHead::default();
        request.set_authority(b"old");
        rewrite_host(&mut request, b"new", true);
        assert_eq!(request.authority(), b"new");
        assert_eq!(request.headers, headers(&[("x-forwarded-host", "old"), ("x-envoy-original-host", "old")]));
    }
}
