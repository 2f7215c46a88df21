//! JSON Web Tokens that requests must bring (`envoy.filters.http.jwt_authn`).
//!
//! What is required of a request says its route, or the first rule that matches it. A requirement is a tree of providers
//! ([`verdict`]); a provider finds its tokens in the request ([`locations`]), and judges each ([`provider`]).
//!
//! # States of a request
//! judged → let pass, or refused. If keys are needed that are not there, nothing is done yet: the request waits for them
//! ([`crate::jwks`]), remembers which fetches it waits for ([`Awaited`]), and is judged again from the beginning.
//!
//! # Invariants
//! * A request is changed once, when it is let pass: until then changes are kept beside it ([`changes::Changes`]).
//! * Headers that any provider may set are taken from every request first, even from those of which nothing is required:
//!   whoever reads them can believe them. (Envoy takes them only from requests that a provider judges.) If there were
//!   any, the route is chosen anew before that says what is required: else a forged header would lead where only a good
//!   token may. (In Envoy it does.)
//! * A token is good only if its form, issuer, time, audience, subject, lifetime and signature are. Of several tokens for
//!   one requirement each must be good, so that nobody can take a bad one for the one that was judged.
//! * Who has waited for a fetch in vain is refused: it asks for no other.

mod cache;
mod changes;
mod locations;
mod provider;
mod verdict;

use std::sync::Arc;

use pymesh_http::{Method, RequestHead};
use pymesh_jwt::Failure;
use pymesh_model::filter::{FilterId, JwtAuthn, JwtRequirement, RouteFilterConfig, RouteJwt};
use pymesh_model::metadata::{Struct, Value};
use pymesh_model::route::{PathMatch, RouteMatch};

use super::{Memory, Step};
use crate::engine::{Engine, Options};
use crate::exchange::{Exchange, LocalReply, Waiter};
use crate::jwks::RemoteKeys;
use crate::route;
use crate::telemetry::stats::JwtStats;
use crate::telemetry::Details;
use changes::Changes;
use locations::Locations;
use provider::Provider;
use verdict::{Judge, Verdict};

/// Octets of the path that a refusal repeats.
const LONGEST_PATH: usize = 256;

/// The filter in a chain.
pub(super) struct JwtFilter {
    config: Arc<JwtAuthn>,
    providers: Vec<Provider>,
    /// Where tokens of any provider stand.
    anywhere: Locations,
    stats: Arc<JwtStats>,
    /// Where others read what tokens say.
    namespace: Arc<str>,
}

/// Fetches that a request waits for, by their numbers.
pub(crate) struct Awaited(Vec<(Arc<RemoteKeys>, u64)>);

impl JwtFilter {
    pub fn new(config: &Arc<JwtAuthn>, prefix: &Arc<str>, options: &Options) -> JwtFilter {
        let name = format!("http.{prefix}.jwt_authn.{}", config.stat_prefix).into();
        JwtFilter {
            providers: config.providers.iter().map(|one| Provider::new(one, options)).collect(),
            anywhere: Locations::of(config.providers.iter().map(|one| &**one)),
            config: config.clone(),
            stats: options.hub.jwt(options.worker, &name),
            namespace: "envoy.filters.http.jwt_authn".into(),
        }
    }

    /// The key sets that are fetched for it.
    pub fn remote_keys(&self) -> impl Iterator<Item = (Arc<RemoteKeys>, Arc<JwtStats>)> + '_ {
        self.providers.iter().filter_map(|provider| Some((provider.remote()?.clone(), self.stats.clone())))
    }

    /// What is required of a request, or the name that nothing has.
    fn requirement<'a>(
        &'a self,
        said: Option<&'a RouteJwt>,
        request: &RequestHead,
    ) -> Result<Option<&'a JwtRequirement>, &'a str> {
        match said {
            Some(RouteJwt::Disabled) => Ok(None),
            Some(RouteJwt::Requires(name)) => {
                let found = self.config.requirements.iter().find(|(known, _)| known == name);
                found.map(|(_, requirement)| Some(requirement)).ok_or(name)
            }
            None => {
                let rule = self.config.rules.iter().find(|rule| means(&rule.matches, request));
                Ok(rule.and_then(|rule| rule.requirement.as_ref()))
            }
        }
    }
}

