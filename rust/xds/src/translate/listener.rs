//! `Listener`: addresses, filter chains, network filters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Name as _;
use pymesh_model::listener::{
    Capture, ConnectionPolicy, Direction, FilterChain, FilterChainMatch, FilterChains, Lineage, Listener,
    NetworkFilter, SourceType, TcpProxy, TransportProtocol, Unfit,
};
use pymesh_model::route::WeightedCluster;
use pymesh_model::stats::Stats;
use pymesh_model::tls::ServerTls;

use super::common::{duration, duration_or, enumerator, host_and_port, ip, open, prefixes};
use super::{access_log, cluster, http, listener_filter, route, stats, tls, Context};
use crate::diagnostic::At;
use crate::proto::envoy::config::{core::v3 as core, listener::v3 as listener};
use crate::proto::envoy::extensions::filters::network::ext_authz::v3 as authz;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use crate::proto::envoy::extensions::filters::network::rbac::v3 as rbac;
use crate::proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use crate::proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use crate::proto::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use crate::proto::stats::PluginConfig;
use crate::translate::filter::{ext_authz, rbac as policies};
use listener::filter_chain_match::ConnectionSourceType;

const LISTENER_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
/// Envoy has none: whoever begins a handshake and stops could keep the connection for ever.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The kernel cuts this down to `net.core.somaxconn`, which is Envoy's default.
const BACKLOG: u32 = 65_535;

pub(crate) fn listener(config: &listener::Listener, at: &At<'_>, cx: &mut Context<'_>) -> Option<Listener> {
    if config.enable_reuse_port == Some(false) {
        at.field("enable_reuse_port").refuse_with_hint("each worker has its own socket", "leave it out, or write true");
    }
    let (address, ipv4_compat) = bound_address(config.address.as_ref(), &at.field("address"));
    let hand_off = config.use_original_dst.unwrap_or(false);
    let mut capture = Capture { restore: hand_off, hand_off, transparent: config.transparent.unwrap_or(false) };
    let listener_filters = listener_filter::listener_filters(config, &mut capture, &at.field("listener_filters"));

    let chains_at = at.field("filter_chains");
    let mut chains: Vec<Arc<FilterChain>> = Vec::with_capacity(config.filter_chains.len());
    for (index, chain) in config.filter_chains.iter().enumerate() {
        chains.extend(filter_chain(chain, &chains_at.index(index), cx).map(Arc::new));
    }
    // Positions mean something only if no chain was left out.
    let is_whole = chains.len() == config.filter_chains.len();
    let filter_chains = match FilterChains::new(chains) {
        Ok(chains) => chains,
        Err(unfit) => {
            let (Unfit::Overlap { chain, .. } | Unfit::TooMany { chain }) = unfit;
            if is_whole {
                chains_at.index(chain).field("filter_chain_match").refuse(unfit.to_string());
            }
            FilterChains::default()
        }
    };
    let default_filter_chain = config
        .default_filter_chain
        .as_ref()
        .and_then(|chain| filter_chain(chain, &at.field("default_filter_chain"), cx))
        .map(Arc::new);
    if config.filter_chains.is_empty() && config.default_filter_chain.is_none() {
        chains_at.refuse("there must be at least one");
    }

    let address = address?;
    // A static listener needs no name: its address tells it apart.
    let name = if config.name.is_empty() { address.to_string() } else { config.name.clone() };
    Some(Listener {
        name: name.into(),
        address,
        ipv4_compat,
        bind_to_port: config.bind_to_port.unwrap_or(true),
        capture,
        direction: match enumerator(config.traffic_direction) {
            core::TrafficDirection::Unspecified => Direction::Unspecified,
            core::TrafficDirection::Inbound => Direction::Inbound,
            core::TrafficDirection::Outbound => Direction::Outbound,
        },
        listener_filters,
        listener_filters_timeout: duration_or(
            config.listener_filters_timeout.as_ref(),
            LISTENER_FILTERS_TIMEOUT,
            &at.field("listener_filters_timeout"),
        ),
        continue_on_listener_filters_timeout: config.continue_on_listener_filters_timeout,
        filter_chains,
        default_filter_chain,
        access_logs: access_log::access_logs(&config.access_log, &at.field("access_log"), cx),
        buffer_limit: cluster::buffer_limit(config.per_connection_buffer_limit_bytes),
        backlog: i32::try_from(config.tcp_backlog_size.unwrap_or(BACKLOG)).unwrap_or(i32::MAX),
    })
}

