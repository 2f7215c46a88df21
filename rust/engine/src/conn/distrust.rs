//! Connections whose peer has lost its root.
//!
//! A handshake is judged by the trust bundle of its moment. When a bundle loses a root, each connection that stands is judged
//! again by that alone: does the peer's chain still lead to a root? Where it does not, no new request goes over the
//! connection, those that are on their way have [`GRACE`] to end, and then it is cut off. Envoy lets such connections live;
//! a root is removed because its key may be somebody else's, so here they do not (`docs/decisions/010-...`).
//!
//! The same peer stands behind many connections: it is judged once for all of them.

use std::collections::HashMap;
use std::time::Duration;

use super::{ConnKey, Protocol, Side};
use crate::engine::Engine;
use crate::exchange::Failure;

/// How long what is on its way may take. With the time that the word needs to arrive it stays below five seconds.
const GRACE: Duration = Duration::from_secs(3);

const REASON: &str = "the root of the peer's certificate is not trusted any more";

impl Engine {
    /// Ends what a root has taken with it. Part of every change of configuration, since it has to come from somewhere.
    pub(crate) fn look_at_trust(&mut self) {
        let removals = self.secrets.removals();
        if removals == self.removals {
            return;
        }
        self.removals = removals;
        let mut judged = HashMap::new();
        let mut distrusted: Vec<ConnKey> = Vec::new();
        for conn in self.conns.iter() {
            let Some(tls) = &conn.tls else { continue };
            let Some(which) = tls.judgement() else { continue };
            if !*judged.entry(which).or_insert_with(|| tls.is_trusted(&self.secrets)) {
                distrusted.push(conn.key);
            }
        }
        for key in distrusted {
            self.end_distrusted(key);
        }
    }

    fn end_distrusted(&mut self, key: ConnKey) {
        self.drain_conn(key);
        let ends_at = self.now + GRACE;
        let Some(mut conn) = self.conns.lend(key) else { return };
        if matches!(conn.protocol, Protocol::Opening) {
            self.last_transport_failure = Some(REASON.to_owned());
            self.lose_upstream(&mut conn, Failure::Connect);
            self.close_now(&mut conn);
            return self.conns.give_back(key, conn);
        }
        match &mut conn.side {
            Side::Down(down) => down.ends_at = down.ends_at.min(ends_at),
            Side::Up(up) => {
                up.ends_at = up.ends_at.min(ends_at);
                self.take_out_of_pool(&mut conn);
            }
        }
        if !conn.is_closing() {
            let deadline = conn.deadline;
            self.set_deadline(&mut conn, deadline);
        }
        self.conns.give_back(key, conn);
    }
}
