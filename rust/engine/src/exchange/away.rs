//! Filters whose hooks run beside the worker (Python's lane `async`).
//!
//! A host that calls a hook at once borrows the heads ([`Engine::lend_heads`]). One that has it called elsewhere takes
//! copies ([`Engine::hand_over`]) and finishes the call in a later turn ([`Engine::finish_filter`]); meanwhile the worker
//! goes on with other exchanges. While it runs, a hook may ask clusters ([`Engine::ask_for_call`], over
//! [`super::asking`]).
//!
//! # States of the exchange
//! It waits as it does for a hook that is called at once: at its place in the chain, with `in_filter` set, or with what is
//! at a place in the stream of a body. [`Exchange::away`] has a copy of what was handed over. That ends in one of three
//! ways: the call is finished; its time is over, and the failure policy decides as if it had failed; or the exchange is
//! answered, tried again or gone without it (the client went away, the upstream broke off, another deadline was first).
//!
//! # Invariants
//! * The exchange keeps its heads: however it ends, its access log tells what it was. What a hook has changed counts
//!   when it returns, not before.
//! * A call is finished once. [`FilterCall::id`] is never used again, so an answer that comes too late finds nobody, even
//!   if its exchange waits for another filter by then.
//! * Each call that was handed over is either finished by the host or told to it by [`Engine::take_released_calls`].
//! * The questions of a call end with it. What comes of one is told once ([`Engine::take_call_answers`]), unless its call
//!   is over.
//! * Its cluster stays as long as its request waits, whatever the configuration becomes.

use std::time::Duration;

use pymesh_http::Headers;

use super::detached::Owner;
use super::{Exchange, ExchangeKey, Question};
use crate::base::time::Time;
use crate::engine::Engine;
use crate::filter::{FilterCall, Heads, Outcome};
use crate::telemetry::Flags;

/// A hook that runs elsewhere.
pub(crate) struct Away {
    call: FilterCall,
    /// When the failure policy releases the exchange.
    pub due: Time,
    /// What it was given of a body, for when it does not come back.
    body: Vec<u8>,
    end: bool,
    trailers: Headers,
    /// What it has asked and not heard of.
    questions: Vec<(u64, ExchangeKey)>,
}

/// Which call asked, and which of its questions it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    exchange: ExchangeKey,
    /// [`FilterCall::id`].
    pub call: u64,
    /// As the host has numbered it.
    pub question: u64,
}

/// What a hook asks a cluster.
#[derive(Clone, Debug)]
pub struct CallQuestion {
    /// Name of a cluster, or `host:port` of a service.
    pub cluster: String,
    /// A method that has no rules of its own: not CONNECT.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `host`; without one it is the cluster's name.
    pub authority: String,
    /// Names in lower case.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// Until the answer is complete; zero means as long as the hook may take.
    pub timeout: Duration,
    /// Octets of the answer's body that are taken; a longer one is an error.
    pub most: usize,
}

/// A complete answer.
#[derive(Debug)]
pub struct CallAnswer {
    /// Of HTTP.
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// No longer than [`CallQuestion::most`].
    pub body: Vec<u8>,
}

/// Why there is none.
#[derive(Debug)]
pub struct NoAnswer {
    /// Response code details, or a sentence.
    pub reason: String,
    /// Those of the access log, separated by commas; empty if there are none.
    pub flags: String,
}

impl NoAnswer {
    fn because(reason: String) -> NoAnswer {
        NoAnswer { reason, flags: String::new() }
    }
}

/// Questions that one call may have open.
const MOST_QUESTIONS: usize = 64;

impl Engine {
    /// Copies of what a hook works on, for a hook that is called elsewhere; `None` if its exchange is over. The time of
    /// the filter runs from now.
    pub fn hand_over(&mut self, call: &FilterCall) -> Option<Heads> {
        let heads = self.lend_heads(call)?;
        let due = self.now.after_limit(call.filter.timeout);
        let exchange = self.exchanges.get_mut(call.exchange)?;
        if !call.hook.is_stream() {
            exchange.request = heads.request.clone();
            exchange.response = heads.response.clone();
        }
        let (body, trailers) = (heads.body.as_slice().to_vec(), heads.trailers.clone());
        exchange.away.push(Away { call: call.clone(), due, body, end: heads.end, trailers, questions: Vec::new() });
        if call.hook.is_request() && !call.hook.is_stream() {
            self.await_cluster(call.exchange);
        }
        self.arm_request_timeout(call.exchange);
        Some(heads)
    }

    /// Calls that nobody waits for any more, to be ended by the host.
    pub fn take_released_calls(&mut self, into: &mut Vec<u64>) {
        into.append(&mut self.released_calls);
    }

    /// True if there is something for the host in [`Engine::take_released_calls`] or [`Engine::take_call_answers`].
    pub fn has_news_of_calls(&self) -> bool {
        !self.released_calls.is_empty() || !self.call_answers.is_empty()
    }

    /// What has come of questions.
    pub fn take_call_answers(&mut self, into: &mut Vec<(Asker, Result<CallAnswer, NoAnswer>)>) {
        into.append(&mut self.call_answers);
    }

