//! Listener filters: what looks at a connection before its filter chain is chosen.
//!
//! They run in the order of the configuration, each until it knows what it
//! wants to know. Inspectors consume nothing: whoever is chosen reads the same
//! octets again. Only the header of the PROXY protocol is taken off, and the
//! addresses in it are those of the connection from there on. A filter that needs more octets holds up the connection until they
//! come or the time for all filters is over, so one whose protocol may have a
//! server that speaks first has to be disabled for its port, or has to have
//! `continue_on_listener_filters_timeout`.

use pymesh_http::proxy_protocol::{self, Parsed, Version};
use pymesh_http::{h2, is_token_octet};
use pymesh_model::listener::{ListenerFilterKind, ProxyProtocol, TransportProtocol};
use pymesh_tls::client_hello::{self, Inspect};

use super::Conn;
use crate::engine::Engine;
use crate::listener::{FilterStats, ListenerRuntime};

/// Where the filters of a connection stand, and what they have found.
#[derive(Default)]
pub(crate) struct Inspection {
    /// The filter whose turn it is.
    at: usize,
    pub transport: TransportProtocol,
    pub server_name: Option<Box<str>>,
    pub protocols: Vec<String>,
}

/// What a filter says about the octets so far.
enum Verdict {
    /// It knows enough.
    Continue,
    /// It waits for more.
    NeedMore,
    /// The connection is not to go on.
    Close,
}

/// Longest request line that is waited for, as in Envoy.
const MAX_REQUEST_LINE: usize = 64 * 1024;

impl Engine {
    /// Lets the filters look at what has arrived, then chooses a filter chain.
    pub(crate) fn run_listener_filters(&mut self, conn: &mut Conn) {
        let Some(down) = conn.downstream_mut() else { return };
        let listener = down.listener.clone();
        let mut inspection = down.inspection.take().unwrap_or_default();
        while let Some(filter) = listener.config.listener_filters.get(inspection.at) {
            let is_disabled = filter.disabled.as_ref().is_some_and(|predicate| predicate.holds(conn.local.port()));
            let verdict = match &filter.kind {
                _ if is_disabled => Verdict::Continue,
                ListenerFilterKind::TlsInspector => inspect_tls(conn.input.as_slice(), &listener, &mut inspection),
                ListenerFilterKind::HttpInspector => inspect_http(conn.input.as_slice(), &listener, &mut inspection),
                ListenerFilterKind::ProxyProtocol(allowed) => read_proxy_header(conn, *allowed, &listener.filter_stats),
            };
            match verdict {
                Verdict::Continue => inspection.at += 1,
                Verdict::Close => return self.close_now(conn),
                Verdict::NeedMore => {
                    if let Some(down) = conn.downstream_mut() {
                        down.inspection = Some(inspection);
                    }
                    return;
                }
            }
        }
        if let Some(down) = conn.downstream_mut() {
            down.inspection = Some(inspection);
        }
        self.choose_chain(conn);
    }

    /// The filters took too long: go on with what they have found, or close.
    pub(crate) fn on_listener_filters_timeout(&mut self, conn: &mut Conn) {
        let Some(listener) = conn.downstream().map(|down| down.listener.clone()) else { return };
        listener.stats.downstream_pre_cx_timeout.inc();
        match listener.config.continue_on_listener_filters_timeout {
            true => self.choose_chain(conn),
            false => self.close_now(conn),
        }
    }
}

fn inspect_tls(octets: &[u8], listener: &ListenerRuntime, inspection: &mut Inspection) -> Verdict {
    let stats = &listener.filter_stats.tls_inspector;
    match client_hello::inspect(octets) {
        Inspect::NeedMore => Verdict::NeedMore,
        Inspect::TooLarge => {
            stats.client_hello_too_large.inc();
            Verdict::Close
        }
        Inspect::NotTls => {
            stats.tls_not_found.inc();
            Verdict::Continue
        }
        Inspect::Hello { sni, alpn } => {
            stats.tls_found.inc();
            if sni.is_some() { &stats.sni_found } else { &stats.sni_not_found }.inc();
            if alpn.is_empty() { &stats.alpn_not_found } else { &stats.alpn_found }.inc();
            inspection.transport = TransportProtocol::Tls;
            inspection.server_name = sni.map(String::into_boxed_str);
            inspection.protocols = alpn.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            Verdict::Continue
        }
    }
}

fn inspect_http(octets: &[u8], listener: &ListenerRuntime, inspection: &mut Inspection) -> Verdict {
    if inspection.transport == TransportProtocol::Tls {
        return Verdict::Continue;
    }
    let stats = &listener.filter_stats.http_inspector;
    let protocol = match find_http(octets) {
        Sniff::NeedMore if octets.len() >= MAX_REQUEST_LINE => {
            stats.read_error.inc();
            return Verdict::Close;
        }
        Sniff::NeedMore => return Verdict::NeedMore,
        Sniff::NotHttp => {
            stats.http_not_found.inc();
            return Verdict::Continue;
        }
        Sniff::Http(protocol) => protocol,
    };
    match protocol {
        "h2c" => stats.http2_found.inc(),
        "http/1.0" => stats.http10_found.inc(),
        _ => stats.http11_found.inc(),
    }
    inspection.protocols = vec![protocol.to_owned()];
    Verdict::Continue
}

