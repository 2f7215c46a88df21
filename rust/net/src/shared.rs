//! What the side thread and the workers share.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pymesh_engine::base::time::Time;
use pymesh_engine::filter::log::LogCall;
use pymesh_engine::filter::{FilterCall, Gate};
use pymesh_engine::Engine;
use pymesh_model::filter::PythonFilter;
use pymesh_model::listener::Listener;
use pymesh_model::Snapshot;

use crate::bound::Bound;
use crate::listen::SocketOptions;
use crate::tap::{Tap, Watcher};

/// Runs the filters that live outside the engine.
pub trait FilterHost {
    /// Loads every filter of a new configuration; filters that are not in
    /// `filters` may be dropped.
    fn load(&mut self, filters: Vec<Arc<PythonFilter>>) -> Vec<(Arc<PythonFilter>, Result<Gate, String>)>;

    /// Calls the hooks of one turn, and finishes each of them, now or in a later [`FilterHost::turn`].
    fn run(&mut self, engine: &mut Engine, calls: &[FilterCall]);

    /// Tells filters what is over, when everything that a turn has to send was sent.
    fn log(&mut self, calls: &[LogCall]);

    /// The worker that it serves, for hooks that other threads call.
    fn serve(&mut self, _worker: WorkerWaker) {}

    /// Tells the engine what other threads have come to, and them what it has. Called in each turn.
    fn turn(&mut self, _engine: &mut Engine) {}

    /// When it has something to do by a clock that is not the system's: only in a simulated proxy.
    fn due(&self) -> Option<Time> {
        None
    }
}

/// Wakes a worker from another thread, so that it calls [`FilterHost::turn`].
#[derive(Clone, Debug)]
pub struct WorkerWaker(Arc<mio::Waker>);

impl WorkerWaker {
    pub(crate) fn new(waker: Arc<mio::Waker>) -> Self {
        WorkerWaker(waker)
    }

    /// See the type.
    pub fn wake(&self) {
        // A worker that cannot be woken still looks at its next event.
        let _woken = self.0.wake();
    }
}

/// For programs without Python.
pub struct NoFilters;

impl FilterHost for NoFilters {
    fn load(&mut self, filters: Vec<Arc<PythonFilter>>) -> Vec<(Arc<PythonFilter>, Result<Gate, String>)> {
        let refuse = |filter| (filter, Err("this program runs no Python filters".to_owned()));
        filters.into_iter().map(refuse).collect()
    }

    fn run(&mut self, _engine: &mut Engine, _calls: &[FilterCall]) {}

    fn log(&mut self, _calls: &[LogCall]) {}
}

/// The configuration in force, and the sockets that go with it.
pub struct Shared {
    generation: AtomicU64,
    /// For each worker the generation that it runs.
    applied: Vec<AtomicU64>,
    state: Mutex<State>,
    wakers: Mutex<Vec<Arc<mio::Waker>>>,
    tap: Arc<Tap>,
    draining: AtomicBool,
    stopping: AtomicBool,
}

struct State {
    snapshot: Arc<Snapshot>,
    bound: Bound,
    accepting: Accepting,
}

/// Whether workers accept connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepting {
    /// Not before a predecessor is relieved.
    NotYet,
    Yes,
    /// The process drains and its sockets are closed, or those of a successor.
    NoMore,
}

impl Shared {
    /// For this many workers.
    pub fn new(workers: usize) -> Shared {
        Shared::with(workers, Bound::new(workers, HashMap::new(), false), Accepting::Yes)
    }

    /// For a process that is to relieve another one, whose sockets these are: see [`Shared::take_over`].
    pub fn succeeding(workers: usize, inherited: HashMap<SocketAddr, Vec<TcpListener>>) -> Shared {
        Shared::with(workers, Bound::new(workers, inherited, true), Accepting::NotYet)
    }

    fn with(workers: usize, bound: Bound, accepting: Accepting) -> Shared {
        Shared {
            generation: AtomicU64::new(0),
            applied: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            state: Mutex::new(State { snapshot: Arc::default(), bound, accepting }),
            wakers: Mutex::default(),
            tap: Arc::default(),
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
        if state.accepting != Accepting::NoMore {
            let bound: Vec<Arc<Listener>> = snapshot.listeners.iter().filter(|l| l.bind_to_port).cloned().collect();
            let wanted: Vec<SocketAddr> = bound.iter().map(|listener| listener.address).collect();
            state.bound.leave_all_but(&wanted, Instant::now());
            for listener in bound {
                if let Err(error) = state.bound.want(listener.address, SocketOptions::of(&listener)) {
                    errors.push(format!("listener {}: {error}", listener.name));
                    let mut without = (*snapshot).clone();
                    without.listeners.retain(|one| one.name != listener.name);
                    snapshot = Arc::new(without);
                }
            }
        }
        state.snapshot = snapshot;
        drop(state);
        self.tell();
        errors
    }

    /// Begins to accept in the place of a predecessor. Returns the addresses whose sockets were its own.
    ///
    /// # Errors
    /// An address that the configuration names cannot be bound; the predecessor is not affected.
    pub fn take_over(&self) -> Result<Vec<SocketAddr>, String> {
        let mut state = self.state();
        let kept = state.bound.take_over()?;
        state.accepting = Accepting::Yes;
        drop(state);
        self.tell();
        Ok(kept)
    }

    /// Duplicates of every listening socket, for a successor.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub fn duplicate_sockets(&self) -> io::Result<Vec<OwnedFd>> {
        self.state().bound.duplicate()
    }

    /// Ends connections in order: see [`Engine::drain`]. Those that still come are accepted.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.wake();
    }

    /// Closes the listening sockets once what is in their queues was accepted. Those of the addresses in `kept` are a
    /// successor's, with all that is in their queues.
    pub fn close_listeners(&self, kept: &[SocketAddr]) {
        let mut state = self.state();
        state.accepting = Accepting::NoMore;
        state.bound.give_away(kept);
        state.bound.leave_all_but(&[], Instant::now());
        drop(state);
        self.tell();
    }

    /// Tells a watcher of every request from now on; false if there are too many already.
    #[must_use]
    pub fn watch(&self, watcher: Box<dyn Watcher>) -> bool {
        let is_taken = self.tap.add(watcher);
        self.wake();
        is_taken
    }

    /// Where requests are told to those who watch.
    pub fn tap(&self) -> &Arc<Tap> {
        &self.tap
    }

    /// Ends the workers now.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    fn tell(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        self.wake();
    }

    /// How often something was put in force.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// For each worker the [`Shared::generation`] that it runs.
    pub fn applied(&self) -> Vec<u64> {
        self.applied.iter().map(|generation| generation.load(Ordering::Acquire)).collect()
    }

    pub(crate) fn set_applied(&self, worker: usize, generation: u64) {
        if let Some(applied) = self.applied.get(worker) {
            applied.store(generation, Ordering::Release);
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.state().snapshot.clone()
    }

    /// True if workers are to listen where the configuration says so.
    pub(crate) fn is_accepting(&self) -> bool {
        self.state().accepting == Accepting::Yes
    }

    pub(crate) fn sockets_for(&self, address: SocketAddr, worker: usize) -> io::Result<Vec<TcpListener>> {
        self.state().bound.share(address, worker)
    }

    /// When to close the sockets of an address that is not wanted any more.
    pub(crate) fn leaving(&self, address: SocketAddr) -> Option<Instant> {
        self.state().bound.leaving(address)
    }

    pub(crate) fn forget_left(&self, now: Instant) {
        self.state().bound.forget_left(now);
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
