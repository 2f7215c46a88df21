//! Limits on requests that the process keeps by itself (`envoy.filters.http.local_ratelimit`).
//!
//! A limit is configured for a chain or for a route; wherever the same configuration counts, the same buckets do, for all
//! workers: they are found by the configuration's identity when a snapshot is applied ([`Limiters`]). Buckets are
//! atomics. Only those that are made as values come (descriptors that leave a value open) stand behind a lock, as in
//! Envoy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pymesh_model::filter::{FilterId, LocalRateLimit, RouteFilterConfig, TokenBucket as Size};
use pymesh_model::http::RouteSource;
use pymesh_model::listener::NetworkFilter;
use pymesh_model::route::{Action, ClusterChoice, RouteTable};
use pymesh_model::Snapshot;

use super::descriptors::{self, Descriptor};
use super::{falls_within, Memory, Step};
use crate::base::time::Time;
use crate::base::token_bucket::TokenBucket;
use crate::engine::{Engine, Options};
use crate::exchange::{Exchange, LocalReply};
use crate::telemetry::stats::LocalRateLimitStats;
use crate::telemetry::{details, Flags};

/// A limit as one worker keeps it.
#[derive(Clone)]
pub(crate) struct Limiter {
    buckets: Arc<Buckets>,
    stats: Arc<LocalRateLimitStats>,
}

/// The limits of routes, by the identity of their configuration.
#[derive(Default)]
pub(crate) struct Limiters(HashMap<usize, Limiter>);

/// The buckets of a limit.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// Held, so that its identity is nobody else's as long as these are in use.
    config: Arc<LocalRateLimit>,
    general: Option<Arc<TokenBucket>>,
    /// In the order of the configuration's.
    descriptors: Vec<OfDescriptor>,
}

#[derive(Debug)]
enum OfDescriptor {
    One(Arc<TokenBucket>),
    Each(Mutex<Each>),
}

/// Buckets that are made as values come.
#[derive(Debug, Default)]
struct Each {
    /// With the number of the request that asked last.
    made: HashMap<Descriptor, (Arc<TokenBucket>, u64)>,
    asked: u64,
}

impl Each {
    /// One of `most`: that for which nobody has asked for longest makes room.
    fn bucket(&mut self, wanted: &Descriptor, most: usize, size: Size, now: Time) -> Arc<TokenBucket> {
        self.asked += 1;
        if let Some((bucket, asked)) = self.made.get_mut(wanted) {
            *asked = self.asked;
            return bucket.clone();
        }
        if self.made.len() >= most.max(1) {
            let oldest = self.made.iter().min_by_key(|(_, (_, asked))| *asked).map(|(oldest, _)| oldest.clone());
            oldest.and_then(|oldest| self.made.remove(&oldest));
        }
        let bucket = Arc::new(TokenBucket::new(size, now));
        self.made.insert(wanted.clone(), (bucket.clone(), self.asked));
        bucket
    }
}

/// What the answer has to tell.
pub(crate) struct Limited {
    config: Arc<LocalRateLimit>,
    is_refused: bool,
    bucket: Option<Arc<TokenBucket>>,
}

impl Buckets {
    fn new(config: &Arc<LocalRateLimit>, now: Time) -> Buckets {
        let bucket = |size: Size| Arc::new(TokenBucket::new(size, now));
        let descriptors = config.descriptors.iter().map(|descriptor| match descriptor.is_dynamic() {
            true => OfDescriptor::Each(Mutex::default()),
            false => OfDescriptor::One(bucket(descriptor.bucket)),
        });
        Buckets { config: config.clone(), general: config.bucket.map(bucket), descriptors: descriptors.collect() }
    }

