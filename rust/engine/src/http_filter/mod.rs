//! HTTP filters: the chain that a request passes before the router, and its response behind it.
//!
//! A worker has each chain as a list of [`Link`]s. A request passes them in order, its response in the reverse order.
//! What a filter is, is one variant of [`Filter`]; a built-in one is two functions of an exchange, for the request's head
//! and for the response's, and what the former says is a [`Step`]. Python's have more turns ([`python`]), and a seam of
//! their own (`filter.rs`).
//!
//! Invariants:
//! * which filters a request passes is decided once, by the route that it had when it arrived, so that a
//!   filter sees both sides of an exchange or none; where that route was chosen by headers that were forged
//!   (`jwt_authn`), those that have not had their turn are decided anew,
//! * a filter's configuration is its route's, if that says something, else the chain's; levels were resolved when the
//!   snapshot was made,
//! * what a filter has to know later is its [`Memory`] in the exchange, and goes with the exchange,
//! * a filter that waits is asked again when it is woken or the time has come, and knows by its memory what it has waited
//!   for; how it asks an upstream meanwhile is in `exchange/asking.rs`,
//! * the proxy's own answers pass the response side as well, once (Python's hooks do not see them); an answer that is
//!   made on that side goes straight to the client.

mod cors;
mod descriptors;
mod ext_authz;
mod fault;
mod jwt_authn;
mod local_rate_limit;
mod python;
mod rbac;

use std::sync::Arc;

use pymesh_http::RequestHead;
use pymesh_model::filter::{FilterId, FilterKind, HttpFilter, PythonFilter};

use crate::base::rng::Rng;
use crate::base::time::Time;
use crate::decisions::{Decision, FilterStep};
use crate::engine::{Engine, Options};
use crate::exchange::{Collect, Exchange, ExchangeKey, Heard, LocalReply, Stage, Waiter};
use crate::filter::Hook;
use crate::jwks::RemoteKeys;
use crate::telemetry::stats::{CorsStats, JwtStats, PythonFilterStats};
pub(crate) use local_rate_limit::{Buckets, Limiter, Limiters};
use python::Python;

/// The filters of a connection manager.
pub(crate) struct Chain {
    links: Vec<Link>,
    /// Those that are off unless a route switches them on.
    off: Places,
}

/// A filter with its place in a chain.
struct Link {
    id: FilterId,
    name: Arc<str>,
    is_disabled: bool,
    filter: Filter,
}

/// A filter with what one worker keeps for it.
enum Filter {
    Python(Arc<PythonFilter>, Arc<PythonFilterStats>),
    GrpcWeb,
    Cors(Arc<CorsStats>),
    Fault(fault::FaultFilter),
    Rbac(rbac::RbacFilter),
    ExtAuthz(ext_authz::ExtAuthzFilter),
    Jwt(jwt_authn::JwtFilter),
    LocalRateLimit(Limiter),
}

/// Places in a chain: one bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Places(u64);

/// What a filter makes of a request's head.
enum Step {
    /// On to the next filter.
    Continue,
    /// It is asked again when it is woken, at the latest at this time.
    Wait(Time),
    /// It is asked again when so much of the body is there.
    Collect(Collect),
    /// On to the next filter, and the route is chosen again.
    Reroute,
    /// It answers itself.
    Reply(LocalReply),
}

/// What a filter remembers of an exchange.
pub(crate) enum Memory {
    Cors(cors::Origin),
    Fault(fault::Suffering),
    Limit(local_rate_limit::Limited),
    ExtAuthz(ext_authz::State),
    Jwt(jwt_authn::Awaited),
    /// What has come of its question.
    Heard(Box<Heard>),
    /// Of a Python filter: its last hook that has had its turn.
    Passed(Hook),
}

impl Chain {
    /// With a worker's counters.
    pub fn new(filters: &[Arc<HttpFilter>], prefix: &Arc<str>, options: &Options, now: Time) -> Chain {
        let Options { worker, hub, commons, .. } = options;
        let may_reroute = |filter: &Arc<HttpFilter>| match &filter.kind {
            FilterKind::Python(_) => true,
            FilterKind::ExtAuthz(config) => config.reroutes,
            // It does also where somebody has forged what it promises.
            FilterKind::JwtAuthn(_) => true,
            _ => false,
        };
        let last_rerouting = filters.iter().rposition(may_reroute);
        let link = |(index, filter): (usize, &Arc<HttpFilter>)| Link {
            id: filter.id,
            name: filter.name.clone(),
            is_disabled: filter.disabled,
            filter: match &filter.kind {
                FilterKind::Python(python) => Filter::Python(python.clone(), hub.python_filter(*worker, &filter.name)),
                FilterKind::GrpcWeb => Filter::GrpcWeb,
                FilterKind::Cors => Filter::Cors(hub.cors(*worker, prefix)),
                FilterKind::Fault(config) => Filter::Fault(fault::FaultFilter {
                    config: config.clone(),
                    stats: hub.fault(*worker, prefix),
                    active: commons.faults.get(prefix, Default::default),
                }),
                FilterKind::Rbac(config) => Filter::Rbac(rbac::RbacFilter::new(config, prefix, options)),
                FilterKind::ExtAuthz(config) => Filter::ExtAuthz(ext_authz::ExtAuthzFilter::new(
                    config,
                    prefix,
                    options,
                    last_rerouting > Some(index),
                )),
                FilterKind::JwtAuthn(config) => Filter::Jwt(jwt_authn::JwtFilter::new(config, prefix, options)),
                FilterKind::LocalRateLimit(config) => Filter::LocalRateLimit(Limiter::new(config, now, options)),
            },
        };
        let links: Vec<Link> = filters.iter().enumerate().map(link).collect();
        let mut off = Places::default();
        links.iter().enumerate().filter(|(_, link)| link.is_disabled).for_each(|(index, _)| off.add(index));
        Chain { links, off }
    }

