//! Exchanges that no client has begun: the engine asks an upstream something on its own behalf.
//!
//! A mirrored request is one, a health probe another, a filter's question ([`super::asking`]) a third. Such an exchange
//! differs from a client's at its downstream end only: its request is not read from a connection but given
//! ([`Engine::begin_detached`], then [`Engine::request_data`] and [`Engine::request_ended`] as for any other), and its
//! answer is not written to one but told to its [`Owner`]. Everything between is the same path: an endpoint from the
//! balancer or the one that is named, a connection from the pool, HTTP/1 or HTTP/2, circuit breakers, counters,
//! deadlines, local replies in place of an answer that does not come.
//!
//! # States
//! It begins in `Stage::Picking`: what comes before belongs to a client (canonical form, filters, route). Then
//! Pending → Flowing as any exchange, or Replying when it has failed, and at its end [`Engine::conclude`] tells the
//! owner, once. An owner that wants no answer any more calls [`Engine::abandon`]; it is told of that too.
//!
//! # Invariants
//! * [`Exchange::detached`] is set exactly if `down` is not. Without a client there is no connection manager, route
//!   or filter chain (`http`, `facts` and `routed` are `None`): no retries, filters, header operations, access log
//!   or request metrics; the counters of the cluster are those of any request.
//! * It holds nothing of a client's: its head is a copy, and it lives as long as its own deadlines let it, whatever
//!   becomes of who has caused it.
//! * No answer makes it grow: of the body no more than `keep` octets are kept, the rest is dropped as it comes, so that
//!   the connection can be used again.
//! * Nobody waits for it: a draining worker ends when its last client has gone.

use std::time::Duration;

use pymesh_http::{Headers, RequestHead, ResponseHead};

use super::asking::Waiter;
use super::away::Asker;
use super::{Exchange, ExchangeKey, Stage};
use crate::check::CheckKey;
use crate::cluster::{ClusterKey, HostKey};
use crate::conn::ConnKey;
use crate::engine::Engine;
use crate::jwks::FetcherKey;
use crate::otlp::OtlpQueueKey;
use crate::telemetry::{Details, Flags};

/// Who has begun an exchange that has no client, and is told how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A mirrored request: nobody wants to know.
    Mirror,
    /// A health check.
    Check(CheckKey),
    /// Keys that requests wait for.
    Keys(FetcherKey),
    /// A filter that makes this request wait for the answer.
    Request(Waiter),
    /// A filter that makes this connection wait for it.
    Connection(ConnKey),
    /// Spans, or records of a log, on their way to their collector.
    Export(OtlpQueueKey),
    /// A hook that runs beside the worker.
    Call(Asker),
    /// A test of this module.
    #[cfg(test)]
    Test,
}

/// What an exchange has in place of a client.
#[derive(Debug)]
pub(crate) struct Detached {
    pub owner: Owner,
    /// The one endpoint that is meant; `None`: as the balancer says.
    pub host: Option<HostKey>,
    /// How long it may go without progress; zero means no limit.
    pub idle_timeout: Duration,
    /// No HTTP is spoken: the connection is what was asked for, and its octets are the bodies.
    pub is_raw: bool,
    /// The endpoint is told by whom it is asked: a mirrored request, a filter's question.
    pub tells_the_way: bool,
    /// Octets of the answer's body that the owner wants to see.
    pub keep: usize,
    /// The first of them, for [`Exchange::outcome`].
    pub body: Vec<u8>,
    /// There was more.
    pub is_cut: bool,
}

impl Detached {
    pub fn of(owner: Owner) -> Detached {
        Detached {
            owner,
            host: None,
            idle_timeout: Duration::ZERO,
            is_raw: false,
            tells_the_way: false,
            keep: 0,
            body: Vec::new(),
            is_cut: false,
        }
    }