/// With `ipv4_compat`, which only a listener has a use for.
fn bound_address(address: Option<&core::Address>, at: &At<'_>) -> (Option<SocketAddr>, bool) {
    let mut address = address.cloned();
    let compat = match address.as_mut().and_then(|address| address.address.as_mut()) {
        Some(core::address::Address::SocketAddress(socket)) => std::mem::take(&mut socket.ipv4_compat),
        None => false,
    };
    let address = socket_address(address.as_ref(), at);
    if compat && address.is_some_and(|address| address.is_ipv4()) {
        at.field("socket_address").field("ipv4_compat").refuse("this belongs to an IPv6 address");
    }
    (address, compat)
}

pub(crate) fn socket_address(address: Option<&core::Address>, at: &At<'_>) -> Option<SocketAddr> {
    let (host, port) = host_and_port(address, at)?;
    let at = at.field("socket_address");
    Some(SocketAddr::new(ip(host, &at.field("address"))?, port))
}

fn filter_chain(chain: &listener::FilterChain, at: &At<'_>, cx: &mut Context<'_>) -> Option<FilterChain> {
    let matches = chain.filter_chain_match.as_ref().map(|rule| chain_match(rule, &at.field("filter_chain_match")));
    let tls = transport_socket(chain.transport_socket.as_ref(), &at.field("transport_socket"), cx);
    let filters_at = at.field("filters");
    let mut policies = Vec::new();
    let mut network = None;
    let mut counted = None;
    for (index, filter) in chain.filters.iter().enumerate() {
        let is_last = index + 1 == chain.filters.len();
        match network_filter(filter, &filters_at.index(index), cx) {
            Some(Network::Policy(policy)) if !is_last => policies.push(policy),
            Some(Network::Counts(stats)) if !is_last => counted = Some((index, stats)),
            Some(Network::Ends(found)) if is_last => network = Some(found),
            Some(Network::Policy(_) | Network::Counts(_)) => filters_at.index(index).refuse_with_hint(
                "nothing speaks on the connections that it lets pass",
                "end the list with the HTTP connection manager or the TCP proxy",
            ),
            Some(Network::Ends(_)) => filters_at.index(index).refuse_with_hint(
                "nothing comes to the filters behind this one",
                "keep one HTTP connection manager or TCP proxy, as the last filter",
            ),
            None => {}
        }
    }
    if chain.filters.is_empty() {
        filters_at.refuse_with_hint(
            "a chain needs a network filter",
            "end the list with the HTTP connection manager or the TCP proxy",
        );
    }
    if let Some((index, stats)) = counted {
        match network.as_mut() {
            Some(NetworkFilter::Tcp(proxy)) => Arc::make_mut(proxy).stats = Some(stats),
            Some(NetworkFilter::Http(_)) => filters_at
                .index(index)
                .refuse_with_hint("requests are not counted by a network filter", "put it among `http_filters`"),
            None => {}
        }
    }
    Some(FilterChain {
        name: chain.name.as_str().into(),
        matches: matches.unwrap_or_default(),
        tls,
        transport_connect_timeout: duration_or(
            chain.transport_socket_connect_timeout.as_ref(),
            HANDSHAKE_TIMEOUT,
            &at.field("transport_socket_connect_timeout"),
        ),
        policies,
        network: network?,
        lineage: Lineage::default(),
    })
}

fn chain_match(rule: &listener::FilterChainMatch, at: &At<'_>) -> FilterChainMatch {
    let names_at = at.field("server_names");
    let mut server_names = Vec::with_capacity(rule.server_names.len());
    for (index, name) in rule.server_names.iter().enumerate() {
        let name = name.to_ascii_lowercase();
        let inner = name.strip_prefix("*.").unwrap_or(&name);
        if inner.is_empty() || inner.contains('*') {
            names_at.index(index).refuse_with_hint(
                format!("`{name}` is not a server name"),
                "write a whole name or `*.suffix`; leave the list out to match every name",
            );
        }
        server_names.push(name.into());
    }
    let transport_protocol = match rule.transport_protocol.as_str() {
        "" => None,
        "tls" => Some(TransportProtocol::Tls),
        "raw_buffer" => Some(TransportProtocol::RawBuffer),
        other => {
            at.field("transport_protocol").refuse_with_hint(
                format!("transport protocol `{other}` is not supported"),
                "write `tls` or `raw_buffer`",
            );
            None
        }
    };
    FilterChainMatch {
        destination_port: rule.destination_port.and_then(|port| u16::try_from(port).ok()),
        destination_prefixes: prefixes(&rule.prefix_ranges, &at.field("prefix_ranges")),
        server_names,
        transport_protocol,
        application_protocols: rule.application_protocols.iter().map(|name| name.as_str().into()).collect(),
        direct_source_prefixes: prefixes(&rule.direct_source_prefix_ranges, &at.field("direct_source_prefix_ranges")),
        source_type: match enumerator(rule.source_type) {
            ConnectionSourceType::Any => SourceType::Any,
            ConnectionSourceType::SameIpOrLoopback => SourceType::Local,
            ConnectionSourceType::External => SourceType::External,
        },
        source_prefixes: prefixes(&rule.source_prefix_ranges, &at.field("source_prefix_ranges")),
        source_ports: rule.source_ports.iter().filter_map(|port| u16::try_from(*port).ok()).collect(),
    }
}

