//! What an engine may hold while it works, and that it holds nothing in the end.

use pymesh_engine::telemetry::stats::Kind;
use pymesh_engine::{testing, Census};

use super::sidecar::{Sidecar, READS_PER_TURN};

impl Sidecar {
    /// No buffer grows past its limit plus what one turn may read into it.
    pub fn check_bounds(&self) {
        let census = self.engine.census();
        let most = self.limit + READS_PER_TURN * self.read_size + 16 * 1024;
        // What a copy is behind with waits in an exchange of its own.
        let body = census.largest_body.saturating_sub(if self.mirrors { 1 << 20 } else { 0 });
        let largest = census.largest_output.max(census.largest_input).max(body);
        assert!(largest <= most, "{} holds {largest} octets in one buffer, may {most}: {census:?}", self.name);
    }

    /// Nothing is left once everybody has gone.
    pub fn check_empty(&self) {
        let census: Census = self.engine.census();
        assert!(census.is_empty(), "{} is not empty: {census:?}", self.name);
        assert!(self.sockets.is_empty(), "{} has open sockets", self.name);
        assert_eq!(testing::imbalances(&self.hub), Vec::<String>::new(), "{}", self.name);
    }

    /// Every number of the engine, in a stable order.
    pub fn stats(&self) -> Vec<(String, Kind, u64)> {
        testing::numbers(&self.hub)
    }
}
