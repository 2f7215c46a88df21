//! Counters and gauges with one writer each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pymesh_tls::{Class, Session, TlsError};

/// A number that one worker writes and anybody reads. Writing is a load and a
/// store, not a locked operation: there is only one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        let value = self.0.load(Ordering::Relaxed).wrapping_add(n);
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Takes one away, for gauges.
    pub fn dec(&self) {
        let value = self.0.load(Ordering::Relaxed).saturating_sub(1);
        self.0.store(value, Ordering::Relaxed);
    }

    /// Replaces the value, for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: Counter,)* }

        impl Stats for $name {
            fn visit(&self, f: &mut dyn FnMut(&'static str, Kind, u64)) {
                $(f(stringify!($field), Kind::$kind, self.$field.value());)*
            }
        }
    };
}

/// How values of several workers and scrapes relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// A level, of which each worker has its part.
    Gauge,
    /// A level that every worker knows as a whole: the greatest is told.
    Common,
    /// The same of what only grows.
    CommonCounter,
}

impl Kind {
    /// It only grows.
    pub fn is_counter(self) -> bool {
        matches!(self, Kind::Counter | Kind::CommonCounter)
    }

    /// What two workers have to say, together.
    fn join(self, one: u64, other: u64) -> u64 {
        match self {
            Kind::Counter | Kind::Gauge => one.wrapping_add(other),
            Kind::Common | Kind::CommonCounter => one.max(other),
        }
    }
}

