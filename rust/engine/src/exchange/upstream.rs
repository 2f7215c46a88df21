//! From a chosen cluster to a connection, and the request body over it.

use std::time::Duration;

use pymesh_http::{h1, h2, Case, Known, Version};
use pymesh_model::cluster::RoutingPriority;
use pymesh_model::http::HeaderCase;
use pymesh_model::route::{Forward, HostRewrite};

use super::detached::Owner;
use super::forward::{decimal, rewrite_host};
use super::request::asked_for;
use super::tunnel::{Asks, TunnelEnd};
use super::{mirror, sticky, websocket, Exchange, ExchangeKey, Failure, LocalReply, Stage};
use crate::base::time::Time;
use crate::cluster::balance::Pick;
use crate::cluster::original::NoHost;
use crate::cluster::{ClusterKey, HostKey, PoolKey, PoolKind};
use crate::conn::{Conn, ConnKey, Http1Client, Protocol, RelayKey, Upstream};
use crate::engine::Engine;
use crate::health::Outcome;
use crate::route;
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
        exchange.cluster_config = Some(cluster.config.clone());
        exchange.endpoint = Some(host.endpoint.clone());
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
    fn refuse_request(&mut self, key: ExchangeKey, full: Resource) {
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
        let forward = exchange.routed.as_ref()?.forward.clone()?;
        sticky::hash(exchange, &forward.hash_policy, &mut self.text)
    }

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
            relay,
            requests: 0,
            draining: false,
            expires: Time::NEVER,
        };
        let key = self.conns.insert_with(|key| {
            let conn = Conn::to_endpoint(key, up, address, buffer_limit, now);
            Box::new(Conn { deadline, ..conn })
        });
        self.timers.arm_conn(key, deadline);
        self.act(crate::engine::Action::Connect(key, address));
        Some(key)
    }

    /// The socket of an upstream connection is connected.
    pub fn connected(&mut self, key: ConnKey, local: std::net::SocketAddr) {
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
        pymesh_tls::Session::client(config, tls.sni.as_deref(), conn.remote.ip())
            .map(Some)
            .map_err(|error| error.to_string())
    }

    /// TCP and TLS are ready: speak, and serve who waits.
    pub(crate) fn on_upstream_open(&mut self, conn: &mut Conn) {
        let Some(up) = conn.upstream() else { return };
        let (cluster_key, host_key, pool_key) = (up.cluster, up.host, up.pool);
        if let Some(relay) = up.relay {
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

    /// Gives a connection with room to whoever has waited longest, or to the pool.
    pub(crate) fn serve_pool(&mut self, conn: &mut Conn) {
        let Some(up) = conn.upstream() else { return };
        let (cluster_key, host_key, pool_key) = (up.cluster, up.host, up.pool);
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
                if !host.listed || cluster.removed {
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

    /// Gives an exchange its upstream connection and writes the request head.
    fn attach(&mut self, key: ExchangeKey, conn: &mut Conn) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(up) = conn.upstream_mut() else { return };
        up.requests = up.requests.saturating_add(1);
        let (cluster_key, host_key, pool_key) = (up.cluster, up.host, up.pool);
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

    /// Writes the request head. One that asks an HTTP/2 server for an upgrade waits until
    /// it is known whether that is offered (RFC 8441 section 3).
    fn start_request(&mut self, key: ExchangeKey, conn: &mut Conn) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let asks = exchange.tunnel.asks;
        if matches!(&conn.protocol, Protocol::Http2Client(h2) if asks == Asks::Upgrade && !h2.knows_peer()) {
            return conn.wait_to_send(key, false);
        }
        exchange.request_started = true;
        match &exchange.detached {
            Some(detached) if detached.owner == Owner::Mirror => mirror::tell_the_way(exchange, &mut self.text),
            _ => finish_request_head(exchange, self.now),
        }
        if exchange.cluster_config.as_ref().is_some_and(|cluster| cluster.http.header_case == HeaderCase::Proper) {
            exchange.request.headers.write_in(Case::Proper);
        }
        let holds_back = exchange.tunnel.holds_back();
        let ended = exchange.request_body.is_drained() && !exchange.request_body.has_trailers() && !holds_back;
        let Conn { protocol, output, .. } = conn;
        let mut refused = false;
        match protocol {
            Protocol::Http1Client(client) => {
                if asks == Asks::Upgrade && exchange.down_stream.is_some() {
                    exchange.tunnel.own_key |= websocket::give_key(&mut exchange.request.headers, &mut self.rng);
                }
                let framing = match holds_back {
                    true => h1::Framing::None,
                    false => h1::request_framing(&exchange.request, ended),
                };
                h1::write_request(output.tail(), &exchange.request, framing);
                *client = Http1Client {
                    exchange: Some(key),
                    encoder: Some(h1::BodyEncoder::new(framing)),
                    keep_alive: true,
                    method: exchange.request.method,
                    asked_upgrade: asks == Asks::Upgrade,
                    ..Http1Client::default()
                };
            }
            // In HTTP/2 there is no content in front of a tunnel.
            Protocol::Http2Client(_) if asks == Asks::Upgrade && exchange.tunnel.after_content => refused = true,
            Protocol::Http2Client(h2) => {
                if asks == Asks::Upgrade {
                    let protocol = asked_for(&exchange.request).to_vec();
                    exchange.request.set_protocol(&protocol);
                }
                match h2.open(&exchange.request, ended, key.index() as u32) {
                    Ok(stream) => {
                        exchange.up_stream = Some(stream);
                        exchange.request_body.finished = ended;
                    }
                    Err(_) => refused = true,
                }
            }
            // There is nobody to ask: the connection is the agreement.
            Protocol::Tunnel(end) => {
                end.exchange = Some(key);
                exchange.open_tunnel();
                self.scratch.response.clear();
                self.scratch.response.status = 200;
                self.response_head(key, false);
            }
            _ => refused = true,
        }
        self.mark_dirty(conn);
        if refused {
            self.upstream_failed(key, Failure::RefusedStream);
        }
    }

    /// Tries again what had to wait in [`Engine::start_request`].
    fn start_waiting_request(&mut self, key: ExchangeKey) {
        let Some(up) = self.exchanges.get(key).and_then(|exchange| exchange.up) else { return };
        let Some(mut conn) = self.conns.lend(up) else { return };
        self.start_request(key, &mut conn);
        self.conns.give_back(up, conn);
    }

    /// Moves the request body on, then says its end.
    pub(super) fn pump_request(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.up.is_none() || exchange.request_body.finished {
            return;
        }
        if !exchange.request_started {
            return self.start_waiting_request(key);
        }
        if exchange.tunnel.holds_back() {
            return;
        }
        if !exchange.request_body.waiting().is_empty() {
            // Lent, so that the codec can read it while the exchange changes.
            let mut body = std::mem::take(&mut exchange.request_body);
            let taken = self.send_request_data(key, body.waiting());
            body.take(taken);
            let give_back = body.give_back(taken);
            let Some(exchange) = self.exchanges.get_mut(key) else { return };
            exchange.request_body = body;
            self.release_downstream(key, give_back);
        } else if exchange.request_body.unreleased > 0 {
            let give_back = exchange.request_body.give_back(0);
            self.release_downstream(key, give_back);
        }
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.request_body.is_drained() {
            self.end_request(key);
        }
    }

    /// Writes request octets to the upstream codec; says how many it took.
    pub(super) fn send_request_data(&mut self, key: ExchangeKey, data: &[u8]) -> usize {
        let Some(exchange) = self.exchanges.get_mut(key) else { return data.len() };
        let Some(up) = exchange.up.filter(|_| !exchange.tunnel.holds_back()) else { return 0 };
        let Some(conn) = self.conns.get_mut(up) else { return 0 };
        let is_full = conn.is_full();
        let Conn { protocol, output, .. } = &mut **conn;
        let taken = match protocol {
            _ if is_full => 0,
            Protocol::Http1Client(client) => match client.encoder.as_mut() {
                Some(encoder) => {
                    // The downstream codec has checked the length already.
                    let _checked = encoder.encode(output.tail(), data);
                    data.len()
                }
                None => data.len(),
            },
            Protocol::Http2Client(h2) => match exchange.up_stream {
                Some(stream) => h2.send_data(stream, data, false).unwrap_or(data.len()),
                None => 0,
            },
            Protocol::Tunnel(_) => {
                output.extend(data);
                data.len()
            }
            _ => 0,
        };
        if taken > 0 {
            exchange.last_progress = self.now;
        }
        if taken < data.len() {
            conn.wait_to_send(key, is_full);
        }
        // What took nothing has nothing new to write.
        if taken > 0 && !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(up);
        }
        taken
    }

    fn end_request(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(up) = exchange.up else { return };
        let Some(conn) = self.conns.get_mut(up) else { return };
        let trailers = &exchange.request_body.trailers;
        let Conn { protocol, output, .. } = &mut **conn;
        match protocol {
            Protocol::Http1Client(client) => {
                if let Some(mut encoder) = client.encoder.take() {
                    let trailers = (!trailers.is_empty()).then_some(trailers);
                    if encoder.finish(output.tail(), trailers).is_err() {
                        client.keep_alive = false;
                    }
                }
            }
            Protocol::Http2Client(h2) => {
                if let Some(stream) = exchange.up_stream {
                    let _gone = match trailers.is_empty() {
                        true => h2.send_data(stream, &[], true).map(|_| ()),
                        false => h2.send_trailers(stream, trailers),
                    };
                }
            }
            Protocol::Tunnel(end) => end.write_ended = true,
            _ => {}
        }
        exchange.request_body.finished = true;
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(up);
        }
    }

    /// The upstream took octets that the client's flow control waits for.
    fn release_downstream(&mut self, key: ExchangeKey, n: usize) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (Some(down), stream) = (exchange.down, exchange.down_stream) else { return };
        let Some(conn) = self.conns.get_mut(down) else { return };
        release(conn, stream, n);
        self.touch(down);
    }

    /// The client took octets that the upstream's flow control waits for.
    pub(super) fn release_upstream(&mut self, key: ExchangeKey, n: usize) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (Some(up), stream) = (exchange.up, exchange.up_stream) else { return };
        let Some(conn) = self.conns.get_mut(up) else { return };
        release(conn, stream, n);
        self.touch(up);
    }

    /// Window updates may wait in the codec, and reading may go on.
    fn touch(&mut self, key: ConnKey) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.is_dirty {
            conn.is_dirty = true;
            self.dirty.push(conn.key);
        }
        if conn.paused && !conn.is_rescanned {
            conn.is_rescanned = true;
            self.rescans.push(conn.key);
        }
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
            self.set_deadline(conn, self.now + std::time::Duration::from_millis(1));
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
        cluster.stats.upstream_cx_rx_bytes_total.add(conn.received);
        cluster.stats.upstream_cx_tx_bytes_total.add(conn.sent);
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