    /// The bucket of a descriptor, if it has one.
    fn of(&self, wanted: &Descriptor, now: Time) -> Option<Arc<TokenBucket>> {
        let known = || self.config.descriptors.iter().zip(&self.descriptors);
        let fixed = known().find_map(|(descriptor, bucket)| match bucket {
            OfDescriptor::One(bucket) if descriptor.entries == *wanted => Some(bucket.clone()),
            _ => None,
        });
        fixed.or_else(|| {
            known().find_map(|(descriptor, bucket)| {
                let OfDescriptor::Each(made) = bucket else { return None };
                let fits = descriptor.entries.len() == wanted.len()
                    && descriptor
                        .entries
                        .iter()
                        .zip(wanted)
                        .all(|((key, value), (of, is))| key == of && (value.is_empty() || value == is));
                let most = self.config.max_dynamic_descriptors;
                let mut made = fits.then(|| made.lock().unwrap_or_else(PoisonError::into_inner))?;
                Some(made.bucket(wanted, most, descriptor.bucket, now))
            })
        })
    }

    /// Whether a request has its tokens, and the bucket that says most of it. The slowest is asked first, so that who has
    /// none there takes none of the others.
    fn take(&self, wanted: &[Descriptor], now: Time) -> (bool, Option<Arc<TokenBucket>>) {
        let mut own: Vec<Arc<TokenBucket>> = wanted.iter().filter_map(|one| self.of(one, now)).collect();
        own.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        if let Some(empty) = own.iter().find(|bucket| !bucket.take(now)) {
            return (false, Some(empty.clone()));
        }
        let first = own.into_iter().next();
        match &self.general {
            Some(general) if first.is_none() || self.config.always_consume_default => match general.take(now) {
                true => (true, first.or_else(|| Some(general.clone()))),
                false => (false, Some(general.clone())),
            },
            _ => (true, first),
        }
    }
}

impl Limiter {
    pub(super) fn new(config: &Arc<LocalRateLimit>, now: Time, options: &Options) -> Limiter {
        let buckets = options.commons.limits.get(&identity(config), || Buckets::new(config, now));
        Limiter { buckets, stats: options.hub.local_rate_limit(options.worker, &config.stat_prefix) }
    }
}

fn identity(config: &Arc<LocalRateLimit>) -> usize {
    Arc::as_ptr(config) as usize
}

impl Limiters {
    /// Holds the limits of all routes of a snapshot, and no others.
    pub(crate) fn apply(&mut self, snapshot: &Snapshot, now: Time, options: &Options) {
        let mut kept = HashMap::new();
        each_table(snapshot, |table| {
            each_limit(table, |config| {
                kept.entry(identity(config)).or_insert_with(|| {
                    let known = self.0.get(&identity(config));
                    known.cloned().unwrap_or_else(|| Limiter::new(config, now, options))
                });
            });
        });
        self.0 = kept;
    }

    /// One that is not there is of a table that only connections of replaced listeners use.
    fn get(&mut self, config: &Arc<LocalRateLimit>, now: Time, options: &Options) -> Limiter {
        self.0.entry(identity(config)).or_insert_with(|| Limiter::new(config, now, options)).clone()
    }
}

fn each_table(snapshot: &Snapshot, mut f: impl FnMut(&RouteTable)) {
    snapshot.routes.values().for_each(|table| f(table));
    for listener in &snapshot.listeners {
        for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
            if let NetworkFilter::Http(manager) = &chain.network {
                if let RouteSource::Inline(table) = &manager.routes {
                    f(table);
                }
            }
        }
    }
}

fn each_limit(table: &RouteTable, mut f: impl FnMut(&Arc<LocalRateLimit>)) {
    for route in table.virtual_hosts.iter().flat_map(|host| &host.routes) {
        let shares = match &route.action {
            Action::Forward(forward) => match &forward.cluster {
                ClusterChoice::Weighted(shares) => shares.clusters.as_slice(),
                _ => &[],
            },
            _ => &[],
        };
        let said = std::iter::once(&route.filters).chain(shares.iter().map(|share| &share.filters));
        for entry in said.flat_map(|said| said.entries()) {
            if let Some(RouteFilterConfig::LocalRateLimit(config)) = &entry.config {
                f(config);
            }
        }
    }
}

