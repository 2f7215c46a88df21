//! Key sets that are fetched by URI, through the proxy's own clusters (`remote_jwks` of `jwt_authn`).
//!
//! A [`RemoteKeys`] is the key set of one configuration, for the whole process: all workers hold it
//! ([`crate::shared`]), and whoever has fetched it has done so for all. A [`Fetcher`] is what one worker has at work on it.
//!
//! # When it is fetched
//! * **On demand**: a request needs it, and it is not there or no longer good. The request waits, and everybody else who
//!   needs it with it. How that ends is told to all that wait: they have the keys, or are refused. The next request
//!   tries again.
//! * **In the background** (`async_fetch`): before anybody asks, and again a little before it gets old. Only the first
//!   worker does. While a fetch fails, the old keys are good, as in Envoy: the configuration has asked for that.
//!
//! # States of a fetcher
//! asking → (an answer that may be better another time, and retries left) → waiting until it is `due` → asking → done.
//! One that works in the background is never done, but waits until it is due again.
//!
//! # Invariants
//! * Fetches have numbers. At most one is under way for a set; whoever waits for number `n` waits until `n` has ended, and
//!   asks no other of it. One that has not ended long after it should have (its worker has gone) counts as failed.
//! * Only 200 with a whole body of at most [`LARGEST`] octets that has keys is a success. Whatever else comes leaves the
//!   keys as they are.
//! * A request of another worker than the one that fetches cannot be woken: it looks again every few milliseconds.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use pymesh_http::{Method, RequestHead};
use pymesh_jwt::Jwks;
use pymesh_model::filter::RemoteJwks;

use crate::base::slab::Key;
use crate::base::time::Time;
use crate::engine::Engine;
use crate::exchange::{Answer, Exchange, ExchangeKey, Owner, Question, Unanswered, Waiter};
use crate::telemetry::stats::JwtStats;

pub(crate) type FetcherKey = Key<Fetcher>;

/// The worker that fetches in the background.
const FETCHING_WORKER: usize = 0;

/// Octets of a key set.
const LARGEST: usize = 1 << 20;

/// So long before keys get old they are fetched again in the background, as in Envoy.
const AHEAD: Duration = Duration::from_secs(5);

/// How late the end of a fetch may be told.
const SLACK: Duration = Duration::from_secs(1);

/// How often a request looks whether another worker's fetch has ended.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The key set of a configuration; see the [module](self).
#[derive(Debug)]
pub(crate) struct RemoteKeys {
    config: Arc<RemoteJwks>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<Jwks>>,
    /// What they were read from.
    text: Vec<u8>,
    good_until: Time,
    begun: u64,
    ended: u64,
    /// When the one under way has to have ended.
    due: Time,
}

impl RemoteKeys {
    pub fn new(config: &Arc<RemoteJwks>) -> RemoteKeys {
        RemoteKeys { config: config.clone(), state: Mutex::default() }
    }

    /// The keys, if they are good now.
    pub fn current(&self, now: Time) -> Option<Arc<Jwks>> {
        let state = self.lock();
        state.keys.clone().filter(|_| now < state.good_until)
    }

    /// Whether a fetch is over.
    pub fn has_ended(&self, number: u64, now: Time) -> bool {
        let state = self.lock();
        state.ended >= number || now >= state.due
    }

    /// The number of the fetch under way, and whether it has to be begun.
    fn join(&self, now: Time) -> (u64, bool) {
        let mut state = self.lock();
        let is_under_way = state.begun > state.ended && now < state.due;
        if !is_under_way {
            state.begun += 1;
            state.due = now + self.config.timeout + SLACK;
        }
        (state.begun, !is_under_way)
    }

