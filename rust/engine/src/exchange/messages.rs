//! Messages of gRPC, counted as they pass (Istio, "Istio Standard Metrics": `istio_request_messages_total`,
//! `istio_response_messages_total`).
//!
//! Of a request those count that come through its filters to the router, of an answer those that come from the
//! endpoint; a message counts with its first octet. So does Envoy's `grpc_stats`, of which Istio asks them. They are
//! neither copied nor read: of each its length is seen, which stands before it.
//!
//! Who talks to whom is known when the answer begins. What has passed by then is told then, what follows is told as it
//! passes (a stream may last for days), and of a request that nobody has answered it is told at its end. An answer
//! that is dropped, since another attempt follows or the proxy answers in its place, has had no messages.
//!
//! Of an exchange that is not gRPC, or of which nobody wants to know, none are counted.

use pymesh_model::stats::Stats;

use super::{Exchange, ExchangeKey};
use crate::base::grpc::{is_grpc, Frame};
use crate::engine::Engine;
use crate::telemetry::istio::Kind;
use crate::telemetry::Counting;

/// The messages of one exchange, if they are counted.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    is_on: bool,
    /// Memory, kept from one exchange to the next.
    counted: Option<Box<Counted>>,
}

#[derive(Debug, Default)]
struct Counted {
    request: Seen,
    response: Seen,
    /// The answer is gRPC, too.
    is_answered: bool,
    /// Where they are told, once that is known.
    counting: Option<Counting>,
}

#[derive(Debug, Default)]
struct Seen {
    frame: Frame,
    /// Messages that have begun, and are not told yet.
    untold: u64,
}

impl Seen {
    fn octets(&mut self, data: &[u8]) {
        self.untold += self.frame.begun(data);
    }
}

impl Messages {
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Octets have come to the router.
    pub fn request_data(&mut self, data: &[u8]) {
        if let Some(counted) = self.counted() {
            counted.request.octets(data);
            counted.tell();
        }
    }

    /// Octets have come from the endpoint.
    pub fn response_data(&mut self, data: &[u8]) {
        if let Some(counted) = self.counted().filter(|counted| counted.is_answered) {
            counted.response.octets(data);
            counted.tell();
        }
    }

    /// Of another exchange.
    pub fn clear(&mut self) {
        if let Some(counted) = self.counted() {
            *counted = Counted::default();
            self.is_on = false;
        }
    }

    fn begin(&mut self) {
        self.is_on = true;
        self.counted.get_or_insert_default();
    }

    fn counted(&mut self) -> Option<&mut Counted> {
        self.counted.as_deref_mut().filter(|_| self.is_on)
    }
}

impl Counted {
    fn tell(&mut self) {
        let Some(counting) = &self.counting else { return };
        let (request, response) = (std::mem::take(&mut self.request.untold), std::mem::take(&mut self.response.untold));
        if request + response > 0 {
            counting.messages(request, response);
        }
    }
}

impl Exchange {
    /// The request has come to the router. What has come of its body waits here.
    pub(super) fn count_messages(&mut self) {
        let is_wanted = |stats: &Stats| stats.counts(Kind::Messages.metrics());
        let Some(http) = &self.http else { return };
        if is_grpc(&self.request.headers) && http.config.stats.as_deref().is_none_or(is_wanted) {
            self.messages.begin();
            self.messages.request_data(self.request_body.waiting());
        }
    }

    /// An answer begins; what came of one before is dropped.
    pub(super) fn answer_messages(&mut self) {
        if let Some(counted) = self.messages.counted() {
            counted.response = Seen::default();
            counted.is_answered = self.response.status == 200 && is_grpc(&self.response.headers);
        }
    }
}

impl Engine {
    /// It is known who answers, or that nobody will: what has passed is told.
    pub(super) fn tell_messages(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let mut messages = std::mem::take(&mut exchange.messages);
        if let Some(counted) = messages.counted().filter(|counted| counted.counting.is_none()) {
            if exchange.is_local {
                counted.response = Seen::default();
            }
            let (clusters, secrets) = (&self.clusters, &self.secrets);
            counted.counting = Some(self.telemetry.messages(exchange, self.now, |exchange| {
                let cluster = exchange.cluster.and_then(|key| clusters.get(key));
                cluster.map(|cluster| cluster.principals(exchange.host, secrets)).unwrap_or_default()
            }));
            counted.tell();
        }
        exchange.messages = messages;
    }
}
