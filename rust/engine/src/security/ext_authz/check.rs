//! What a service is asked: a `CheckRequest`, with the same attributes as Envoy's.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use pymesh_http::{RequestHead, Version};
use pymesh_model::filter::HeaderNames;
use pymesh_model::metadata::{Metadata, Struct, Value};

use crate::base::protobuf::{sanitized, Message};

/// Says whether the service sees all of the body. What a client says of that is not passed on.
const PARTIAL_BODY: &[u8] = b"x-envoy-auth-partial-body";
const SERVICE: &[u8] = b"x-envoy-downstream-service-cluster";

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Peer<'a> {
    pub address: SocketAddr,
    /// What it calls itself.
    pub service: Cow<'a, [u8]>,
    /// Who it is by its certificate; empty without.
    pub principal: Cow<'a, str>,
    /// In DER; empty if the service is not to see it.
    pub certificate: Cow<'a, [u8]>,
}

/// What is known of the connection.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    pub source: Peer<'a>,
    pub destination: Peer<'a>,
    /// The name that the client asked for, if the service is to know of it.
    pub tls_session: Option<&'a str>,
    /// What filters have found out.
    pub metadata: &'a Metadata,
    /// What they have found out of the request that is asked about.
    pub request_metadata: Option<&'a Metadata>,
    /// The namespaces of it that the service is told.
    pub told: &'a [Arc<str>],
}

/// A request that is asked about.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub head: &'a RequestHead,
    pub id: u64,
    /// When it began, since the Unix epoch.
    pub started_nanos: u64,
    /// Octets of the body that have come.
    pub received: u64,
    /// As far as the service sees it.
    pub body: Option<Body<'a>>,
    pub shown: Option<&'a HeaderNames>,
    pub hidden: &'a HeaderNames,
    /// What the route says.
    pub context: &'a [(Box<str>, Box<str>)],
}

/// Of a body, what the service sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a> {
    pub octets: &'a [u8],
    /// There is more.
    pub is_partial: bool,
    pub as_bytes: bool,
}

impl Request<'_> {
    /// The headers that the service is shown: each name once, several values joined, as text.
    pub fn headers(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut headers: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        each_header(self.head, |name, value| {
            let is_shown = self.shown.is_none_or(|shown| shown.matches(name)) && !self.hidden.matches(name);
            if name == PARTIAL_BODY || !is_shown {
                return;
            }
            let value = sanitized(value);
            match headers.iter_mut().find(|(known, _)| known == name) {
                None => headers.push((name.to_vec(), value.into_owned())),
                Some((_, values)) => {
                    values.push(b',');
                    values.extend_from_slice(&value);
                }
            }
        });
        if let Some(body) = &self.body {
            let value: &[u8] = if body.is_partial { b"true" } else { b"false" };
            headers.push((PARTIAL_BODY.to_vec(), value.to_vec()));
        }
        headers
    }

    fn write(&self, message: &mut Message) {
        message.message(1, |time| {
            time.number(1, self.started_nanos / 1_000_000_000);
            time.number(2, self.started_nanos % 1_000_000_000);
        });
        message.message(2, |http| {
            http.octets(1, self.id.to_string().as_bytes());
            http.text(2, self.head.method_bytes());
            for (name, value) in self.headers() {
                http.entry(3, &name, &value);
            }
            http.text(4, self.head.path());
            http.text(5, self.head.authority());
            http.octets(6, self.head.scheme.as_str().as_bytes());
            http.number(9, self.received);
            http.octets(10, protocol(self.head));
            match &self.body {
                Some(body) if body.as_bytes => http.octets(12, body.octets),
                Some(body) => http.text(11, body.octets),
                None => {}
            }
        });
    }
}

/// A `CheckRequest`; without a request it asks about the connection.
pub(crate) fn message(connection: &Connection<'_>, request: Option<&Request<'_>>) -> Vec<u8> {
    let mut message = Message::default();
    message.message(1, |attributes| {
        attributes.message(1, |peer| write_peer(&connection.source, peer));
        attributes.message(2, |peer| write_peer(&connection.destination, peer));
        if let Some(request) = request {
            attributes.message(4, |part| request.write(part));
            for (key, value) in request.context {
                attributes.entry(10, key.as_bytes(), value.as_bytes());
            }
        }
        attributes.message(11, |metadata| write_metadata(connection, metadata));
        if let Some(name) = connection.tls_session {
            attributes.message(12, |session| session.text(1, name.as_bytes()));
        }
        if request.is_some() {
            // What the route's metadata says; Envoy writes this also where nothing is told.
            attributes.message(13, |_| {});
        }
    });
    message.into_octets()
}

/// The service of a client that says so, of which nothing is known.
pub(crate) fn service_of(head: &RequestHead) -> Cow<'_, [u8]> {
    Cow::Borrowed(head.headers.get(SERVICE).unwrap_or_default())
}

fn write_peer(peer: &Peer<'_>, message: &mut Message) {
    message.message(1, |address| {
        address.message(1, |socket| {
            socket.octets(2, peer.address.ip().to_string().as_bytes());
            socket.chosen_number(3, peer.address.port().into());
        });
    });
    message.text(2, &peer.service);
    message.octets(4, peer.principal.as_bytes());
    if !peer.certificate.is_empty() {
        message.octets(5, pem_in_url(&peer.certificate).as_bytes());
    }
}

/// Of each namespace what the request has, else what the connection has.
fn write_metadata(connection: &Connection<'_>, message: &mut Message) {
    for namespace in connection.told {
        let of_request = connection.request_metadata.and_then(|metadata| metadata.namespace(namespace));
        if let Some(fields) = of_request.or_else(|| connection.metadata.namespace(namespace)) {
            message.message(1, |entry| {
                entry.octets(1, namespace.as_bytes());
                entry.message(2, |part| write_struct(fields, part));
            });
        }
    }
}

fn write_struct(fields: &Struct, message: &mut Message) {
    for (key, value) in fields.iter() {
        message.message(1, |entry| {
            entry.octets(1, key.as_bytes());
            entry.message(2, |part| write_value(value, part));
        });
    }
}

fn write_value(value: &Value, message: &mut Message) {
    match value {
        Value::Null => message.chosen_number(1, 0),
        Value::Number(number) => message.double(2, *number),
        Value::String(text) => message.chosen_octets(3, text.as_bytes()),
        Value::Bool(truth) => message.chosen_number(4, u64::from(*truth)),
        Value::Struct(fields) => message.message(5, |part| write_struct(fields, part)),
        Value::List(values) => message.message(6, |list| {
            for one in values.iter() {
                list.message(1, |part| write_value(one, part));
            }
        }),
    }
}

/// Every field, pseudo-headers first.
fn each_header(head: &RequestHead, mut f: impl FnMut(&[u8], &[u8])) {
    f(b":method", head.method_bytes());
    if !head.path().is_empty() {
        f(b":path", head.path());
    }
    f(b":authority", head.authority());
    f(b":scheme", head.scheme.as_str().as_bytes());
    for field in head.headers.iter() {
        f(field.name, field.value);
    }
}

fn protocol(head: &RequestHead) -> &'static [u8] {
    match head.version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
        Version::Http2 => b"HTTP/2",
    }
}

/// A certificate as Envoy shows it: PEM, percent-encoded where a URL needs that.
fn pem_in_url(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN%20CERTIFICATE-----%0A");
    for (index, octet) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            out.push_str("%0A");
        }
        match octet {
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            other => out.push(other),
        }
    }
    out.push_str("%0A-----END%20CERTIFICATE-----%0A");
    out
}
