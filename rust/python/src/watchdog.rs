//! Finds hooks that do not return: which filter, which hook, which request, since when, and where it stands.
//!
//! Three things are watched: the workers, which call inline hooks themselves ([`Slot`]); the event loop of lane `async`,
//! which has to answer pings while calls are on their way; and the threads and tasks of that lane. What lasts longer than
//! the limit is told once, and told again when it is over.
//!
//! A hook that has overrun its filter's timeout as well is interrupted: `Overrun` is raised in it. That ends whatever runs
//! Python; what blocks in a system call or in C is found by it when it returns.
//!
//! # What it costs
//! A worker stores a word and a pointer on its way into a hook, and a word on its way out. The watching thread looks at
//! them four times in the time of the limit, and enters the interpreter only when it has found something.
//!
//! # Invariants
//! * What can be said without the interpreter is said first: a hook may hold its lock.
//! * An interrupt reaches the hook that it is meant for, or nobody: it is sent while this thread has the interpreter and
//!   the hook was looked at under it, and what has not been raised when the hook is over is taken back ([`Slot::leave`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pymesh_app::FilterWatch;
use pymesh_engine::filter::Hook;
use pymesh_model::filter::PythonFilter;
use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use crate::lane::{self, Queue, Suspect};
use crate::views::Context;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a worker says which hook it is in.
#[derive(Default)]
pub(crate) struct Slot {
    name: String,
    /// As Python counts threads.
    thread: OnceLock<u64>,
    /// 0 outside of hooks; else which one, and the how many-th call it is, so that no two are alike.
    inside: AtomicU64,
    /// The context of the hook; null outside.
    context: AtomicPtr<PyObject>,
    is_interrupted: AtomicBool,
    calls: AtomicU64,
    /// Those that the worker has loaded, in its order.
    filters: Mutex<Vec<Arc<PythonFilter>>>,
}

impl Slot {
    /// The worker has loaded these, and is on its own thread.
    pub fn set_filters(&self, py: Python<'_>, filters: Vec<Arc<PythonFilter>>) {
        *lock(&self.filters) = filters;
        if self.thread.get().is_none() {
            let ident = py.import("threading").and_then(|threading| threading.call_method0("get_ident"));
            let _known = ident.and_then(|ident| ident.extract()).map(|ident| self.thread.set(ident));
        }
    }

    /// A hook of the filter at `index` begins.
    pub fn enter(&self, index: usize, hook: Hook, context: &Py<Context>) {
        // Nobody else writes it.
        let calls = self.calls.load(Ordering::Relaxed).wrapping_add(1);
        self.calls.store(calls, Ordering::Relaxed);
        self.context.store(context.as_ptr(), Ordering::Relaxed);
        self.inside.store(calls << 24 | (index as u64 & 0xffff) << 8 | (hook as u64 + 1), Ordering::Release);
    }

    /// It is over.
    pub fn leave(&self, _attached: Python<'_>) {
        self.inside.store(0, Ordering::Release);
        if self.is_interrupted.load(Ordering::Relaxed) {
            self.is_interrupted.store(false, Ordering::Relaxed);
            self.thread.get().iter().for_each(|thread| raise_in(**thread, std::ptr::null_mut()));
        }
    }

    fn hook(&self, word: u64) -> Option<(Arc<PythonFilter>, &'static str)> {
        let filter = lock(&self.filters).get((word >> 8 & 0xffff) as usize)?.clone();
        let hook = Hook::ALL.get(usize::try_from(word & 0xff).ok()?.checked_sub(1)?)?;
        Some((filter, hook.name()))
    }

    /// To be called under the interpreter, and while the hook that it is of is inside.
    fn request_id(&self, py: Python<'_>) -> String {
        let context = self.context.load(Ordering::Relaxed);
        // SAFETY: the pointer is that of a context whose hook this thread has just found inside while it has the
        // interpreter; the worker holds a reference until it has left, for which it needs the interpreter.
        let context = unsafe { Bound::from_borrowed_ptr_or_opt(py, context) };
        let context = context.and_then(|context| context.cast_into::<Context>().ok());
        context.map_or_else(String::new, |context| context.get().id())
    }
}