/// A group of named numbers.
pub trait Stats: Send + Sync {
    /// Calls `f` with each name, kind and value.
    fn visit(&self, f: &mut dyn FnMut(&'static str, Kind, u64));
}

stats! {
    /// `cluster.<name>.*`, names as Envoy's.
    ClusterStats {
        upstream_cx_total: Counter,
        upstream_cx_active: Gauge,
        upstream_cx_http1_total: Counter,
        upstream_cx_http2_total: Counter,
        upstream_cx_connect_fail: Counter,
        upstream_cx_connect_timeout: Counter,
        upstream_cx_connect_attempts_exceeded: Counter,
        upstream_cx_destroy: Counter,
        upstream_cx_overflow: Counter,
        upstream_cx_idle_timeout: Counter,
        upstream_cx_max_duration_reached: Counter,
        upstream_cx_max_requests: Counter,
        upstream_cx_pool_overflow: Counter,
        upstream_cx_protocol_error: Counter,
        upstream_cx_rx_bytes_total: Counter,
        upstream_cx_tx_bytes_total: Counter,
        upstream_rq_total: Counter,
        upstream_rq_active: Gauge,
        upstream_rq_pending_total: Counter,
        upstream_rq_pending_active: Gauge,
        upstream_rq_pending_overflow: Counter,
        upstream_rq_active_overflow: Counter,
        upstream_rq_completed: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_per_try_idle_timeout: Counter,
        upstream_rq_max_duration_reached: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_rq_tx_reset: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_success: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_backoff_ratelimited: Counter,
        retry_or_shadow_abandoned: Counter,
        upstream_rq_2xx: Counter,
        upstream_rq_3xx: Counter,
        upstream_rq_4xx: Counter,
        upstream_rq_5xx: Counter,
        membership_change: CommonCounter,
        membership_total: Common,
        membership_healthy: Common,
        membership_degraded: Common,
        membership_excluded: Common,
        lb_healthy_panic: Counter,
        original_dst_host_invalid: Counter,
        original_dst_loop: Counter,
    }
}

stats! {
    /// `http.<stat_prefix>.*`, names as Envoy's.
    HttpStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_http1_total: Counter,
        downstream_cx_http2_total: Counter,
        downstream_cx_destroy: Counter,
        downstream_cx_protocol_error: Counter,
        downstream_cx_ssl_total: Counter,
        downstream_cx_upgrades_total: Counter,
        downstream_cx_destroy_remote_active_rq: Counter,
        downstream_cx_upgrades_active: Gauge,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
        downstream_rq_total: Counter,
        downstream_rq_active: Gauge,
        downstream_rq_completed: Counter,
        downstream_rq_rx_reset: Counter,
        downstream_rq_tx_reset: Counter,
        downstream_rq_too_large: Counter,
        downstream_rq_timeout: Counter,
        downstream_rq_ws_on_non_ws_route: Counter,
        downstream_rq_header_timeout: Counter,
        downstream_rq_idle_timeout: Counter,
        downstream_rq_max_duration_reached: Counter,
        downstream_rq_too_many_premature_resets: Counter,
        downstream_rq_overload_close: Counter,
        downstream_cx_overload_disable_keepalive: Counter,
        downstream_rq_1xx: Counter,
        downstream_rq_2xx: Counter,
        downstream_rq_3xx: Counter,
        downstream_rq_4xx: Counter,
        downstream_rq_5xx: Counter,
        no_route: Counter,
        no_cluster: Counter,
        rq_direct_response: Counter,
        rq_redirect: Counter,
        python_filter_calls: Counter,
        python_filter_failures: Counter,
        python_filter_replies: Counter,
    }
}

stats! {
    /// `python_filter.<name>.*`, by the filter's name in its chains.
    PythonFilterStats {
        calls: Counter,
        replies: Counter,
        failures: Counter,
        timeouts: Counter,
        overflows: Counter,
    }
}

stats! {
    /// `python_filter.<name>.*`: what configurations have brought of it. Names as those of Envoy's extension discovery.
    PythonFilterConfigStats {
        config_reload: Counter,
        config_fail: Counter,
    }
}

stats! {
    /// `http.<stat_prefix>.cors.*`, names as Envoy's.
    CorsStats {
        origin_valid: Counter,
        origin_invalid: Counter,
    }
}

stats! {
    /// `http.<stat_prefix>.tracing.*`, names as Envoy's.
    HttpTracingStats {
        random_sampling: Counter,
        service_forced: Counter,
        client_enabled: Counter,
        not_traceable: Counter,
    }
}

stats! {
    /// `tracing.opentelemetry.*`: what has become of spans.
    TracingStats {
        spans_sent: Counter,
        spans_dropped: Counter,
    }
}

stats! {
    /// `cluster.<name>.outlier_detection.*`, names as Envoy's. All workers write them, one at a time.
    OutlierStats {
        ejections_active: Gauge,
        ejections_overflow: Counter,
        ejections_total: Counter,
        ejections_consecutive_5xx: Counter,
        ejections_success_rate: Counter,
        ejections_enforced_total: Counter,
        ejections_detected_consecutive_5xx: Counter,
        ejections_enforced_consecutive_5xx: Counter,
        ejections_detected_consecutive_gateway_failure: Counter,
        ejections_enforced_consecutive_gateway_failure: Counter,
        ejections_detected_consecutive_local_origin_failure: Counter,
        ejections_enforced_consecutive_local_origin_failure: Counter,
        ejections_detected_success_rate: Counter,
        ejections_enforced_success_rate: Counter,
        ejections_detected_local_origin_success_rate: Counter,
        ejections_enforced_local_origin_success_rate: Counter,
        ejections_detected_failure_percentage: Counter,
        ejections_enforced_failure_percentage: Counter,
        ejections_detected_local_origin_failure_percentage: Counter,
        ejections_enforced_local_origin_failure_percentage: Counter,
    }
}

stats! {
    /// `http.<stat_prefix>.fault.*`, names as Envoy's. There are none for each client: it could say any name.
    FaultStats {
        aborts_injected: Counter,
        delays_injected: Counter,
        faults_overflow: Counter,
        active_faults: Gauge,
    }
}

stats! {
    /// `cluster.<name>.health_check.*`, names as Envoy's. All workers write them, one at a time.
    HealthCheckStats {
        attempt: Counter,
        success: Counter,
        failure: Counter,
        network_failure: Counter,
        passive_failure: Counter,
        healthy: Gauge,
        degraded: Gauge,
    }
}

stats! {
    /// `http.<stat_prefix>.rbac.*` and `<stat_prefix>rbac.*`, names as Envoy's.
    RbacStats {
        allowed: Counter,
        denied: Counter,
    }
}

stats! {
    /// The same of rules that are not enforced.
    RbacShadowStats {
        shadow_allowed: Counter,
        shadow_denied: Counter,
    }
}

stats! {
    /// `http.<stat_prefix>.ext_authz.*`, names as Envoy's.
    ExtAuthzStats {
        ok: Counter,
        denied: Counter,
        error: Counter,
        disabled: Counter,
        failure_mode_allowed: Counter,
        invalid: Counter,
        ignored_dynamic_metadata: Counter,
        request_header_limits_reached: Counter,
    }
}

stats! {
    /// `cluster.<name>.ext_authz.*`, of requests for a cluster.
    ClusterExtAuthzStats {
        ok: Counter,
        denied: Counter,
        error: Counter,
        failure_mode_allowed: Counter,
        invalid: Counter,
    }
}

stats! {
    /// `http.<stat_prefix>.jwt_authn.*`, names as Envoy's.
    JwtStats {
        allowed: Counter,
        cors_preflight_bypassed: Counter,
        denied: Counter,
        jwks_fetch_failed: Counter,
        jwks_fetch_success: Counter,
        jwt_cache_hit: Counter,
        jwt_cache_miss: Counter,
    }
}

stats! {
    /// `ext_authz.<stat_prefix>.*` of connections, names as Envoy's.
    ConnectionExtAuthzStats {
        total: Counter,
        active: Gauge,
        ok: Counter,
        denied: Counter,
        error: Counter,
        disabled: Counter,
        failure_mode_allowed: Counter,
        cx_closed: Counter,
    }
}

stats! {
    /// `<stat_prefix>.http_local_rate_limit.*`, names as Envoy's.
    LocalRateLimitStats {
        enabled: Counter,
        enforced: Counter,
        rate_limited: Counter,
        ok: Counter,
    }
}

stats! {
    /// `http2.*` for clients, `cluster.<name>.http2.*` for endpoints. Names as Envoy's, where it counts the same.
    Http2Stats {
        goaway_sent: Counter,
        header_overflow: Counter,
        header_memory_overflow: Counter,
        inbound_continuation_frames_flood: Counter,
        inbound_empty_frames_flood: Counter,
        inbound_priority_frames_flood: Counter,
        inbound_window_update_frames_flood: Counter,
        outbound_control_flood: Counter,
        outbound_flood: Counter,
        rx_messaging_error: Counter,
        rx_reset: Counter,
        stream_refused_errors: Counter,
        too_many_header_frames: Counter,
        tx_reset: Counter,
    }
}

stats! {
    /// `tcp.<stat_prefix>.*`, names as Envoy's.
    TcpStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
        downstream_cx_no_route: Counter,
        idle_timeout: Counter,
        max_downstream_connection_duration: Counter,
    }
}

