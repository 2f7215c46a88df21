//! The request on its way in: canonical form, route, filters, body.

use std::collections::HashMap;
use std::sync::Arc;

use pymesh_http::{h1, Headers, Known, Method, RequestHead, Version};
use pymesh_model::cluster::RoutingPriority;
use pymesh_model::http::{RouteSource, Underscores};
use pymesh_model::overload::OverloadAction;
use pymesh_model::route::{Action, ClusterChoice, RouteTable, Upgrade};
use pymesh_model::Snapshot;

use super::stream::Way;
use super::{forward, sticky, Collect, Exchange, ExchangeKey, LocalReply, Routed, Stage};
use crate::cluster::ClusterKey;
use crate::engine::Engine;
use crate::route;
use crate::route::matcher::Unrouted;
use crate::telemetry::{details, Flags};

impl Engine {
    /// The head is there: make it canonical, then route it.
    pub(super) fn on_arrived(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key).map(|exchange| &mut **exchange) else { return };
        let Some(http) = exchange.http.as_ref() else { return };
        if exchange.has_response {
            // Refused while it was parsed.
            return;
        }
        exchange.stage = Stage::RequestFilter(0);
        if self.options.overload.is_active(OverloadAction::StopAcceptingRequests) {
            http.stats.downstream_rq_overload_close.inc();
            return self.reply_locally(key, LocalReply::new(503, details::OVERLOAD).with_body(b"envoy overloaded"));
        }
        let port = exchange.facts.as_ref().map_or(0, |facts| facts.local.port());
        let request = &mut exchange.request;
        if request.version == Version::Http10 && !http.config.limits.accept_http_10 {
            let reply = LocalReply::new(426, details::LOW_VERSION).closing();
            return self.reply_locally(key, reply.with_body(h1::reason_phrase(426).as_bytes()));
        }
        if let (Version::Http10, true, Some(host)) =
            (request.version, request.authority().is_empty(), &http.config.default_host_for_http_10)
        {
            request.set_authority(host.as_bytes());
        }
        if request.authority().is_empty() {
            return self.reply_locally(key, LocalReply::new(400, details::MISSING_HOST).closing());
        }
        // CONNECT has no path, and an authority whose port says where the tunnel goes.
        let canonical = match request.method {
            Method::Connect => route::path::Outcome::Unchanged,
            _ => route::path::canonicalize(request, &http.config.path, port),
        };
        match canonical {
            route::path::Outcome::Unchanged | route::path::Outcome::Changed => {}
            route::path::Outcome::Redirect(location) => {
                // Envoy's word for it, though nothing failed.
                let mut reply = LocalReply::new(307, details::PATH_NORMALIZATION_FAILED);
                reply.headers.push(("location", location));
                return self.reply_locally(key, reply);
            }
            route::path::Outcome::Refuse(reason) => {
                return self.reply_locally(key, LocalReply::new(400, reason).closing());
            }
        }
        if exchange.request.path() == b"*" {
            // It asks about the proxy, not about anything behind it.
            return self.reply_locally(key, LocalReply::new(404, details::ABSOLUTE_PATH_REJECTED));
        }
        match http.config.limits.underscores {
            Underscores::Allow => {}
            Underscores::Drop => {
                exchange.request.headers.retain(|_, name, _| !name.contains(&b'_'));
            }
            Underscores::Reject => {
                if exchange.request.headers.iter().any(|field| field.name.contains(&b'_')) {
                    return self.refuse_underscores(key);
                }
            }
        }
        self.sanitize_request(key);
        self.choose_route(key);
        self.begin_trace(key);
        self.choose_filters(key);
    }

    /// As Envoy documents it: 400 and a close on HTTP/1, a reset on HTTP/2.
    fn refuse_underscores(&mut self, key: ExchangeKey) {
        let is_http2 = self.exchanges.get(key).is_some_and(|exchange| exchange.down_stream.is_some());
        if is_http2 {
            return self.abandon(key, Flags::DOWNSTREAM_PROTOCOL_ERROR, details::UNDERSCORES_REFUSED_HTTP2);
        }
        let reply = LocalReply::new(400, details::UNDERSCORES_REFUSED).closing();
        let reply = reply.with_flags(Flags::DOWNSTREAM_PROTOCOL_ERROR);
        self.reply_locally(key, reply.with_body(h1::reason_phrase(400).as_bytes()));
    }

    /// Finds the route of a request; filters may make it run again.
    pub(crate) fn choose_route(&mut self, key: ExchangeKey) {
        let random = self.rng.bits();
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let tables = (&*self.snapshot, &self.leaving_routes);
        route_request(exchange, tables, random, &mut self.text);
    }

    /// Likewise, for a request that is lent.
    pub(crate) fn choose_route_of(&mut self, exchange: &mut Exchange) {
        let random = self.rng.bits();
        route_request(exchange, (&*self.snapshot, &self.leaving_routes), random, &mut self.text);
    }

    /// All filters have let the request pass.
    pub(crate) fn act_on_route(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let Some(http) = exchange.http.as_ref() else { return };
        let Some(routed) = exchange.routed.as_ref() else {
            if exchange.unrouted == Unrouted::RequiresTls {
                let mut reply = LocalReply::new(301, details::DIRECT_RESPONSE);
                reply.headers.push(("location", route::rewrite::https_location(&exchange.request)));
                return self.reply_locally(key, reply);
            }
            http.stats.no_route.inc();
            let reply = LocalReply::new(404, details::ROUTE_NOT_FOUND).with_flags(Flags::NO_ROUTE);
            return self.reply_locally(key, reply);
        };
        let may_not_ask = exchange.tunnel.is_asked() && !may_ask(&exchange.request, routed, &http.config.upgrades);
        if exchange.tunnel.is_asked() && !may_not_ask {
            self.count_tunnel(key);
        }
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (Some(http), Some(routed)) = (&exchange.http, &exchange.routed) else { return };
        match &routed.route.action {
            Action::Redirect(_) | Action::Direct(_) if may_not_ask => self.refuse_tunnel(key),
            Action::Redirect(redirect) => {
                http.stats.rq_redirect.inc();
                let location = route::rewrite::location(redirect, &routed.route.matches, &exchange.request);
                let mut reply = LocalReply::new(redirect.status, details::DIRECT_RESPONSE);
                reply.headers.push(("location", location));
                self.reply_locally(key, reply);
            }
            Action::Direct(direct) => {
                http.stats.rq_direct_response.inc();
                let reply = LocalReply::new(direct.status, details::DIRECT_RESPONSE).with_body(&direct.body);
                self.reply_locally(key, reply);
            }
            Action::Forward(_) => self.begin_to_forward(key, may_not_ask),
        }
    }

    /// The route leads to a cluster.
    fn begin_to_forward(&mut self, key: ExchangeKey, may_not_ask: bool) {
        let cluster = self.name_cluster(key);
        if may_not_ask {
            return self.refuse_tunnel(key);
        }
        let Some(cluster) = cluster else {
            let Some(exchange) = self.exchanges.get(key) else { return };
            let forward = exchange.forward();
            let (Some(http), Some(forward)) = (&exchange.http, forward) else { return };
            http.stats.no_cluster.inc();
            let reply = LocalReply::new(forward.cluster_not_found_status, details::CLUSTER_NOT_FOUND);
            return self.reply_locally(key, reply.with_flags(Flags::NO_CLUSTER));
        };
        if let Some(reply) = self.drop_overload(cluster) {
            return self.reply_locally(key, reply);
        }
        self.prepare_request(key);
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !exchange.request.is_well_formed() {
            // As Envoy answers what its filters have made unfit to be sent.
            let reply = LocalReply::new(503, details::REWRITTEN_UNFIT);
            return self.reply_locally(key, reply.with_flags(Flags::DOWNSTREAM_PROTOCOL_ERROR));
        }
        exchange.cluster = Some(cluster);
        exchange.forwarded = self.now;
        let forward = exchange.forward();
        exchange.priority = forward.map_or(RoutingPriority::Default, |forward| forward.priority);
        exchange.attempt = 1;
        exchange.count_messages();
        exchange.adopt_retry_policy();
        let retry = exchange.retry().filter(|retry| !retry.on.is_empty());
        exchange.retries_left = retry.map_or(0, |retry| retry.num_retries);
        // As in Envoy what may be kept, so that it can be sent again, is what a connection may hold.
        let conn = exchange.down.and_then(|down| self.conns.get(down));
        exchange.replay_limit = conn.map_or(0, |conn| conn.buffer_limit);
        exchange.request_body.replay = exchange.retries_left > 0 && !exchange.request_body.is_drained();
        exchange.stage = Stage::Picking;
        self.arm_request_timeout(key);
    }

    /// The cluster that the request is for, which is known to logs and metrics also if it gets no further.
    pub(crate) fn name_cluster(&mut self, key: ExchangeKey) -> Option<ClusterKey> {
        let exchange = self.exchanges.get(key)?;
        let name = exchange.routed.as_ref()?.cluster_name(&exchange.request)?;
        let known = std::str::from_utf8(name).ok().and_then(|name| self.cluster_named(name));
        let is_it = |key: &ClusterKey| self.clusters.get(*key).is_some_and(|kept| kept.config.name.as_bytes() == name);
        let cluster = known.or_else(|| exchange.awaited.filter(is_it))?;
        let (config, exchange) = (&self.clusters.get(cluster)?.config, self.exchanges.get_mut(key)?);
        exchange.keep_config(config);
        Some(cluster)
    }

    /// A filter holds a request back. Its route was chosen by the tables of now, so the cluster of now stays for it,
    /// however the configuration changes meanwhile.
    pub(crate) fn await_cluster(&mut self, key: ExchangeKey) {
        if self.exchanges.get(key).is_none_or(|exchange| exchange.awaited.is_some()) {
            return;
        }
        let Some(cluster_key) = self.name_cluster(key) else { return };
        let (Some(cluster), Some(exchange)) = (self.clusters.get_mut(cluster_key), self.exchanges.get_mut(key)) else {
            return;
        };
        cluster.awaited += 1;
        exchange.awaited = Some(cluster_key);
    }

    /// The end of [`Engine::await_cluster`].
    pub(crate) fn stop_awaiting(&mut self, exchange: &mut Exchange) {
        let Some(cluster_key) = exchange.awaited.take() else { return };
        if let Some(cluster) = self.clusters.get_mut(cluster_key) {
            cluster.awaited = cluster.awaited.saturating_sub(1);
        }
        self.drop_cluster_if_over(cluster_key);
    }

    /// What the client has sent behind its request is not known to be HTTP: its connection is closed.
    fn refuse_tunnel(&mut self, key: ExchangeKey) {
        if let Some(http) = self.exchanges.get(key).and_then(|exchange| exchange.http.as_ref()) {
            http.stats.downstream_rq_ws_on_non_ws_route.inc();
        }
        self.reply_locally(key, LocalReply::new(403, details::UPGRADE_FAILED).closing());
    }

    /// Octets of the request body arrived. Says how many were taken at once;
    /// the others wait in the exchange.
    pub(crate) fn request_data(&mut self, key: ExchangeKey, data: &[u8]) -> usize {
        let Some(exchange) = self.exchanges.get_mut(key) else { return data.len() };
        exchange.last_progress = self.now;
        exchange.request_body.total += data.len() as u64;
        if exchange.is_local {
            // The answer is on its way: nobody will read this.
            return data.len();
        }
        if exchange.is_translated(Way::Request) {
            self.stream_data(key, Way::Request, None, data);
            return 0;
        }
        exchange.messages.request_data(data);
        let exchange = match exchange.mirrors.is_empty() {
            true => exchange,
            false => {
                self.mirror_data(key, data);
                let Some(exchange) = self.exchanges.get_mut(key) else { return data.len() };
                exchange
            }
        };
        let mut taken = 0;
        if exchange.request_started && !exchange.request_body.replay && exchange.request_body.buffer.is_empty() {
            taken = self.send_request_data(key, data);
        }
        self.keep_request_data(key, data.get(taken..).unwrap_or_default());
        taken
    }

    /// Octets of the request body wait in the exchange.
    pub(super) fn keep_request_data(&mut self, key: ExchangeKey, data: &[u8]) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if !data.is_empty() {
            exchange.request_body.buffer.extend(data);
            if exchange.request_body.replay && exchange.request_body.buffer.len() > exchange.replay_limit {
                // Too much to keep. What has not gone yet may still go once.
                exchange.request_body.stop_replay();
                if let Some(cluster) = exchange.cluster.and_then(|cluster| self.clusters.get(cluster)) {
                    cluster.stats.retry_or_shadow_abandoned.inc();
                }
            }
        }
        // Also if nothing came of it: its flow control is to be given back.
        self.make_ready(key);
    }

    pub(super) fn break_grpc_web(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.response_started {
            return self.abandon(key, Flags::NONE, details::GRPC_WEB_NOT_BASE64);
        }
        self.detach_upstream(key);
        let reply = LocalReply::new(400, details::GRPC_WEB_NOT_BASE64);
        self.reply_locally(key, reply.with_body(b"Bad gRPC-web request, invalid base64 data."));
        self.make_ready(key);
    }

    /// The request is complete.
    pub(crate) fn request_ended(&mut self, key: ExchangeKey, trailers: &mut Headers) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        std::mem::swap(&mut exchange.request_body.trailers, trailers);
        if exchange.down.is_some() && !exchange.request_body.trailers.is_empty() {
            forward::clean_trailers(&mut exchange.request_body.trailers);
        }
        exchange.request_body.ended = true;
        exchange.request_received = Some(self.now);
        exchange.last_progress = self.now;
        if !exchange.is_local {
            self.stream_end(key, Way::Request, None);
        }
        self.arm_request_timeout(key);
        self.make_ready(key);
    }

    /// The body of a request broke off in the middle of its framing.
    pub(crate) fn break_request(&mut self, key: ExchangeKey, status: u16, reason: &'static str) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.request_body.ended = true;
        if exchange.response_started {
            return self.abandon(key, Flags::DOWNSTREAM_PROTOCOL_ERROR, reason);
        }
        self.detach_upstream(key);
        let reply = LocalReply::new(status, reason).with_flags(Flags::DOWNSTREAM_PROTOCOL_ERROR).closing();
        self.reply_locally(key, reply);
        self.make_ready(key);
    }

    /// True while the exchange holds as much of the request as it may.
    pub(crate) fn request_is_full(&self, key: ExchangeKey) -> bool {
        self.exchanges.get(key).is_some_and(|exchange| {
            let waiting = exchange.request_body.waiting().len();
            let has_sink = matches!(exchange.stage, Stage::Flowing | Stage::ResponseFilter(_));
            let collects = exchange.request_body.collects.map_or(0, Collect::room);
            let is_held = exchange.request_body.held() >= self.options.stream_buffer;
            let room = self.options.stream_buffer.max(collects);
            !exchange.is_local && (waiting >= room || has_sink && waiting > 0 || is_held)
        })
    }
}

