//! `Cluster`, and how HTTP is spoken with its endpoints.

use std::sync::Arc;
use std::time::Duration;

use prost::Name as _;
use pymesh_model::cluster::{
    Cluster, Discovery, ProxyProtocolVersion, ServiceLabels, TcpKeepalive, Transport, TransportMatch, TransportSocket,
    UpstreamBind, UpstreamHttp, UpstreamProtocol,
};
use pymesh_model::endpoint::Endpoints;

use super::common::{config_source, duration, duration_or, enumerator, metadata, open, struct_text};
use super::endpoint::{endpoints, targets, text_pairs, DnsTarget};
use super::health_check::health_checks;
use super::outlier::outlier_detection;
use super::{balance, bind, circuit_breaker, original_dst, tls, Context, Patience};
use crate::diagnostic::At;
use crate::proto::envoy::config::{cluster::v3 as cluster, core::v3 as core};
use crate::proto::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use crate::proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use crate::proto::envoy::extensions::upstreams::http::v3 as upstream;
use cluster::cluster::{DiscoveryType, DnsLookupFamily};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// When `per_connection_buffer_limit_bytes` says nothing else (Envoy: 1 MiB). Sockets have buffers for the network's sake;
/// ours holds what one read and one write bring together, and stays in the cache.
pub(super) const BUFFER_LIMIT: usize = 64 * 1024;
const DNS_REFRESH_RATE: Duration = Duration::from_secs(5);
/// When `connection_keepalive` says nothing else.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster without the endpoints that are still to be found.
#[derive(Clone, Debug)]
pub(crate) struct ClusterParts {
    pub(crate) cluster: Cluster,
    pub(crate) source: EndpointSource,
    /// Signs of life on idle connections. Only the clusters of our own gRPC
    /// services may ask for them.
    pub(crate) keepalive: Keepalive,
}

/// Where endpoints come from.
#[derive(Clone, Debug)]
pub(crate) enum EndpointSource {
    /// They are in the cluster.
    Given,
    /// ADS, under this name.
    Eds(Arc<str>, Patience),
    /// The names in these settings.
    Dns(Arc<DnsSettings>),
}

/// What a resolver does for a cluster.
#[derive(Clone, Debug)]
pub(crate) struct DnsSettings {
    /// The localities, still without endpoints.
    pub(crate) shape: Endpoints,
    pub(crate) targets: Vec<DnsTarget>,
    pub(crate) refresh: Duration,
    pub(crate) family: DnsFamily,
    /// `LOGICAL_DNS`: only the first address is used.
    pub(crate) first_only: bool,
}

/// `dns_lookup_family`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DnsFamily {
    V4Only,
    V6Only,
    V4Preferred,
    V6Preferred,
    All,
}

/// `connection_keepalive`, with its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keepalive {
    pub(crate) http2: Option<(String, Pings)>,
}

/// HTTP/2 PING frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pings {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

pub(crate) fn cluster(config: &cluster::Cluster, at: &At<'_>, cx: &mut Context<'_>) -> ClusterParts {
    let (discovery, endpoints, source) = discovery(config, at, cx);
    let mut keepalive = Keepalive::default();
    let http = protocol_options(config, &mut keepalive, &at.field("typed_extension_protocol_options"));
    let transport = transport(config, at, cx);
    let sockets = transport.matches.iter().map(|candidate| &candidate.socket).chain([&transport.default]);
    if sockets.into_iter().any(|socket| socket.proxy_protocol.is_some())
        && !config.typed_extension_protocol_options.is_empty()
    {
        at.field("typed_extension_protocol_options").refuse_with_hint(
            "HTTP is not spoken behind the PROXY protocol: its connections are shared by clients",
            "leave this out and use the cluster in TCP proxies",
        );
    }
    let stat_name = if config.alt_stat_name.is_empty() { &config.name } else { &config.alt_stat_name };
    refuse_care(config, &discovery, &transport, at);
    let cluster = Cluster {
        name: config.name.as_str().into(),
        stat_name: stat_name.as_str().into(),
        endpoints: Arc::new(endpoints),
        balance: balance::balance(config, &discovery, at),
        connect_timeout: duration_or(config.connect_timeout.as_ref(), CONNECT_TIMEOUT, &at.field("connect_timeout")),
        circuit_breakers: circuit_breaker::breakers(config.circuit_breakers.as_ref(), &at.field("circuit_breakers")),
        outlier_detection: config
            .outlier_detection
            .as_ref()
            .map(|detection| Arc::new(outlier_detection(detection, &at.field("outlier_detection")))),
        health_check: health_checks(&config.health_checks, &at.field("health_checks")).map(Arc::new),
        http,
        transport,
        bind: UpstreamBind {
            keepalive: tcp_keepalive(config),
            ..bind::upstream_bind(config.upstream_bind_config.as_ref(), &at.field("upstream_bind_config"))
        },
        buffer_limit: buffer_limit(config.per_connection_buffer_limit_bytes),
        service: service(config, cx),
        discovery,
    };
    ClusterParts { cluster, source, keepalive }
}