stats! {
    /// `listener.<address>.*`, names as Envoy's.
    ListenerStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_overflow: Counter,
        downstream_cx_overload_reject: Counter,
        downstream_global_cx_overflow: Counter,
        no_filter_chain_match: Counter,
        downstream_pre_cx_timeout: Counter,
        downstream_pre_cx_active: Gauge,
        downstream_listener_filter_remote_close: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter,
    }
}

stats! {
    /// `listener.<address>.ssl.*` and `cluster.<name>.ssl.*`, names as Envoy's.
    TlsStats {
        connection_error: Counter,
        handshake: Counter,
        session_reused: Counter,
        no_certificate: Counter,
        fail_verify_no_cert: Counter,
        fail_verify_error: Counter,
        fail_verify_san: Counter,
        fail_verify_cert_hash: Counter,
    }
}

impl ClusterStats {
    /// Counts the class of an answer's status.
    pub(crate) fn count_status(&self, status: u16) {
        match status / 100 {
            2 => self.upstream_rq_2xx.inc(),
            3 => self.upstream_rq_3xx.inc(),
            4 => self.upstream_rq_4xx.inc(),
            5 => self.upstream_rq_5xx.inc(),
            _ => {}
        }
    }
}

impl TlsStats {
    /// A handshake ended well.
    pub(crate) fn succeeded(&self, session: &Session) {
        self.handshake.inc();
        if session.is_resumed() {
            self.session_reused.inc();
        }
        if session.peer().is_none() {
            self.no_certificate.inc();
        }
    }

    /// One did not, or what came after it was no TLS.
    pub(crate) fn failed(&self, error: &TlsError) {
        let counter = match error.class() {
            Class::NoCertificate => &self.fail_verify_no_cert,
            Class::Name => &self.fail_verify_san,
            Class::NotPinned => &self.fail_verify_cert_hash,
            Class::Certificate => &self.fail_verify_error,
            Class::Connection => &self.connection_error,
        };
        counter.inc();
    }
}

stats! {
    /// `tls_inspector.*`, names as Envoy's.
    TlsInspectorStats {
        client_hello_too_large: Counter,
        tls_found: Counter,
        tls_not_found: Counter,
        alpn_found: Counter,
        alpn_not_found: Counter,
        sni_found: Counter,
        sni_not_found: Counter,
    }
}