/// What a request asks its connection to become.
pub(super) fn asked_for(request: &RequestHead) -> &[u8] {
    match request.method {
        Method::Connect => b"connect",
        _ => request.headers.get_known(Known::Upgrade).unwrap_or_default(),
    }
}

/// The route decides if it has something to say about this kind of tunnel, else the connection manager.
fn may_ask(request: &RequestHead, routed: &Routed, general: &[Upgrade]) -> bool {
    let wanted = asked_for(request);
    let rule = |upgrade: &&Upgrade| wanted.eq_ignore_ascii_case(upgrade.protocol.as_bytes());
    let own = routed.forward().into_iter().flat_map(|forward| &forward.upgrades).find(rule);
    own.or_else(|| general.iter().find(rule)).is_some_and(|upgrade| upgrade.enabled)
}

/// Finds the route of a request.
fn route_request(
    exchange: &mut Exchange,
    (snapshot, leaving): (&Snapshot, &HashMap<Arc<str>, Arc<RouteTable>>),
    random: u64,
    text: &mut Vec<u8>,
) {
    let Some(http) = exchange.http.as_ref() else { return };
    exchange.set_cookies.clear();
    let table: Option<Arc<RouteTable>> = match &http.config.routes {
        RouteSource::Inline(table) => Some(table.clone()),
        RouteSource::Named(name) => snapshot.routes.get(name).or_else(|| leaving.get(name)).cloned(),
    };
    exchange.unrouted = Unrouted::NoRoute;
    let routed = table.and_then(|table| {
        let found = route::matcher::find(&table, &exchange.request, &exchange.metadata, random);
        let found = found.map_err(|reason| exchange.unrouted = reason).ok()?;
        let route = table.virtual_hosts.get(found.virtual_host)?.routes.get(found.route)?.clone();
        let mut routed = Routed { virtual_host: found.virtual_host, table, route, weighted: None };
        routed.weighted = routed.forward().and_then(|forward| match &forward.cluster {
            ClusterChoice::Weighted(split) => sticky::share(exchange, forward, split, random.rotate_left(32), text),
            _ => None,
        });
        Some(routed)
    });
    exchange.routed = routed;
}