fn read_proxy_header(conn: &mut Conn, allowed: ProxyProtocol, stats: &FilterStats) -> Verdict {
    let is_allowed = |version| match version {
        Version::V1 => allowed.allows_v1,
        Version::V2 => allowed.allows_v2,
    };
    let octets = conn.input.as_slice();
    let is_sought = |version: &Version| is_allowed(*version) && proxy_protocol::may_begin(octets, *version);
    if allowed.is_optional && ![Version::V1, Version::V2].iter().any(is_sought) {
        // A header of a version that is not allowed is no header here, as in Envoy: its octets
        // are the first of whatever follows.
        stats.proxy_protocol.not_found_allowed.inc();
        return Verdict::Continue;
    }
    let parsed = proxy_protocol::parse(octets);
    let version = match &parsed {
        Parsed::NeedMore => return Verdict::NeedMore,
        Parsed::Absent => {
            stats.proxy_protocol.not_found_disallowed.inc();
            return Verdict::Close;
        }
        Parsed::Header(header) => header.version,
        Parsed::Malformed(version) => *version,
    };
    let stats = match version {
        Version::V1 => &stats.proxy_protocol_v1,
        Version::V2 => &stats.proxy_protocol_v2,
    };
    match parsed {
        _ if !is_allowed(version) => {
            stats.found.inc();
            stats.disallowed.inc();
        }
        Parsed::Header(header) => {
            stats.found.inc();
            conn.input.advance(header.length);
            if let Some(addresses) = header.addresses {
                conn.remote = addresses.source;
                conn.local = addresses.destination;
            }
            return Verdict::Continue;
        }
        _ => stats.error.inc(),
    }
    Verdict::Close
}

#[derive(Debug, PartialEq, Eq)]
enum Sniff {
    NeedMore,
    /// The name that filter chains match.
    Http(&'static str),
    NotHttp,
}

/// Looks for a request line (RFC 9112, section 3) or the HTTP/2 preface.
fn find_http(octets: &[u8]) -> Sniff {
    let known = octets.len().min(h2::PREFACE.len());
    if octets.get(..known) == h2::PREFACE.get(..known) {
        return if octets.len() < h2::PREFACE.len() { Sniff::NeedMore } else { Sniff::Http("h2c") };
    }
    let end = octets.iter().position(|octet| *octet == b'\n');
    let line = octets.get(..end.unwrap_or(octets.len())).unwrap_or_default();
    let method = line.iter().take_while(|octet| is_token_octet(**octet)).count();
    let is_method = method > 0 && line.get(method).is_none_or(|octet| *octet == b' ');
    if !is_method {
        return Sniff::NotHttp;
    }
    if end.is_none() {
        return Sniff::NeedMore;
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|octet| *octet == b' ');
    let (method, target, version, more) = (words.next(), words.next(), words.next(), words.next());
    let is_target = target.is_some_and(|target| method == Some(b"CONNECT") || is_target(target));
    match version {
        _ if !is_target || more.is_some() => Sniff::NotHttp,
        Some(b"HTTP/1.1") => Sniff::Http("http/1.1"),
        // Any other version, and none, is called 1.0, as in Envoy.
        None | Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => Sniff::Http("http/1.0"),
        Some(_) => Sniff::NotHttp,
    }
}

/// A path, `*`, or a whole URI (RFC 9112, section 3.2): a line of another protocol has none of these.
fn is_target(word: &[u8]) -> bool {
    word.starts_with(b"/") || word == b"*" || word.windows(3).any(|three| three == b"://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_found_by_its_first_line() {
        for (octets, found) in [
            (&b""[..], Sniff::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Sniff::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Sniff::Http("h2c")),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n", Sniff::Http("http/1.0")),
            (b"GET", Sniff::NeedMore),
            (b"GET / HTTP/1.1\r", Sniff::NeedMore),
            (b"GET / HTTP/1.1\r\n", Sniff::Http("http/1.1")),
            (b"M-SEARCH * HTTP/1.0\nHost", Sniff::Http("http/1.0")),
            (b"GET /\r\n", Sniff::Http("http/1.0")),
            (b"GET \r\n", Sniff::NotHttp),
            (b"HELO mail.test\r\n", Sniff::NotHttp),
            (b"CONNECT mail.test:25 HTTP/1.1\r\n", Sniff::Http("http/1.1")),
            (b"GET http://a.test/ HTTP/1.1\r\n", Sniff::Http("http/1.1")),
            (b"GET / RTSP/1.0\r\n", Sniff::NotHttp),
            (b"GET / and more HTTP/1.1\r\n", Sniff::NotHttp),
            (b"\r\nGET / HTTP/1.1\r\n", Sniff::NotHttp),
            (b"\x16\x03\x01", Sniff::NotHttp),
            (b" / HTTP/1.1\r\n", Sniff::NotHttp),
        ] {
            assert_eq!(find_http(octets), found, "{:?}", octets.escape_ascii().to_string());
        }
    }
}
