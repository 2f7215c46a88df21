//! How a filter asks an upstream, and waits for what it says.
//!
//! A request filter that cannot decide by itself says [`Step::Wait`](crate::http_filter), and its request stays at its
//! place in the chain. What it waits for is a [`Question`]: an exchange without a client ([`super::detached`]) whose
//! request is complete when it begins. Its deadline and a limit on what is kept of its answer are part of it, so that
//! every question ends, and none holds more than it was meant to.
//!
//! # Whose question it is
//! * **One request's own** ([`Engine::ask_for`]): only this request waits, and the answer is of no use to another. The
//!   request names it ([`Exchange::asking`]), what comes of it is put into the filter's memory as [`Memory::Heard`], and
//!   the request is woken. A request that ends before that, however it does, takes its question with it.
//! * **A connection's** ([`Owner::Connection`], `conn/ext_authz.rs`): likewise, for the connection that waits.
//! * **A hook's** that runs beside the worker ([`super::away`]): likewise, for the call of the hook, which may ask several.
//! * **Several requests'** ([`Engine::ask`]): the question belongs to something that outlives them (a cache of keys, say),
//!   an [`Owner`] of its own, which keeps the [`Waiter`] of each request that it makes wait. [`Engine::conclude`] tells
//!   the owner, which keeps what it wants of the answer and calls [`Engine::wake`] for each. A request that ends just
//!   is not there any more when it is woken: nobody has to be told, and the question goes on.
//!
//! # States of the request
//! `RequestFilter(n)` → (the filter says `Wait`) → `FilterWaits(n)` → ([`Engine::wake`], or its time has come) →
//! `RequestFilter(n)`: the same filter is called again, from its beginning, and knows by its memory what it has waited
//! for. Meanwhile a client may send as much as it may send to any request that nobody reads.
//!
//! # Invariants
//! * An answer never comes before its request waits: nothing that [`Engine::ask`] does reaches an end before the next
//!   exchange is advanced.
//! * What comes of a question is told once. A failure, a deadline, a full circuit breaker, an answer that was cut short
//!   are told like an answer; what they mean, the filter says.
//! * [`Engine::wake`] changes a request only while it waits in that filter. To wake too often is harmless, and a key of
//!   a request that is over wakes nobody.
//! * A request that has been answered, or is gone, asks nothing any more.
//! * Questions count for nobody: a worker that drains ends when its clients' exchanges have.

use std::time::Duration;

use pymesh_http::{Headers, Known, RequestHead, ResponseHead};

use super::detached::{Detached, Owner, Unanswered};
use super::forward::decimal;
use super::{Exchange, ExchangeKey, Stage};
use crate::decisions::Decision;
use crate::engine::Engine;
use crate::http_filter::Memory;
use crate::telemetry::{details, Flags};

/// A request that waits in a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub exchange: ExchangeKey,
    /// The filter's place in its chain.
    pub filter: usize,
}

/// What is asked, but for its head.
pub(crate) struct Question<'a> {
    /// Name of the cluster that is asked.
    pub cluster: &'a str,
    /// From now until the answer is complete; zero means no limit.
    pub timeout: Duration,
    /// Octets of the answer's body that are kept.
    pub keep: usize,
    /// Who is asked is told by whom, in `x-forwarded-for`.
    pub tells_the_way: bool,
    pub body: &'a [u8],
}

/// What has come of a request's own question.
pub(crate) type Heard = Result<Told, Unanswered>;

/// The answer to a request's own question.
#[derive(Debug)]
pub(crate) struct Told {
    pub head: ResponseHead,
    /// No more than was to be kept.
    pub body: Vec<u8>,
    /// There was more.
    pub is_cut: bool,
    pub trailers: Headers,
}