    /// The key sets that are fetched for its filters.
    pub fn remote_keys(&self) -> impl Iterator<Item = (Arc<RemoteKeys>, Arc<JwtStats>)> + '_ {
        let filters = self.links.iter().filter_map(|link| match &link.filter {
            Filter::Jwt(filter) => Some(filter),
            _ => None,
        });
        filters.flat_map(jwt_authn::JwtFilter::remote_keys)
    }

    /// The Python filters that are passed, with their places.
    pub fn python_filters(
        &self,
        skips: Places,
    ) -> impl Iterator<Item = (usize, &Arc<PythonFilter>, &Arc<PythonFilterStats>)> + '_ {
        let links = self.links.iter().enumerate().filter(move |(at, _)| !skips.contains(*at));
        links.filter_map(|(at, link)| match &link.filter {
            Filter::Python(filter, stats) => Some((at, filter, stats)),
            _ => None,
        })
    }

    /// The first filter from `index` on that is passed.
    fn next(&self, index: usize, skips: Places) -> Option<(usize, &Link)> {
        let links = self.links.iter().enumerate().skip(index);
        links.into_iter().find(|(at, _)| !skips.contains(*at))
    }

    /// The last filter before `index` that is passed.
    fn previous(&self, index: usize, skips: Places) -> Option<(usize, &Link)> {
        let links = self.links.get(..index)?.iter().enumerate();
        links.rev().find(|(at, _)| !skips.contains(*at))
    }

    /// Where the response begins; `None` if it passes none.
    pub fn response_begins(&self, skips: Places) -> Option<usize> {
        self.previous(self.links.len(), skips).map(|(index, _)| index + 1)
    }
}

impl Step {
    /// As it is told to whoever wants to know.
    fn told(&self) -> FilterStep {
        match self {
            Step::Continue | Step::Reroute => FilterStep::Continues,
            Step::Wait(_) | Step::Collect(_) => FilterStep::Waits,
            Step::Reply(_) => FilterStep::Answers,
        }
    }
}

impl Places {
    pub fn add(&mut self, index: usize) {
        self.0 |= 1 << (index % 64);
    }

    /// The same up to `index`, another's behind it.
    fn up_to(self, index: usize, behind: Places) -> Places {
        let kept = u64::MAX >> (63 - index % 64);
        Places(self.0 & kept | behind.0 & !kept)
    }

    pub fn contains(self, index: usize) -> bool {
        u32::try_from(index).is_ok_and(|index| self.0.checked_shr(index).unwrap_or(0) & 1 == 1)
    }
}

impl Engine {
    /// Decides which filters the request passes. The translation allows 64 in a chain.
    pub(crate) fn choose_filters(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        exchange.skips = exchange.skips_of_route();
        exchange.chose_filters = true;
    }

