//! Requests that are answered in place of a cluster's endpoints, because its control plane wants these to have less
//! to do (`drop_overloads` of the load assignment).

use super::LocalReply;
use crate::cluster::ClusterKey;
use crate::engine::Engine;
use crate::telemetry::{details, Flags};

/// All of them.
const WHOLE: u32 = 1_000_000;

impl Engine {
    /// The answer to a request that is dropped.
    pub(super) fn drop_overload(&mut self, cluster: ClusterKey) -> Option<LocalReply> {
        let cluster = self.clusters.get(cluster)?;
        let share = cluster.config.endpoints.drop_overload;
        if share == 0 || share < WHOLE && self.rng.below(u64::from(WHOLE)) >= u64::from(share) {
            return None;
        }
        cluster.stats.upstream_rq_5xx.inc();
        let (details, flags, header, body): (_, _, _, &[u8]) = match share {
            WHOLE => (
                details::UNCONDITIONAL_DROP_OVERLOAD,
                Flags::UNCONDITIONAL_DROP_OVERLOAD,
                "x-envoy-unconditional-drop-overload",
                b"unconditional drop overload",
            ),
            _ => (details::DROP_OVERLOAD, Flags::DROP_OVERLOAD, "x-envoy-drop-overload", b"drop overload"),
        };
        let mut reply = LocalReply::new(503, details).with_flags(flags).with_body(body);
        reply.headers.push((header, b"true".to_vec()));
        Some(reply)
    }
}
