//! A service decides whether a request may pass (`envoy.filters.http.ext_authz`).
//!
//! What is asked and what an answer means is in `security/ext_authz.rs`; here a request is held until there is one, and
//! what it says is done.
//!
//! # States of a request
//! (the body is wanted: [`State::Collecting`] →) [`State::Asked`] → [`State::Allowed`], if its response is to be changed;
//! or nothing: it may pass, or it has been answered.
//!
//! # Invariants
//! * Nothing but an answer that allows lets a request pass, unless `failure_mode_allow` says so.
//! * What the service says is done as a whole or not at all.

use std::sync::Arc;

use pymesh_http::{RequestHead, Scheme};
use pymesh_model::filter::{
    AuthzBody, AuthzRoute, AuthzRouteBody, AuthzService, ExtAuthz, FilterId, RouteFilterConfig,
};
use pymesh_model::metadata::Struct;
use pymesh_model::route::AppendAction;

use super::{falls_within, Memory, Step};
use crate::base::time::Time;
use crate::cluster::ClusterKey;
use crate::engine::{Engine, Options};
use crate::exchange::{add_field, Collect, Exchange, Heard, LocalReply, Question, Waiter};
use crate::route::matcher::{name_and_value, path_of, query_parameters};
use crate::security::ext_authz::check::{self, Body, Request};
use crate::security::ext_authz::{
    grpc, http, is_of_connection, Changes, Decision, Denial, Field, Verdict, LARGEST_ANSWER,
};
use crate::telemetry::stats::{ClusterExtAuthzStats, Counter, ExtAuthzStats};
use crate::telemetry::{details, Flags};

const FAILURE_ALLOWED: &[u8] = b"x-envoy-auth-failure-mode-allowed";
const INVALID: u16 = 500;

/// The filter in a chain.
pub(super) struct ExtAuthzFilter {
    config: Arc<ExtAuthz>,
    stats: Arc<ExtAuthzStats>,
    /// In the names of a cluster's counters.
    infix: String,
    /// Where others read what the service has said.
    namespace: Arc<str>,
    /// Filters behind it may choose another route: a request without one is asked about, too. (Envoy lets it pass.)
    may_get_route: bool,
}

/// What is remembered of a request.
pub(crate) enum State {
    /// Its body comes.
    Collecting,
    /// The service has been asked.
    Asked(Time),
    /// It has passed, and its response is to be changed so.
    Allowed(Vec<(AppendAction, Field)>),
}

impl ExtAuthzFilter {
    pub fn new(config: &Arc<ExtAuthz>, prefix: &Arc<str>, options: &Options, may_get_route: bool) -> ExtAuthzFilter {
        let infix = match &*config.stat_prefix {
            "" => "ext_authz.".to_owned(),
            own => format!("ext_authz.{own}."),
        };
        ExtAuthzFilter {
            config: config.clone(),
            stats: options.hub.ext_authz(options.worker, &format!("http.{prefix}.{infix}").into()),
            infix,
            namespace: "envoy.filters.http.ext_authz".into(),
            may_get_route,
        }
    }
}

pub(super) fn on_request(
    engine: &mut Engine,
    exchange: &mut Exchange,
    waiter: Waiter,
    id: FilterId,
    filter: &ExtAuthzFilter,
) -> Step {
    if let Some(heard) = exchange.heard(waiter.filter) {
        return answered(engine, exchange, waiter, filter, heard);
    }
    // It leads to nobody, as long as no filter behind finds it a route.
    if exchange.routed.is_none() && !filter.may_get_route {
        return Step::Continue;
    }
    let said = exchange.routed.as_ref().and_then(|routed| routed.filters().get(id)?.config.as_ref());
    let said = match said {
        Some(RouteFilterConfig::ExtAuthz(own)) => own.clone(),
        _ => Arc::default(),
    };
    let config = &filter.config;
    let body = match said.body {
        AuthzRouteBody::AsFilter => config.body,
        AuthzRouteBody::No => None,
        // In which form, only the filter says, as in Envoy.
        AuthzRouteBody::Own(own) => {
            Some(AuthzBody { as_bytes: is_http(config) || config.body.is_some_and(|body| body.as_bytes), ..own })
        }
    };
    if !matches!(exchange.forget(waiter.filter), Some(Memory::ExtAuthz(State::Collecting))) {
        if !is_enabled(engine, exchange, config) {
            filter.stats.disabled.inc();
            return match config.denies_if_disabled {
                true => Step::Reply(refusal(config.status_on_error, details::EXT_AUTHZ_ERROR)),
                false => Step::Continue,
            };
        }
        if let Some(body) = body.filter(|_| !exchange.request_body.is_drained() && !exchange.tunnel.is_asked()) {
            exchange.remember(waiter.filter, Memory::ExtAuthz(State::Collecting));
            return Step::Collect(collect(engine, exchange, body));
        }
    }
    ask(engine, exchange, waiter, filter, &said, body)
}