    /// The request filter at `index` has its turn; after the last, the route decides.
    pub(crate) fn run_request_filter(&mut self, key: ExchangeKey, index: usize) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        if exchange.is_local {
            exchange.stage = Stage::Replying;
            return;
        }
        let Some(http) = exchange.http.clone() else { return };
        let Some((index, link)) = http.filters.next(index, exchange.skips) else {
            return self.act_on_route(key);
        };
        match &link.filter {
            Filter::Python(filter, stats) => {
                return self.pass_python_request(key, &Python { index, filter, stats });
            }
            Filter::GrpcWeb => {
                exchange.stage = Stage::RequestFilter(index + 1);
                return self.open_grpc_web(key, index);
            }
            _ => {}
        }
        let Some(mut exchange) = self.exchanges.lend(key) else { return };
        let step = match &link.filter {
            Filter::Cors(stats) => cors::on_request(self, &mut exchange, (index, link.id), stats),
            Filter::Fault(fault) => fault::on_request(self, &mut exchange, (index, link.id), fault),
            Filter::Rbac(rbac) => rbac::on_request(self, &mut exchange, (link.id, &link.name), rbac),
            Filter::ExtAuthz(authz) => {
                let waiter = Waiter { exchange: key, filter: index };
                ext_authz::on_request(self, &mut exchange, waiter, link.id, authz)
            }
            Filter::Jwt(jwt) => {
                let waiter = Waiter { exchange: key, filter: index };
                jwt_authn::on_request(self, &mut exchange, waiter, link.id, jwt)
            }
            Filter::LocalRateLimit(limiter) => {
                local_rate_limit::on_request(self, &mut exchange, (index, link.id), limiter)
            }
            Filter::Python(..) | Filter::GrpcWeb => Step::Continue,
        };
        self.decisions.tell(|| Decision::Filter { filter: link.name.clone(), step: step.told() });
        match &step {
            Step::Continue | Step::Reroute | Step::Reply(_) => exchange.stage = Stage::RequestFilter(index + 1),
            Step::Collect(collect) => {
                exchange.stage = Stage::FilterWaits(index);
                exchange.filter_resumes_at = Time::NEVER;
                exchange.request_body.collects = Some(*collect);
            }
            Step::Wait(until) => {
                exchange.stage = Stage::FilterWaits(index);
                exchange.filter_resumes_at = *until;
            }
        }
        self.exchanges.give_back(key, exchange);
        match step {
            Step::Continue => {}
            Step::Reroute => self.choose_route(key),
            Step::Reply(reply) => self.reply_locally(key, reply),
            Step::Wait(_) => {
                self.await_cluster(key);
                self.arm_request_timeout(key);
            }
            Step::Collect(_) => {
                self.await_cluster(key);
                self.send_continue(key);
                self.make_ready(key);
            }
        }
    }

    /// The response filter below `index` has its turn, last first; after the first, the head is sent.
    pub(crate) fn run_response_filter(&mut self, key: ExchangeKey, index: usize) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let Some(http) = exchange.http.clone() else { return };
        let Some((at, link)) = http.filters.previous(index, exchange.skips) else {
            exchange.stage = if exchange.is_local { Stage::Replying } else { Stage::Flowing };
            self.start_response(key);
            return self.make_ready(key);
        };
        exchange.stage = Stage::ResponseFilter(at);
        match &link.filter {
            Filter::Python(..) | Filter::GrpcWeb if exchange.is_local => {}
            Filter::Python(filter, stats) => self.pass_python_response(key, &Python { index: at, filter, stats }),
            Filter::GrpcWeb => self.open_grpc_web_answer(key),
            Filter::Cors(_) => cors::on_response(exchange, at),
            Filter::Fault(_) | Filter::Rbac(_) | Filter::Jwt(_) => {}
            Filter::ExtAuthz(_) => ext_authz::on_response(exchange, at),
            Filter::LocalRateLimit(_) => {
                let Some(mut exchange) = self.exchanges.lend(key) else { return };
                local_rate_limit::on_response(self, &mut exchange, at);
                self.exchanges.give_back(key, exchange);
            }
        }
    }
}

impl Exchange {
    pub(crate) fn remember(&mut self, index: usize, memory: Memory) {
        self.memories.push((index, memory));
    }

    /// The filters that its route wants it to pass by.
    fn skips_of_route(&self) -> Places {
        let Some(http) = &self.http else { return Places::default() };
        let said = self.routed.as_ref().map(|routed| routed.filters()).filter(|said| !said.is_empty());
        let Some(said) = said else { return http.filters.off };
        let mut skips = Places::default();
        for (index, link) in http.filters.links.iter().enumerate() {
            let own = said.get(link.id).and_then(|entry| entry.enabled);
            if !own.unwrap_or(!link.is_disabled) {
                skips.add(index);
            }
        }
        skips
    }

    /// The route that it had when it arrived was none that counts: those behind `index` are chosen by the one it has now.
    fn choose_filters_behind(&mut self, index: usize) {
        self.skips = self.skips.up_to(index, self.skips_of_route());
    }

    fn forget(&mut self, index: usize) -> Option<Memory> {
        let at = self.memories.iter().position(|(of, _)| *of == index)?;
        Some(self.memories.swap_remove(at).1)
    }
}

/// Whether one request of a share, in millionths, is among it. All and none need no luck.
fn falls_within(rng: &mut Rng, millionths: u32) -> bool {
    match millionths {
        0 => false,
        1_000_000.. => true,
        _ => rng.below(1_000_000) < u64::from(millionths),
    }
}

/// A number in a request's header, of which the first field counts; what is no number is not there.
fn number_in<N: std::str::FromStr>(request: &RequestHead, name: &[u8]) -> Option<N> {
    std::str::from_utf8(request.headers.get(name)?).ok()?.trim().parse().ok()
}