impl Engine {
    /// Asks on behalf of `owner`. `None`: there is no such cluster.
    pub(crate) fn ask(
        &mut self,
        owner: Owner,
        question: &Question<'_>,
        write_head: impl FnOnce(&mut RequestHead),
    ) -> Option<ExchangeKey> {
        let cluster = self.cluster_named(question.cluster)?;
        if matches!(owner, Owner::Request(_) | Owner::Call(_) | Owner::Connection(_)) {
            self.decisions.tell(|| Decision::Asks { cluster: question.cluster.into() });
        }
        let (keep, tells_the_way) = (question.keep, question.tells_the_way);
        let detached = Detached { keep, tells_the_way, ..Detached::of(owner) };
        let key = self.begin_detached(detached, cluster, question.timeout, |head| {
            write_head(head);
            // What whoever is asked knows a question of a proxy by, and how long that waits.
            head.headers.set(b"x-envoy-internal", b"true");
            if !question.timeout.is_zero() {
                let millis = decimal(u64::try_from(question.timeout.as_millis()).unwrap_or(u64::MAX));
                head.headers.set_known(Known::XEnvoyExpectedRqTimeoutMs, millis.as_bytes());
            }
        });
        if !question.body.is_empty() {
            self.request_data(key, question.body);
        }
        self.request_ended(key, &mut Headers::new());
        Some(key)
    }

    /// Asks on behalf of one request, which is lent and then has to wait; false if there is no such cluster.
    pub(crate) fn ask_for(
        &mut self,
        exchange: &mut Exchange,
        waiter: Waiter,
        question: &Question<'_>,
        write_head: impl FnOnce(&mut RequestHead),
    ) -> bool {
        self.stop_asking(exchange);
        exchange.asking = self.ask(Owner::Request(waiter), question, write_head);
        exchange.asking.is_some()
    }

    /// What a request has waited for is there: it goes on at the filter that made it wait.
    pub(crate) fn wake(&mut self, waiter: Waiter) {
        let Some(exchange) = self.exchanges.get_mut(waiter.exchange) else { return };
        if exchange.stage == Stage::FilterWaits(waiter.filter) {
            exchange.stage = Stage::RequestFilter(waiter.filter);
            self.make_ready(waiter.exchange);
        }
    }

    /// A request's own question is over.
    pub(super) fn hear(&mut self, waiter: Waiter, key: ExchangeKey, question: &mut Exchange) {
        let Some(exchange) = self.exchanges.get_mut(waiter.exchange) else { return };
        if exchange.asking != Some(key) {
            return;
        }
        exchange.asking = None;
        exchange.remember(waiter.filter, Memory::Heard(Box::new(question.take_outcome())));
        self.wake(waiter);
    }

    /// A request wants no answer any more.
    pub(super) fn stop_asking(&mut self, exchange: &mut Exchange) {
        exchange.asking.take().into_iter().for_each(|question| self.withdraw(question));
    }

    /// Nobody wants the answer to a question any more.
    pub(crate) fn withdraw(&mut self, question: ExchangeKey) {
        self.abandon(question, Flags::NONE, details::ASKED_NO_MORE);
    }
}

impl Exchange {
    /// What has come of the question of the filter at `index`, once.
    pub(crate) fn heard(&mut self, index: usize) -> Option<Heard> {
        let is_heard = |(of, memory): &(usize, Memory)| *of == index && matches!(memory, Memory::Heard(_));
        let at = self.memories.iter().position(is_heard)?;
        match self.memories.swap_remove(at).1 {
            Memory::Heard(heard) => Some(*heard),
            _ => None,
        }
    }

    /// What has come of a question that is over.
    pub(crate) fn take_outcome(&mut self) -> Heard {
        match self.outcome() {
            Err(unanswered) => Err(unanswered),
            Ok(_) => Ok(self.take_answer()),
        }
    }

    fn take_answer(&mut self) -> Told {
        let (body, is_cut) = self.detached.as_mut().map_or_else(Default::default, Detached::take_body);
        let trailers = std::mem::take(&mut self.response_body.trailers);
        let head = std::mem::take(&mut self.response);
        // The cluster still counts it.
        self.response.status = head.status;
        Told { head, body, is_cut, trailers }
    }
}

#[cfg(test)]
mod tests;