pub(super) fn on_request(
    engine: &mut Engine,
    exchange: &mut Exchange,
    (index, id): (usize, FilterId),
    general: &Limiter,
) -> Step {
    let said = exchange.routed.as_ref().and_then(|routed| routed.filters().get(id)?.config.as_ref());
    let limiter = match said {
        Some(RouteFilterConfig::LocalRateLimit(own)) => engine.limiters.get(own, engine.now, &engine.options),
        _ => general.clone(),
    };
    let config = limiter.buckets.config.clone();
    if !falls_within(&mut engine.rng, config.enabled) {
        return Step::Continue;
    }
    limiter.stats.enabled.inc();
    let wanted = match config.descriptors.is_empty() {
        true => Vec::new(),
        false => descriptors::of(exchange, &config, &engine.snapshot.node.cluster),
    };
    let buckets = match config.per_connection {
        true => connection_buckets(engine, exchange, &config),
        false => limiter.buckets.clone(),
    };
    let (is_allowed, bucket) = buckets.take(&wanted, engine.now);
    let bucket = bucket.filter(|_| config.tells_clients);
    let is_refused = !is_allowed && falls_within(&mut engine.rng, config.enforced);
    match (is_allowed, is_refused) {
        (true, _) => limiter.stats.ok.inc(),
        (false, false) => {
            limiter.stats.rate_limited.inc();
            engine.edit_request(exchange, &config.request_headers);
        }
        (false, true) => {
            limiter.stats.rate_limited.inc();
            limiter.stats.enforced.inc();
        }
    }
    let (status, resource_exhausted) = (config.status, config.resource_exhausted);
    if bucket.is_some() || is_refused {
        exchange.remember(index, Memory::Limit(Limited { config, is_refused, bucket }));
    }
    if !is_refused {
        return Step::Continue;
    }
    let reply = LocalReply::new(status, details::LOCAL_RATE_LIMITED).with_flags(Flags::RATE_LIMITED);
    let grpc_status = resource_exhausted.then_some(GRPC_RESOURCE_EXHAUSTED);
    Step::Reply(LocalReply { grpc_status, ..reply.with_body(b"local_rate_limited") })
}

const GRPC_RESOURCE_EXHAUSTED: u32 = 8;

const MOST_ON_A_CONNECTION: usize = 16;

/// The buckets of the client's connection; full when it asks first.
fn connection_buckets(engine: &mut Engine, exchange: &Exchange, config: &Arc<LocalRateLimit>) -> Arc<Buckets> {
    let now = engine.now;
    let down = exchange.down.and_then(|down| engine.conns.get_mut(down)).and_then(|conn| conn.downstream_mut());
    let Some(down) = down else { return Arc::new(Buckets::new(config, now)) };
    if let Some(known) = down.limits.iter().find(|known| Arc::ptr_eq(&known.config, config)) {
        return known.clone();
    }
    let made = Arc::new(Buckets::new(config, now));
    if down.limits.len() >= MOST_ON_A_CONNECTION {
        // Configuration has been replaced again and again.
        down.limits.remove(0);
    }
    down.limits.push(made.clone());
    made
}

pub(super) fn on_response(engine: &mut Engine, exchange: &mut Exchange, index: usize) {
    let Some(Memory::Limit(limited)) = exchange.forget(index) else { return };
    if limited.is_refused {
        engine.edit_response(exchange, &limited.config.response_headers);
    }
    let Some(bucket) = limited.bucket else { return };
    for (name, value) in [
        ("x-ratelimit-limit", bucket.size()),
        ("x-ratelimit-remaining", bucket.left(engine.now)),
        ("x-ratelimit-reset", bucket.wait(engine.now).as_secs()),
    ] {
        exchange.response.headers.append(name.as_bytes(), value.to_string().as_bytes());
    }
}