stats! {
    /// `http_inspector.*`, names as Envoy's.
    HttpInspectorStats {
        read_error: Counter,
        http10_found: Counter,
        http11_found: Counter,
        http2_found: Counter,
        http_not_found: Counter,
    }
}

stats! {
    /// `proxy_proto.*`, names as Envoy's.
    ProxyProtocolStats {
        not_found_allowed: Counter,
        not_found_disallowed: Counter,
    }
}

stats! {
    /// `proxy_proto.versions.<version>.*`, names as Envoy's.
    ProxyProtocolVersionStats {
        found: Counter,
        disallowed: Counter,
        error: Counter,
    }
}

stats! {
    /// `filesystem.*`, names as Envoy's: blocks of log lines, written or not.
    FilesystemStats {
        write_completed: Counter,
        write_failed: Counter,
    }
}

stats! {
    /// `access_logs.file.*`: lines that no file has, as Envoy counts those of its other loggers.
    FileLogStats {
        logs_dropped: Counter,
    }
}

stats! {
    /// `access_logs.open_telemetry_access_log.*`, names as Envoy's: records on their way to collectors.
    RecordStats {
        logs_written: Counter,
        logs_dropped: Counter,
    }
}

/// A group of counters, found by its name.
type Group<T> = HashMap<Arc<str>, Vec<Arc<T>>>;

/// All counters of all workers. A worker comes here once per name; after that
/// it writes without the lock. A name that goes and comes back finds its old
/// numbers, as a counter must.
#[derive(Default)]
pub struct Hub {
    groups: Mutex<Groups>,
}

/// What a [`Hub`] holds: for each name, one group of numbers per worker.
#[derive(Default)]
#[allow(missing_docs)]
pub struct Groups {
    pub clusters: Group<ClusterStats>,
    /// Of clusters that eject outliers; one for all workers.
    pub outliers: Group<OutlierStats>,
    /// Of clusters whose hosts are checked; one for all workers.
    pub health_checks: Group<HealthCheckStats>,
    /// HTTP/2 with clients, under the empty name.
    pub http2: Group<Http2Stats>,
    /// HTTP/2 with the endpoints of each cluster.
    pub cluster_http2: Group<Http2Stats>,
    pub http: Group<HttpStats>,
    pub python_filters: Group<PythonFilterStats>,
    /// One for all workers.
    pub python_filter_configs: Group<PythonFilterConfigStats>,
    pub cors: Group<CorsStats>,
    pub http_tracing: Group<HttpTracingStats>,
    /// Of all spans.
    pub tracing: Group<TracingStats>,
    pub fault: Group<FaultStats>,
    /// Under the whole name up to the counter's.
    pub rbac: Group<RbacStats>,
    /// Likewise.
    pub rbac_shadow: Group<RbacShadowStats>,
    /// Likewise.
    pub ext_authz: Group<ExtAuthzStats>,
    /// Likewise.
    pub cluster_ext_authz: Group<ClusterExtAuthzStats>,
    /// Likewise.
    pub jwt: Group<JwtStats>,
    /// Of connections.
    pub connection_ext_authz: Group<ConnectionExtAuthzStats>,
    pub local_rate_limits: Group<LocalRateLimitStats>,
    pub tcp: Group<TcpStats>,
    pub listeners: Group<ListenerStats>,
    pub listener_tls: Group<TlsStats>,
    pub cluster_tls: Group<TlsStats>,
    pub tls_inspector: Group<TlsInspectorStats>,
    pub http_inspector: Group<HttpInspectorStats>,
    pub proxy_protocol: Group<ProxyProtocolStats>,
    pub proxy_protocol_versions: Group<ProxyProtocolVersionStats>,
    /// Of all files.
    pub filesystem: Group<FilesystemStats>,
    /// Of all access logs in files.
    pub file_log: Group<FileLogStats>,
    /// Of all access logs that collectors are told.
    pub otlp_log: Group<RecordStats>,
}

impl Hub {
    /// Adds a worker's counters for a cluster.
    pub fn cluster(&self, worker: usize, name: &Arc<str>) -> Arc<ClusterStats> {
        join(&mut self.lock().clusters, worker, name)
    }

    /// The counters of a cluster's outlier detection. Who writes them makes sure that nobody else does.
    pub fn outliers(&self, name: &Arc<str>) -> Arc<OutlierStats> {
        join(&mut self.lock().outliers, 0, name)
    }

