//! What the side thread and the workers share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pymesh_engine::filter::{FilterCall, Gate};
use pymesh_engine::Engine;
use pymesh_model::filter::PythonFilter;
use pymesh_model::Snapshot;

use crate::listen;

/// Runs the filters that live outside the engine.
pub trait FilterHost {
    /// Loads every filter of a new configuration; filters that are not in
    /// `filters` may be dropped.
    fn load(&mut self, filters: Vec<Arc<PythonFilter>>) -> Vec<(Arc<PythonFilter>, Result<Gate, String>)>;

    /// Calls the hooks of one turn and finishes each of them.
    fn run(&mut self, engine: &mut Engine, calls: &[FilterCall]);
}

/// For programs without Python.
pub struct NoFilters;

impl FilterHost for NoFilters {
    fn load(&mut self, filters: Vec<Arc<PythonFilter>>) -> Vec<(Arc<PythonFilter>, Result<Gate, String>)> {
        let refuse = |filter| (filter, Err("this program runs no Python filters".to_owned()));
        filters.into_iter().map(refuse).collect()
    }

    fn run(&mut self, _engine: &mut Engine, _calls: &[FilterCall]) {}
}

/// The configuration in force, and the sockets that go with it.
pub struct Shared {
    workers: usize,
    generation: AtomicU64,
    state: Mutex<State>,
    wakers: Mutex<Vec<Arc<mio::Waker>>>,
    draining: AtomicBool,
    stopping: AtomicBool,
}

#[derive(Default)]
struct State {
    snapshot: Arc<Snapshot>,
    /// For each address that is listened on, the sockets that workers have not fetched yet.
    sockets: HashMap<SocketAddr, Vec<Option<mio::net::TcpListener>>>,
}

impl Shared {
    /// For this many workers.
    pub fn new(workers: usize) -> Shared {
        Shared {
            workers,
            generation: AtomicU64::new(0),
            state: Mutex::default(),
            wakers: Mutex::default(),
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// Puts a configuration in force: opens the sockets of new listeners, then
    /// tells the workers. A listener whose address cannot be bound is left out
    /// and reported; the rest is in force.
    pub fn publish(&self, snapshot: &Arc<Snapshot>) -> Vec<String> {
        let mut errors = Vec::new();
        let mut snapshot = snapshot.clone();
        let mut state = self.state();
        let wanted: Vec<(SocketAddr, i32, Arc<str>)> = snapshot
            .listeners
            .iter()
            .filter(|listener| listener.bind_to_port)
            .map(|listener| (listener.address, listener.backlog, listener.name.clone()))
            .collect();
        state.sockets.retain(|address, _| wanted.iter().any(|(a, _, _)| a == address));
        for (address, backlog, name) in wanted {
            if state.sockets.contains_key(&address) {
                continue;
            }
            match listen::open(address, backlog, self.workers) {
                Ok(sockets) => {
                    state.sockets.insert(address, sockets.into_iter().map(Some).collect());
                }
                Err(error) => {
                    errors.push(format!("listener {name}: {error}"));
                    let mut without = (*snapshot).clone();
                    without.listeners.retain(|listener| listener.name != name);
                    snapshot = Arc::new(without);
                }
            }
        }
        state.snapshot = snapshot;
        drop(state);
        self.generation.fetch_add(1, Ordering::Release);
        self.wake();
        errors
    }

    /// Ends connections in order: see [`Engine::drain`].
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.wake();
    }

    /// Ends the workers now.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.state().snapshot.clone()
    }

    pub(crate) fn fetch_socket(&self, address: SocketAddr, worker: usize) -> Option<mio::net::TcpListener> {
        self.state().sockets.get_mut(&address)?.get_mut(worker)?.take()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn add_waker(&self, waker: Arc<mio::Waker>) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
    }

    fn wake(&self) {
        for waker in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // A worker that cannot be woken still looks at its next event.
            let _woken = waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
