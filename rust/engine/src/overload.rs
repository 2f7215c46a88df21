//! What the process as a whole has taken on, and whether it takes more.
//!
//! One [`Overload`] is shared by all workers and the side thread. Workers count connections in it; the side thread
//! measures pressure and switches actions on and off; a worker that is about to take on work asks it. All of it is
//! atomic numbers, read without order: a connection too many for a moment does no harm.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pymesh_model::overload::{OverloadAction, OverloadManager};

/// Connections that are open on one listener, of all workers.
#[derive(Debug)]
pub struct ListenerLoad {
    connections: AtomicU64,
    most: u64,
}

/// Shared state; see the [module](self).
#[derive(Debug)]
pub struct Overload {
    settings: OverloadManager,
    most: u64,
    connections: AtomicU64,
    listeners: Mutex<HashMap<Arc<str>, Arc<ListenerLoad>>>,
    active: [AtomicBool; OverloadAction::ALL.len()],
}

impl Default for Overload {
    fn default() -> Self {
        Overload::new(OverloadManager::default(), u64::MAX)
    }
}

/// Which bound a connection would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Listener,
    Process,
}

impl Overload {
    /// `most` connections of clients, if the settings do not say it.
    pub fn new(settings: OverloadManager, most: u64) -> Overload {
        let most = settings.downstream_connections.unwrap_or(most);
        Overload {
            settings,
            most,
            connections: AtomicU64::new(0),
            listeners: Mutex::default(),
            active: Default::default(),
        }
    }

    /// As configured.
    pub fn settings(&self) -> &OverloadManager {
        &self.settings
    }

    /// Clients' connections that are open, and how many may be.
    pub fn connections(&self) -> (u64, u64) {
        (self.connections.load(Ordering::Relaxed), self.most)
    }

    /// Whether an action is in force.
    pub fn is_active(&self, action: OverloadAction) -> bool {
        self.active.get(action as usize).is_some_and(|active| active.load(Ordering::Relaxed))
    }

    /// Puts an action in force, or ends it.
    pub fn set_active(&self, action: OverloadAction, active: bool) {
        if let Some(flag) = self.active.get(action as usize) {
            flag.store(active, Ordering::Relaxed);
        }
    }

    /// The count of a listener, which its successor of the same name shares.
    pub(crate) fn listener(&self, name: &Arc<str>) -> Arc<ListenerLoad> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody uses any more: listeners come and go.
        listeners.retain(|_, load| Arc::strong_count(load) > 1);
        let most = self.settings.listener_connections.get(&**name).copied().unwrap_or(u64::MAX);
        let new = || Arc::new(ListenerLoad { connections: AtomicU64::new(0), most });
        listeners.entry(name.clone()).or_insert_with(new).clone()
    }
}

/// A connection's place under both bounds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    process: Arc<Overload>,
    listener: Arc<ListenerLoad>,
}

impl Slot {
    /// Takes a place.
    pub fn take(process: &Arc<Overload>, listener: &Arc<ListenerLoad>) -> Result<Slot, Full> {
        let is_full = |open: &AtomicU64, most: u64| open.fetch_add(1, Ordering::Relaxed) >= most;
        let slot = Slot { process: process.clone(), listener: listener.clone() };
        // Both are counted before either is judged, so that dropping the slot undoes both.
        let no_place = is_full(&process.connections, process.most);
        match (is_full(&listener.connections, listener.most), no_place) {
            (true, _) => Err(Full::Listener),
            (_, true) => Err(Full::Process),
            _ => Ok(slot),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.process.connections.fetch_sub(1, Ordering::Relaxed);
        self.listener.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_whoever_refused() {
        let settings = OverloadManager {
            downstream_connections: Some(3),
            listener_connections: [("small".into(), 1)].into(),
            ..OverloadManager::default()
        };
        let process = Arc::new(Overload::new(settings, 100));
        let (small, large) = (process.listener(&"small".into()), process.listener(&"large".into()));
        let first = Slot::take(&process, &small).unwrap();
        assert_eq!(Slot::take(&process, &small).unwrap_err(), Full::Listener);
        assert_eq!(process.connections(), (1, 3));
        let _second = Slot::take(&process, &large).unwrap();
        let _third = Slot::take(&process, &large).unwrap();
        assert_eq!(Slot::take(&process, &large).unwrap_err(), Full::Process);
        drop(first);
        assert_eq!(process.connections(), (2, 3));
        assert!(Slot::take(&process, &small).is_ok());
    }

    #[test]
    fn a_listener_that_is_replaced_keeps_its_count() {
        let process = Arc::new(Overload::default());
        let name: Arc<str> = "a".into();
        let old = process.listener(&name);
        let _open = Slot::take(&process, &old).unwrap();
        assert!(Arc::ptr_eq(&old, &process.listener(&name)));
    }
}