/// Where looking after hosts would do nothing, or cannot.
fn refuse_care(config: &cluster::Cluster, discovery: &Discovery, transport: &Transport, at: &At<'_>) {
    let (checks_at, outliers_at) = (at.field("health_checks"), at.field("outlier_detection"));
    let is_checked = !config.health_checks.is_empty();
    if matches!(discovery, Discovery::OriginalDst(_)) {
        let refuse = |at: &At<'_>| {
            at.refuse_with_hint(
                "a cluster of type ORIGINAL_DST goes where the client wanted, whatever becomes of it",
                "leave it out",
            );
        };
        if is_checked {
            refuse(&checks_at);
        }
        if config.outlier_detection.is_some() {
            refuse(&outliers_at);
        }
    }
    let mut sockets = transport.matches.iter().map(|candidate| &candidate.socket).chain([&transport.default]);
    if is_checked && sockets.any(|socket| socket.proxy_protocol.is_some()) {
        checks_at.refuse_with_hint(
            "health checks speak for no client, as the PROXY protocol would have to say",
            "leave it out and use `outlier_detection`",
        );
    }
}

/// `per_connection_buffer_limit_bytes`.
pub(super) fn buffer_limit(octets: Option<u32>) -> usize {
    octets.map_or(BUFFER_LIMIT, |octets| usize::try_from(octets).unwrap_or(usize::MAX))
}

fn discovery(config: &cluster::Cluster, at: &At<'_>, cx: &Context<'_>) -> (Discovery, Endpoints, EndpointSource) {
    let kind = match config.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(cluster::cluster::ClusterDiscoveryType::Type(kind)) => enumerator(kind),
    };
    let assignment_at = at.field("load_assignment");
    let assignment = config.load_assignment.as_ref();
    if let (Some(_), DiscoveryType::Eds | DiscoveryType::OriginalDst) = (assignment, kind) {
        assignment_at.refuse(format!("a cluster of type {} finds its endpoints by itself", kind.as_str_name()));
    }
    if config.eds_cluster_config.is_some() && kind != DiscoveryType::Eds {
        at.field("eds_cluster_config").refuse_with_hint("this belongs to clusters of type EDS", "set `type: EDS`");
    }
    if kind != DiscoveryType::OriginalDst {
        original_dst::refuse_settings(config, at);
    }
    let default = Default::default();
    let assignment = assignment.unwrap_or(&default);
    match kind {
        DiscoveryType::Static => (Discovery::Static, endpoints(assignment, &assignment_at), EndpointSource::Given),
        DiscoveryType::OriginalDst => {
            (Discovery::OriginalDst(original_dst::settings(config, at)), Endpoints::default(), EndpointSource::Given)
        }
        DiscoveryType::Eds => {
            let at = &at.field("eds_cluster_config");
            let settings = config.eds_cluster_config.clone().unwrap_or_default();
            let patience = config_source(settings.eds_config.as_ref(), &at.field("eds_config"), cx);
            let name = if settings.service_name.is_empty() { &config.name } else { &settings.service_name };
            (Discovery::Eds, Endpoints::default(), EndpointSource::Eds(name.as_str().into(), patience))
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let (shape, targets) = targets(assignment, &assignment_at);
            let logical = kind == DiscoveryType::LogicalDns;
            if logical && targets.len() != 1 {
                assignment_at.refuse_with_hint(
                    format!("a cluster of type LOGICAL_DNS has exactly one endpoint, not {}", targets.len()),
                    "use STRICT_DNS for several",
                );
            }
            let refresh =
                duration_or(config.dns_refresh_rate.as_ref(), DNS_REFRESH_RATE, &at.field("dns_refresh_rate"));
            let settings =
                DnsSettings { shape, targets, refresh, family: family(config.dns_lookup_family), first_only: logical };
            let discovery = if logical { Discovery::LogicalDns } else { Discovery::StrictDns };
            (discovery, Endpoints::default(), EndpointSource::Dns(Arc::new(settings)))
        }
    }
}

fn family(value: i32) -> DnsFamily {
    match enumerator(value) {
        // IPv6 first, and IPv4 only if there is none.
        DnsLookupFamily::Auto => DnsFamily::V6Preferred,
        DnsLookupFamily::V4Only => DnsFamily::V4Only,
        DnsLookupFamily::V6Only => DnsFamily::V6Only,
        DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        DnsLookupFamily::All => DnsFamily::All,
    }
}