    fn end(&self, number: u64, found: Option<(Vec<u8>, Jwks)>, now: Time) {
        let mut state = self.lock();
        state.ended = state.ended.max(number);
        let Some((text, keys)) = found else { return };
        state.good_until =
            if self.config.in_background.is_some() { Time::NEVER } else { now + self.config.cache_duration };
        // The same keys stay the same, for whoever remembers what they have verified.
        if state.keys.is_none() || state.text != text {
            state.keys = Some(Arc::new(keys));
            state.text = text;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's work on a key set.
pub(crate) struct Fetcher {
    /// Nobody may need it any more.
    keys: Weak<RemoteKeys>,
    config: Arc<RemoteJwks>,
    stats: Arc<JwtStats>,
    is_lasting: bool,
    /// What is under way.
    number: Option<u64>,
    exchange: Option<ExchangeKey>,
    waiters: Vec<Waiter>,
    retries: u32,
    /// When all attempts have to have ended.
    deadline: Time,
    /// When to ask next.
    due: Time,
}

impl Engine {
    /// The listeners have changed: keys that are fetched in the background are, if that is this worker's part.
    pub(crate) fn apply_fetchers(&mut self) {
        if self.options.worker != FETCHING_WORKER {
            return;
        }
        let chains = self.listeners.iter().flat_map(|listener| listener.all_chains());
        let filters = chains.filter_map(|chain| chain.http.as_ref()).flat_map(|http| http.filters.remote_keys());
        let wanted: Vec<(Arc<RemoteKeys>, Arc<JwtStats>)> =
            filters.filter(|(keys, _)| keys.config.in_background.is_some()).collect();
        for (keys, stats) in wanted {
            let known = self.fetcher_of(&keys);
            let key = known.unwrap_or_else(|| self.insert_fetcher(&keys, &stats));
            let now = self.now;
            let Some(fetcher) = self.fetchers.get_mut(key).filter(|fetcher| !fetcher.is_lasting) else { continue };
            fetcher.is_lasting = true;
            if fetcher.number.is_none() {
                fetcher.due = now;
                self.timers.arm_fetcher(key, now);
            }
        }
    }

    fn fetcher_of(&self, keys: &Arc<RemoteKeys>) -> Option<FetcherKey> {
        let is_of = |key: &FetcherKey| {
            self.fetchers.get(*key).is_some_and(|fetcher| fetcher.keys.as_ptr() == Arc::as_ptr(keys))
        };
        self.fetchers.keys().find(is_of)
    }

    fn insert_fetcher(&mut self, keys: &Arc<RemoteKeys>, stats: &Arc<JwtStats>) -> FetcherKey {
        let fetcher = Fetcher {
            keys: Arc::downgrade(keys),
            config: keys.config.clone(),
            stats: stats.clone(),
            is_lasting: false,
            number: None,
            exchange: None,
            waiters: Vec::new(),
            retries: 0,
            deadline: Time::NEVER,
            due: Time::NEVER,
        };
        self.fetchers.insert_with(|_| fetcher)
    }

    /// A request waits for keys: the number of the fetch that it waits for, and when it looks again if nobody wakes it.
    pub(crate) fn wait_for_keys(
        &mut self,
        keys: &Arc<RemoteKeys>,
        stats: &Arc<JwtStats>,
        waiter: Waiter,
    ) -> (u64, Time) {
        let (number, begins) = keys.join(self.now);
        let known = self.fetcher_of(keys);
        if !begins && known.and_then(|key| self.fetchers.get(key)?.number).is_none() {
            return (number, self.now + LOOK_AGAIN);
        }
        let key = known.unwrap_or_else(|| self.insert_fetcher(keys, stats));
        if let Some(fetcher) = self.fetchers.get_mut(key) {
            fetcher.waiters.push(waiter);
        }
        if begins {
            self.begin_fetch(key, number);
        }
        (number, self.now + keys.config.timeout + SLACK)
    }

    fn begin_fetch(&mut self, key: FetcherKey, number: u64) {
        let now = self.now;
        let Some(fetcher) = self.fetchers.get_mut(key) else { return };
        fetcher.number = Some(number);
        fetcher.retries = 0;
        fetcher.deadline = now + fetcher.config.timeout;
        fetcher.due = now;
        // Not at once: who waits has to wait before it is told.
        self.timers.arm_fetcher(key, now);
    }

    /// Time has come for a fetcher.
    pub(crate) fn on_fetcher_due(&mut self, index: usize) {
        let Some(key) = self.fetchers.key_at(index) else { return };
        let Some(fetcher) = self.fetchers.get(key) else { return };
        if fetcher.exchange.is_some() {
            return;
        }
        if fetcher.due > self.now {
            let due = fetcher.due;
            return self.timers.arm_fetcher(key, due);
        }
        match (fetcher.number, fetcher.keys.upgrade()) {
            (Some(_), _) => self.ask_for_keys(key),
            // In the background.
            (None, Some(keys)) => match keys.join(self.now) {
                (number, true) => {
                    self.begin_fetch(key, number);
                    self.ask_for_keys(key);
                }
                // Somebody else is at it.
                (_, false) => self.rest(key, SLACK),
            },
            (None, None) => {
                self.fetchers.remove(key);
            }
        }
    }

    fn ask_for_keys(&mut self, key: FetcherKey) {
        let Some(fetcher) = self.fetchers.get(key) else { return };
        let config = fetcher.config.clone();
        let question = Question {
            cluster: &config.cluster,
            timeout: fetcher.deadline.since(self.now).max(Duration::from_millis(1)),
            keep: LARGEST,
            tells_the_way: true,
            body: &[],
        };
        let write_head = |head: &mut RequestHead| {
            head.method = Method::Get;
            head.set_authority(config.authority.as_bytes());
            head.set_path(config.path.as_bytes());
        };
        let exchange = self.ask(Owner::Keys(key), &question, write_head);
        if let Some(fetcher) = self.fetchers.get_mut(key) {
            fetcher.exchange = exchange;
        }
        if exchange.is_none() {
            self.end_fetch(key, None);
        }
    }

    /// A question for keys is over.
    pub(crate) fn on_keys_answer(&mut self, key: FetcherKey, exchange_key: ExchangeKey, exchange: &mut Exchange) {
        let Some(fetcher) = self.fetchers.get_mut(key).filter(|fetcher| fetcher.exchange == Some(exchange_key)) else {
            return;
        };
        fetcher.exchange = None;
        let may_get_better = match exchange.outcome() {
            Ok(Answer { head, .. }) => (500..600).contains(&head.status),
            Err(Unanswered { .. }) => true,
        };
        if may_get_better && fetcher.retries < fetcher.config.retries {
            // Full jitter, as for any retry.
            let step = fetcher.config.base_interval.saturating_mul(1 << fetcher.retries.min(16));
            let step = step.min(fetcher.config.max_interval);
            fetcher.retries += 1;
            let most = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX).max(1);
            fetcher.due = self.now + Duration::from_nanos(self.rng.below(most));
            if fetcher.due < fetcher.deadline {
                return self.timers.arm_fetcher(key, fetcher.due);
            }
        }
        let is_good = exchange.outcome().is_ok_and(|answer| answer.head.status == 200);
        let body = exchange.detached.as_mut().map(|detached| detached.take_body());
        let whole = body.filter(|(body, is_cut)| is_good && !is_cut && !body.is_empty());
        self.end_fetch(key, whole.and_then(|(text, _)| Jwks::parse(&text).ok().map(|keys| (text, keys))));
    }

    fn end_fetch(&mut self, key: FetcherKey, found: Option<(Vec<u8>, Jwks)>) {
        let Some(fetcher) = self.fetchers.get_mut(key) else { return };
        let is_good = found.is_some();
        match is_good {
            true => fetcher.stats.jwks_fetch_success.inc(),
            false => fetcher.stats.jwks_fetch_failed.inc(),
        }
        let number = fetcher.number.take();
        let waiters = std::mem::take(&mut fetcher.waiters);
        let (is_lasting, config) = (fetcher.is_lasting, fetcher.config.clone());
        let keys = fetcher.keys.upgrade();
        if let (Some(keys), Some(number)) = (&keys, number) {
            keys.end(number, found, self.now);
        }
        match (is_lasting && keys.is_some(), is_good) {
            (false, _) => {
                self.fetchers.remove(key);
            }
            (true, true) => {
                let wait = config.cache_duration.checked_sub(AHEAD).filter(|wait| !wait.is_zero());
                self.rest(key, wait.unwrap_or(config.cache_duration).max(SLACK));
            }
            (true, false) => self.rest(key, config.in_background.unwrap_or(SLACK)),
        }
        for waiter in waiters {
            self.wake(waiter);
        }
    }

    /// A fetcher that lasts has nothing to do for a while.
    fn rest(&mut self, key: FetcherKey, wait: Duration) {
        let due = self.now + wait;
        if let Some(fetcher) = self.fetchers.get_mut(key) {
            fetcher.due = due;
            self.timers.arm_fetcher(key, due);
        }
    }
}
