//! Why an attempt failed before it was over, in Envoy's words.

use pymesh_model::route::RetryOn;

use crate::telemetry::{details, Flags};

/// Why an attempt failed before it was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection; nothing was sent.
    Connect,
    /// No connection in time; nothing was sent.
    ConnectTimeout,
    /// The connection closed.
    Closed,
    /// The stream was reset.
    Reset,
    /// The stream was refused before it was looked at.
    RefusedStream,
    /// The upstream broke the protocol.
    Protocol,
    /// A circuit breaker is open; nothing was sent.
    Overflow,
    /// No answer within the time of one attempt.
    PerTryTimeout,
    /// Nothing came or went for as long as one attempt may stand still.
    PerTryIdleTimeout,
    /// The attempt lasted as long as the cluster lets any (`max_stream_duration`).
    StreamDuration,
}

impl Failure {
    pub fn flag(self) -> Flags {
        match self {
            Failure::Connect | Failure::ConnectTimeout => Flags::UPSTREAM_CONNECTION_FAILURE,
            Failure::Closed => Flags::UPSTREAM_TERMINATION,
            Failure::Reset | Failure::RefusedStream => Flags::UPSTREAM_RESET,
            Failure::Protocol => Flags::UPSTREAM_PROTOCOL_ERROR,
            Failure::Overflow => Flags::UPSTREAM_OVERFLOW,
            Failure::PerTryTimeout | Failure::PerTryIdleTimeout => Flags::UPSTREAM_REQUEST_TIMEOUT,
            Failure::StreamDuration => Flags::UPSTREAM_MAX_STREAM_DURATION,
        }
    }

    pub fn details(self) -> &'static str {
        match self {
            Failure::Connect => details::UPSTREAM_CONNECTION_FAILURE,
            Failure::ConnectTimeout => details::UPSTREAM_CONNECT_TIMEOUT,
            Failure::Closed => details::UPSTREAM_CONNECTION_TERMINATION,
            Failure::Reset => details::UPSTREAM_REMOTE_RESET,
            Failure::RefusedStream => details::UPSTREAM_REFUSED_STREAM,
            Failure::Protocol => details::UPSTREAM_PROTOCOL_ERROR,
            Failure::Overflow => details::UPSTREAM_OVERFLOW,
            Failure::PerTryTimeout => details::UPSTREAM_PER_TRY_TIMEOUT,
            Failure::PerTryIdleTimeout => details::UPSTREAM_PER_TRY_IDLE_TIMEOUT,
            Failure::StreamDuration => details::UPSTREAM_MAX_STREAM_DURATION,
        }
    }

    /// The same for an answer that breaks off.
    pub fn details_after_response(self) -> &'static str {
        match self {
            Failure::Closed => details::UPSTREAM_CLOSED_AFTER_RESPONSE,
            Failure::Protocol => details::UPSTREAM_PROTOCOL_ERROR_AFTER_RESPONSE,
            Failure::PerTryIdleTimeout | Failure::StreamDuration => self.details(),
            _ => details::UPSTREAM_RESET_AFTER_RESPONSE,
        }
    }

    /// What the client is told; `is_whole` if its request is.
    pub fn status(self, is_whole: bool) -> u16 {
        match self {
            Failure::PerTryTimeout | Failure::PerTryIdleTimeout => 504,
            Failure::StreamDuration if is_whole => 504,
            Failure::StreamDuration => 408,
            Failure::Protocol => 502,
            _ => 503,
        }
    }

    /// In words.
    pub fn reason(self) -> &'static str {
        match self {
            Failure::Connect => "remote connection failure",
            Failure::ConnectTimeout => "connection timeout",
            Failure::Closed => "connection termination",
            Failure::Reset => "remote reset",
            Failure::RefusedStream => "remote refused stream reset",
            Failure::Protocol => "protocol error",
            Failure::Overflow => "overflow",
            Failure::PerTryTimeout | Failure::PerTryIdleTimeout => "upstream request timeout",
            Failure::StreamDuration => "upstream max stream duration reached",
        }
    }

    /// What Envoy tells the client.
    pub fn body(self, is_repeated: bool) -> String {
        let reason = self.reason();
        if matches!(self, Failure::PerTryTimeout | Failure::PerTryIdleTimeout | Failure::StreamDuration) {
            return reason.to_owned();
        }
        let repeated = if is_repeated { "retried and the latest " } else { "" };
        format!("upstream connect error or disconnect/reset before headers. {repeated}reset reason: {reason}")
    }

    /// The upstream has ended the attempt.
    pub fn is_of_upstream(self) -> bool {
        matches!(self, Failure::Closed | Failure::Reset | Failure::RefusedStream | Failure::Protocol)
    }

    /// Whether one of the conditions names it. A full circuit breaker is never a reason to ask for more.
    pub fn is_retried(self, on: &RetryOn, request_was_sent: bool) -> bool {
        let by_its_kind = match self {
            Failure::Overflow => return false,
            Failure::Connect | Failure::ConnectTimeout => on.connect_failure,
            Failure::RefusedStream => on.refused_stream,
            _ => false,
        };
        let unsent = on.reset_before_request && !request_was_sent;
        by_its_kind || unsent || on.reset || on.server_error || on.gateway_error
    }
}
