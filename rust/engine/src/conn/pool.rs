//! An upstream connection from its opening to its end, and how requests share it through its host's pool.
//!
//! It is opened for somebody who waits (`open_upstream`), and whoever has waited longest is given the first that has
//! room (`serve_pool`). Counts of the pool, the host and the cluster are taken when it is opened and given back once,
//! when it is closed (`forget_upstream`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_http::h2;

use super::{Conn, ConnKey, Protocol, RelayKey, Upstream};
use crate::base::time::Time;
use crate::cluster::{ClusterKey, HostKey, PoolKey, PoolKind};
use crate::engine::{Action, Engine};
use crate::exchange::{Exchange, ExchangeKey, Failure, TunnelEnd};
use crate::health::Outcome;
use crate::shared::Resource;
use crate::telemetry::UpstreamFacts;

impl Engine {
    /// Starts a connection to a host, unless the cluster has too many. A pool
    /// without any may always have one, or whoever waits for it would wait for
    /// connections of other hosts or another protocol to go.
    pub(crate) fn open_upstream(
        &mut self,
        cluster_key: ClusterKey,
        host_key: HostKey,
        pool_key: PoolKey,
        relay: Option<RelayKey>,
    ) -> Option<ConnKey> {
        let id = self.next_connection_id();
        let cluster = self.clusters.get_mut(cluster_key)?;
        let has_room = cluster.has_room_at(cluster.hosts.get(host_key)?, pool_key.priority);
        let host = cluster.hosts.get_mut(host_key)?;
        // A relay has its connection for itself: it could only wait for one that may stay as long as it likes.
        let has_one = relay.is_some() || host.pool(pool_key).connections > 0;
        if !has_room {
            cluster.stats.upstream_cx_overflow.inc();
        }
        if !has_room && has_one {
            return None;
        }
        if let Some(health) = &cluster.health {
            health.note_traffic();
        }
        let address = host.endpoint.address;
        host.add_connection();
        cluster.load.add(pool_key.priority, Resource::Connections);
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        if relay.is_none() {
            let pool = host.pool(pool_key);
            pool.connections += 1;
            pool.connecting += 1;
        }
        let deadline = self.now.after_limit(cluster.config.connect_timeout);
        let (buffer_limit, now) = (cluster.config.buffer_limit, self.now);
        let up = Upstream {
            cluster: cluster_key,
            host: host_key,
            pool: pool_key,
            generation: cluster.generation,
            relay,
            requests: 0,
            draining: false,
            expires: Time::NEVER,
            ends_at: Time::NEVER,
            facts: None,
        };
        let key = self.conns.insert_with(|key| {
            let conn = Conn::to_endpoint(key, up, address, buffer_limit, now);
            Box::new(Conn { id, deadline, ..conn })
        });
        self.timers.arm_conn(key, deadline);
        self.act(Action::Connect(key, address));
        Some(key)
    }