    /// The counters of a cluster's health checks, on the same terms.
    pub fn health_checks(&self, name: &Arc<str>) -> Arc<HealthCheckStats> {
        join(&mut self.lock().health_checks, 0, name)
    }

    /// Adds a worker's counters for HTTP/2 with clients.
    pub fn http2(&self, worker: usize) -> Arc<Http2Stats> {
        join(&mut self.lock().http2, worker, &"".into())
    }

    /// Adds a worker's counters for HTTP/2 with a cluster's endpoints.
    pub fn cluster_http2(&self, worker: usize, name: &Arc<str>) -> Arc<Http2Stats> {
        join(&mut self.lock().cluster_http2, worker, name)
    }

    /// Adds a worker's counters for a connection manager's prefix.
    pub fn http(&self, worker: usize, prefix: &Arc<str>) -> Arc<HttpStats> {
        join(&mut self.lock().http, worker, prefix)
    }

    /// Adds a worker's counters for the Python filters of a name.
    pub fn python_filter(&self, worker: usize, name: &Arc<str>) -> Arc<PythonFilterStats> {
        join(&mut self.lock().python_filters, worker, name)
    }

    /// The counters of what configurations have brought of the Python filters of a name. Who writes them makes sure that
    /// nobody else does.
    pub fn python_filter_config(&self, name: &Arc<str>) -> Arc<PythonFilterConfigStats> {
        join(&mut self.lock().python_filter_configs, 0, name)
    }

    /// Adds a worker's counters for the CORS filters of a connection manager's prefix.
    pub fn cors(&self, worker: usize, prefix: &Arc<str>) -> Arc<CorsStats> {
        join(&mut self.lock().cors, worker, prefix)
    }

    /// Adds a worker's counters for the traces of a connection manager's prefix.
    pub fn http_tracing(&self, worker: usize, prefix: &Arc<str>) -> Arc<HttpTracingStats> {
        join(&mut self.lock().http_tracing, worker, prefix)
    }

    /// Adds a worker's counters for spans on their way to collectors.
    pub fn tracing(&self, worker: usize) -> Arc<TracingStats> {
        join(&mut self.lock().tracing, worker, &"".into())
    }

    /// Adds a worker's counters for the fault filters of a connection manager's prefix.
    pub fn fault(&self, worker: usize, prefix: &Arc<str>) -> Arc<FaultStats> {
        join(&mut self.lock().fault, worker, prefix)
    }

    /// Adds a worker's counters for access policies, by their name up to the counter's.
    pub fn rbac(&self, worker: usize, name: &Arc<str>) -> Arc<RbacStats> {
        join(&mut self.lock().rbac, worker, name)
    }

    /// Adds a worker's counters for access policies that are not enforced.
    pub fn rbac_shadow(&self, worker: usize, name: &Arc<str>) -> Arc<RbacShadowStats> {
        join(&mut self.lock().rbac_shadow, worker, name)
    }

    /// Adds a worker's counters for external authorization, by their name up to the counter's.
    pub fn ext_authz(&self, worker: usize, name: &Arc<str>) -> Arc<ExtAuthzStats> {
        join(&mut self.lock().ext_authz, worker, name)
    }

    /// Adds a worker's counters for external authorization of what is meant for a cluster.
    pub fn cluster_ext_authz(&self, worker: usize, name: &Arc<str>) -> Arc<ClusterExtAuthzStats> {
        join(&mut self.lock().cluster_ext_authz, worker, name)
    }

    /// Adds a worker's counters for tokens, by their name up to the counter's.
    pub fn jwt(&self, worker: usize, name: &Arc<str>) -> Arc<JwtStats> {
        join(&mut self.lock().jwt, worker, name)
    }

    /// Adds a worker's counters for external authorization of connections.
    pub fn connection_ext_authz(&self, worker: usize, prefix: &Arc<str>) -> Arc<ConnectionExtAuthzStats> {
        join(&mut self.lock().connection_ext_authz, worker, prefix)
    }

    /// Adds a worker's counters for local rate limits of a prefix.
    pub fn local_rate_limit(&self, worker: usize, prefix: &Arc<str>) -> Arc<LocalRateLimitStats> {
        join(&mut self.lock().local_rate_limits, worker, prefix)
    }