/// The route ends the CONNECT here: what is in the tunnel goes on as TCP.
fn ends_tunnel(exchange: &Exchange) -> bool {
    if exchange.detached.as_ref().is_some_and(|detached| detached.is_raw) {
        return true;
    }
    let rules = exchange.routed.as_ref().and_then(|routed| routed.forward.as_ref()).map(|forward| &forward.upgrades);
    let mut rules = rules.into_iter().flatten();
    exchange.tunnel.asks == Asks::Connect && rules.any(|rule| &*rule.protocol == "connect" && rule.terminates)
}

/// What only the chosen attempt and endpoint can say about the request.
fn finish_request_head(exchange: &mut Exchange, now: Time) {
    let Some(routed) = &exchange.routed else { return };
    let virtual_host = routed.table.virtual_hosts.get(routed.virtual_host);
    if virtual_host.is_some_and(|host| host.attempt_count_in_request) {
        let attempt = decimal(u64::from(exchange.attempt));
        exchange.request.headers.set_known(Known::XEnvoyAttemptCount, attempt.as_bytes());
    }
    let Some(forward) = routed.forward.as_ref() else { return };
    if let Some(limit) = time_for_attempt(exchange, forward, now) {
        let millis = decimal(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        exchange.request.headers.set_known(Known::XEnvoyExpectedRqTimeoutMs, millis.as_bytes());
        if forward.grpc_timeout.is_some() && route::matcher::is_grpc(&exchange.request) {
            // The server is told what is left of it.
            exchange.request.headers.set_known(Known::GrpcTimeout, route::grpc::timeout_value(limit).as_bytes());
        }
    }
    let rewrites = matches!(forward.host_rewrite, Some(HostRewrite::Endpoint));
    let endpoint = exchange.endpoint.as_ref().filter(|endpoint| rewrites && !endpoint.hostname.is_empty());
    if let Some(endpoint) = endpoint.cloned() {
        let append = forward.append_x_forwarded_host;
        rewrite_host(&mut exchange.request, endpoint.hostname.as_bytes(), append);
    }
}

/// How long the upstream has for this attempt, as it is told: what is left of the route's
/// time, and no more than one try may take. `None`: as long as it likes.
pub(super) fn time_for_attempt(exchange: &Exchange, forward: &Forward, now: Time) -> Option<Duration> {
    let whole = Some(exchange.timeout_override.unwrap_or(forward.timeout)).filter(|limit| !limit.is_zero());
    // The first attempt is given all of it, however long a connection took to open.
    let since = exchange.request_received.filter(|_| exchange.attempt > 1);
    let elapsed = since.map_or(Duration::ZERO, |received| now.since(received));
    let left = whole.map(|whole| whole.saturating_sub(elapsed).max(Duration::from_millis(1)));
    let per_try = exchange.retry().map(|retry| retry.per_try_timeout).filter(|limit| !limit.is_zero());
    left.into_iter().chain(per_try).min()
}

/// Gives flow-control credit back to whoever sent `n` octets.
fn release(conn: &mut Conn, stream: Option<h2::StreamId>, n: usize) {
    if let (Protocol::Http2Server(h2) | Protocol::Http2Client(h2), Some(stream)) = (&mut conn.protocol, stream) {
        if n > 0 {
            h2.release(stream, n);
        }
    }
}
