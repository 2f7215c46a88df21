//! What requests and connections tell of their hosts, as Envoy's router and TCP proxy do.

use pymesh_http::Known;

use super::{ExchangeKey, Failure};
use crate::cluster::{ClusterKey, HostKey};
use crate::engine::Engine;
use crate::health::Outcome;
use crate::route;

const IMMEDIATE_FAIL: &[u8] = b"x-envoy-immediate-health-check-fail";

impl Engine {
    /// The host of an exchange has answered. A gRPC status in the head counts as the HTTP status that goes with it.
    pub(super) fn tell_answer(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (Some(cluster), Some(host)) = (exchange.cluster, exchange.host) else { return };
        let is_grpc = route::matcher::is_grpc(&exchange.request);
        let grpc_status = exchange.response.headers.get_known(Known::GrpcStatus).filter(|_| is_grpc);
        let status = grpc_status.map_or(exchange.response.status, route::grpc::http_status);
        if exchange.response.headers.get(IMMEDIATE_FAIL).is_some() {
            self.expel(cluster, host);
        }
        self.tell(cluster, host, Outcome::Answer(status));
    }

    /// A host wants no more requests, if anybody may ask it again how it is.
    fn expel(&self, cluster: ClusterKey, host: HostKey) {
        let Some(cluster) = self.clusters.get(cluster) else { return };
        let (Some(health), Some(check)) = (&cluster.health, &cluster.config.health_check) else { return };
        if let Some(watched) = cluster.hosts.get(host).and_then(|host| host.watched.as_ref()) {
            health.expel(watched, check);
        }
    }

    /// An attempt has failed. What a circuit breaker refuses, or a limit of ours ends, says nothing of the host.
    pub(super) fn tell_failure(&mut self, key: ExchangeKey, failure: Failure) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (Some(cluster), Some(host)) = (exchange.cluster, exchange.host) else { return };
        match failure {
            Failure::Overflow | Failure::StreamDuration => {}
            Failure::PerTryTimeout | Failure::PerTryIdleTimeout => self.tell(cluster, host, Outcome::Timeout),
            // An attempt to connect that takes too long counts as any that fails: only a TCP proxy tells them apart.
            _ => self.tell(cluster, host, Outcome::Failed),
        }
    }

    /// The time of a request is over.
    pub(super) fn tell_timeout(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let is_waiting = exchange.up.is_some() && !exchange.has_response;
        if let (Some(cluster), Some(host), true) = (exchange.cluster, exchange.host, is_waiting) {
            self.tell(cluster, host, Outcome::Timeout);
        }
    }

    /// Something became of what was between us and a host. Nobody listens where no outliers are looked for.
    pub(crate) fn tell(&mut self, cluster: ClusterKey, host: HostKey, outcome: Outcome) {
        let Some(cluster) = self.clusters.get(cluster) else { return };
        let (Some(health), Some(detection)) = (&cluster.health, &cluster.config.outlier_detection) else { return };
        if let Some(watched) = cluster.hosts.get(host).and_then(|host| host.watched.as_ref()) {
            health.report(watched, outcome, detection, self.now, &mut self.rng);
        }
    }
}
