//! The runtime side of listeners: counters and compiled TLS beside the configuration.

use std::sync::Arc;

use pymesh_http::Limits;
use pymesh_model::http::{Http2Guards, HttpConnectionManager, RouteSource};
use pymesh_model::listener::{
    Connection, Direction, FilterChain, Listener, ListenerFilterKind, NetworkFilter, TcpProxy,
};
use pymesh_tls::server_config;

use crate::base::slab::Key;
use crate::base::time::Time;
use crate::engine::Options;
use crate::http_filter::Chain;
use crate::overload::ListenerLoad;
use crate::security::connection::ConnectionFilter;
use crate::telemetry::stats::{
    listener_name, HttpInspectorStats, HttpStats, HttpTracingStats, Hub, ListenerStats, ProxyProtocolStats,
    ProxyProtocolVersionStats, TcpStats, TlsInspectorStats, TlsStats,
};

/// Names a listener for the driver.
pub type ListenerKey = Key<Arc<ListenerRuntime>>;

/// A listener with what one worker keeps for it.
pub struct ListenerRuntime {
    /// As configured.
    pub config: Arc<Listener>,
    pub(crate) stats: Arc<ListenerStats>,
    pub(crate) tls_stats: Arc<TlsStats>,
    pub(crate) load: Arc<ListenerLoad>,
    pub(crate) filter_stats: FilterStats,
    /// In the order of the configuration's.
    pub(crate) chains: Vec<Arc<ChainRuntime>>,
    pub(crate) default_chain: Option<Arc<ChainRuntime>>,
}

/// What listener filters count. Envoy has one set for all listeners.
pub(crate) struct FilterStats {
    pub tls_inspector: Arc<TlsInspectorStats>,
    pub http_inspector: Arc<HttpInspectorStats>,
    pub proxy_protocol: Arc<ProxyProtocolStats>,
    pub proxy_protocol_v1: Arc<ProxyProtocolVersionStats>,
    pub proxy_protocol_v2: Arc<ProxyProtocolVersionStats>,
}

impl FilterStats {
    /// Only what can count is shown.
    fn new(listener: &Listener, worker: usize, hub: &Hub) -> FilterStats {
        let (mut tls, mut http, mut proxied) = (false, false, false);
        for filter in &listener.listener_filters {
            match filter.kind {
                ListenerFilterKind::TlsInspector => tls = true,
                ListenerFilterKind::HttpInspector => http = true,
                ListenerFilterKind::ProxyProtocol(_) => proxied = true,
            }
        }
        let version = |name| if proxied { hub.proxy_protocol_version(worker, name) } else { Arc::default() };
        FilterStats {
            tls_inspector: if tls { hub.tls_inspector(worker) } else { Arc::default() },
            http_inspector: if http { hub.http_inspector(worker) } else { Arc::default() },
            proxy_protocol: if proxied { hub.proxy_protocol(worker) } else { Arc::default() },
            proxy_protocol_v1: version("v1"),
            proxy_protocol_v2: version("v2"),
        }
    }
}

/// A filter chain with its compiled TLS and one of the two network filters.
pub(crate) struct ChainRuntime {
    pub config: Arc<FilterChain>,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub policies: Vec<ConnectionFilter>,
    pub http: Option<Arc<HttpRuntime>>,
    pub tcp: Option<Arc<TcpRuntime>>,
}

/// A connection manager with its counters and codec limits.
pub(crate) struct HttpRuntime {
    pub config: Arc<HttpConnectionManager>,
    pub stats: Arc<HttpStats>,
    pub filters: Chain,
    pub direction: Direction,
    pub limits: Limits,
    /// If it traces.
    pub tracing_stats: Option<Arc<HttpTracingStats>>,
}

/// A TCP proxy with its counters.
pub(crate) struct TcpRuntime {
    pub config: Arc<TcpProxy>,
    pub stats: Arc<TcpStats>,
    pub direction: Direction,
}

