//! From a chosen cluster to an endpoint and a connection, and what becomes of both when the attempt is over.

use pymesh_http::{h2, Version};
use pymesh_model::cluster::RoutingPriority;

use super::tunnel::Asks;
use super::{mirror, sticky, Exchange, ExchangeKey, Failure, LocalReply, Stage};
use crate::cluster::balance::Pick;
use crate::cluster::original::NoHost;
use crate::cluster::{ClusterKey, HostKey, PoolKey, PoolKind};
use crate::conn::{Conn, ConnKey, Protocol};
use crate::engine::Engine;
use crate::health::Outcome;
use crate::shared::Resource;
use crate::telemetry::{details, Flags};

impl Engine {
    /// Chooses an endpoint and takes a connection to it, or waits for one.
    pub(super) fn pick_upstream(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let is_http2 = exchange.request.version == Version::Http2;
        let Some(cluster_key) = exchange.cluster.filter(|cluster| self.clusters.contains(*cluster)) else {
            let reply = LocalReply::new(503, details::CLUSTER_NOT_FOUND).with_flags(Flags::NO_CLUSTER);
            return self.reply_locally(key, reply);
        };
        let tried = std::mem::take(&mut exchange.tried);
        let host = self.pick_host_avoiding(cluster_key, &tried, key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.tried = tried;
        let host_key = match host {
            Ok(host) => host,
            Err(NoHost::Overflow) => return self.overflow(key),
            Err(NoHost::Unavailable) => {
                let reply = LocalReply::new(503, details::NO_HEALTHY_UPSTREAM);
                let reply = reply.with_flags(Flags::NO_HEALTHY_UPSTREAM).with_body(b"no healthy upstream");
                return self.reply_locally(key, reply);
            }
        };
        let exchange = match exchange.attempt == 1 && mirror::is_mirrored(exchange) {
            false => exchange,
            true => {
                self.begin_mirrors(key, cluster_key, host_key);
                let Some(exchange) = self.exchanges.get_mut(key) else { return };
                exchange
            }
        };
        let Some(cluster) = self.clusters.get_mut(cluster_key) else { return };
        let kind = match ends_tunnel(exchange) {
            true => PoolKind::Tcp,
            false => PoolKind::choose(cluster.config.http.protocol, is_http2),
        };
        let priority = exchange.priority;
        let pool_key = PoolKey { kind, priority };
        let Some(host) = cluster.hosts.get(host_key) else { return };
        if cluster.socket_for(&host.endpoint).proxy_protocol.is_some() {
            // A connection that speaks for one client must not carry another's request.
            let reply = LocalReply::new(503, details::PROXY_PROTOCOL_NEEDS_TCP);
            return self.reply_locally(key, reply.with_flags(Flags::NO_CLUSTER));
        }
        let Some(host) = cluster.hosts.get_mut(host_key) else { return };
        exchange.host = Some(host_key);
        exchange.pool = Some(pool_key);
        exchange.keep_config(&cluster.config);
        exchange.endpoint = Some(host.endpoint.clone());
        exchange.begin_attempt_span(self.now, &mut self.rng);
        let pool = host.pool(pool_key);
        let conns = &self.conns;
        let idle = loop {
            match pool.idle.pop() {
                Some(conn) if conns.get(conn).is_some_and(|conn| !conn.is_closing()) => break Some(conn),
                Some(_) => {}
                None => break None,
            }
        };
        let ready = idle.or_else(|| {
            let can_open = |conn: &ConnKey| match conns.get(*conn).map(|conn| &conn.protocol) {
                Some(Protocol::Http2Client(h2)) => h2.can_open(),
                _ => false,
            };
            pool.shared.iter().copied().find(can_open)
        });
        if let Some(conn_key) = ready {
            if !cluster.has_room(priority, Resource::Requests) {
                if let Some(idle) = idle {
                    cluster.hosts.get_mut(host_key).into_iter().for_each(|host| host.pool(pool_key).idle.push(idle));
                }
                return self.refuse_request(key, Resource::Requests);
            }
            if let Some(mut conn) = self.conns.lend(conn_key) {
                self.attach(key, &mut conn);
                self.conns.give_back(conn_key, conn);
            }
            return;
        }
        if !cluster.has_room(priority, Resource::Pending) {
            return self.refuse_request(key, Resource::Pending);
        }
        let Some(host) = cluster.hosts.get_mut(host_key) else { return };
        host.active += 1;
        let pool = host.pool(pool_key);
        pool.waiting.push_back(key);
        let wants_more = match kind {
            PoolKind::Negotiated | PoolKind::Tcp => pool.waiting.len() > pool.connecting as usize,
            PoolKind::Http2 => pool.connecting == 0,
        };
        cluster.load.add(priority, Resource::Pending);
        cluster.stats.upstream_rq_pending_total.inc();
        cluster.stats.upstream_rq_pending_active.inc();
        exchange.stage = Stage::Pending;
        if wants_more {
            self.open_upstream(cluster_key, host_key, pool_key, None);
        }
    }

    /// The circuit breaker of requests, or of those that wait for a connection, is open.
    pub(crate) fn refuse_request(&mut self, key: ExchangeKey, full: Resource) {
        let cluster = self.exchanges.get(key).and_then(|exchange| exchange.cluster);
        if let Some(cluster) = cluster.and_then(|cluster| self.clusters.get(cluster)) {
            match full {
                Resource::Requests => cluster.stats.upstream_rq_active_overflow.inc(),
                _ => cluster.stats.upstream_rq_pending_overflow.inc(),
            }
        }
        self.overflow(key);
    }

    fn overflow(&mut self, key: ExchangeKey) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.host = None;
        }
        self.upstream_failed(key, Failure::Overflow);
    }

    fn pick_host_avoiding(
        &mut self,
        cluster: ClusterKey,
        tried: &[HostKey],
        key: ExchangeKey,
    ) -> Result<HostKey, NoHost> {
        let exchange = self.exchanges.get(key).ok_or(NoHost::Unavailable)?;
        if let Some(host) = exchange.detached.as_ref().and_then(|detached| detached.host) {
            let meant = self.clusters.get(cluster).and_then(|cluster| cluster.hosts.get(host));
            return meant.filter(|meant| meant.listed).map(|_| host).ok_or(NoHost::Unavailable);
        }
        let retry = exchange.retry();
        let (avoid, reselections) = match retry {
            Some(retry) if retry.avoid_previous_hosts => (tried, retry.host_selection_attempts),
            _ => (Default::default(), 0),
        };
        let wanted = exchange.down.and_then(|down| self.conns.get(down)).and_then(|down| down.original_dst());
        let now = self.now;
        let pick = match self.clusters.get(cluster).filter(|cluster| cluster.config.balance.policy.hashes()) {
            None => Pick { now, avoid, reselections, ..Pick::default() },
            Some(cluster) => {
                // This worker's alone, as its hosts' are: what each of them keeps to, all together do.
                let active = cluster.load.own(Resource::Requests).saturating_add(cluster.load.own(Resource::Pending));
                Pick { now, hash: self.hash_of(key), active, avoid, reselections }
            }
        };
        self.pick_host(cluster, wanted, Some(key), pick)
    }

    /// The hash of a request by the policies of its route.
    fn hash_of(&mut self, key: ExchangeKey) -> Option<u64> {
        let exchange = self.exchanges.get_mut(key)?;
        let forward = exchange.forward()?.clone();
        sticky::hash(exchange, &forward.hash_policy, &mut self.text)
    }

    /// Gives an exchange its upstream connection and writes the request head.
    pub(crate) fn attach(&mut self, key: ExchangeKey, conn: &mut Conn) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(up) = conn.upstream_mut() else { return };
        up.requests = up.requests.saturating_add(1);
        let (cluster_key, host_key, pool_key) = (up.cluster, up.host, up.pool);
        exchange.upstream_facts.clone_from(&up.facts);
        let Some(cluster) = self.clusters.get_mut(cluster_key) else { return };
        let most = cluster.config.http.requests_per_connection;
        let is_last = most > 0 && up.requests >= most;
        up.draining |= is_last;
        cluster.load.add(pool_key.priority, Resource::Requests);
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        if is_last {
            cluster.stats.upstream_cx_max_requests.inc();
        }
        if let Some(host) = cluster.hosts.get_mut(host_key) {
            host.active += 1;
            if is_last {
                host.pool(pool_key).forget(conn.key);
            }
        }
        let is_watched = cluster.health.is_some();
        exchange.up = Some(conn.key);
        exchange.stage = Stage::Flowing;
        exchange.upstream_local = Some(conn.local);
        exchange.upstream_started = Some(self.now);
        exchange.last_progress = self.now;
        if is_watched {
            self.tell(cluster_key, host_key, Outcome::Connected);
        }
        self.start_request(key, conn);
        if self.exchanges.get(key).is_some_and(|exchange| exchange.answers_expect()) {
            self.send_continue(key);
        }
        self.arm_per_try_timeout(key);
        self.make_ready(key);
    }

    /// Takes the exchange off its upstream, whatever state that is in. The
    /// attempt is over: an HTTP/2 stream is reset, an HTTP/1 connection closed,
    /// unless both messages are complete.
    pub(crate) fn detach_upstream(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let (Some(cluster_key), Some(host_key)) = (exchange.cluster, exchange.host) else { return };
        let is_pending = exchange.stage == Stage::Pending;
        let up = exchange.up.take();
        let stream = exchange.up_stream.take();
        let is_complete = exchange.request_body.finished && exchange.response_body.ended && exchange.has_response;
        let pool_key =
            exchange.pool.unwrap_or(PoolKey { kind: PoolKind::Negotiated, priority: RoutingPriority::Default });
        if let Some(cluster) = self.clusters.get_mut(cluster_key) {
            if is_pending && cluster.hosts.get_mut(host_key).is_some_and(|host| host.pool(pool_key).stop_waiting(key)) {
                if let Some(host) = cluster.hosts.get_mut(host_key) {
                    host.active = host.active.saturating_sub(1);
                }
                cluster.load.take(pool_key.priority, Resource::Pending);
                cluster.stats.upstream_rq_pending_active.dec();
            }
            if up.is_some() {
                cluster.end_request(Some(host_key), pool_key.priority);
            }
            cluster.drop_host_if_unused(host_key);
        }
        if let Some(up) = up {
            self.leave_connection(key, up, stream, is_complete);
        }
        self.drop_cluster_if_over(cluster_key);
    }

    /// What becomes of a connection when an exchange is done with it.
    fn leave_connection(&mut self, key: ExchangeKey, up: ConnKey, stream: Option<h2::StreamId>, is_complete: bool) {
        let Some(mut conn) = self.conns.lend(up) else { return };
        match &mut conn.protocol {
            Protocol::Http1Client(client) if client.exchange == Some(key) => {
                client.exchange = None;
                let reusable = is_complete && client.keep_alive && client.response_ended && !conn.peer_closed;
                match reusable && conn.input.is_empty() && !conn.upstream().is_some_and(|up| up.draining) {
                    true => self.serve_pool(&mut conn),
                    false => self.close_now(&mut conn),
                }
            }
            Protocol::Http2Client(h2) => {
                // Also for a stream that has ended: what it holds of the window is given back.
                if let Some(stream) = stream {
                    h2.reset(stream, h2::ErrorCode::CANCEL);
                }
                self.mark_dirty(&mut conn);
                self.serve_or_close(&mut conn);
            }
            Protocol::Tunnel(end) if end.exchange == Some(key) => self.close_after_flush(&mut conn),
            _ => {}
        }
        self.conns.give_back(up, conn);
    }
}

/// The route ends the CONNECT here: what is in the tunnel goes on as TCP.
fn ends_tunnel(exchange: &Exchange) -> bool {
    if exchange.detached.as_ref().is_some_and(|detached| detached.is_raw) {
        return true;
    }
    let rules = exchange.forward().map(|forward| &forward.upgrades);
    let mut rules = rules.into_iter().flatten();
    exchange.tunnel.asks == Asks::Connect && rules.any(|rule| &*rule.protocol == "connect" && rule.terminates)
}
