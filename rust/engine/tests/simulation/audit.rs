//! What an engine may hold while it works, and that it holds nothing in the end.

use std::collections::HashMap;
use std::sync::Arc;

use pymesh_engine::telemetry::stats::{sum, Kind, Stats};
use pymesh_engine::Census;

use super::sidecar::{Sidecar, READS_PER_TURN};

impl Sidecar {
    /// No buffer grows past its limit plus what one turn may read into it.
    pub fn check_bounds(&self) {
        let census = self.engine.census();
        let most = self.limit + READS_PER_TURN * self.read_size + 16 * 1024;
        let largest = census.largest_output.max(census.largest_input).max(census.largest_body);
        assert!(largest <= most, "{} holds {largest} octets in one buffer, may {most}: {census:?}", self.name);
    }

    /// Nothing is left once everybody has gone.
    pub fn check_empty(&self) {
        let census: Census = self.engine.census();
        assert!(census.is_empty(), "{} is not empty: {census:?}", self.name);
        assert!(self.sockets.is_empty(), "{} has open sockets", self.name);
        let stats = self.stats();
        for (name, kind, value) in &stats {
            let is_level = *kind == Kind::Gauge && !name.contains("membership");
            assert!(!is_level || *value == 0, "{}: {name} is {value}", self.name);
            // What has begun has ended, once.
            for (begun, ended) in [("cx_total", "cx_destroy"), ("rq_total", "rq_completed")] {
                let Some(stem) = name.strip_suffix(begun) else { continue };
                let end = stats.iter().find(|(other, ..)| other.strip_suffix(ended) == Some(stem));
                assert!(end.is_none_or(|(.., n)| n == value), "{}: {name} is {value}, {end:?}", self.name);
            }
        }
    }

    /// Every number of the engine, in a stable order.
    pub fn stats(&self) -> Vec<(String, Kind, u64)> {
        fn group<T: Stats + Default>(
            what: &str,
            names: &HashMap<Arc<str>, Vec<Arc<T>>>,
            into: &mut Vec<(String, Kind, u64)>,
        ) {
            for (name, workers) in names {
                into.extend(
                    sum(workers).into_iter().map(|(n, kind, value)| (format!("{what}.{name}.{n}"), kind, value)),
                );
            }
        }
        let mut all = Vec::new();
        let groups = self.hub.lock();
        group("cluster", &groups.clusters, &mut all);
        group("http", &groups.http, &mut all);
        group("tcp", &groups.tcp, &mut all);
        group("listener", &groups.listeners, &mut all);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}