fn tcp_keepalive(config: &cluster::Cluster) -> Option<TcpKeepalive> {
    let probes = config.upstream_connection_options.as_ref()?.tcp_keepalive.as_ref()?;
    let seconds = |value: Option<u32>| value.map(|seconds| Duration::from_secs(seconds.into()));
    Some(TcpKeepalive {
        probes: probes.keepalive_probes,
        idle: seconds(probes.keepalive_time),
        interval: seconds(probes.keepalive_interval),
    })
}

fn protocol_options(config: &cluster::Cluster, keepalive: &mut Keepalive, at: &At<'_>) -> UpstreamHttp {
    let mut http = UpstreamHttp::default();
    // In order of name, so that problems come out in the same order each time.
    let mut names: Vec<&String> = config.typed_extension_protocol_options.keys().collect();
    names.sort();
    for name in names {
        let at = &at.key(name);
        if name != PROTOCOL_OPTIONS {
            at.refuse_with_hint(
                format!("options `{name}` are not supported"),
                format!("supported here: {PROTOCOL_OPTIONS}"),
            );
            continue;
        }
        let Some(opened) = open(config.typed_extension_protocol_options.get(name), at) else { continue };
        if opened.is::<upstream::HttpProtocolOptions>() {
            if let Some(options) = opened.decode(at) {
                keepalive.http2 = upstream_http(&options, &mut http, at);
            }
        } else {
            opened.refuse(&[upstream::HttpProtocolOptions::full_name()], at);
        }
    }
    http
}

fn upstream_http(
    options: &upstream::HttpProtocolOptions,
    http: &mut UpstreamHttp,
    at: &At<'_>,
) -> Option<(String, Pings)> {
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstream::http_protocol_options::UpstreamProtocolOptions as Options;
    if let Some(common) = &options.common_http_protocol_options {
        common_http(common, http, &at.field("common_http_protocol_options"));
    }
    let (at, http1, http2) = match options.upstream_protocol_options.as_ref()? {
        Options::ExplicitHttpConfig(config) => {
            let at = at.field("explicit_http_config");
            match config.protocol_config.as_ref()? {
                ProtocolConfig::HttpProtocolOptions(http1) => {
                    http.protocol = UpstreamProtocol::Http1;
                    (at, Some(http1), None)
                }
                ProtocolConfig::Http2ProtocolOptions(http2) => {
                    http.protocol = UpstreamProtocol::Http2;
                    (at, None, Some(http2))
                }
            }
        }
        Options::UseDownstreamProtocolConfig(config) => {
            http.protocol = UpstreamProtocol::Downstream;
            let at = at.field("use_downstream_protocol_config");
            (at, config.http_protocol_options.as_ref(), config.http2_protocol_options.as_ref())
        }
        Options::AutoConfig(config) => {
            http.protocol = UpstreamProtocol::Auto;
            (at.field("auto_config"), config.http_protocol_options.as_ref(), config.http2_protocol_options.as_ref())
        }
    };
    if let Some(http1) = http1 {
        let at = at.field("http_protocol_options");
        if http1.accept_http_10 {
            at.field("accept_http_10").refuse("this belongs to a connection manager");
        }
        if !http1.default_host_for_http_10.is_empty() {
            at.field("default_host_for_http_10").refuse("this belongs to a connection manager");
        }
        http.header_case = super::http::header_case(http1, &at);
    }
    let http2 = http2?;
    http.concurrent_streams = http2.max_concurrent_streams.unwrap_or(http.concurrent_streams);
    if let Some(window) = http2.initial_stream_window_size {
        (http.stream_window, http.stream_window_most) = (window, window);
    }
    http.connection_window = http2.initial_connection_window_size.unwrap_or(http.connection_window);
    http.http2 = super::http::http2_guards(http2);
    let http2_at = at.field("http2_protocol_options");
    let at = &http2_at.field("connection_keepalive");
    let keepalive = http2.connection_keepalive.as_ref()?;
    let pings = Pings {
        interval: duration_or(keepalive.interval.as_ref(), PING_INTERVAL, &at.field("interval")),
        timeout: duration_or(keepalive.timeout.as_ref(), PING_TIMEOUT, &at.field("timeout")),
    };
    Some((at.path(), pings))
}

fn common_http(common: &core::HttpProtocolOptions, http: &mut UpstreamHttp, at: &At<'_>) {
    http.idle_timeout = duration_or(common.idle_timeout.as_ref(), http.idle_timeout, &at.field("idle_timeout"));
    http.requests_per_connection = common.max_requests_per_connection.unwrap_or(http.requests_per_connection);
    if let Some(count) = common.max_headers_count {
        http.header_count = usize::try_from(count).unwrap_or(usize::MAX);
    }
    if let Some(kibibytes) = common.max_response_headers_kb {
        http.header_list_size = super::http::octets(kibibytes);
    }
    let age = duration(common.max_connection_duration.as_ref(), &at.field("max_connection_duration"));
    http.max_connection_duration = age.unwrap_or_default();
    let stream = duration(common.max_stream_duration.as_ref(), &at.field("max_stream_duration"));
    http.max_stream_duration = stream.unwrap_or_default();
    if common.headers_with_underscores_action != 0 {
        at.field("headers_with_underscores_action").refuse("this belongs to a connection manager");
    }
}