    /// What there is of the answer so far.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The owner keeps it. Also says whether there was more of it.
    pub fn take_body(&mut self) -> (Vec<u8>, bool) {
        (std::mem::take(&mut self.body), self.is_cut)
    }

    /// The owner has seen it.
    pub fn forget_body(&mut self) {
        self.body.clear();
    }
}

/// The whole answer of an upstream.
pub(crate) struct Answer<'a> {
    pub head: &'a ResponseHead,
    /// No more than was to be kept.
    pub body: &'a [u8],
    pub trailers: &'a Headers,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unanswered {
    pub flags: Flags,
    pub details: Details,
}

impl Exchange {
    /// What has come of an exchange that is over.
    pub(crate) fn outcome(&self) -> Result<Answer<'_>, Unanswered> {
        match self.response_body.finished && !self.is_local {
            true => Ok(Answer {
                head: &self.response,
                body: self.detached.as_ref().map_or(&[], |detached| &detached.body),
                trailers: &self.response_body.trailers,
            }),
            false => Err(Unanswered { flags: self.flags, details: self.details.clone() }),
        }
    }

    /// Takes octets of an answer that no client waits for.
    pub(super) fn keep_answer(&mut self, data: &[u8]) -> usize {
        if let Some(detached) = &mut self.detached {
            let room = detached.keep.saturating_sub(detached.body.len()).min(data.len());
            detached.body.extend_from_slice(data.get(..room).unwrap_or_default());
            detached.is_cut |= room < data.len();
        }
        self.bytes_sent += data.len() as u64;
        data.len()
    }
}

impl Engine {
    /// Begins an exchange that has no client; `write_head` says what is asked. Its body follows as any other's. An answer
    /// has to be complete `timeout` after the request is; zero means no limit.
    pub(crate) fn begin_detached(
        &mut self,
        detached: Detached,
        cluster: ClusterKey,
        timeout: Duration,
        write_head: impl FnOnce(&mut RequestHead),
    ) -> ExchangeKey {
        let mut exchange = self.spare_exchanges.pop().unwrap_or_default();
        write_head(&mut exchange.request);
        exchange.detached = Some(detached);
        exchange.stage = Stage::Picking;
        exchange.cluster = Some(cluster);
        exchange.attempt = 1;
        exchange.timeout_override = Some(timeout);
        exchange.started = self.now;
        exchange.last_progress = self.now;
        let key = self.exchanges.insert_with(|_| exchange);
        self.arm_request_timeout(key);
        self.make_ready(key);
        key
    }

    /// There is more of an answer than there was; who speaks HTTP waits until it is whole.
    pub(super) fn tell_progress(&mut self, key: ExchangeKey) {
        let detached = self.exchanges.get(key).and_then(|exchange| exchange.detached.as_ref());
        if let Some(Detached { owner: Owner::Check(check), is_raw: true, .. }) = detached {
            self.on_check_progress(*check);
        }
    }

    /// A detached exchange is over, well or not.
    pub(super) fn conclude(&mut self, key: ExchangeKey) {
        let Some(mut exchange) = self.exchanges.lend(key) else { return };
        match exchange.detached.as_ref().map(|detached| detached.owner) {
            Some(Owner::Mirror) | None => {}
            Some(Owner::Check(check)) => self.on_check_answer(check, key, &exchange),
            Some(Owner::Keys(fetcher)) => self.on_keys_answer(fetcher, key, &mut exchange),
            Some(Owner::Connection(conn)) => self.on_service_answer(conn, key, &mut exchange),
            Some(Owner::Export(queue)) => self.on_exported(queue, key, &mut exchange),
            Some(Owner::Request(waiter)) => self.hear(waiter, key, &mut exchange),
            Some(Owner::Call(asker)) => self.hear_for_call(asker, &mut exchange),
            #[cfg(test)]
            Some(Owner::Test) => tests::told(&exchange),
        }
        self.exchanges.give_back(key, exchange);
    }
}

#[cfg(test)]
mod tests;