    /// The socket of an upstream connection is connected.
    pub fn connected(&mut self, key: ConnKey, local: SocketAddr) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        conn.local = local;
        self.speak_for_client(&mut conn);
        match self.upstream_session(&conn) {
            Ok(None) => self.on_upstream_open(&mut conn),
            Ok(Some(session)) => {
                conn.tls = Some(Box::new(session));
                self.mark_dirty(&mut conn);
            }
            Err(error) => {
                self.last_transport_failure = Some(error);
                self.lose_upstream(&mut conn, Failure::Connect);
                self.close_now(&mut conn);
            }
        }
        self.conns.give_back(key, conn);
    }

    fn upstream_session(&mut self, conn: &Conn) -> Result<Option<pymesh_tls::Session>, String> {
        let Some(up) = conn.upstream() else { return Ok(None) };
        let Some(cluster) = self.clusters.get_mut(up.cluster) else { return Ok(None) };
        let Some(endpoint) = cluster.hosts.get(up.host).map(|host| host.endpoint.clone()) else { return Ok(None) };
        let Some(tls) = cluster.socket_for(&endpoint).tls.clone() else { return Ok(None) };
        let config = cluster.compiled_tls(&tls, &self.secrets).map_err(|error| error.to_string())?;
        let mut session = pymesh_tls::Session::client(config, tls.sni.as_deref(), conn.remote.ip())
            .map_err(|error| error.to_string())?;
        session.judged_by(tls.validation.as_ref().map(|validation| validation.trust.clone()));
        Ok(Some(session))
    }

    /// TCP and TLS are ready: speak, and serve who waits.
    pub(crate) fn on_upstream_open(&mut self, conn: &mut Conn) {
        let Some(up) = conn.upstream() else { return };
        let (cluster_key, host_key, pool_key) = (up.cluster, up.host, up.pool);
        let relay = up.relay;
        if let Some(host) = self.clusters.get_mut(cluster_key).and_then(|cluster| cluster.hosts.get_mut(host_key)) {
            host.identify(conn.tls.as_deref());
        }
        let facts = self.upstream_facts_of(conn);
        if let Some(up) = conn.upstream_mut() {
            up.facts = Some(Arc::new(facts));
        }
        if let Some(relay) = relay {
            self.tell(cluster_key, host_key, Outcome::Relayed);
            return self.on_relay_open(conn, relay);
        }
        let Some(cluster) = self.clusters.get_mut(cluster_key) else { return self.close_now(conn) };
        if let Some(host) = cluster.hosts.get_mut(host_key) {
            let pool = host.pool(pool_key);
            pool.connecting = pool.connecting.saturating_sub(1);
        }
        if pool_key.kind == PoolKind::Tcp {
            self.set_deadline(conn, Time::NEVER);
            conn.protocol = TunnelEnd::of(None);
            return self.serve_pool(conn);
        }
        let oldest = self.clusters.get(cluster_key).map_or(Duration::ZERO, |c| c.config.http.max_connection_duration);
        if let Some(up) = conn.upstream_mut() {
            up.expires = self.now.after_limit(oldest);
        }
        self.set_deadline(conn, Time::NEVER);
        let is_http2 =
            pool_key.kind == PoolKind::Http2 || conn.tls.as_ref().is_some_and(|tls| tls.alpn() == Some(b"h2"));
        self.speak_http_client(conn, is_http2);
        if is_http2 {
            if let Some(host) = self.clusters.get_mut(cluster_key).and_then(|c| c.hosts.get_mut(host_key)) {
                host.pool(pool_key).shared.push(conn.key);
            }
        }
        self.serve_pool(conn);
    }

    /// What logs ask of a connection to an endpoint, gathered once.
    fn upstream_facts_of(&self, conn: &Conn) -> UpstreamFacts {
        let tls = conn.tls.as_ref();
        let own_uris = || {
            let up = conn.upstream()?;
            let cluster = self.clusters.get(up.cluster)?;
            let socket = cluster.socket_for(&cluster.hosts.get(up.host)?.endpoint);
            let own = socket.tls.as_ref()?.certificate.as_ref()?;
            Some(pymesh_tls::presented_uris(std::slice::from_ref(own), &self.secrets, None))
        };
        UpstreamFacts {
            id: conn.id,
            peer: tls.and_then(|tls| tls.shared_peer()),
            own_uris: tls.and_then(|_| own_uris()).unwrap_or_default(),
            tls_version: tls.and_then(|tls| tls.version()),
            tls_cipher: tls.and_then(|tls| tls.cipher()),
        }
    }

    /// A number for a connection, in which those of the workers differ too.
    pub(crate) fn next_connection_id(&mut self) -> u64 {
        /// More than there are workers.
        const STEP: u64 = 1 << 10;
        self.last_connection = self.last_connection.wrapping_add(STEP);
        self.last_connection | (self.options.worker as u64 % STEP)
    }

    /// Gives a connection with room to whoever has waited longest, or to the pool.
    pub(crate) fn serve_pool(&mut self, conn: &mut Conn) {
        let Some(up) = conn.upstream() else { return };
        let (cluster_key, host_key, pool_key, generation) = (up.cluster, up.host, up.pool, up.generation);
        loop {
            let draining = conn.upstream().is_some_and(|up| up.draining);
            let has_room = match &conn.protocol {
                Protocol::Http1Client(h1) => h1.exchange.is_none(),
                Protocol::Http2Client(h2) => h2.can_open(),
                Protocol::Tunnel(end) => end.exchange.is_none(),
                _ => false,
            };
            let Some(cluster) = self.clusters.get_mut(cluster_key) else { return self.close_now(conn) };
            let Some(host) = cluster.hosts.get_mut(host_key) else { return self.close_now(conn) };
            if draining || !has_room {
                let Protocol::Http2Client(h2) = &conn.protocol else { return };
                let is_over = draining && h2.active_streams() == 0;
                let pool = host.pool(pool_key);
                if !pool.waiting.is_empty() && pool.connecting == 0 {
                    // Nobody else would serve them before this one ends.
                    self.open_upstream(cluster_key, host_key, pool_key, None);
                }
                if is_over {
                    self.close_after_flush(conn);
                }
                return;
            }
            let Some(waiting) = host.pool(pool_key).waiting.pop_front() else { break };
            host.active = host.active.saturating_sub(1);
            cluster.load.take(pool_key.priority, Resource::Pending);
            cluster.stats.upstream_rq_pending_active.dec();
            match cluster.has_room(pool_key.priority, Resource::Requests) {
                true => self.attach(waiting, conn),
                false => self.refuse_request(waiting, Resource::Requests),
            }
        }
        let Some(cluster) = self.clusters.get(cluster_key) else { return };
        let idle = self.idle_upstream_limit(cluster.config.http.idle_timeout);
        let Some(cluster) = self.clusters.get_mut(cluster_key) else { return };
        match &conn.protocol {
            Protocol::Http1Client(_) => {
                let Some(host) = cluster.hosts.get_mut(host_key) else { return };
                if !host.listed || cluster.removed || generation != cluster.generation {
                    return self.close_now(conn);
                }
                host.pool(pool_key).idle.push(conn.key);
                self.set_deadline(conn, idle);
            }
            // Whoever it was opened for has gone.
            Protocol::Tunnel(_) => self.close_now(conn),
            // It stays in the pool while it has streams; the clock runs from the last one.
            Protocol::Http2Client(h2) if h2.active_streams() == 0 => {
                self.set_deadline(conn, idle);
            }
            _ => {}
        }
    }

    /// [`Engine::serve_pool`], or the end of an HTTP/2 connection that takes no more
    /// requests and has none, however the last one ended.
    pub(crate) fn serve_or_close(&mut self, conn: &mut Conn) {
        let is_idle = matches!(&conn.protocol, Protocol::Http2Client(h2) if h2.active_streams() == 0);
        match is_idle && conn.upstream().is_some_and(|up| up.draining) {
            true => self.close_after_flush(conn),
            false => self.serve_pool(conn),
        }
    }

    /// An upstream connection is lost: so are its exchanges.
    pub(crate) fn lose_upstream(&mut self, conn: &mut Conn, failure: Failure) {
        let Some(up) = conn.upstream() else { return };
        let (cluster_key, host_key, pool_key, relay) = (up.cluster, up.host, up.pool, up.relay);
        if matches!(conn.protocol, Protocol::Opening) {
            let Some(cluster) = self.clusters.get_mut(cluster_key) else { return };
            cluster.stats.upstream_cx_connect_fail.inc();
            if let Some(relay) = relay {
                let is_late = failure == Failure::ConnectTimeout;
                self.tell(cluster_key, host_key, if is_late { Outcome::Timeout } else { Outcome::Failed });
                return self.on_relay_connect_failed(relay, failure);
            }
            let Some(host) = cluster.hosts.get_mut(host_key) else { return };
            let waiting = &mut host.pool(pool_key).waiting;
            let count = if pool_key.kind == PoolKind::Http2 { waiting.len() } else { 1.min(waiting.len()) };
            let victims: Vec<ExchangeKey> = waiting.iter().take(count).copied().collect();
            for victim in victims {
                self.upstream_failed(victim, failure);
            }
            return;
        }
        let key = conn.key;
        let victims: Vec<ExchangeKey> = match &conn.protocol {
            Protocol::Http1Client(client) => client.exchange.into_iter().collect(),
            Protocol::Tunnel(end) => end.exchange.into_iter().collect(),
            Protocol::Http2Client(_) => self.exchanges_on(key),
            _ => Vec::new(),
        };
        for victim in victims {
            // A complete response is a response, however the connection ended.
            let is_answered = |x: &Exchange| x.response_body.ended && x.has_response && !x.tunnel.open;
            if self.exchanges.get(victim).is_some_and(|exchange| is_answered(exchange)) {
                self.make_ready(victim);
                continue;
            }
            self.upstream_failed(victim, failure);
        }
    }

    /// The upstream takes no more streams. The codec reports those that it has
    /// not seen as refused, one by one.
    pub(crate) fn on_upstream_goaway(&mut self, conn: &mut Conn, codec: &h2::Connection) {
        let key = conn.key;
        let Some(up) = conn.upstream_mut() else { return };
        up.draining = true;
        let (cluster_key, host_key, pool_key) = (up.cluster, up.host, up.pool);
        if let Some(host) = self.clusters.get_mut(cluster_key).and_then(|c| c.hosts.get_mut(host_key)) {
            host.pool(pool_key).forget(key);
        }
        if codec.active_streams() == 0 {
            // Closed by the peer's FIN or by us at the end of this turn.
            self.set_deadline(conn, self.now + Duration::from_millis(1));
        }
    }

    /// Exchanges whose request is on this upstream connection.
    fn exchanges_on(&self, conn: ConnKey) -> Vec<ExchangeKey> {
        let on_it = |key: &ExchangeKey| self.exchanges.get(*key).is_some_and(|x| x.up == Some(conn));
        self.exchanges.keys().filter(on_it).collect()
    }

    /// Takes a closed connection out of its pool and its counts.
    pub(crate) fn forget_upstream(&mut self, conn: &Conn) {
        let Some(up) = conn.upstream() else { return };
        let (cluster_key, host_key, pool_key) = (up.cluster, up.host, up.pool);
        let was_connecting = up.relay.is_none() && matches!(conn.protocol, Protocol::Opening);
        let Some(cluster) = self.clusters.get_mut(cluster_key) else { return };
        cluster.load.take(pool_key.priority, Resource::Connections);
        cluster.stats.upstream_cx_active.dec();
        cluster.stats.upstream_cx_destroy.inc();
        let (received, sent) = conn.carried();
        cluster.stats.upstream_cx_rx_bytes_total.add(received);
        cluster.stats.upstream_cx_tx_bytes_total.add(sent);
        let mut starved = false;
        if let Some(host) = cluster.hosts.get_mut(host_key) {
            host.take_connection();
            let pool = host.pool(pool_key);
            pool.forget(conn.key);
            if up.relay.is_none() {
                pool.connections = pool.connections.saturating_sub(1);
            }
            if was_connecting {
                pool.connecting = pool.connecting.saturating_sub(1);
            }
            starved = pool.waiting.len() > pool.connecting as usize;
        }
        cluster.drop_host_if_unused(host_key);
        match starved {
            true => drop(self.open_upstream(cluster_key, host_key, pool_key, None)),
            false => self.drop_cluster_if_over(cluster_key),
        }
    }
}