/// Raises an exception in another thread, or takes back one that it has not seen yet.
fn raise_in(thread: u64, exception: *mut PyObject) {
    // SAFETY: every caller is attached to the interpreter, and the exception is a type that its caller holds, or null.
    unsafe { pyo3::ffi::PyThreadState_SetAsyncExc(thread as std::ffi::c_long, exception) };
}

/// The thread that watches.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    limit: Duration,
    slots: Mutex<Vec<Arc<Slot>>>,
    lane: OnceLock<Arc<Queue>>,
    /// There are filters.
    is_needed: AtomicBool,
    is_over: AtomicBool,
    found: Arc<FilterWatch>,
    wakes: OnceLock<std::thread::Thread>,
}

/// What a worker's host has of it.
#[derive(Clone)]
pub(crate) struct Watched {
    shared: Arc<Shared>,
    pub slot: Arc<Slot>,
}

impl Watched {
    /// The worker has filters.
    pub fn begin(&self, py: Python<'_>, filters: Vec<Arc<PythonFilter>>) {
        self.slot.set_filters(py, filters);
        self.shared.is_needed.store(true, Ordering::Release);
        self.shared.wakes.get().iter().for_each(|thread| thread.unpark());
    }

    /// The process has this lane.
    pub fn lane(&self, queue: &Arc<Queue>) {
        let _known = self.shared.lane.set(queue.clone());
    }
}

impl Watchdog {
    /// Watches until it is dropped.
    pub fn start(limit: Duration, found: Arc<FilterWatch>) -> std::io::Result<Watchdog> {
        let shared = Arc::new(Shared {
            limit,
            slots: Mutex::default(),
            lane: OnceLock::new(),
            is_needed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            found,
            wakes: OnceLock::new(),
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("filter-watch".to_owned()).spawn(move || own.watch())?;
        let _set = shared.wakes.set(thread.thread().clone());
        Ok(Watchdog { shared, thread: Some(thread) })
    }

    /// Makes what a worker of a name needs.
    pub fn maker(&self) -> impl Fn(String) -> Watched + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |name| {
            let slot = Arc::new(Slot { name, ..Slot::default() });
            lock(&shared.slots).push(slot.clone());
            Watched { shared: shared.clone(), slot }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ended = thread.join();
        }
    }
}

/// Something that lasts.
struct Incident {
    /// Tells it from what comes after.
    word: u64,
    since: Instant,
    what: Option<String>,
    interrupted: Option<Instant>,
}

/// What may be wrong, by where it is: a worker, the loop, a call of the lane.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Worker(usize),
    Loop,
    Call(u64),
}

impl Shared {
    fn watch(&self) {
        let mut incidents: HashMap<Place, Incident> = HashMap::new();
        while !self.is_over.load(Ordering::Acquire) {
            if !self.is_needed.load(Ordering::Acquire) {
                std::thread::park();
                continue;
            }
            std::thread::park_timeout(self.limit / 4);
            let now = Instant::now();
            let current = self.look();
            // What is not there any more, or is another by now, is over.
            let is_over = |place: &Place, incident: &Incident| {
                !current.iter().any(|(at, word)| at == place && *word == incident.word)
            };
            for (_, incident) in incidents.extract_if(|place, incident| is_over(place, incident)) {
                if let Some(what) = incident.what {
                    eprintln!("{what} goes on after {:.1} s", now.duration_since(incident.since).as_secs_f64());
                    self.found.blocked.fetch_sub(1, Ordering::Relaxed);
                }
            }
            for (place, word) in current {
                let incident =
                    incidents.entry(place).or_insert(Incident { word, since: now, what: None, interrupted: None });
                if now.duration_since(incident.since) >= self.limit {
                    self.tell(place, incident, now);
                }
            }
        }
    }

    /// What is going on, each with what tells it from the next.
    fn look(&self) -> Vec<(Place, u64)> {
        let mut found = Vec::new();
        for (at, slot) in lock(&self.slots).iter().enumerate() {
            let word = slot.inside.load(Ordering::Acquire);
            if word != 0 {
                found.push((Place::Worker(at), word));
            }
        }
        if let Some(lane) = self.lane.get() {
            found.extend(lane.ping().map(|word| (Place::Loop, word)));
            found.extend(lane.suspects().iter().map(|suspect| (Place::Call(suspect.id()), suspect.id())));
        }
        found
    }