/// Of a body that may be longer the beginning is enough; what may wait in a connection is the limit there.
fn collect(engine: &Engine, exchange: &Exchange, body: AuthzBody) -> Collect {
    let conn = exchange.down.and_then(|down| engine.conns.get(down));
    match body.partial {
        true => Collect { enough: body.most, most: conn.map_or(0, |conn| conn.buffer_limit).max(body.most) },
        false => Collect { enough: usize::MAX, most: body.most },
    }
}

fn is_enabled(engine: &mut Engine, exchange: &Exchange, config: &ExtAuthz) -> bool {
    falls_within(&mut engine.rng, config.enabled)
        && config.enabled_metadata.as_ref().is_none_or(|wanted| wanted.matches(&exchange.metadata))
}

fn is_http(config: &ExtAuthz) -> bool {
    matches!(config.service, AuthzService::Http(_))
}

fn ask(
    engine: &mut Engine,
    exchange: &mut Exchange,
    waiter: Waiter,
    filter: &ExtAuthzFilter,
    said: &AuthzRoute,
    body: Option<AuthzBody>,
) -> Step {
    let config = filter.config.clone();
    let (id, started_nanos) = (engine.rng.bits(), engine.clock.unix_nanos(exchange.started));
    let add = engine.rendered(
        exchange,
        match &config.service {
            AuthzService::Grpc(service) => &service.metadata,
            AuthzService::Http(service) => &service.add,
        },
    );
    let request = std::mem::take(&mut exchange.request);
    let pipe = std::mem::take(&mut exchange.request_body);
    let waiting = pipe.waiting();
    let asked = Request {
        head: &request,
        id,
        started_nanos,
        // Of a body that is not waited for, what has come by chance is not counted.
        received: body.map_or(0, |_| pipe.total),
        body: body.filter(|_| !waiting.is_empty()).map(|body| Body {
            octets: waiting.get(..body.most).unwrap_or(waiting),
            is_partial: waiting.len() > body.most,
            as_bytes: body.as_bytes,
        }),
        shown: config.shown.as_ref(),
        hidden: &config.hidden,
        context: &said.context,
    };
    let is_asked = match &config.service {
        AuthzService::Grpc(service) => {
            let message = engine.describe_request(exchange, &config, &asked);
            let question = Question {
                cluster: &service.cluster,
                timeout: service.timeout,
                keep: LARGEST_ANSWER,
                tells_the_way: true,
                body: &crate::base::grpc::frame(&message),
            };
            engine.ask_for(exchange, waiter, &question, |head| {
                grpc::write_head(head, service);
                set_all(head, &add);
            })
        }
        AuthzService::Http(service) => {
            let question = Question {
                cluster: &service.cluster,
                timeout: service.timeout,
                keep: LARGEST_ANSWER,
                tells_the_way: false,
                body: asked.body.map_or(&[], |body| body.octets),
            };
            engine.ask_for(exchange, waiter, &question, |head| {
                http::write_head(head, service, &asked);
                set_all(head, &add);
            })
        }
    };
    exchange.request = request;
    exchange.request_body = pipe;
    if !is_asked {
        return act(engine, exchange, waiter, filter, Decision::failed());
    }
    exchange.remember(waiter.filter, Memory::ExtAuthz(State::Asked(engine.now)));
    Step::Wait(Time::NEVER)
}

fn set_all(head: &mut RequestHead, fields: &[Field]) {
    for (name, value) in fields {
        head.headers.set(name, value);
    }
}

fn answered(
    engine: &mut Engine,
    exchange: &mut Exchange,
    waiter: Waiter,
    filter: &ExtAuthzFilter,
    heard: Heard,
) -> Step {
    let asked = exchange.forget(waiter.filter);
    let mut decision = match (heard, &filter.config.service) {
        (Err(_), _) => Decision::failed(),
        (Ok(told), AuthzService::Grpc(_)) => grpc::decision(&told),
        (Ok(told), AuthzService::Http(service)) => http::decision(&told, service),
    };
    if let (Some(Memory::ExtAuthz(State::Asked(since))), Verdict::Allowed(_)) = (asked, &decision.verdict) {
        if !decision.metadata.is_empty() {
            decision.tell_duration(engine.now.since(since));
        }
    }
    act(engine, exchange, waiter, filter, decision)
}