pub(super) fn on_request(
    engine: &mut Engine,
    exchange: &mut Exchange,
    waiter: Waiter,
    id: FilterId,
    filter: &JwtFilter,
) -> Step {
    let awaited = match exchange.forget(waiter.filter) {
        Some(Memory::Jwt(awaited)) => awaited,
        _ => Awaited(Vec::new()),
    };
    if take_promised(&mut exchange.request, filter) {
        engine.choose_route_of(exchange);
        exchange.choose_filters_behind(waiter.filter);
    }
    if filter.config.bypass_cors_preflight && is_preflight(&exchange.request) {
        filter.stats.cors_preflight_bypassed.inc();
        filter.stats.allowed.inc();
        return Step::Continue;
    }
    let said = exchange.routed.as_ref().and_then(|routed| routed.filters().get(id)?.config.as_ref());
    let said = match said {
        Some(RouteFilterConfig::JwtAuthn(said)) => Some(&**said),
        _ => None,
    };
    let requirement = match filter.requirement(said, &exchange.request) {
        Ok(Some(requirement)) => requirement,
        Ok(None) => {
            filter.stats.allowed.inc();
            return Step::Continue;
        }
        Err(name) => {
            filter.stats.denied.inc();
            return Step::Reply(unknown_requirement(&filter.config, name));
        }
    };
    let unix_seconds = engine.clock.unix_nanos(engine.now) / 1_000_000_000;
    let mut judge = Judge::new(filter, &exchange.request, &awaited, engine.now, unix_seconds);
    let verdict = judge.judge(requirement);
    let (changes, wanted) = (judge.changes, judge.wanted);
    if let Verdict::Pending = verdict {
        return wait(engine, exchange, waiter, filter, awaited, wanted);
    }
    filter.stats.jwt_cache_hit.add(judge.cache_hits);
    filter.stats.jwt_cache_miss.add(judge.cache_misses);
    if !judge.found.is_empty() {
        let found: Struct = judge.found.into_iter().map(|(name, found)| (name, Value::Struct(found))).collect();
        exchange.metadata.add(&filter.namespace, &found);
    }
    match verdict {
        Verdict::Failed(failure) => {
            filter.stats.denied.inc();
            Step::Reply(refusal(&filter.config, failure, &exchange.request))
        }
        Verdict::Good | Verdict::Pending => {
            let reroutes = changes.reroutes;
            Changes::apply(changes.into_edits(), &mut exchange.request);
            filter.stats.allowed.inc();
            if reroutes {
                Step::Reroute
            } else {
                Step::Continue
            }
        }
    }
}

/// Takes the headers that only providers may set. True if there were any: they may have chosen its route.
fn take_promised(request: &mut RequestHead, filter: &JwtFilter) -> bool {
    let mut is_forged = false;
    for name in filter.anywhere.promised().map(str::as_bytes) {
        if request.headers.get(name).is_some() {
            request.headers.remove(name);
            is_forged = true;
        }
    }
    is_forged
}

/// It is judged again when the keys are there, or known not to come.
fn wait(
    engine: &mut Engine,
    exchange: &mut Exchange,
    waiter: Waiter,
    filter: &JwtFilter,
    mut awaited: Awaited,
    wanted: Vec<Arc<RemoteKeys>>,
) -> Step {
    let mut until = engine.now + crate::jwks::LOOK_AGAIN;
    let mut is_first = true;
    for keys in wanted {
        let (number, looks_again) = engine.wait_for_keys(&keys, &filter.stats, waiter);
        until = if is_first { looks_again } else { until.min(looks_again) };
        is_first = false;
        awaited.0.retain(|(known, _)| !Arc::ptr_eq(known, &keys));
        awaited.0.push((keys, number));
    }
    exchange.remember(waiter.filter, Memory::Jwt(awaited));
    Step::Wait(until)
}

/// Whether a rule is about a request. One about everything is about CONNECT too, which has no path: in Envoy that would
/// need no token.
fn means(rule: &RouteMatch, request: &RequestHead) -> bool {
    let is_about_all = || matches!(&rule.path, PathMatch::Prefix(prefix) if matches!(&**prefix, "" | "/"));
    let matches = |rule: &RouteMatch| route::matcher::rule_matches(rule, request, 0);
    matches(rule)
        || request.path().is_empty()
            && is_about_all()
            && matches(&RouteMatch { path: PathMatch::Connect, ..rule.clone() })
}

/// The Fetch standard, section 3.2.2.
fn is_preflight(request: &RequestHead) -> bool {
    let is_there = |name: &[u8]| request.headers.get(name).is_some_and(|value| !value.is_empty());
    request.method == Method::Options && is_there(b"origin") && is_there(b"access-control-request-method")
}

fn details(text: &str) -> Details {
    Details::Made(format!("jwt_authn_access_denied{{{text}}}").replace(char::is_whitespace, "_").into())
}

fn unknown_requirement(config: &JwtAuthn, name: &str) -> LocalReply {
    let known: Vec<&str> = config.requirements.iter().map(|(known, _)| &**known).collect();
    let text = format!("Wrong requirement_name: {name}. It should be one of [{}]", known.join(","));
    let reply = LocalReply::new(403, details(&text));
    match config.strip_failure_response {
        true => reply,
        false => reply.with_body(format!("Failed JWT authentication: {text}").as_bytes()),
    }
}

fn refusal(config: &JwtAuthn, failure: Failure, request: &RequestHead) -> LocalReply {
    let status = if failure == Failure::AudienceNotAllowed { 403 } else { 401 };
    let mut reply = LocalReply::new(status, details(failure.text()));
    if config.strip_failure_response {
        return reply;
    }
    let path = request.path();
    let path = path.get(..LONGEST_PATH).unwrap_or(path);
    let mut challenge = b"Bearer realm=\"".to_vec();
    challenge.extend_from_slice(request.scheme.as_str().as_bytes());
    challenge.extend_from_slice(b"://");
    challenge.extend_from_slice(request.authority());
    challenge.extend_from_slice(path);
    challenge.push(b'"');
    if failure != Failure::Missing {
        challenge.extend_from_slice(b", error=\"invalid_token\"");
    }
    reply.headers.push(("www-authenticate", challenge));
    reply.with_body(failure.text().as_bytes())
}
