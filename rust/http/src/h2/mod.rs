//! HTTP/2 (RFC 9113), with extended CONNECT (RFC 8441).
//!
//! A [`Connection`] is one end of one connection, client or server. Octets
//! from the peer go in through [`Connection::receive`], which yields one
//! [`Event`] at a time; octets for the peer are taken from
//! [`Connection::output`]. There is no socket, clock or thread.
//!
//! # What the codec promises
//! * Every head that comes out as an event is well formed: pseudo-headers
//!   complete and in order, names lower case, values free of control
//!   characters, no connection-specific field, and the body as long as
//!   `content-length` says. What is not is answered here (RST_STREAM or GOAWAY).
//! * No body octet is buffered: DATA comes out in the pieces it came in.
//! * Whatever the peer does, memory is bounded by [`Limits`].
//! * How the input is cut into pieces changes nothing but the cuts of
//!   [`Event::Data`].
//!
//! # Who gives windows back
//! Octets of [`Event::Data`] stay charged to both windows until the consumer
//! says [`Connection::release`]; padding, and DATA for streams that are gone,
//! the codec gives back itself. A reset, from either side, gives back at once
//! all that the stream still held of the connection's window, and a later
//! `release` for it does nothing. A stream that ended normally keeps its charge
//! until it is released, so that a slow consumer still holds the peer back; a
//! consumer that gives up on it says [`Connection::reset`].
mod connection;
mod frame;
mod head;
mod output;
mod receive;
mod send;
mod settings;
mod streams;

pub use connection::Connection;
pub use frame::{ErrorCode, PREFACE};

use crate::{Headers, Limits, RequestHead, ResponseHead};

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams.
    Client,
    /// Answers them.
    Server,
}

/// What a connection is made with.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Which end this is.
    pub role: Role,
    /// Bounds on what the peer may do.
    pub limits: Limits,
    /// Server: accept extended CONNECT (RFC 8441) and say so in SETTINGS.
    pub enable_connect_protocol: bool,
}

impl Config {
    /// Default limits, no extended CONNECT.
    pub fn new(role: Role) -> Config {
        Config { role, limits: Limits::default(), enable_connect_protocol: false }
    }
}

/// A stream's number on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// The number on the wire.
    pub fn value(self) -> u32 {
        self.0
    }
}

/// Room for heads, owned by the caller and reused from event to event.
#[derive(Default)]
pub struct Scratch {
    /// Filled by [`Event::Request`].
    pub request: RequestHead,
    /// Filled by [`Event::Response`].
    pub response: ResponseHead,
    /// Filled by [`Event::Trailers`].
    pub trailers: Headers,
}

/// Something that the peer did. `tag` is what the engine gave the stream with
/// [`Connection::set_tag`] or [`Connection::open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Server: a request has come; its head is in [`Scratch::request`].
    Request {
        /// The new stream.
        stream: StreamId,
        /// There is no body and there are no trailers.
        end_stream: bool,
    },
    /// Server: a request head beyond the limits has come and was dropped. The
    /// stream is open: answer it (431), then [`Connection::reset`] it.
    HeadTooLarge {
        /// The new stream.
        stream: StreamId,
    },
    /// Server: a request head that broke a rule has come and was dropped; its stream was reset.
    Malformed {
        /// The rule.
        fault: &'static str,
    },
    /// Client: a response head, perhaps interim, is in [`Scratch::response`].
    Response {
        /// The stream.
        stream: StreamId,
        /// The engine's key for it.
        tag: u32,
        /// There is no body and there are no trailers.
        end_stream: bool,
    },
    /// A piece of a body, which must be given back with [`Connection::release`].
    Data {
        /// The stream.
        stream: StreamId,
        /// The engine's key for it.
        tag: u32,
        /// The octets; empty only if `end_stream`.
        data: &'a [u8],
        /// The message is complete.
        end_stream: bool,
    },
    /// Trailers, in [`Scratch::trailers`]. The message is complete.
    Trailers {
        /// The stream.
        stream: StreamId,
        /// The engine's key for it.
        tag: u32,
    },
    /// The stream is gone. Nothing more can be sent or will come on it.
    Reset {
        /// The stream.
        stream: StreamId,
        /// The engine's key for it.
        tag: u32,
        /// Why. [`ErrorCode::REFUSED_STREAM`] without a fault: not processed, safe to retry.
        code: ErrorCode,
        /// The rule that the peer broke, for which we reset the stream; none: the peer did.
        fault: Option<&'static str>,
    },
    /// More may be sent: on this stream, or perhaps on any.
    WindowOpened {
        /// The stream and its tag; `None` for the connection or a new initial window.
        stream: Option<(StreamId, u32)>,
    },
    /// The peer is closing. Streams of ours above `last_stream` follow as [`Event::Reset`].
    GoAway {
        /// The last stream that the peer may process.
        last_stream: StreamId,
        /// Why.
        code: ErrorCode,
    },
    /// The peer's settings have changed; perhaps more streams may be opened.
    SettingsChanged,
    /// The answer to [`Connection::ping`].
    PingAck([u8; 8]),
}

