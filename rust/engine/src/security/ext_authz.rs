//! External authorization: what a service is asked, and what its answer means (`envoy.service.auth.v3`).
//!
//! Pure: [`check`] makes a `CheckRequest` of what is known of a request or a connection, [`grpc`] reads a
//! `CheckResponse`, [`http`] does both for a service that speaks plain HTTP. Each answer becomes a [`Decision`], which the
//! filter carries out (`http_filter/ext_authz.rs`).
//!
//! # Invariants
//! * Only an answer that is whole and says so allows. Anything else is [`Verdict::Failed`]: none, one that cannot be read,
//!   one that is longer than [`LARGEST_ANSWER`].
//! * What a service says of headers is looked at before any of it is done: a name or value that no header can have makes
//!   the whole answer one that cannot be carried out ([`Decision::is_sound`]). Envoy does that with `validate_mutations`
//!   only, and else sends on what it was told.
//! * What frames a message, or belongs to one connection, is never the service's to say: such headers are left out.

pub(crate) mod check;
pub(crate) mod grpc;
pub(crate) mod http;

use std::time::Duration;

use pymesh_http::is_token;
use pymesh_model::metadata::{Struct, Value};
use pymesh_model::route::AppendAction;

/// Octets of an answer that are looked at. One that is longer is none.
pub(crate) const LARGEST_ANSWER: usize = 1 << 20;

/// What has come of a question.
#[derive(Debug, PartialEq)]
pub(crate) struct Decision {
    pub verdict: Verdict,
    /// All that it says can be done.
    pub is_sound: bool,
    /// What filters behind are to be told.
    pub metadata: Struct,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Allowed(Changes),
    Denied(Denial),
    /// There is no answer, or the service itself says that it could not decide.
    Failed(Denial),
}

/// What becomes of a request that may pass.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    /// Of its headers, in order of the kinds.
    pub set: Vec<Field>,
    pub add: Vec<Field>,
    /// Behind the value that is there; where there is none, nothing.
    pub join: Vec<Field>,
    pub remove: Vec<Vec<u8>>,
    /// Of the headers of its response, in order.
    pub response: Vec<(AppendAction, Field)>,
    pub set_query: Vec<(Vec<u8>, Vec<u8>)>,
    pub remove_query: Vec<Vec<u8>>,
}

/// What a request is answered with that may not.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Denial {
    /// `None`: nothing was said.
    pub status: Option<u16>,
    pub headers: Vec<Field>,
    pub body: Vec<u8>,
}

/// A header: its name in lower case, its value.
pub(crate) type Field = (Vec<u8>, Vec<u8>);

impl Decision {
    /// Nobody has answered.
    pub fn failed() -> Decision {
        Decision { verdict: Verdict::Failed(Denial::default()), is_sound: true, metadata: Struct::default() }
    }

    /// Filters behind are told also how long it took, as by Envoy.
    pub fn tell_duration(&mut self, took: Duration) {
        #[allow(clippy::cast_precision_loss)]
        let millis = took.as_millis() as f64;
        let said = self.metadata.iter().map(|(key, value)| (key.into(), value.clone()));
        self.metadata = said.chain([("ext_authz_duration".into(), Value::Number(millis))]).collect();
    }
}

impl Changes {
    /// The request is not what it was.
    pub fn touches_request(&self) -> bool {
        // As in Envoy what is added does not count.
        !(self.set.is_empty()
            && self.join.is_empty()
            && self.remove.is_empty()
            && self.set_query.is_empty()
            && self.remove_query.is_empty())
    }
}

/// A status that an answer may have; anything else would leave the client waiting.
fn final_status(code: u64) -> Option<u16> {
    u16::try_from(code).ok().filter(|status| (200..600).contains(status))
}

/// RFC 9110, section 5.1; or a pseudo-header, which stands for a part of the request line.
fn is_name(name: &[u8]) -> bool {
    is_token(name.strip_prefix(b":").unwrap_or(name))
}

/// What may stand in a query as it is.
fn is_query(text: &[u8]) -> bool {
    text.iter().all(|octet| octet.is_ascii_graphic() && !b"&=#\"<>\\^`{|}".contains(octet))
}

/// What frames a message or belongs to one connection.
pub(crate) fn is_of_connection(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"keep-alive"
            | b"proxy-connection"
            | b"transfer-encoding"
            | b"upgrade"
            | b"te"
            | b"content-length"
    )
}
