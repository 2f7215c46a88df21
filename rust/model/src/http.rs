//! The HTTP connection manager (Envoy `http_connection_manager.v3`).

use std::sync::Arc;
use std::time::Duration;

use crate::chain_match::Cidr;
use crate::filter::HttpFilter;
use crate::format::AccessLog;
use crate::route::{RouteTable, Upgrade};
use crate::stats::Stats;
use crate::tracing::Tracing;

/// How HTTP is spoken with downstream clients on a filter chain.
#[derive(Clone, Debug)]
pub struct HttpConnectionManager {
    /// Prefix of statistics.
    pub stat_prefix: Arc<str>,
    /// Which HTTP version.
    pub codec: Codec,
    /// Where requests go.
    pub routes: RouteSource,
    /// HTTP filters before the router, in order. The router itself is implied.
    pub filters: Vec<Arc<HttpFilter>>,
    /// Timeouts of the connection and its streams.
    pub timeouts: HttpTimeouts,
    /// Bounds on what a client may send.
    pub limits: HttpLimits,
    /// How the request target is made canonical.
    pub path: PathPolicy,
    /// How the client's address is found and told upstream.
    pub forwarding: Forwarding,
    /// Value of `server` in responses, and whether it replaces the upstream's.
    pub server_name: Arc<str>,
    /// What is done with `server`.
    pub server_header: ServerHeader,
    /// Add `x-request-id` to requests that have none.
    pub generate_request_id: bool,
    /// Keep an `x-request-id` from outside.
    pub preserve_external_request_id: bool,
    /// Also send `x-request-id` back.
    pub always_set_request_id_in_response: bool,
    /// What a request may ask its connection to become (`websocket`, `connect`), unless its route says otherwise.
    pub upgrades: Vec<Upgrade>,
    /// `http2_protocol_options.allow_connect`: offer extended CONNECT (RFC 8441) to clients of HTTP/2.
    pub allow_connect: bool,
    /// Pass `expect: 100-continue` and interim answers on; else the proxy answers the former itself and drops the latter.
    pub proxy_100_continue: bool,
    /// `http_protocol_options.default_host_for_http_10`: for requests of HTTP/1.0 that name none.
    pub default_host_for_http_10: Option<Box<str>>,
    /// `http_protocol_options.header_key_format`.
    pub header_case: HeaderCase,
    /// Value of `via` to append, if any.
    pub via: Option<Box<str>>,
    /// One entry per request.
    pub access_logs: Vec<Arc<AccessLog>>,
    /// `None`: trace headers pass as they are.
    pub tracing: Option<Tracing>,
    /// What is counted in Istio's metrics; `None`: the standard.
    pub stats: Option<Arc<Stats>>,
}

/// How the names of header fields are written in HTTP/1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// In lower case.
    #[default]
    Lower,
    /// `proper_case_words`: each word with a capital.
    Proper,
    /// `preserve_case`: what arrives here is written on the other side as it came.
    Preserve,
}

/// `codec_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// By ALPN, else by the HTTP/2 preface.
    #[default]
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// `route_specifier`.
#[derive(Clone, Debug)]
pub enum RouteSource {
    /// `route_config`.
    Inline(Arc<RouteTable>),
    /// `rds`: by name, from [`crate::Snapshot::routes`].
    Named(Arc<str>),
}

/// Zero means no limit for each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTimeouts {
    /// A connection without streams (default 1 h).
    pub idle: Duration,
    /// A stream without progress in either direction (default 5 min).
    pub stream_idle: Duration,
    /// From the first octet of a request to its last (default none).
    pub request: Duration,
    /// From the first octet of a request to the end of its head (Envoy: none; ours: 10 s).
    pub request_headers: Duration,
    /// Between the two GOAWAYs of a graceful close (default 5 s).
    pub drain: Duration,
    /// Age at which a connection is drained (default none).
    pub max_connection_duration: Duration,
    /// `common_http_protocol_options.max_stream_duration`: for routes that say nothing of their own (default none).
    pub max_stream_duration: Duration,
}

impl Default for HttpTimeouts {
    fn default() -> Self {
        HttpTimeouts {
            idle: Duration::from_secs(3600),
            stream_idle: Duration::from_secs(300),
            request: Duration::ZERO,
            request_headers: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            max_connection_duration: Duration::ZERO,
            max_stream_duration: Duration::ZERO,
        }
    }
}

