//! Connections whose root is going, or gone.
//!
//! A handshake is judged by the trust bundle of its moment. When a bundle loses a root, each connection that stands is judged
//! again by that alone: does the peer's chain still lead to a root? Where it does not, no new request goes over the
//! connection, those that are on their way have [`GRACE`] to end, and then it is cut off. Envoy lets such connections live;
//! a root is removed because its key may be somebody else's, so here they do not
//! (`docs/decisions/010-a-root-that-is-removed-takes-connections-with-it.md`).
//!
//! The same peer stands behind many connections: it is judged once for all of them.
//!
//! Before that comes to pass in a rotation, each proxy gets a certificate of the new root. Then all connections that were
//! made with the old one are told to end, without a time by which they have to: whatever is asked from then on goes over
//! new ones. Each end does so with its own certificate in mind, since it does not see what it has shown.

use std::collections::HashMap;
use std::time::Duration;

use pymesh_model::tls::SecretName;

use super::{Conn, ConnKey, Protocol, Side};
use crate::engine::Engine;
use crate::exchange::Failure;

/// How long what is on its way may take. With the time that the word needs to arrive it stays below five seconds.
const GRACE: Duration = Duration::from_secs(3);

const REASON: &str = "the root of the peer's certificate is not trusted any more";

impl Engine {
    /// Ends what a root has taken with it, or will. Part of every change of configuration, since the word comes with one.
    pub(crate) fn look_at_trust(&mut self) {
        let (moves, bundle) = self.secrets.moves();
        if moves != self.moves {
            self.moves = moves;
            bundle.into_iter().for_each(|bundle| self.replace_connections(&bundle));
        }
        let removals = self.secrets.removals();
        if removals != self.removals {
            self.removals = removals;
            self.end_all_distrusted();
        }
    }

    fn replace_connections(&mut self, bundle: &SecretName) {
        let is_meant = |conn: &Conn| {
            let judged_by = conn.tls.as_ref().and_then(|tls| tls.judgement());
            judged_by.is_some_and(|(by, _)| by == *bundle) && !matches!(conn.protocol, Protocol::Opening)
        };
        let keys: Vec<ConnKey> = self.conns.iter().filter(|conn| is_meant(conn)).map(|conn| conn.key).collect();
        for key in keys {
            self.drain_conn(key);
            let Some(mut conn) = self.conns.lend(key) else { continue };
            self.take_out_of_pool(&mut conn);
            self.conns.give_back(key, conn);
        }
    }

    fn end_all_distrusted(&mut self) {
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