fn transport(config: &cluster::Cluster, at: &At<'_>, cx: &mut Context<'_>) -> Transport {
    let matches_at = at.field("transport_socket_matches");
    let mut matches = Vec::with_capacity(config.transport_socket_matches.len());
    for (index, candidate) in config.transport_socket_matches.iter().enumerate() {
        let at = matches_at.index(index);
        let criteria = candidate.r#match.as_ref().map(|criteria| text_pairs(criteria, &at.field("match")));
        matches.push(TransportMatch {
            name: candidate.name.as_str().into(),
            criteria: criteria.unwrap_or_default(),
            socket: transport_socket(candidate.transport_socket.as_ref(), &at.field("transport_socket"), cx),
        });
    }
    Transport {
        default: transport_socket(config.transport_socket.as_ref(), &at.field("transport_socket"), cx),
        matches,
    }
}

fn transport_socket(socket: Option<&core::TransportSocket>, at: &At<'_>, cx: &mut Context<'_>) -> TransportSocket {
    let Some(socket) = socket else { return TransportSocket::default() };
    let config = socket.config_type.as_ref().map(|core::transport_socket::ConfigType::TypedConfig(any)| any);
    let at = &at.field("typed_config");
    let Some(opened) = open(config, at) else { return TransportSocket::default() };
    if opened.is::<ProxyProtocolUpstreamTransport>() {
        let outer: ProxyProtocolUpstreamTransport = opened.decode(at).unwrap_or_default();
        let inner_at = at.field("transport_socket");
        if outer.transport_socket.is_none() {
            inner_at.refuse_with_hint("this must be set", "write a socket of type RawBuffer for plain octets");
        }
        let inner = transport_socket(outer.transport_socket.as_ref(), &inner_at, cx);
        if inner.proxy_protocol.is_some() {
            inner_at.refuse("one header is enough");
        }
        let version = match enumerator(outer.config.unwrap_or_default().version) {
            core::proxy_protocol_config::Version::V1 => ProxyProtocolVersion::V1,
            core::proxy_protocol_config::Version::V2 => ProxyProtocolVersion::V2,
        };
        return TransportSocket { proxy_protocol: Some(version), ..inner };
    }
    let tls = match opened.is::<UpstreamTlsContext>() {
        true => {
            let context: Option<UpstreamTlsContext> = opened.decode(at);
            context.map(|context| Arc::new(tls::upstream(&context, at, cx)))
        }
        false => None,
    };
    if tls.is_none() && !opened.is::<RawBuffer>() {
        let supported =
            [UpstreamTlsContext::full_name(), RawBuffer::full_name(), ProxyProtocolUpstreamTransport::full_name()];
        opened.refuse(&supported, at);
    }
    TransportSocket { tls, proxy_protocol: None }
}

/// Istio's `metadata.filter_metadata.istio.services[0]`, or else what its
/// cluster names say: `outbound|80|v1|reviews.shop.svc.cluster.local`.
fn service(config: &cluster::Cluster, cx: &Context<'_>) -> ServiceLabels {
    use prost_types::value::Kind;
    let mut parts = config.name.split('|');
    let direction = parts.next().unwrap_or_default();
    let workload = match direction {
        "inbound" => cx.environment.workload.clone(),
        _ => Default::default(),
    };
    let services = metadata(config.metadata.as_ref(), "istio").and_then(|istio| istio.fields.get("services"));
    if let Some(Kind::ListValue(list)) = services.and_then(|services| services.kind.as_ref()) {
        if let Some(Kind::StructValue(service)) = list.values.first().and_then(|value| value.kind.as_ref()) {
            return ServiceLabels {
                host: struct_text(service, "host").into(),
                name: struct_text(service, "name").into(),
                namespace: struct_text(service, "namespace").into(),
                workload,
            };
        }
    }
    let host = match direction {
        "outbound" => parts.nth(2).unwrap_or_default(),
        _ => "",
    };
    let mut labels = host.split('.');
    let name = labels.next().unwrap_or_default();
    let namespace = match labels.nth(1) {
        Some("svc") => host.split('.').nth(1).unwrap_or_default(),
        _ => "",
    };
    ServiceLabels { host: host.into(), name: name.into(), namespace: namespace.into(), workload }
}