/// The connection is over; GOAWAY with `code` stands in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionError {
    /// What the peer is told.
    pub code: ErrorCode,
    /// Stable, for logs and metrics.
    pub reason: &'static str,
}

impl std::fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HTTP/2 connection error {}: {}", self.code, self.reason)
    }
}

impl std::error::Error for ConnectionError {}

/// Stable reasons of a [`ConnectionError`] or of a stream's reset, in Envoy's words where it has them.
pub mod reason {
    use super::ErrorCode;

    /// A field that no message may have, or not there, or not twice.
    pub const INVALID_FIELD: &str = "http2.invalid.header.field";
    /// Good fields that are no message, or a body that is not as long as they say (RFC 9113 section 8.1).
    pub const MESSAGING_RULE: &str = "http2.violation.of.messaging.rule";

    /// What a stream was reset for that was not malformed.
    pub(super) fn of(code: ErrorCode) -> &'static str {
        match code {
            ErrorCode::STREAM_CLOSED => "http2.stream_closed",
            ErrorCode::FLOW_CONTROL_ERROR => "http2.flow_control_error",
            ErrorCode::ENHANCE_YOUR_CALM => "http2.enhance_your_calm",
            _ => "http2.protocol_error",
        }
    }

    /// More frames in answer to the peer are unsent than `outbound_control_frames`.
    pub const OUTBOUND_CONTROL_FLOOD: &str = "http2.outbound_control_frames_flood";
    /// More frames are unsent than `outbound_frames`.
    pub const OUTBOUND_FLOOD: &str = "http2.outbound_frames_flood";
    /// More empty frames in a row than `empty_frames`.
    pub const EMPTY_FRAMES: &str = "http2.inbound_empty_frames_flood";
    /// More PRIORITY frames than `priority_frames_per_stream` allows.
    pub const PRIORITY_FRAMES: &str = "http2.inbound_priority_frames_flood";
    /// More WINDOW_UPDATE frames than `window_updates_per_data_frame` allows.
    pub const WINDOW_UPDATE_FRAMES: &str = "http2.inbound_window_update_frames_flood";
    /// More CONTINUATION frames than `continuation_frames`.
    pub const CONTINUATION_FRAMES: &str = "http2.inbound_continuation_frames_flood";
    /// More streams torn down than `premature_resets`.
    pub const PREMATURE_RESETS: &str = "too_many_premature_resets";
}

/// Counts of what has happened on a connection, for metrics; see [`Connection::take_tally`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Streams that the peer has reset.
    pub rx_reset: u32,
    /// Streams that this end has reset.
    pub tx_reset: u32,
    /// Streams that broke a rule of HTTP's messages.
    pub rx_messaging_error: u32,
    /// Heads and trailers beyond the limits.
    pub header_overflow: u32,
    /// Streams with more interim responses than the limit.
    pub too_many_header_frames: u32,
    /// Streams refused because too many were open.
    pub stream_refused: u32,
    /// Streams refused because the heads of the others hold as much memory as they may.
    pub header_memory_overflow: u32,
    /// GOAWAY frames sent.
    pub goaway_sent: u32,
}

/// Why a stream could not be opened. Nothing was sent: a retry elsewhere is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The peer allows no more streams now.
    TooManyStreams,
    /// The connection is closing, or has used up its stream numbers.
    Closing,
    /// Extended CONNECT, which the peer has not enabled.
    ConnectProtocolUnsupported,
    /// This end is a server.
    NotClient,
}

/// The stream has ended or was reset, or this side has said END_STREAM already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamGone;

#[cfg(test)]
mod tests;