/// Bounds on one downstream connection. Windows and sizes in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// `max_request_headers_kb` x 1024 (default 60 KiB).
    pub header_list_size: usize,
    /// `common_http_protocol_options.max_headers_count` (default 100).
    pub header_count: usize,
    /// `http2_protocol_options.max_concurrent_streams` (ours: 100).
    pub concurrent_streams: u32,
    /// `initial_stream_window_size` (ours: 256 KiB).
    pub stream_window: u32,
    /// `initial_connection_window_size` (ours: 1 MiB).
    pub connection_window: u32,
    /// What else of `http2_protocol_options` bounds the client's frames.
    pub http2: Http2Guards,
    /// `max_requests_per_connection`; zero means no limit.
    pub requests_per_connection: u32,
    /// `http_protocol_options.accept_http_10` (default false: 426).
    pub accept_http_10: bool,
    /// `headers_with_underscores_action`.
    pub underscores: Underscores,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits {
            header_list_size: 60 * 1024,
            header_count: 100,
            concurrent_streams: 100,
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            http2: Http2Guards::default(),
            requests_per_connection: 0,
            accept_http_10: false,
            underscores: Underscores::Allow,
        }
    }
}

/// How much a peer may do that says nothing (`Http2ProtocolOptions`, with Envoy's defaults). The same for clients and
/// for endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Guards {
    /// `max_outbound_frames`: frames that wait for a peer that does not read.
    pub outbound_frames: u32,
    /// `max_outbound_control_frames`: those among them that the peer has provoked.
    pub outbound_control_frames: u32,
    /// `max_consecutive_inbound_frames_with_empty_payload`.
    pub empty_frames: u32,
    /// `max_inbound_priority_frames_per_stream`.
    pub priority_frames_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`.
    pub window_updates_per_data_frame: u32,
}

impl Default for Http2Guards {
    fn default() -> Self {
        Http2Guards {
            outbound_frames: 10_000,
            outbound_control_frames: 1000,
            empty_frames: 1,
            priority_frames_per_stream: 100,
            window_updates_per_data_frame: 10,
        }
    }
}

/// `HeadersWithUnderscoresAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Forward them.
    #[default]
    Allow,
    /// Answer 400.
    Reject,
    /// Drop the field.
    Drop,
}

/// How the path and host are made canonical before anything looks at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathPolicy {
    /// Remove dot segments (RFC 3986 section 6).
    pub normalize: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// What is done with `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// `strip_matching_host_port` / `strip_any_host_port`.
    pub strip_port: StripPort,
    /// Remove a trailing dot of the host.
    pub strip_trailing_dot: bool,
}

/// `PathWithEscapedSlashesAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Leave them.
    #[default]
    Keep,
    /// Answer 400.
    Reject,
    /// Unescape, then redirect to the new path (307).
    Redirect,
    /// Unescape and forward.
    Unescape,
}

/// Which port is taken off the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    #[default]
    Keep,
    /// The listener's own.
    Matching,
    /// Any.
    Any,
}

/// The client's address and certificate, as told to the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Take the peer's address as the client's and append it to `x-forwarded-for`.
    pub use_remote_address: bool,
    /// Proxies in front that are trusted.
    pub xff_trusted_hops: u32,
    /// Do not touch `x-forwarded-for`.
    pub skip_xff_append: bool,
    /// `internal_address_config`: who may give orders in `x-envoy-` headers.
    pub internal: Vec<Cidr>,
    /// `forward_client_cert_details`.
    pub client_cert: ClientCert,
    /// Parts of the certificate added by `AppendForward` and `SanitizeSet`.
    pub client_cert_details: ClientCertDetails,
}

/// `ForwardClientCertDetails`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCert {
    /// Remove `x-forwarded-client-cert`.
    #[default]
    Sanitize,
    /// Keep it if the connection is mTLS.
    ForwardOnly,
    /// Append ours if the connection is mTLS.
    AppendForward,
    /// Replace it by ours if the connection is mTLS.
    SanitizeSet,
    /// Keep it always.
    AlwaysForwardOnly,
}

/// `set_current_client_cert_details`. `By` and `Hash` are always present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCertDetails {
    /// `Subject=`.
    pub subject: bool,
    /// `URI=`.
    pub uri: bool,
    /// `DNS=`.
    pub dns: bool,
}

/// `server_header_transformation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// Always `server_name`.
    #[default]
    Overwrite,
    /// `server_name` if the upstream said nothing.
    AppendIfAbsent,
    /// Leave it.
    PassThrough,
}