    /// Adds a worker's counters for a TCP proxy's prefix.
    pub fn tcp(&self, worker: usize, prefix: &Arc<str>) -> Arc<TcpStats> {
        join(&mut self.lock().tcp, worker, prefix)
    }

    /// Adds a worker's counters for a listener.
    pub fn listener(&self, worker: usize, name: &Arc<str>) -> Arc<ListenerStats> {
        join(&mut self.lock().listeners, worker, name)
    }

    /// Adds a worker's counters for TLS with a listener's clients.
    pub fn listener_tls(&self, worker: usize, name: &Arc<str>) -> Arc<TlsStats> {
        join(&mut self.lock().listener_tls, worker, name)
    }

    /// Adds a worker's counters for TLS with a cluster's endpoints.
    pub fn cluster_tls(&self, worker: usize, name: &Arc<str>) -> Arc<TlsStats> {
        join(&mut self.lock().cluster_tls, worker, name)
    }

    /// Adds a worker's counters for what all TLS inspectors find.
    pub fn tls_inspector(&self, worker: usize) -> Arc<TlsInspectorStats> {
        join(&mut self.lock().tls_inspector, worker, &"".into())
    }

    /// Adds a worker's counters for what all HTTP inspectors find.
    pub fn http_inspector(&self, worker: usize) -> Arc<HttpInspectorStats> {
        join(&mut self.lock().http_inspector, worker, &"".into())
    }

    /// Adds a worker's counters for connections without a PROXY protocol header.
    pub fn proxy_protocol(&self, worker: usize) -> Arc<ProxyProtocolStats> {
        join(&mut self.lock().proxy_protocol, worker, &"".into())
    }

    /// Adds a worker's counters for a version of the PROXY protocol, `v1` or `v2`.
    pub fn proxy_protocol_version(&self, worker: usize, version: &'static str) -> Arc<ProxyProtocolVersionStats> {
        join(&mut self.lock().proxy_protocol_versions, worker, &version.into())
    }

    /// Adds the counters of whoever writes files.
    pub fn filesystem(&self, writer: usize) -> Arc<FilesystemStats> {
        join(&mut self.lock().filesystem, writer, &"".into())
    }

    /// Adds the counters of a worker, or of whoever writes, for lines of access logs.
    pub fn file_log(&self, worker: usize) -> Arc<FileLogStats> {
        join(&mut self.lock().file_log, worker, &"".into())
    }

    /// Adds a worker's counters for records of access logs on their way to collectors.
    pub fn otlp_log(&self, worker: usize) -> Arc<RecordStats> {
        join(&mut self.lock().otlp_log, worker, &"".into())
    }

    /// Everything, for as long as the guard lives.
    pub fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn join<T: Default>(group: &mut Group<T>, worker: usize, name: &Arc<str>) -> Arc<T> {
    let workers = group.entry(name.clone()).or_default();
    while workers.len() <= worker {
        workers.push(Arc::default());
    }
    workers.get(worker).cloned().unwrap_or_default()
}

/// Envoy names a listener's numbers by its address: `127.0.0.1_8080`, `[__1]_8080`.
pub fn listener_name(address: SocketAddr) -> Arc<str> {
    address.to_string().replace(':', "_").into()
}

/// Sums the numbers of one name over all workers, in order of declaration.
pub fn sum<T: Stats>(workers: &[Arc<T>]) -> Vec<(&'static str, Kind, u64)> {
    let mut total: Vec<(&'static str, Kind, u64)> = Vec::new();
    for stats in workers {
        let mut at = 0;
        stats.visit(&mut |name, kind, value| {
            match total.get_mut(at) {
                Some(entry) => entry.2 = kind.join(entry.2, value),
                None => total.push((name, kind, value)),
            }
            at += 1;
        });
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_workers() {
        let hub = Hub::default();
        let name: Arc<str> = "a".into();
        let (one, two) = (hub.cluster(0, &name), hub.cluster(1, &name));
        one.upstream_rq_total.add(2);
        two.upstream_rq_total.inc();
        two.upstream_cx_active.dec();
        one.membership_total.set(3);
        two.membership_total.set(3);
        let groups = hub.lock();
        let sums = sum(groups.clusters.get("a").unwrap());
        assert!(sums.contains(&("membership_total", Kind::Common, 3)), "both know of the same three");
        assert!(sums.contains(&("upstream_rq_total", Kind::Counter, 3)));
        assert!(sums.contains(&("upstream_cx_active", Kind::Gauge, 0)));
    }
}
