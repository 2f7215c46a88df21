//! What the admin pages look at, and the few things they can ask for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use pymesh_engine::shared::Commons;
use pymesh_engine::telemetry::istio::Shard;
use pymesh_engine::telemetry::stats::Hub;
use pymesh_model::Snapshot;
use pymesh_net::Shared;
use pymesh_tls::SecretStore;
use pymesh_xds::Pages;
use serde_json::json;
use tokio::sync::Notify;

use crate::gauge::{self, Gauge};
use crate::pressure::{resident_octets, Pressure};
use crate::FilterWatch;

/// Shared by the composition and the admin server.
pub(crate) struct State {
    pub hub: Arc<Hub>,
    pub shards: Vec<Arc<Shard>>,
    pub secrets: Arc<SecretStore>,
    pub shared: Arc<Shared>,
    pub pressure: Arc<Pressure>,
    pub commons: Arc<Commons>,
    pub started: Instant,
    pub workers: usize,
    snapshot: Mutex<Arc<Snapshot>>,
    pages: Pages,
    /// Listeners of the snapshot that could not be opened, and why.
    unbound: Mutex<Vec<String>>,
    pub(crate) filter_watch: OnceLock<Arc<FilterWatch>>,
    live: AtomicBool,
    draining: AtomicBool,
    pub(crate) quit: Notify,
}

impl State {
    pub fn new(
        hub: Arc<Hub>,
        shards: Vec<Arc<Shard>>,
        secrets: Arc<SecretStore>,
        shared: Arc<Shared>,
        pressure: Arc<Pressure>,
        commons: Arc<Commons>,
        pages: Pages,
    ) -> State {
        State {
            workers: shards.len(),
            hub,
            shards,
            secrets,
            shared,
            pressure,
            commons,
            started: Instant::now(),
            snapshot: Mutex::default(),
            pages,
            unbound: Mutex::default(),
            filter_watch: OnceLock::new(),
            live: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            quit: Notify::new(),
        }
    }

    /// Puts a snapshot in force and says what of it could not be.
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Vec<String> {
        let errors = self.shared.publish(&snapshot);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.unbound.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&errors);
        errors
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_live(&self) {
        self.live.store(true, Ordering::Relaxed);
    }

    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    pub fn phase(&self) -> &'static str {
        match (self.draining.load(Ordering::Relaxed), self.live.load(Ordering::Relaxed)) {
            (true, _) => "DRAINING",
            (false, true) => "LIVE",
            (false, false) => "PRE_INITIALIZING",
        }
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.shared.drain();
    }

    pub fn quit(&self) {
        self.quit.notify_one();
    }

    pub fn config_dump(&self) -> String {
        self.pages.dump.value()
    }

    /// What was taken from the control plane, and whether every worker runs it: all of them have the generation.
    pub fn config_sync(&self) -> String {
        // In this order: what was taken before is in the generation that is read after.
        let types = self.pages.taken.value();
        let generation = self.shared.generation();
        let unbound = self.unbound.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "generation": generation,
            "workers": self.shared.applied(),
            "unbound": unbound,
            "types": types,
        })
        .to_string()
    }

    /// Gauges that belong to clusters and listeners, beside what workers count.
    pub fn gauges(&self) -> Vec<Gauge> {
        let snapshot = self.snapshot();
        let mut found = gauge::circuit_breakers(&snapshot, &self.commons);
        found.extend(gauge::certificates(&snapshot, &self.secrets));
        found
    }

    /// Gauges of the process itself.
    pub fn process(&self) -> Vec<(String, u64)> {
        let mut gauges = self.pressure.gauges();
        gauges.extend([
            ("server.live".to_owned(), u64::from(self.is_live())),
            ("server.concurrency".to_owned(), self.workers as u64),
            ("server.uptime".to_owned(), self.started.elapsed().as_secs()),
            ("server.memory_physical_size".to_owned(), resident_octets()),
            ("server.days_until_first_cert_expiring".to_owned(), gauge::days_until_first_expires(&self.secrets)),
        ]);
        if let Some(watch) = self.filter_watch.get() {
            gauges.push(("filters.blocked".to_owned(), watch.blocked.load(Ordering::Relaxed)));
            gauges.push(("filters.incidents".to_owned(), watch.incidents.load(Ordering::Relaxed)));
        }
        gauges
    }

    pub fn server_info(&self) -> String {
        let info = json!({
            "version": format!("pymesh/{}", env!("CARGO_PKG_VERSION")),
            "state": self.phase(),
            "uptime_current_epoch": format!("{}s", self.started.elapsed().as_secs()),
            "node": {"id": self.snapshot().node.id, "cluster": self.snapshot().node.cluster},
            "command_line_options": {"concurrency": self.workers},
        });
        info.to_string()
    }
}