/// Does what has been decided.
fn act(
    engine: &mut Engine,
    exchange: &mut Exchange,
    waiter: Waiter,
    filter: &ExtAuthzFilter,
    decision: Decision,
) -> Step {
    let config = &filter.config;
    let cluster = engine.cluster_of(exchange);
    let of_cluster = cluster.and_then(|cluster| engine.ext_authz_stats(cluster, &filter.infix));
    let count = |pick: fn(&ClusterExtAuthzStats) -> &Counter| of_cluster.iter().for_each(|stats| pick(stats).inc());
    tell(exchange, filter, &decision.metadata);
    let invalid = || {
        filter.stats.invalid.inc();
        count(|stats| &stats.invalid);
        Step::Reply(refusal(INVALID, details::EXT_AUTHZ_INVALID))
    };
    match decision.verdict {
        Verdict::Allowed(_) if !decision.is_sound => invalid(),
        Verdict::Allowed(changes) => {
            apply(&mut exchange.request, &changes);
            if exceeds_limits(exchange) {
                filter.stats.request_header_limits_reached.inc();
                return invalid();
            }
            filter.stats.ok.inc();
            count(|stats| &stats.ok);
            let reroutes = config.reroutes && changes.touches_request();
            if !changes.response.is_empty() {
                exchange.remember(waiter.filter, Memory::ExtAuthz(State::Allowed(changes.response)));
            }
            if reroutes {
                Step::Reroute
            } else {
                Step::Continue
            }
        }
        Verdict::Denied(denial) => {
            filter.stats.denied.inc();
            count(|stats| &stats.denied);
            let status = denial.status.unwrap_or(config.status_on_error);
            engine.charge_denial(cluster, status);
            match decision.is_sound {
                true => Step::Reply(denied(denial, status, details::EXT_AUTHZ_DENIED, config)),
                false => invalid(),
            }
        }
        Verdict::Failed(denial) => {
            filter.stats.error.inc();
            count(|stats| &stats.error);
            if config.allows_on_failure {
                filter.stats.failure_mode_allowed.inc();
                count(|stats| &stats.failure_mode_allowed);
                if config.tells_failure {
                    exchange.request.headers.append(FAILURE_ALLOWED, b"true");
                }
                return Step::Continue;
            }
            let status = denial.status.unwrap_or(config.status_on_error);
            match decision.is_sound {
                true => Step::Reply(denied(denial, status, details::EXT_AUTHZ_ERROR, config)),
                false => Step::Reply(refusal(config.status_on_error, details::EXT_AUTHZ_ERROR)),
            }
        }
    }
}

/// Filters behind are told what the service has said.
fn tell(exchange: &mut Exchange, filter: &ExtAuthzFilter, metadata: &Struct) {
    if metadata.is_empty() {
        return;
    }
    match filter.config.keeps_metadata {
        true => exchange.metadata.add(&filter.namespace, metadata),
        false => filter.stats.ignored_dynamic_metadata.inc(),
    }
}

fn refusal(status: u16, details: &'static str) -> LocalReply {
    LocalReply::new(status, details).with_flags(Flags::UNAUTHORIZED_EXTERNAL)
}

fn denied(denial: Denial, status: u16, details: &'static str, config: &ExtAuthz) -> LocalReply {
    let mut reply = refusal(status, details);
    reply.body = denial.body;
    if config.most_denied_body > 0 {
        reply.body.truncate(config.most_denied_body);
    }
    reply.extra_headers = denial.headers;
    if reply.body.is_empty() {
        reply.extra_headers.retain(|(name, _)| name != b"content-type");
    }
    reply
}

/// Carries out what the service says of a request.
fn apply(request: &mut RequestHead, changes: &Changes) {
    for (name, value) in &changes.set {
        if !set_part(request, name, value) {
            request.headers.set(name, value);
        }
    }
    for (name, value) in &changes.add {
        if !set_part(request, name, value) {
            request.headers.append(name, value);
        }
    }
    for (name, value) in changes.join.iter().filter(|(_, value)| !value.is_empty()) {
        let mut known: Vec<Vec<u8>> = request.headers.get_all(name).map(<[u8]>::to_vec).collect();
        let Some(first) = known.first_mut() else { continue };
        if !first.is_empty() {
            first.push(b',');
        }
        first.extend_from_slice(value);
        request.headers.remove(name);
        known.iter().for_each(|value| request.headers.append(name, value));
    }
    let may_go = |name: &&Vec<u8>| !name.starts_with(b":") && **name != b"host" && !is_of_connection(name);
    for name in changes.remove.iter().filter(may_go) {
        request.headers.remove(name);
    }
    if !changes.set_query.is_empty() || !changes.remove_query.is_empty() {
        let path = with_query(request.path(), &changes.set_query, &changes.remove_query);
        request.set_path(&path);
    }
}