    /// A hook that runs elsewhere asks a cluster. What comes of it is told by [`Engine::take_call_answers`]; nothing is,
    /// if the call is over.
    pub fn ask_for_call(&mut self, call: &FilterCall, question: u64, asked: &CallQuestion) {
        let asker = Asker { exchange: call.exchange, call: call.id, question };
        let Some(away) = self.away(asker) else { return };
        if away.questions.len() >= MOST_QUESTIONS {
            let reason = format!("this hook waits for {MOST_QUESTIONS} answers already: ask fewer at a time");
            return self.call_answers.push((asker, Err(NoAnswer::because(reason))));
        }
        let cluster = match self.called(&asked.cluster) {
            Ok(cluster) => cluster,
            Err(reason) => return self.call_answers.push((asker, Err(NoAnswer::because(reason)))),
        };
        let wanted = Question {
            cluster: &cluster,
            timeout: asked.timeout,
            keep: asked.most,
            tells_the_way: true,
            body: &asked.body,
        };
        let begun = self.ask(Owner::Call(asker), &wanted, |head| {
            head.set_method(asked.method.as_bytes());
            head.set_path(asked.path.as_bytes());
            head.set_authority(asked.authority.as_bytes());
            for (name, value) in &asked.headers {
                head.headers.append(name, value);
            }
        });
        if let (Some(key), Some(away)) = (begun, self.away(asker)) {
            away.questions.push((question, key));
        }
    }

    /// A hook does not want to know any more.
    pub fn withdraw_question(&mut self, call: &FilterCall, question: u64) {
        let Some(away) = self.away(Asker { exchange: call.exchange, call: call.id, question }) else { return };
        let Some(at) = away.questions.iter().position(|(id, _)| *id == question) else { return };
        let (_, key) = away.questions.swap_remove(at);
        self.withdraw(key);
    }

    /// A question of a call is over.
    pub(super) fn hear_for_call(&mut self, asker: Asker, question: &mut Exchange) {
        let Some(away) = self.away(asker) else { return };
        let Some(at) = away.questions.iter().position(|(id, _)| *id == asker.question) else { return };
        away.questions.swap_remove(at);
        let answer = match question.take_outcome() {
            Err(unanswered) => {
                let flags = if unanswered.flags == Flags::NONE { String::new() } else { unanswered.flags.to_string() };
                Err(NoAnswer { reason: unanswered.details.to_string(), flags })
            }
            Ok(told) if told.is_cut => {
                Err(NoAnswer::because(format!("the answer is longer than {} octets", told.body.len())))
            }
            Ok(told) => {
                Ok(CallAnswer { status: told.head.status, headers: pairs(&told.head.headers), body: told.body })
            }
        };
        self.call_answers.push((asker, answer));
    }

    /// The time of hooks that run elsewhere is over.
    pub(super) fn release_late_calls(&mut self, key: ExchangeKey) {
        let now = self.now;
        loop {
            let Some(exchange) = self.exchanges.get_mut(key) else { return };
            let Some(at) = exchange.away.iter().position(|away| away.due <= now) else { return };
            let Away { call, body, end, trailers, questions, .. } = exchange.away.swap_remove(at);
            let mut heads = Heads { end, trailers, kept: exchange.kept.clone(), ..Heads::default() };
            heads.body.extend(&body);
            if !call.hook.is_stream() {
                heads.request = std::mem::take(&mut exchange.request);
                heads.response = std::mem::take(&mut exchange.response);
            }
            self.released_calls.push(call.id);
            questions.iter().for_each(|(_, question)| self.withdraw(*question));
            self.finish_filter(&call, heads, Outcome::TimedOut);
        }
    }

    /// The exchange is answered, or goes another way, without what hooks elsewhere have to say.
    pub(crate) fn end_calls(&mut self, key: ExchangeKey) {
        if self.exchanges.get(key).is_none_or(|exchange| exchange.away.is_empty()) {
            return;
        }
        let Some(mut exchange) = self.exchanges.lend(key) else { return };
        self.end_calls_of(&mut exchange);
        self.exchanges.give_back(key, exchange);
    }

    /// The same for an exchange that is lent, or taken out.
    pub(super) fn end_calls_of(&mut self, exchange: &mut Exchange) {
        for away in std::mem::take(&mut exchange.away) {
            if exchange.filter_call == away.call.id {
                exchange.in_filter = false;
            }
            self.released_calls.push(away.call.id);
            away.questions.iter().for_each(|(_, question)| self.withdraw(*question));
        }
    }

    /// A call is finished: nobody waits for what it has asked.
    pub(crate) fn forget_call(&mut self, call: &FilterCall) {
        let Some(exchange) = self.exchanges.get_mut(call.exchange).filter(|exchange| !exchange.away.is_empty()) else {
            return;
        };
        let Some(at) = exchange.away.iter().position(|away| away.call.id == call.id) else { return };
        let away = exchange.away.swap_remove(at);
        away.questions.iter().for_each(|(_, question)| self.withdraw(*question));
    }

    fn away(&mut self, asker: Asker) -> Option<&mut Away> {
        self.exchanges.get_mut(asker.exchange)?.away.iter_mut().find(|away| away.call.id == asker.call)
    }
}

fn pairs(headers: &Headers) -> Vec<(Vec<u8>, Vec<u8>)> {
    headers.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
}

#[cfg(test)]
mod tests;