    fn tell(&self, place: Place, incident: &mut Incident, now: Instant) {
        let elapsed = now.duration_since(incident.since);
        match place {
            Place::Worker(at) => {
                let Some(slot) = lock(&self.slots).get(at).cloned() else { return };
                let Some((filter, hook)) = slot.hook(incident.word) else { return };
                let word = incident.word;
                self.begin(
                    incident,
                    || format!("{}: filter {} in {hook}", slot.name, filter.class),
                    elapsed,
                    |py| {
                        let is_inside = slot.inside.load(Ordering::Acquire) == word;
                        is_inside.then(|| (slot.request_id(py), slot.thread.get().copied()))
                    },
                );
                if is_due(incident, &filter, elapsed, self.limit, now) {
                    Python::attach(|py| {
                        if slot.inside.load(Ordering::Acquire) == incident.word {
                            slot.is_interrupted.store(true, Ordering::Relaxed);
                            interrupt(py, slot.thread.get().copied());
                            incident.interrupted = Some(now);
                        }
                    });
                }
            }
            Place::Loop => self.tell_loop(incident, elapsed, now),
            Place::Call(id) => {
                let Some(lane) = self.lane.get() else { return };
                let Some(suspect) = lane.suspects().into_iter().find(|suspect| suspect.id() == id) else { return };
                self.begin(incident, || suspect.what(), elapsed, |_| Some((suspect.request_id(), suspect.thread())));
                if suspect.is_released() && is_due(incident, suspect.filter(), elapsed, self.limit, now) {
                    Python::attach(|py| {
                        interrupt(py, suspect.thread());
                        incident.interrupted = Some(now);
                    });
                }
            }
        }
    }

    /// All `async def` hooks stand still with the loop; the one whose task runs is to blame.
    fn tell_loop(&self, incident: &mut Incident, elapsed: Duration, now: Instant) {
        let Some(lane) = self.lane.get() else { return };
        self.begin(
            incident,
            || "the event loop of lane `async`".to_owned(),
            elapsed,
            |py| {
                let blamed =
                    Suspect::on_loop(py).map(|suspect| format!("{} of {}", suspect.request_id(), suspect.what()));
                Some((blamed.unwrap_or_default(), lane::loop_thread(py)))
            },
        );
        Python::attach(|py| {
            let Some(suspect) = Suspect::on_loop(py).filter(|_| lane.is_pinged(incident.word)) else { return };
            if suspect.is_released() && is_due(incident, suspect.filter(), elapsed, self.limit, now) {
                interrupt(py, lane::loop_thread(py));
                incident.interrupted = Some(now);
            }
        });
    }

    /// Tells of it, once.
    fn begin(
        &self,
        incident: &mut Incident,
        what: impl FnOnce() -> String,
        elapsed: Duration,
        more: impl FnOnce(Python<'_>) -> Option<(String, Option<u64>)>,
    ) {
        if incident.what.is_some() {
            return;
        }
        let what = what();
        self.found.blocked.fetch_add(1, Ordering::Relaxed);
        self.found.incidents.fetch_add(1, Ordering::Relaxed);
        eprintln!("{what} has not returned for {:.1} s", elapsed.as_secs_f64());
        incident.what = Some(what.clone());
        Python::attach(|py| {
            let Some((request, thread)) = more(py) else { return };
            let stack = thread.and_then(|thread| stack_of(py, thread).ok()).unwrap_or_default();
            let request = if request.is_empty() { "-".to_owned() } else { request };
            eprintln!("{what}, request {request}, stands here:\n{}", stack.trim_end());
        });
    }
}

fn is_due(incident: &Incident, filter: &PythonFilter, elapsed: Duration, limit: Duration, now: Instant) -> bool {
    let is_again = incident.interrupted.is_none_or(|last| now.duration_since(last) >= limit);
    !filter.timeout.is_zero() && elapsed >= filter.timeout && is_again
}

fn interrupt(py: Python<'_>, thread: Option<u64>) {
    let overrun = py.import("pymesh._bridge.lane").and_then(|lane| lane.getattr("Overrun"));
    if let (Ok(overrun), Some(thread)) = (overrun, thread) {
        raise_in(thread, overrun.as_ptr());
    }
}

fn stack_of(py: Python<'_>, thread: u64) -> PyResult<String> {
    py.import("pymesh._bridge.lane")?.call_method1("stack_of", (thread,))?.extract()
}