impl ListenerRuntime {
    /// A chain that the listener at this address has already, `old`, is taken over as it is. Another generation of one
    /// keeps its TLS: its clients resume their sessions.
    ///
    /// # Errors
    /// A TLS context that cannot be compiled, in words.
    pub(crate) fn new(
        config: &Arc<Listener>,
        old: Option<&ListenerRuntime>,
        options: &Options,
        now: Time,
    ) -> Result<ListenerRuntime, String> {
        let chain = |chain: &Arc<FilterChain>| {
            let known = || old.into_iter().flat_map(ListenerRuntime::all_chains);
            if let Some(kept) = known().find(|old| Arc::ptr_eq(&old.config, chain)) {
                return Ok(kept.clone());
            }
            let before = known().find(|old| old.config.lineage.is(&chain.lineage));
            ChainRuntime::new(config, chain, before.and_then(|before| before.tls.clone()), options, now)
        };
        let name = listener_name(config.address);
        let has_tls = config.filter_chains.iter().chain(&config.default_filter_chain).any(|chain| chain.tls.is_some());
        Ok(ListenerRuntime {
            config: config.clone(),
            stats: options.hub.listener(options.worker, &name),
            // Only what can count is shown.
            tls_stats: if has_tls { options.hub.listener_tls(options.worker, &name) } else { Arc::default() },
            filter_stats: FilterStats::new(config, options.worker, &options.hub),
            load: options.overload.listener(&config.name),
            chains: config.filter_chains.iter().map(chain).collect::<Result<_, _>>()?,
            default_chain: config.default_filter_chain.as_ref().map(chain).transpose()?,
        })
    }
}

impl ListenerRuntime {
    /// The chain that serves a connection.
    pub(crate) fn find_chain(&self, connection: &Connection<'_>) -> Option<&Arc<ChainRuntime>> {
        let found = self.config.filter_chains.find(connection).and_then(|at| self.chains.get(at));
        found.or(self.default_chain.as_ref())
    }

    pub(crate) fn all_chains(&self) -> impl Iterator<Item = &Arc<ChainRuntime>> {
        self.chains.iter().chain(&self.default_chain)
    }

    /// The chain that a connection of `chain` goes on with: the same one, or its latest generation.
    pub(crate) fn heir_of(&self, chain: &ChainRuntime) -> Option<&Arc<ChainRuntime>> {
        self.all_chains().find(|own| own.config.lineage.is(&chain.config.lineage))
    }

    /// The tables that its chains are found by name in.
    pub(crate) fn route_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let managers = self.chains.iter().chain(&self.default_chain).filter_map(|chain| chain.http.as_ref());
        managers.filter_map(|http| match &http.config.routes {
            RouteSource::Named(name) => Some(name),
            RouteSource::Inline(_) => None,
        })
    }
}

impl ChainRuntime {
    /// `tls` is there already if an earlier generation of the chain had it.
    fn new(
        listener: &Listener,
        config: &Arc<FilterChain>,
        tls: Option<Arc<rustls::ServerConfig>>,
        options: &Options,
        now: Time,
    ) -> Result<Arc<ChainRuntime>, String> {
        let Options { worker, hub, secrets, .. } = options;
        let tls = match &config.tls {
            _ if tls.is_some() => tls,
            Some(tls) => Some(
                server_config(tls, secrets)
                    .map_err(|error| format!("listener {}: filter chain {}: {error}", listener.name, config.name))?,
            ),
            None => None,
        };
        let (mut http, mut tcp) = (None, None);
        match &config.network {
            NetworkFilter::Http(manager) => {
                http = Some(Arc::new(HttpRuntime {
                    config: manager.clone(),
                    stats: hub.http(*worker, &manager.stat_prefix),
                    filters: Chain::new(&manager.filters, &manager.stat_prefix, options, now),
                    direction: listener.direction,
                    limits: limits(manager, options),
                    tracing_stats: manager.tracing.as_ref().map(|_| hub.http_tracing(*worker, &manager.stat_prefix)),
                }));
            }
            NetworkFilter::Tcp(proxy) => {
                let stats = hub.tcp(*worker, &proxy.stat_prefix);
                tcp = Some(Arc::new(TcpRuntime { config: proxy.clone(), stats, direction: listener.direction }));
            }
        }
        let policies = config.policies.iter().map(|policy| ConnectionFilter::new(policy, options)).collect();
        Ok(Arc::new(ChainRuntime { config: config.clone(), tls, policies, http, tcp }))
    }
}

fn limits(manager: &HttpConnectionManager, options: &Options) -> Limits {
    let configured = manager.limits;
    let limits = Limits {
        // As in Envoy: so many that no later stream could bring them below one half.
        premature_resets: options.overload.settings().premature_reset_streams / 2,
        header_list_size: configured.header_list_size,
        header_count: configured.header_count,
        concurrent_streams: configured.concurrent_streams,
        stream_window: configured.stream_window,
        connection_window: configured.connection_window,
        ..Limits::default()
    };
    guarded(limits, &configured.http2)
}

/// With the configured bounds on HTTP/2 frames.
pub(crate) fn guarded(limits: Limits, guards: &Http2Guards) -> Limits {
    Limits {
        outbound_frames: guards.outbound_frames,
        outbound_control_frames: guards.outbound_control_frames,
        empty_frames: guards.empty_frames,
        priority_frames_per_stream: guards.priority_frames_per_stream,
        window_updates_per_data_frame: guards.window_updates_per_data_frame,
        ..limits
    }
}
