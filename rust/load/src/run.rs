//! A whole run: workers that connect, begin together, and are added up.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{mpsc, Barrier, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pymesh_engine::base::time::Time;

use crate::plan::{Plan, Share};
use crate::tally::Tally;
use crate::worker::{time, Worker};

/// How often the watcher is asked.
const WATCH: Duration = Duration::from_millis(100);

/// A run that is under way, for a progress bar. Its counts are those of all requests, warm-up included.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) answered: AtomicU64,
    pub(crate) failed: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Why there is nothing to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// No connection could be made; the last reason.
    NoConnection(String),
    /// The system refuses something that a worker needs.
    System(String),
    /// The watcher ended the run before a request had begun.
    Interrupted,
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunError::NoConnection(why) => f.write_str(why),
            RunError::System(what) => write!(f, "a worker cannot run: {what}"),
            RunError::Interrupted => f.write_str("interrupted before a request was sent"),
        }
    }
}

impl std::error::Error for RunError {}

/// Carries a plan out. `watch` is called about ten times a second; when it says false the run is cut short and what was
/// counted so far is the result. The second part of the result says whether that happened.
///
/// # Errors
/// No connection could be made, or no worker; or the run was cut short while they were made.
pub fn run(plan: &Plan, mut watch: impl FnMut(&Progress) -> bool) -> Result<(Tally, bool), RunError> {
    let origin = Instant::now();
    let of = plan.workers.max(1);
    let workers: Result<Vec<Worker>, _> =
        (0..of).map(|worker| Worker::new(plan, Share { worker, of }, origin)).collect();
    let workers = workers.map_err(|error| RunError::System(error.to_string()))?;
    let progress = Progress::default();
    let together = Together {
        barrier: Barrier::new(of),
        ready: AtomicUsize::new(0),
        start: OnceLock::new(),
        trouble: Mutex::new(None),
        origin,
    };
    let mut interrupted = false;
    let results = std::thread::scope(|scope| {
        let (ended, ends) = mpsc::channel();
        for worker in workers {
            let (together, progress, ended) = (&together, &progress, ended.clone());
            scope.spawn(move || {
                // The receiver lives until all have ended.
                let _received = ended.send(together.work(worker, progress));
            });
        }
        let mut results = Vec::with_capacity(of);
        while results.len() < of {
            match ends.recv_timeout(WATCH) {
                Ok(result) => results.push(result),
                Err(_) if interrupted => {}
                Err(_) => {
                    interrupted = !watch(&progress);
                    progress.stop.store(interrupted, Ordering::Relaxed);
                }
            }
        }
        results
    });
    let mut sum: Option<Tally> = None;
    for result in results {
        let tally = result?;
        match &mut sum {
            Some(sum) => sum.merge(&tally),
            None => sum = Some(tally),
        }
    }
    sum.map(|sum| (sum, interrupted)).ok_or(RunError::Interrupted)
}

/// What workers wait for: each other's connections.
struct Together {
    barrier: Barrier,
    ready: AtomicUsize,
    start: OnceLock<Time>,
    trouble: Mutex<Option<String>>,
    origin: Instant,
}

impl Together {
    fn work(&self, mut worker: Worker, progress: &Progress) -> Result<Tally, RunError> {
        let connected = worker.connect(progress);
        self.ready.fetch_add(*connected.as_ref().unwrap_or(&0), Ordering::Relaxed);
        if let Some(trouble) = worker.trouble() {
            let mut place = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            *place = Some(trouble.to_owned());
        }
        self.barrier.wait();
        connected.map_err(|error| RunError::System(error.to_string()))?;
        if progress.is_stopping() {
            return Err(RunError::Interrupted);
        }
        if self.ready.load(Ordering::Relaxed) == 0 {
            let place = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            return Err(RunError::NoConnection(place.clone().unwrap_or_default()));
        }
        let start = *self.start.get_or_init(|| time(self.origin));
        worker.run(start, progress).map_err(|error| RunError::System(error.to_string()))
    }
}
