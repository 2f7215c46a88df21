//! What HTTP/2 peers do beyond measure: counted, and told in the log.

use pymesh_http::h2::{self, reason};

use super::{Conn, Protocol, Side};
use crate::engine::Engine;
use crate::telemetry::stats::Http2Stats;

impl Engine {
    /// Brings the codec's counts to where they are read.
    pub(super) fn count_http2(&mut self, conn: &mut Conn) {
        let (Protocol::Http2Server(codec) | Protocol::Http2Client(codec)) = &mut conn.protocol else { return };
        let tally = codec.take_tally();
        if tally == h2::Tally::default() {
            return;
        }
        if let Some(stats) = self.http2_stats_of(&conn.side) {
            for (counter, n) in [
                (&stats.rx_reset, tally.rx_reset),
                (&stats.tx_reset, tally.tx_reset),
                (&stats.rx_messaging_error, tally.rx_messaging_error),
                (&stats.header_overflow, tally.header_overflow),
                (&stats.header_memory_overflow, tally.header_memory_overflow),
                (&stats.too_many_header_frames, tally.too_many_header_frames),
                (&stats.stream_refused_errors, tally.stream_refused),
                (&stats.goaway_sent, tally.goaway_sent),
            ] {
                counter.add(u64::from(n));
            }
        }
    }

    /// A codec has given up on its peer. Such a connection may have no request that a log line could tell of,
    /// so the connection gets one.
    pub(super) fn count_http2_failure(&mut self, conn: &Conn, failure: h2::ConnectionError) {
        if let Some(stats) = self.http2_stats_of(&conn.side) {
            match failure.reason {
                reason::OUTBOUND_CONTROL_FLOOD => stats.outbound_control_flood.inc(),
                reason::OUTBOUND_FLOOD => stats.outbound_flood.inc(),
                reason::EMPTY_FRAMES => stats.inbound_empty_frames_flood.inc(),
                reason::PRIORITY_FRAMES => stats.inbound_priority_frames_flood.inc(),
                reason::WINDOW_UPDATE_FRAMES => stats.inbound_window_update_frames_flood.inc(),
                reason::CONTINUATION_FRAMES => stats.inbound_continuation_frames_flood.inc(),
                _ => {}
            }
        }
        if let (Some(http), reason::PREMATURE_RESETS) = (conn.http(), failure.reason) {
            http.stats.downstream_rq_too_many_premature_resets.inc();
        }
        self.notice(conn, failure.reason, "");
    }

    /// A line about a connection, for the log of the process; `detail` is what else there is to say.
    pub(super) fn notice(&mut self, conn: &Conn, why: &'static str, detail: &str) {
        let remote = conn.remote;
        let separator = if detail.is_empty() { "" } else { ": " };
        match &conn.side {
            Side::Down(down) => {
                self.telemetry.notice(
                    self.now,
                    why,
                    format_args!("client {remote} of listener {}{separator}{detail}", down.listener.config.name),
                );
            }
            Side::Up(up) => {
                let cluster = self.clusters.get(up.cluster);
                let name = cluster.map_or("that is gone", |cluster| &*cluster.config.name);
                self.telemetry.notice(
                    self.now,
                    why,
                    format_args!("endpoint {remote} of cluster {name}{separator}{detail}"),
                );
            }
        }
    }

    fn http2_stats_of(&self, side: &Side) -> Option<&Http2Stats> {
        match side {
            Side::Down(_) => Some(&self.http2_stats),
            Side::Up(up) => self.clusters.get(up.cluster).map(|cluster| &*cluster.http2),
        }
    }
}
