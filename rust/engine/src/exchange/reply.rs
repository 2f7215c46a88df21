//! The proxy's own answers.

use pymesh_http::{Known, Method, Version};

use super::{ExchangeKey, Stage};
use crate::engine::Engine;
use crate::route;
use crate::telemetry::{details, Details, Flags};

/// An answer that the proxy gives itself.
#[derive(Debug)]
pub(crate) struct LocalReply {
    pub status: u16,
    pub details: Details,
    pub flags: Flags,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub extra_headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
    /// For gRPC, in place of what follows from the HTTP status.
    pub grpc_status: Option<u32>,
    /// It is the same for gRPC, and no route changes its headers.
    pub is_verbatim: bool,
    /// The connection is of no further use.
    pub close: bool,
}

impl LocalReply {
    pub fn new(status: u16, details: impl Into<Details>) -> Self {
        LocalReply {
            status,
            details: details.into(),
            flags: Flags::NONE,
            headers: Vec::new(),
            extra_headers: Vec::new(),
            body: Vec::new(),
            grpc_status: None,
            is_verbatim: false,
            close: false,
        }
    }

    pub fn with_flags(mut self, flags: Flags) -> Self {
        self.flags.insert(flags);
        self
    }

    pub fn with_body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub fn verbatim(mut self) -> Self {
        self.is_verbatim = true;
        self
    }

    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Time has run out. Whoever is told that a service is unavailable asks again, of this there is no point; so it has
    /// a status of its own in gRPC, though not in the mapping from HTTP (Envoy, behind the runtime guard
    /// `grpc_timeout_returns_deadline_exceeded`).
    fn is_late(&self) -> bool {
        self.flags.contains(Flags::UPSTREAM_REQUEST_TIMEOUT) || *self.details == *details::MAX_DURATION_TIMEOUT
    }
}

impl Engine {
    /// Answers in place of an upstream. For gRPC the status travels as
    /// trailers-only (gRPC over HTTP/2, "Responses"), so that clients see it.
    pub(crate) fn reply_locally(&mut self, key: ExchangeKey, reply: LocalReply) {
        self.end_calls(key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if let Some(question) = exchange.asking.take() {
            // It is answered without.
            self.withdraw(question);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.request_body.collects = None;
        exchange.request_body.stream = None;
        exchange.is_local = true;
        exchange.is_verbatim = reply.is_verbatim;
        exchange.has_response = true;
        exchange.is_edited = false;
        exchange.stage = Stage::Replying;
        exchange.flags.insert(reply.flags);
        exchange.details = reply.details.clone();
        if exchange.cluster_config.is_none() {
            // What a filter answers would have gone there.
            self.name_cluster(key);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        // A client of gRPC-Web reads the status of HTTP, as from Envoy, and the reason as that of gRPC.
        let web = exchange.grpc_web.as_ref().filter(|_| !reply.is_verbatim).map(|web| web.content_type());
        let is_grpc = !reply.is_verbatim && route::matcher::is_grpc(&exchange.request) && web.is_none();
        let response = &mut exchange.response;
        response.clear();
        response.version = Version::Http11;
        response.status = reply.status;
        for (name, value) in &reply.headers {
            response.headers.append(name.as_bytes(), value);
        }
        for (name, value) in &reply.extra_headers {
            response.headers.append_lower(name, value);
        }
        let body = &mut exchange.response_body;
        body.clear();
        body.ended = true;
        if is_grpc {
            response.status = 200;
            response.headers.set_known(Known::ContentType, b"application/grpc");
            if !response.headers.contains_known(Known::GrpcStatus) {
                let by_status = if reply.is_late() { GRPC_DEADLINE_EXCEEDED } else { grpc_status(reply.status) };
                let code = reply.grpc_status.unwrap_or(by_status.into()).to_string();
                response.headers.append_known(Known::GrpcStatus, code.as_bytes());
            }
            if !reply.body.is_empty() && exchange.request.method != Method::Head {
                response.headers.set_known(Known::GrpcMessage, &percent_encode(&reply.body));
            }
        } else if let Some(content_type) = web {
            response.headers.set_known(Known::ContentType, content_type);
            if !reply.body.is_empty() {
                response.headers.append_known(Known::GrpcStatus, grpc_status(reply.status).to_string().as_bytes());
                response.headers.set_known(Known::GrpcMessage, &percent_encode(&reply.body));
            }
        } else if !reply.body.is_empty() && !matches!(response.status, 204 | 304) {
            if !response.headers.contains_known(Known::ContentType) {
                response.headers.set_known(Known::ContentType, b"text/plain");
            }
            let length = reply.body.len().to_string();
            response.headers.set_known(Known::ContentLength, length.as_bytes());
            // To HEAD the fields speak of the body that GET would have had (RFC 9110 section 9.3.2).
            if exchange.request.method != Method::Head {
                body.buffer.extend(&reply.body);
                body.total = reply.body.len() as u64;
            }
        }
        if reply.close {
            if let Some(conn) = exchange.down.and_then(|down| self.conns.get_mut(down)) {
                if let crate::conn::Protocol::Http1Server(h1) = &mut conn.protocol {
                    h1.keep_alive = false;
                }
            }
        }
    }
}

const GRPC_DEADLINE_EXCEEDED: u8 = 4;

/// The mapping of HTTP status codes (gRPC, "HTTP to gRPC Status Code Mapping").
fn grpc_status(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `grpc-message` is percent-encoded outside of printable ASCII.
fn percent_encode(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    for &byte in message {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.extend(format!("%{byte:02X}").bytes()),
            _ => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_mapping_and_message() {
        assert_eq!([400, 401, 403, 404, 429, 503, 500].map(grpc_status), [13, 16, 7, 12, 14, 14, 2]);
        assert_eq!(percent_encode("a%ü".as_bytes()), b"a%25%C3%BC");
    }
}