fn transport_socket(
    socket: Option<&core::TransportSocket>,
    at: &At<'_>,
    cx: &mut Context<'_>,
) -> Option<Arc<ServerTls>> {
    let config = socket?.config_type.as_ref().map(|core::transport_socket::ConfigType::TypedConfig(any)| any);
    let at = &at.field("typed_config");
    let opened = open(config, at)?;
    if opened.is::<DownstreamTlsContext>() {
        let context: DownstreamTlsContext = opened.decode(at)?;
        return tls::downstream(&context, at, cx).map(Arc::new);
    }
    if !opened.is::<RawBuffer>() {
        opened.refuse(&[DownstreamTlsContext::full_name(), RawBuffer::full_name()], at);
    }
    None
}

/// What stands in a chain: policies, then what speaks.
enum Network {
    Policy(ConnectionPolicy),
    /// Istio's metrics of connections.
    Counts(Arc<Stats>),
    Ends(NetworkFilter),
}

fn network_filter(filter: &listener::Filter, at: &At<'_>, cx: &mut Context<'_>) -> Option<Network> {
    let config = filter.config_type.as_ref().map(|listener::filter::ConfigType::TypedConfig(any)| any);
    let at = &at.field("typed_config");
    let opened = open(config, at)?;
    if opened.is::<HttpConnectionManager>() {
        let config: HttpConnectionManager = opened.decode(at)?;
        http::connection_manager(&config, at, cx).map(|manager| Network::Ends(NetworkFilter::Http(Arc::new(manager))))
    } else if opened.is::<tcp::TcpProxy>() {
        let config: tcp::TcpProxy = opened.decode(at)?;
        tcp_proxy(&config, at, cx).map(|proxy| Network::Ends(NetworkFilter::Tcp(Arc::new(proxy))))
    } else if opened.is::<rbac::Rbac>() {
        let policy = Arc::new(policies::connections(&opened.decode(at)?, at));
        Some(Network::Policy(ConnectionPolicy::Rbac(policy)))
    } else if opened.is::<authz::ExtAuthz>() {
        let policy = Arc::new(ext_authz::connections(&opened.decode(at)?, at)?);
        Some(Network::Policy(ConnectionPolicy::ExtAuthz(policy)))
    } else if opened.is::<PluginConfig>() {
        Some(Network::Counts(Arc::new(stats::stats(&opened.decode(at)?, at))))
    } else {
        let known = [
            HttpConnectionManager::full_name(),
            tcp::TcpProxy::full_name(),
            PluginConfig::full_name(),
            rbac::Rbac::full_name(),
            authz::ExtAuthz::full_name(),
        ];
        opened.refuse(&known, at);
        None
    }
}

fn tcp_proxy(config: &tcp::TcpProxy, at: &At<'_>, cx: &mut Context<'_>) -> Option<TcpProxy> {
    let weighted = |name: &str, weight| WeightedCluster {
        name: name.into(),
        weight,
        headers: Default::default(),
        host_rewrite: None,
        filters: Default::default(),
    };
    let clusters = match config.cluster_specifier.as_ref()? {
        tcp::tcp_proxy::ClusterSpecifier::Cluster(name) => vec![weighted(name, 1)],
        tcp::tcp_proxy::ClusterSpecifier::WeightedClusters(list) => {
            let at = at.field("weighted_clusters");
            route::check_total(list.clusters.iter().map(|cluster| cluster.weight), &at.field("clusters"));
            list.clusters.iter().map(|cluster| weighted(&cluster.name, cluster.weight)).collect()
        }
    };
    Some(TcpProxy {
        stat_prefix: config.stat_prefix.as_str().into(),
        clusters,
        idle_timeout: duration_or(config.idle_timeout.as_ref(), IDLE_TIMEOUT, &at.field("idle_timeout")),
        max_connection_duration: duration(
            config.max_downstream_connection_duration.as_ref(),
            &at.field("max_downstream_connection_duration"),
        )
        .unwrap_or_default(),
        max_connect_attempts: config.max_connect_attempts.unwrap_or(1),
        hash_source_ip: !config.hash_policy.is_empty(),
        access_logs: access_log::access_logs(&config.access_log, &at.field("access_log"), cx),
        stats: None,
    })
}