/// A part of the request line; the service is trusted to know what it does.
fn set_part(request: &mut RequestHead, name: &[u8], value: &[u8]) -> bool {
    match name {
        b":path" => request.set_path(value),
        b":authority" | b"host" => request.set_authority(value),
        b":method" => request.set_method(value),
        b":scheme" if value == b"https" => request.scheme = Scheme::Https,
        b":scheme" if value == b"http" => request.scheme = Scheme::Http,
        _ => return name.starts_with(b":"),
    }
    true
}

/// The target with other parameters: in order of their names, as Envoy writes them then.
fn with_query(target: &[u8], set: &[(Vec<u8>, Vec<u8>)], remove: &[Vec<u8>]) -> Vec<u8> {
    let path = path_of(target);
    let has_query = target.len() > path.len() + 1;
    let mut parameters: Vec<(&[u8], &[u8])> =
        query_parameters(target).filter(|_| has_query).map(name_and_value).collect();
    for (name, value) in set {
        parameters.retain(|(known, _)| known != name);
        parameters.push((name, value));
    }
    parameters.retain(|(known, _)| !remove.iter().any(|name| name == known));
    parameters.sort_by_key(|(name, _)| *name);
    let mut out = path.to_vec();
    for (index, (name, value)) in parameters.iter().enumerate() {
        out.push(if index == 0 { b'?' } else { b'&' });
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
    out
}

/// A request that has grown beyond what a client may send is sent to nobody.
fn exceeds_limits(exchange: &Exchange) -> bool {
    const PSEUDO_HEADERS: usize = 4;
    let Some(http) = &exchange.http else { return false };
    let headers = &exchange.request.headers;
    headers.len() + PSEUDO_HEADERS > http.limits.header_count
        || exchange.request.memory() > http.limits.header_list_size
}

pub(super) fn on_response(exchange: &mut Exchange, index: usize) {
    let Some(Memory::ExtAuthz(State::Allowed(changes))) = exchange.forget(index) else { return };
    for (action, (name, value)) in changes.iter().filter(|(_, (name, _))| !name.starts_with(b":")) {
        add_field(&mut exchange.response.headers, *action, name, value);
    }
}

impl Engine {
    /// A `CheckRequest` about a request, which is lent out of its exchange.
    fn describe_request(&self, exchange: &Exchange, config: &ExtAuthz, request: &Request<'_>) -> Vec<u8> {
        let (Some(facts), Some(conn)) = (&exchange.facts, exchange.down.and_then(|down| self.conns.get(down))) else {
            return Vec::new();
        };
        let mut connection = self.describe_connection(conn, facts, config.shows_certificate, config.shows_tls_session);
        connection.source.service = check::service_of(request.head);
        connection.request_metadata = Some(&exchange.metadata);
        connection.told = &config.told;
        check::message(&connection, Some(request))
    }

    /// The cluster that a request is for.
    fn cluster_of(&self, exchange: &Exchange) -> Option<ClusterKey> {
        let name = exchange.routed.as_ref()?.cluster_name(&exchange.request)?;
        self.cluster_named(std::str::from_utf8(name).ok()?)
    }

    /// A cluster's counters of external authorization.
    fn ext_authz_stats(&mut self, cluster: ClusterKey, infix: &str) -> Option<Arc<ClusterExtAuthzStats>> {
        let cluster = self.clusters.get_mut(cluster)?;
        if let Some((_, known)) = cluster.ext_authz.iter().find(|(known, _)| **known == *infix) {
            return Some(known.clone());
        }
        let name = format!("cluster.{}.{infix}", cluster.config.name).into();
        let stats = self.options.hub.cluster_ext_authz(self.options.worker, &name);
        cluster.ext_authz.push((infix.into(), stats.clone()));
        Some(stats)
    }

    /// The cluster that a denied request was for counts its status, though it was never asked, as in Envoy.
    fn charge_denial(&self, cluster: Option<ClusterKey>, status: u16) {
        let Some(cluster) = cluster.and_then(|key| self.clusters.get(key)) else { return };
        cluster.stats.upstream_rq_completed.inc();
        cluster.stats.count_status(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_query_are_set_and_removed() {
        let set = |target: &str, set: &[(&str, &str)], remove: &[&str]| {
            let set: Vec<_> = set.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
            let remove: Vec<_> = remove.iter().map(|name| name.as_bytes().to_vec()).collect();
            String::from_utf8(with_query(target.as_bytes(), &set, &remove)).unwrap()
        };
        assert_eq!(set("/p", &[("a", "1")], &[]), "/p?a=1");
        assert_eq!(set("/p?b=2&a=1", &[("m", "3")], &[]), "/p?a=1&b=2&m=3");
        assert_eq!(set("/p?a=1&a=2&b", &[("a", "9")], &[]), "/p?a=9&b=");
        assert_eq!(set("/p?a=1&b=2", &[], &["a", "b", "c"]), "/p");
        assert_eq!(set("/p?a=1", &[("a", "2")], &["a"]), "/p");
    }
}
