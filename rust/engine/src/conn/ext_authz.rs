//! A service decides whether a connection may pass (`envoy.filters.network.ext_authz`).
//!
//! It is asked when the transport is ready, at its place among the policies of the chain, and until it has answered
//! nothing is connected to and nothing is said to the client. What the client sends meanwhile waits with the connection.
//! What an answer means is in `security/ext_authz.rs`.
//!
//! # States
//! `Opening` → (the turn of the filter) → [`Protocol::Judged`] → (the answer, or none) → the policies behind it, then what
//! speaks on the connection; or it is closed. A connection that closes meanwhile takes its question with it.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Conn, ConnKey, Protocol};
use crate::base::grpc::frame;
use crate::base::time::Time;
use crate::decisions::{self as told, FilterStep};
use crate::engine::Engine;
use crate::exchange::{Exchange, ExchangeKey, Owner, Question};
use crate::security::connection::ServiceFilter;
use crate::security::ext_authz::check::{self, Connection, Peer};
use crate::security::ext_authz::{grpc, Decision, Verdict, LARGEST_ANSWER};
use crate::telemetry::stats::ConnectionExtAuthzStats;
use crate::telemetry::Facts;

const NAMESPACE: &str = "envoy.filters.network.ext_authz";

/// A connection that waits for what a service says of it.
pub(crate) struct Judged {
    facts: Facts,
    service: Arc<ServiceFilter>,
    /// The service's place among the policies of the chain.
    index: usize,
    question: ExchangeKey,
    since: Time,
    _active: Active,
}

/// One that is counted while it waits.
struct Active(Arc<ConnectionExtAuthzStats>);

impl Active {
    fn count(stats: &Arc<ConnectionExtAuthzStats>) -> Active {
        stats.active.inc();
        Active(stats.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

impl Engine {
    /// Asks; `None` if the service has no cluster.
    pub(super) fn ask_about(&mut self, conn: &Conn, facts: &Facts, filter: &ServiceFilter) -> Option<ExchangeKey> {
        let config = &filter.config;
        filter.stats.total.inc();
        let mut described = self.describe_connection(conn, facts, config.shows_certificate, config.shows_tls_session);
        // As Envoy only what has been found out before the chain was chosen.
        let named = conn.downstream().and_then(|down| down.server_name.as_deref());
        described.destination.service = Cow::Borrowed(named.unwrap_or_default().as_bytes());
        described.told = &config.told;
        let message = frame(&check::message(&described, None));
        let service = &config.service;
        let question = Question {
            cluster: &service.cluster,
            timeout: service.timeout,
            keep: LARGEST_ANSWER,
            tells_the_way: true,
            body: &message,
        };
        self.ask(Owner::Connection(conn.key), &question, |head| {
            grpc::write_head(head, service);
            for add in &service.metadata.add {
                // There is no request whose values could be filled in.
                let value = add.value.as_literal().unwrap_or_default();
                if !value.is_empty() {
                    head.headers.set(add.name.as_bytes(), value.as_bytes());
                }
            }
        })
    }

    pub(super) fn await_service(
        &mut self,
        conn: &mut Conn,
        facts: Facts,
        service: &Arc<ServiceFilter>,
        index: usize,
        question: ExchangeKey,
    ) {
        self.decisions.tell(|| told::Decision::Filter { filter: NAMESPACE.into(), step: FilterStep::Waits });
        let (service, since, active) = (service.clone(), self.now, Active::count(&service.stats));
        conn.protocol = Protocol::Judged(Box::new(Judged { facts, service, index, question, since, _active: active }));
        // The question has a deadline.
        self.set_deadline(conn, Time::NEVER);
    }

    /// The question about a connection is over.
    pub(crate) fn on_service_answer(&mut self, key: ConnKey, question: ExchangeKey, asked: &mut Exchange) {
        let Some(mut conn) = self.conns.lend(key) else { return };
        if matches!(&conn.protocol, Protocol::Judged(judged) if judged.question == question) {
            if let Protocol::Judged(judged) = std::mem::replace(&mut conn.protocol, Protocol::Opening) {
                let decision = asked.take_outcome().map_or_else(|_| Decision::failed(), |told| grpc::decision(&told));
                self.on_decision(&mut conn, *judged, decision);
            }
        }
        self.conns.give_back(key, conn);
    }

    fn on_decision(&mut self, conn: &mut Conn, judged: Judged, mut decision: Decision) {
        let Judged { mut facts, service, index, since, .. } = judged;
        if matches!(decision.verdict, Verdict::Allowed(_)) {
            decision.tell_duration(self.now.since(since));
        }
        if !decision.metadata.is_empty() {
            facts.metadata.add(&NAMESPACE.into(), &decision.metadata);
        }
        let Some(chain) = conn.downstream().and_then(|down| down.chain.clone()) else { return };
        let refusal = service.refusal(&decision);
        let step = if refusal.is_some() { FilterStep::Answers } else { FilterStep::Continues };
        self.decisions.tell(|| told::Decision::Filter { filter: NAMESPACE.into(), step });
        match refusal {
            Some(refusal) => self.start_speaking(conn, &chain, facts, Some(refusal)),
            None => self.pass_policies(conn, &chain, facts, index + 1),
        }
        if !conn.is_closing() {
            // What it has sent meanwhile.
            self.rescan(conn);
        }
    }

    /// A connection ends: nobody wants to know any more.
    pub(super) fn stop_asking_about(&mut self, conn: &Conn) {
        if let Protocol::Judged(judged) = &conn.protocol {
            self.withdraw(judged.question);
        }
    }

    /// Both ends of a client's connection.
    pub(crate) fn describe_connection<'a>(
        &self,
        conn: &'a Conn,
        facts: &'a Facts,
        shows_certificate: bool,
        shows_tls_session: bool,
    ) -> Connection<'a> {
        let tls = conn.tls.as_ref();
        let certificate = tls.and_then(|tls| tls.peer_certificate()).filter(|_| shows_certificate);
        let chain = conn.downstream().and_then(|down| down.chain.as_ref());
        let own = chain.and_then(|chain| chain.config.tls.as_ref()).and_then(|server| {
            pymesh_tls::presented_name(&server.certificates, &self.secrets, tls.and_then(|tls| tls.sni()))
        });
        let peer = facts.peer.as_ref().map(|peer| {
            let name = peer.sans.uri.first().or(peer.sans.dns.first());
            name.unwrap_or(&peer.subject).as_str()
        });
        Connection {
            source: Peer {
                address: facts.remote,
                service: Cow::default(),
                principal: Cow::Borrowed(peer.unwrap_or_default()),
                certificate: Cow::Borrowed(certificate.unwrap_or_default()),
            },
            destination: Peer {
                address: conn.original_dst().unwrap_or(facts.local),
                service: Cow::default(),
                principal: Cow::Owned(own.unwrap_or_default()),
                certificate: Cow::default(),
            },
            tls_session: shows_tls_session.then(|| facts.server_name.as_deref().unwrap_or_default()),
            metadata: &facts.metadata,
            request_metadata: None,
            told: &[],
        }
    }
}
