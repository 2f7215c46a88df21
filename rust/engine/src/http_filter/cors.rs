//! Cross-origin resource sharing (`envoy.filters.http.cors`; the Fetch standard, section 3.2).
//!
//! A browser that runs a script of another origin asks before it sends what a form could not send (the preflight: OPTIONS
//! with `access-control-request-method`), and shows the script an answer only if that allows its origin. The filter
//! answers preflights, and marks the answers to other requests. It keeps nobody from the service: that is not what CORS
//! is for. Only routes that forward have it, and only by their own policies.

use std::sync::Arc;

use pymesh_http::{Method, RequestHead};
use pymesh_model::filter::{CorsPolicy, FilterId, RouteFilterConfig};
use pymesh_model::route::Action;

use super::{falls_within, Memory, Step};
use crate::engine::Engine;
use crate::exchange::{Exchange, LocalReply};
use crate::telemetry::details;
use crate::telemetry::stats::CorsStats;

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_CREDENTIALS: &str = "access-control-allow-credentials";
const ALLOW_METHODS: &str = "access-control-allow-methods";
const ALLOW_HEADERS: &str = "access-control-allow-headers";
const ALLOW_PRIVATE_NETWORK: &str = "access-control-allow-private-network";
const EXPOSE_HEADERS: &str = "access-control-expose-headers";
const MAX_AGE: &str = "access-control-max-age";
const REQUEST_METHOD: &[u8] = b"access-control-request-method";
const REQUEST_HEADERS: &[u8] = b"access-control-request-headers";
const REQUEST_PRIVATE_NETWORK: &[u8] = b"access-control-request-private-network";

/// An origin that is allowed to see the answer.
pub(crate) struct Origin {
    name: Box<[u8]>,
    policy: Arc<CorsPolicy>,
}

pub(super) fn on_request(
    engine: &mut Engine,
    exchange: &mut Exchange,
    (index, id): (usize, FilterId),
    stats: &CorsStats,
) -> Step {
    let Some(routed) = &exchange.routed else { return Step::Continue };
    if !matches!(routed.route.action, Action::Forward(_)) {
        return Step::Continue;
    }
    let said = routed.filters().get(id).and_then(|entry| entry.config.as_ref());
    let Some(RouteFilterConfig::Cors(policy)) = said else { return Step::Continue };
    let policy = policy.clone();
    let is_enabled = falls_within(&mut engine.rng, policy.enabled);
    if !is_enabled && !falls_within(&mut engine.rng, policy.shadow) {
        return Step::Continue;
    }
    let request = &exchange.request;
    let Some(origin) = request.headers.get(b"origin").filter(|origin| !origin.is_empty()) else {
        return Step::Continue;
    };
    // Envoy takes a pattern that matches a lone asterisk for one that is meant to match all.
    let is_allowed = policy.allow_origins.iter().any(|allowed| allowed.matches(b"*") || allowed.matches(origin));
    match is_allowed {
        true => stats.origin_valid.inc(),
        false => stats.origin_invalid.inc(),
    }
    if !is_enabled {
        return Step::Continue;
    }
    let asked = value(request, REQUEST_METHOD);
    let is_preflight = request.method == Method::Options && !asked.is_empty();
    let is_forwarded = !is_preflight || !is_allowed && policy.forward_not_matching_preflights.unwrap_or(true);
    let reply = (!is_forwarded).then(|| preflight(&policy, request, is_allowed.then_some(origin)));
    if is_allowed {
        let name = origin.into();
        exchange.remember(index, Memory::Cors(Origin { name, policy }));
    }
    reply.map_or(Step::Continue, Step::Reply)
}

/// The answer to a preflight. What is said of every answer is added on its way out.
fn preflight(policy: &CorsPolicy, request: &RequestHead, origin: Option<&[u8]>) -> LocalReply {
    let mut reply = LocalReply::new(200, details::CORS_RESPONSE).verbatim();
    let mut say = |name, value: &[u8]| reply.headers.push((name, value.to_vec()));
    if let Some(origin) = origin {
        say(ALLOW_ORIGIN, origin);
    }
    if policy.allow_credentials == Some(true) {
        say(ALLOW_CREDENTIALS, b"true");
    }
    for (name, allowed, asked) in [
        (ALLOW_METHODS, &policy.allow_methods, REQUEST_METHOD),
        (ALLOW_HEADERS, &policy.allow_headers, REQUEST_HEADERS),
    ] {
        match &**allowed {
            "" => {}
            "*" => say(name, value(request, asked)),
            allowed => say(name, allowed.as_bytes()),
        }
    }
    if !policy.max_age.is_empty() {
        say(MAX_AGE, policy.max_age.as_bytes());
    }
    if policy.allow_private_network_access == Some(true) && value(request, REQUEST_PRIVATE_NETWORK) == b"true" {
        say(ALLOW_PRIVATE_NETWORK, b"true");
    }
    reply
}

pub(super) fn on_response(exchange: &mut Exchange, index: usize) {
    let Some(Memory::Cors(origin)) = exchange.forget(index) else { return };
    let headers = &mut exchange.response.headers;
    headers.set(ALLOW_ORIGIN.as_bytes(), &origin.name);
    if origin.policy.allow_credentials == Some(true) {
        headers.set(ALLOW_CREDENTIALS.as_bytes(), b"true");
    }
    if !origin.policy.expose_headers.is_empty() {
        headers.set(EXPOSE_HEADERS.as_bytes(), origin.policy.expose_headers.as_bytes());
    }
}

fn value<'r>(request: &'r RequestHead, name: &[u8]) -> &'r [u8] {
    request.headers.get(name).unwrap_or_default()
}
