//! Response flags and response code details, in Envoy's words.

use std::fmt;
use std::sync::Arc;

macro_rules! flags {
    ($($name:ident = $short:literal, $long:literal, $doc:literal;)*) => {
        /// Numbers the flags, so that no two have one bit.
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Bit {
            $($name,)*
        }

        impl Flags {
            $(#[doc = $doc] pub const $name: Flags = Flags(1 << Bit::$name as u32);)*
            const NAMES: &'static [(Flags, &'static str, &'static str)] = &[$((Flags::$name, $short, $long),)*];
        }
    };
}

/// A set of response flags (`%RESPONSE_FLAGS%`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

// In the order in which they are printed: Envoy sets that of the retry before that of the failure. Envoy's others stand
// in `tests/interop/test_same_response_flags.py`, each with the reason why nothing here provokes it.
flags! {
    DELAY_INJECTED = "DI", "DelayInjected", "The request was held back on purpose.";
    FAULT_INJECTED = "FI", "FaultInjected", "The request was answered with a failure on purpose.";
    RATE_LIMITED = "RL", "RateLimited", "The request was one too many.";
    UPSTREAM_RETRY_LIMIT = "URX", "UpstreamRetryLimitExceeded", "The last retry failed too.";
    NO_HEALTHY_UPSTREAM = "UH", "NoHealthyUpstream", "No healthy endpoint in the cluster.";
    UPSTREAM_CONNECTION_FAILURE = "UF", "UpstreamConnectionFailure", "The connection to the endpoint failed.";
    UPSTREAM_OVERFLOW = "UO", "UpstreamOverflow", "A circuit breaker is open.";
    NO_ROUTE = "NR", "NoRouteFound", "No route matched.";
    NO_CLUSTER = "NC", "NoClusterFound", "The route names a cluster that is not known.";
    DOWNSTREAM_TERMINATION = "DC", "DownstreamConnectionTermination", "The client went away.";
    DOWNSTREAM_REMOTE_RESET = "DR", "DownstreamRemoteReset", "The client reset the stream.";
    UPSTREAM_REQUEST_TIMEOUT = "UT", "UpstreamRequestTimeout", "The upstream took too long.";
    UPSTREAM_RESET = "UR", "UpstreamRemoteReset", "The upstream reset the stream.";
    UPSTREAM_TERMINATION = "UC", "UpstreamConnectionTermination", "The upstream closed the connection.";
    UPSTREAM_MAX_STREAM_DURATION = "UMSDR", "UpstreamMaxStreamDurationReached", "The attempt lasted as long as the cluster lets any.";
    STREAM_IDLE_TIMEOUT = "SI", "StreamIdleTimeout", "The stream made no progress.";
    DOWNSTREAM_PROTOCOL_ERROR = "DPE", "DownstreamProtocolError", "The client broke the protocol.";
    UPSTREAM_PROTOCOL_ERROR = "UPE", "UpstreamProtocolError", "The upstream broke the protocol.";
    DURATION_TIMEOUT = "DT", "DurationTimeout", "A relayed connection lived too long.";
    DROP_OVERLOAD = "DO", "DropOverload", "The cluster's endpoints are to be spared this share of requests.";
    UNCONDITIONAL_DROP_OVERLOAD = "UDO", "UnconditionalDropOverload", "The cluster's endpoints are to be spared all requests.";
    UNAUTHORIZED_EXTERNAL = "UAEX", "UnauthorizedExternalService", "A filter refused the request.";
}

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);

    /// The flag with this short name.
    pub fn named(short: &str) -> Option<Flags> {
        Flags::NAMES.iter().find(|(_, name, _)| *name == short).map(|(flag, ..)| *flag)
    }

    /// This set and another.
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Adds another set.
    pub fn insert(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    /// True if all of `other` is set.
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if no flag is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// As bits, for use in keys.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Flags {
    /// By their long names.
    pub fn long(self) -> impl fmt::Display {
        Long(self)
    }

    fn names(self, names: impl Iterator<Item = (Flags, &'static str)>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut separator = "";
        for (_, name) in names.filter(|(flag, _)| self.contains(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// By their short names.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.names(Flags::NAMES.iter().map(|(flag, short, _)| (*flag, *short)), f)
    }
}

struct Long(Flags);

impl fmt::Display for Long {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.names(Flags::NAMES.iter().map(|(flag, _, long)| (*flag, *long)), f)
    }
}

/// A response code detail: one of [`details`], or one that the configuration has made.
#[derive(Clone, Debug)]
pub(crate) enum Details {
    Fixed(&'static str),
    Made(Arc<str>),
}

/// By their text.
impl PartialEq for Details {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Details {}

impl Default for Details {
    fn default() -> Self {
        Details::Fixed("")
    }
}

impl From<&'static str> for Details {
    fn from(fixed: &'static str) -> Self {
        Details::Fixed(fixed)
    }
}

impl std::ops::Deref for Details {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Details::Fixed(text) => text,
            Details::Made(text) => text,
        }
    }
}

/// Response code details (`%RESPONSE_CODE_DETAILS%`).
#[allow(missing_docs)]
pub mod details {
    pub const VIA_UPSTREAM: &str = "via_upstream";
    pub const ROUTE_NOT_FOUND: &str = "route_not_found";
    pub const CLUSTER_NOT_FOUND: &str = "cluster_not_found";
    pub const DIRECT_RESPONSE: &str = "direct_response";
    pub const PROXY_PROTOCOL_NEEDS_TCP: &str = "proxy_protocol_needs_tcp_proxy";
    pub const NO_HEALTHY_UPSTREAM: &str = "no_healthy_upstream";
    pub const UPSTREAM_RESPONSE_TIMEOUT: &str = "response_timeout";
    pub const UPSTREAM_PER_TRY_TIMEOUT: &str = "upstream_per_try_timeout";
    pub const UPSTREAM_PER_TRY_IDLE_TIMEOUT: &str = "upstream_per_try_idle_timeout";
    pub const UPSTREAM_MAX_STREAM_DURATION: &str = "upstream_max_stream_duration_reached";
    pub const STREAM_IDLE_TIMEOUT: &str = "stream_idle_timeout";
    pub const MAX_DURATION_TIMEOUT: &str = "max_duration_timeout";
    pub const REQUEST_OVERALL_TIMEOUT: &str = "request_overall_timeout";
    pub const REQUEST_HEADER_TIMEOUT: &str = "request_header_timeout";
    pub const DOWNSTREAM_REMOTE_DISCONNECT: &str = "downstream_remote_disconnect";
    pub const HTTP2_REMOTE_RESET: &str = "http2.remote_reset";
    pub const HTTP2_REMOTE_REFUSE: &str = "http2.remote_refuse";
    /// Of a mirrored request, which no log tells.
    pub const MIRROR_TOO_SLOW: &str = "mirror_too_slow";
    /// Told to nobody: whoever has asked is gone, or was answered otherwise.
    pub const ASKED_NO_MORE: &str = "asked_no_more";
    /// In brackets why, as Envoy writes it.
    pub const DRAIN_DEADLINE: &str = "downstream_local_disconnect(drain_deadline)";
    pub const UPSTREAM_OVERFLOW: &str = "upstream_reset_before_response_started{overflow}";
    pub const UPSTREAM_CONNECTION_FAILURE: &str = "upstream_reset_before_response_started{remote_connection_failure}";
    pub const UPSTREAM_CONNECT_TIMEOUT: &str = "upstream_reset_before_response_started{connection_timeout}";
    pub const UPSTREAM_CONNECTION_TERMINATION: &str = "upstream_reset_before_response_started{connection_termination}";
    pub const UPSTREAM_REMOTE_RESET: &str = "upstream_reset_before_response_started{remote_reset}";
    pub const UPSTREAM_REFUSED_STREAM: &str = "upstream_reset_before_response_started{remote_refused_stream_reset}";
    pub const UPSTREAM_PROTOCOL_ERROR: &str = "upstream_reset_before_response_started{protocol_error}";
    pub const UPSTREAM_RESET_AFTER_RESPONSE: &str = "upstream_reset_after_response_started{remote_reset}";
    pub const UPSTREAM_PROTOCOL_ERROR_AFTER_RESPONSE: &str = "upstream_reset_after_response_started{protocol_error}";
    pub const UPSTREAM_CLOSED_AFTER_RESPONSE: &str = "upstream_reset_after_response_started{connection_termination}";
    pub const PATH_NORMALIZATION_FAILED: &str = "path_normalization_failed";
    pub const ABSOLUTE_PATH_REJECTED: &str = "absolute_path_rejected";
    pub const LOW_VERSION: &str = "low_version";
    pub const MISSING_HOST: &str = "missing_host_header";
    pub const UNDERSCORES_REFUSED: &str = "http1.unexpected_underscore";
    pub const UNDERSCORES_REFUSED_HTTP2: &str = "http2.unexpected_underscore";
    pub const GRPC_WEB_NOT_BASE64: &str = "grpc_base_64_decode_failed";
    pub const REWRITTEN_UNFIT: &str = "rewritten_request_unfit";
    pub const UPGRADE_FAILED: &str = "upgrade_failed";
    pub const FILTER_REFUSED: &str = "filter_reply";
    pub const FILTER_FAILED: &str = "filter_failed";
    pub const CORS_RESPONSE: &str = "cors_response";
    pub const EXT_AUTHZ_DENIED: &str = "ext_authz_denied";
    pub const EXT_AUTHZ_ERROR: &str = "ext_authz_error";
    pub const EXT_AUTHZ_INVALID: &str = "ext_authz_invalid";
    pub const RESPONSE_PAYLOAD_TOO_LARGE: &str = "response_payload_too_large";
    pub const REQUEST_PAYLOAD_TOO_LARGE: &str = "request_payload_too_large";
    pub const LOCAL_RATE_LIMITED: &str = "local_rate_limited";
    pub const FAULT_FILTER_ABORT: &str = "fault_filter_abort";
    pub const OVERLOAD: &str = "overload";
    pub const DROP_OVERLOAD: &str = "drop_overload";
    pub const UNCONDITIONAL_DROP_OVERLOAD: &str = "unconditional_drop_overload";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_bit_of_its_own() {
        let all = Flags::NAMES.iter().fold(Flags::NONE, |all, (flag, ..)| all.with(*flag));
        assert_eq!(all.bits().count_ones() as usize, Flags::NAMES.len());
    }

    #[test]
    fn prints_as_envoy_does() {
        assert_eq!(Flags::NONE.to_string(), "-");
        assert_eq!(Flags::UPSTREAM_CONNECTION_FAILURE.with(Flags::UPSTREAM_RETRY_LIMIT).to_string(), "URX,UF");
    }
}
