//! The `async` lane: hooks that run beside the workers.
//!
//! `pymesh/_bridge/lane.py` has one thread with an event loop for `async def` hooks and threads for plain ones. This is
//! the way there and back.
//!
//! ```text
//! worker (Calls)  --Job, through the [`Queue`], whose bell the loop listens to-->  loop (Call)
//!                 <--Said, through the worker's [`Mailbox`], which wakes it------
//! ```
//!
//! # States of a call
//! handed over ([`Ongoing`]) → begun → ended: by what the hook returns or raises, or by its worker, because its time is
//! over or its exchange has gone ([`Job::End`]). Whoever ends it closes its message and its context, so that a hook that
//! goes on without being wanted reaches neither.
//!
//! # Invariants
//! * A worker never waits for the interpreter on behalf of this lane: it moves plain data, and drops its Python objects
//!   to the deferred pool of PyO3. A hook that holds the interpreter's lock holds up no request but its own.
//! * Of one filter on one worker no more than [`MOST_CALLS`] are on their way, those included that were ended and do not
//!   return; a call beyond is refused at once. So the queue and the mailbox are bounded.
//! * A call is ended once, whoever is first.
//!
//! # Simulated
//! A simulated proxy has a lane of its own, without a thread and by its own clock (`pymesh/_bridge/stepped.py`): in each turn
//! its loop does what can be done at that time, and says when it has something to do again ([`Calls::due`]). Nothing in
//! it waits, so a run comes to the same each time. Hooks that compute take no time there, however long they take here.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use pymesh_engine::base::time::Time;
use pymesh_engine::filter::{Change, FilterCall, Heads, Hook, Outcome};
use pymesh_engine::{Asker, CallAnswer, CallQuestion, Engine, NoAnswer};
use pymesh_model::filter::PythonFilter;
use pymesh_net::WorkerWaker;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::host;
use crate::rules;
use crate::views::{self, field_value, headers_view, request_view, response_view, text, Head, Lent};

/// Calls of one filter on one worker that may be on their way.
const MOST_CALLS: usize = 1024;
/// Octets of an answer's body.
const MOST_ANSWER: usize = 1024 * 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// By which the time of hooks is measured.
#[derive(Clone)]
enum Clock {
    /// The system's, since a time.
    System(Instant),
    /// A simulated proxy's: nanoseconds, as in [`Time`].
    Simulated(Arc<AtomicU64>),
}

impl Clock {
    fn now(&self) -> Duration {
        match self {
            Clock::System(origin) => origin.elapsed(),
            Clock::Simulated(nanos) => Duration::from_nanos(nanos.load(Ordering::Relaxed)),
        }
    }
}

/// A filter whose hooks run beside the workers, as one worker has loaded it.
pub(crate) struct Beside {
    /// In the order of [`Hook::ALL`].
    hooks: [Option<Function>; Hook::ALL.len()],
    /// The thread pool of its plain hooks.
    pool: Py<PyAny>,
    report: Py<PyAny>,
    on_its_way: AtomicUsize,
}

/// A hook.
pub(crate) struct Function {
    pub function: Py<PyAny>,
    /// It is `async def`.
    pub is_async: bool,
}

impl Beside {
    /// With its hooks in the order of [`Hook::ALL`].
    pub fn new(
        py: Python<'_>,
        filter: &PythonFilter,
        hooks: [Option<Function>; Hook::ALL.len()],
        report: Py<PyAny>,
    ) -> PyResult<Arc<Beside>> {
        let pool = py.import("pymesh._bridge.lane")?.call_method1("Pool", (&*filter.class,))?.unbind();
        Ok(Arc::new(Beside { hooks, pool, report, on_its_way: AtomicUsize::new(0) }))
    }
}

/// What the loop is told.
enum Job {
    Begin(Arc<Ongoing>),
    /// Nobody wants to know any more what this comes to.
    End(Arc<Ongoing>),
    Answer(Py<PyAny>, Result<CallAnswer, NoAnswer>),
    /// To be told that it listens.
    Ping(u64),
}

/// The way to the loop.
pub(crate) struct Queue {
    clock: Clock,
    jobs: Mutex<Vec<Job>>,
    /// One octet wakes the loop; one that is stepped sleeps never.
    bell: Option<UnixStream>,
    is_rung: AtomicBool,
    /// What has begun and not returned, for the watchdog.
    running: Mutex<Vec<Weak<Ongoing>>>,
    pinged: AtomicU64,
    heard: AtomicU64,
}

impl Queue {
    fn new(clock: Clock, bell: Option<UnixStream>) -> Queue {
        Queue {
            clock,
            jobs: Mutex::default(),
            bell,
            is_rung: AtomicBool::new(false),
            running: Mutex::default(),
            pinged: AtomicU64::new(0),
            heard: AtomicU64::new(0),
        }
    }

    /// Asks the loop whether it listens, while it has something to do. The number of a ping that it has not heard yet.
    pub fn ping(&self) -> Option<u64> {
        let pinged = self.pinged.load(Ordering::Relaxed);
        if self.is_pinged(pinged) {
            return Some(pinged);
        }
        if lock(&self.running).iter().any(is_running) {
            self.pinged.store(pinged + 1, Ordering::Relaxed);
            self.push(&mut vec![Job::Ping(pinged + 1)]);
        }
        None
    }

    /// The loop has not heard this ping.
    pub fn is_pinged(&self, number: u64) -> bool {
        self.heard.load(Ordering::Acquire) < number
    }

    /// Calls that may last too long: plain hooks that run, and `async def` ones that nobody waits for any more.
    pub fn suspects(&self) -> Vec<Suspect> {
        let mut running = lock(&self.running);
        running.retain(is_running);
        let suspects = running.iter().filter_map(Weak::upgrade).map(Suspect);
        suspects.filter(|one| one.thread().is_some() || one.is_released() && !one.is_plain()).collect()
    }

    fn push(&self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        lock(&self.jobs).append(jobs);
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // A full socket rings already.
            let _rung = self.bell.as_ref().map(|mut bell| bell.write(&[0]));
        }
    }
}

/// Its hook has not returned.
fn is_running(call: &Weak<Ongoing>) -> bool {
    call.upgrade().is_some_and(|call| !call.has_returned.load(Ordering::Acquire))
}

/// The way back to a worker.
pub(crate) struct Mailbox {
    said: Mutex<Vec<Said>>,
    is_full: AtomicBool,
    worker: Option<WorkerWaker>,
}

/// What a worker is told.
enum Said {
    Finished(Arc<Ongoing>, Box<(Heads, Outcome)>),
    Asks { ongoing: Arc<Ongoing>, question: u64, asked: Box<CallQuestion>, future: Py<PyAny> },
    AsksNoMore(Arc<Ongoing>, u64),
}

impl Mailbox {
    fn put(&self, said: Said) {
        lock(&self.said).push(said);
        if !self.is_full.swap(true, Ordering::AcqRel) {
            self.worker.iter().for_each(WorkerWaker::wake);
        }
    }

    fn take(&self) -> Vec<Said> {
        match self.is_full.swap(false, Ordering::AcqRel) {
            true => std::mem::take(&mut *lock(&self.said)),
            false => Vec::new(),
        }
    }
}

/// A call of a hook from its beginning to its end, shared by its worker and the lane.
pub(crate) struct Ongoing {
    /// Of the process.
    id: u64,
    call: FilterCall,
    filter: Arc<Beside>,
    mailbox: Arc<Mailbox>,
    /// What the hook works on.
    lent: Lent,
    /// The rest; empty once it has ended.
    heads: Mutex<Option<Heads>>,
    has_ended: AtomicBool,
    /// Its worker has ended it.
    is_released: AtomicBool,
    has_returned: AtomicBool,
    clock: Clock,
    /// By that clock.
    due: Option<Duration>,
    questions: AtomicU64,
    request_id: String,
    /// Set while a plain hook runs.
    thread: Mutex<Option<u64>>,
}

static LAST_CALL: AtomicU64 = AtomicU64::new(0);

impl Ongoing {
    fn new(
        call: &FilterCall,
        filter: &Arc<Beside>,
        mailbox: &Arc<Mailbox>,
        clock: &Clock,
        mut heads: Heads,
    ) -> Arc<Ongoing> {
        filter.on_its_way.fetch_add(1, Ordering::Relaxed);
        heads.origin.request_id = heads.request_id().to_vec();
        let request_id = text(&heads.origin.request_id).into_owned();
        let lent = Lent::default();
        match call.hook {
            Hook::RequestHeaders | Hook::RequestBody => lent.lend(Head::Request(std::mem::take(&mut heads.request))),
            Hook::ResponseHeaders | Hook::ResponseBody => {
                lent.lend(Head::Response(std::mem::take(&mut heads.response)))
            }
            Hook::RequestTrailers | Hook::ResponseTrailers => {
                lent.lend(Head::Trailers(std::mem::take(&mut heads.trailers)));
            }
            Hook::RequestChunk | Hook::ResponseChunk | Hook::Log => {}
        }
        let timeout = call.filter.timeout;
        Arc::new(Ongoing {
            id: LAST_CALL.fetch_add(1, Ordering::Relaxed) + 1,
            call: call.clone(),
            filter: filter.clone(),
            mailbox: mailbox.clone(),
            lent,
            heads: Mutex::new(Some(heads)),
            has_ended: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            has_returned: AtomicBool::new(false),
            clock: clock.clone(),
            due: (!timeout.is_zero()).then(|| clock.now().saturating_add(timeout)),
            questions: AtomicU64::new(0),
            request_id,
            thread: Mutex::new(None),
        })
    }

    fn hook_name(&self) -> &'static str {
        self.call.hook.name()
    }

    fn function(&self) -> Option<&Function> {
        self.filter.hooks.get(self.call.hook as usize)?.as_ref()
    }

    /// What it has made of its message; `None` if somebody else has ended it.
    fn end(self: &Arc<Self>) -> Option<(Heads, Change)> {
        if self.has_ended.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (head, changed) = self.lent.take_back();
        let mut heads = lock(&self.heads).take()?;
        match head {
            Some(Head::Request(head)) => heads.request = head,
            Some(Head::Response(head)) => heads.response = head,
            Some(Head::Trailers(trailers)) => heads.trailers = trailers,
            None => {}
        }
        if let Some(context) = views::kept_context(&heads.kept) {
            context.get().leave(self);
        }
        Some((heads, changed))
    }

    /// Seconds until the failure policy applies.
    pub(crate) fn seconds_left(&self) -> Option<f64> {
        Some(self.due?.saturating_sub(self.clock.now()).as_secs_f64())
    }

    fn is_simulated(&self) -> bool {
        matches!(self.clock, Clock::Simulated(_))
    }
}

impl Ongoing {
    /// Its hook has returned, wanted or not, or was never called.
    fn set_returned(&self) {
        if !self.has_returned.swap(true, Ordering::AcqRel) {
            self.filter.on_its_way.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.set_returned();
    }
}

/// A call as the watchdog sees it.
pub(crate) struct Suspect(Arc<Ongoing>);

impl Suspect {
    /// The one whose task runs on the loop now.
    pub fn on_loop(py: Python<'_>) -> Option<Suspect> {
        let call = py.import("pymesh._bridge.lane").ok()?.call_method0("current").ok()?;
        Some(Suspect(call.cast::<Call>().ok()?.get().0.clone()))
    }

    pub fn id(&self) -> u64 {
        self.0.id
    }

    pub fn what(&self) -> String {
        let how = if self.is_plain() { "" } else { ", which was cancelled" };
        format!("lane `async`: filter {} in {}{how}", self.0.call.filter.class, self.0.hook_name())
    }

    pub fn filter(&self) -> &PythonFilter {
        &self.0.call.filter
    }

    pub fn request_id(&self) -> String {
        self.0.request_id.clone()
    }

    /// The thread that runs it, if it is plain.
    pub fn thread(&self) -> Option<u64> {
        *lock(&self.0.thread)
    }

    /// Its request has gone on without it.
    pub fn is_released(&self) -> bool {
        self.0.is_released.load(Ordering::Acquire)
    }

    fn is_plain(&self) -> bool {
        self.0.function().is_some_and(|function| !function.is_async)
    }
}

/// The thread of the event loop.
pub(crate) fn loop_thread(py: Python<'_>) -> Option<u64> {
    py.import("pymesh._bridge.lane").ok()?.call_method0("thread").ok()?.extract().ok()
}

/// The calls of one worker.
pub(crate) struct Calls {
    queue: Arc<Queue>,
    /// Of a simulated proxy.
    stepped: Option<Stepped>,
    mailbox: Arc<Mailbox>,
    live: HashMap<u64, Arc<Ongoing>>,
    /// Who waits for an answer, by call and question, in whose order they are told that there is none.
    futures: BTreeMap<(u64, u64), Py<PyAny>>,
    jobs: Vec<Job>,
    released: Vec<u64>,
    answers: Vec<(Asker, Result<CallAnswer, NoAnswer>)>,
}

/// The loop that does only what it is told to.
struct Stepped {
    /// A `pymesh._bridge.stepped.Runner`.
    runner: Py<PyAny>,
    due: Option<Time>,
}

impl Calls {
    /// Where its jobs go.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// On the lane of a simulated proxy, or that of the process, which is started if it does not run yet.
    pub fn new(py: Python<'_>, worker: Option<WorkerWaker>, runner: Option<&Py<PyAny>>) -> PyResult<Calls> {
        let lane = match runner {
            Some(runner) => runner.bind(py).getattr("lane")?,
            None => py.import("pymesh._bridge.lane")?.call_method0("running")?,
        };
        let queue = lane.cast::<Lane>()?.get().queue.clone();
        Ok(Calls {
            queue,
            // What the filter's `setup` has begun is to be looked at.
            stepped: runner.map(|runner| Stepped { runner: runner.clone_ref(py), due: Some(Time::default()) }),
            mailbox: Arc::new(Mailbox { said: Mutex::default(), is_full: AtomicBool::new(false), worker }),
            live: HashMap::new(),
            futures: BTreeMap::new(),
            jobs: Vec::new(),
            released: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Has a hook called.
    pub fn hand_over(&mut self, engine: &mut Engine, call: &FilterCall, filter: &Arc<Beside>) {
        if filter.on_its_way.load(Ordering::Relaxed) >= MOST_CALLS {
            if let Some(heads) = engine.lend_heads(call) {
                engine.finish_filter(call, heads, Outcome::Overflow);
            }
            return;
        }
        let Some(heads) = engine.hand_over(call) else { return };
        let ongoing = Ongoing::new(call, filter, &self.mailbox, &self.queue.clock, heads);
        self.live.insert(call.id, ongoing.clone());
        self.jobs.push(Job::Begin(ongoing));
    }

    /// Takes what hooks have come to, and tells them what the engine has.
    pub fn turn(&mut self, engine: &mut Engine) {
        for said in self.mailbox.take() {
            self.hear(engine, said);
        }
        engine.take_released_calls(&mut self.released);
        for id in std::mem::take(&mut self.released) {
            let Some(ongoing) = self.live.remove(&id) else { continue };
            ongoing.is_released.store(true, Ordering::Release);
            ongoing.end();
            self.stop_waiting(id);
            self.jobs.push(Job::End(ongoing));
        }
        engine.take_call_answers(&mut self.answers);
        for (asker, answer) in self.answers.drain(..) {
            if let Some(future) = self.futures.remove(&(asker.call, asker.question)) {
                self.jobs.push(Job::Answer(future, answer));
            }
        }
        let now = Time::default() + self.queue.clock.now();
        let is_wanted = |stepped: &Stepped| !self.jobs.is_empty() || stepped.due.is_some_and(|due| due <= now);
        let is_stepped = self.stepped.as_ref().is_some_and(is_wanted);
        self.queue.push(&mut self.jobs);
        if is_stepped {
            self.step(engine);
        }
    }

    /// Has the loop of a simulated proxy do what can be done now.
    fn step(&mut self, engine: &mut Engine) {
        while let Some(stepped) = &mut self.stepped {
            let next = Python::attach(|py| stepped.runner.call_method0(py, "step")?.extract::<Option<u64>>(py));
            stepped.due = next.map_or_else(
                |error| {
                    eprintln!("filters: {error}");
                    None
                },
                |nanos| nanos.map(Time::from_nanos),
            );
            for said in self.mailbox.take() {
                self.hear(engine, said);
            }
            if self.jobs.is_empty() {
                return;
            }
            self.queue.push(&mut self.jobs);
        }
    }

    /// When the loop of a simulated proxy has something to do again.
    pub fn due(&self) -> Option<Time> {
        self.stepped.as_ref()?.due
    }

    /// Ends the loop of a simulated proxy, whatever still runs on it.
    pub fn close(self, py: Python<'_>) {
        if let Some(stepped) = self.stepped {
            if let Err(error) = stepped.runner.call_method0(py, "close") {
                eprintln!("filters: {error}");
            }
        }
    }

    fn hear(&mut self, engine: &mut Engine, said: Said) {
        match said {
            Said::Finished(ongoing, done) => {
                if self.live.remove(&ongoing.call.id).is_some() {
                    let (heads, outcome) = *done;
                    engine.finish_filter(&ongoing.call, heads, outcome);
                    self.stop_waiting(ongoing.call.id);
                }
            }
            Said::Asks { ongoing, question, asked, future } => match self.live.contains_key(&ongoing.call.id) {
                true => {
                    self.futures.insert((ongoing.call.id, question), future);
                    engine.ask_for_call(&ongoing.call, question, &asked);
                }
                false => self.jobs.push(Job::Answer(future, Err(is_over()))),
            },
            Said::AsksNoMore(ongoing, question) => {
                self.futures.remove(&(ongoing.call.id, question));
                engine.withdraw_question(&ongoing.call, question);
            }
        }
    }

    /// What a hook has left behind it waits no longer.
    fn stop_waiting(&mut self, call: u64) {
        if self.futures.is_empty() {
            return;
        }
        let mut own = self.futures.split_off(&(call, 0));
        let mut others = own.split_off(&(call.saturating_add(1), 0));
        self.futures.append(&mut others);
        self.jobs.extend(own.into_values().map(|future| Job::Answer(future, Err(is_over()))));
    }
}

fn is_over() -> NoAnswer {
    NoAnswer { reason: "the hook that asked is over".to_owned(), flags: String::new() }
}

/// The lane as `pymesh/_bridge/lane.py` has it.
#[pyclass(module = "pymesh._proxy", frozen)]
pub(crate) struct Lane {
    queue: Arc<Queue>,
    ear: Option<UnixStream>,
}

impl Lane {
    /// Of a simulated proxy, with its clock.
    pub(crate) fn simulated(nanos: Arc<AtomicU64>) -> Lane {
        Lane { queue: Arc::new(Queue::new(Clock::Simulated(nanos), None)), ear: None }
    }
}

#[pymethods]
impl Lane {
    #[new]
    fn new() -> io::Result<Lane> {
        let (ear, bell) = UnixStream::pair()?;
        ear.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        Ok(Lane { queue: Arc::new(Queue::new(Clock::System(Instant::now()), Some(bell))), ear: Some(ear) })
    }

    /// Readable when there is something to take; none where nobody would wait for it.
    fn fileno(&self) -> Option<i32> {
        Some(self.ear.as_ref()?.as_raw_fd())
    }

    /// Nanoseconds by the clock of its hooks.
    #[getter]
    fn now(&self) -> u64 {
        u64::try_from(self.queue.clock.now().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What there is to do: `("begin" | "end", call)`, or `("answer", (future, answer or error))`.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Vec<(&'static str, Bound<'py, PyAny>)>> {
        let mut octets = [0; 64];
        let _drained = self.ear.as_ref().map(|mut ear| ear.read(&mut octets));
        self.queue.is_rung.store(false, Ordering::Release);
        let jobs = std::mem::take(&mut *lock(&self.queue.jobs));
        let (mut told, mut begun) = (Vec::with_capacity(jobs.len()), Vec::new());
        for job in jobs {
            match job {
                Job::Begin(ongoing) => {
                    begun.push(Arc::downgrade(&ongoing));
                    told.push(("begin", Bound::new(py, Call(ongoing))?.into_any()));
                }
                Job::End(ongoing) => told.push(("end", Bound::new(py, Call(ongoing))?.into_any())),
                Job::Answer(future, answer) => {
                    told.push(("answer", (future, answered(py, answer)?).into_pyobject(py)?.into_any()));
                }
                Job::Ping(number) => self.queue.heard.store(number, Ordering::Release),
            }
        }
        if !begun.is_empty() {
            let mut running = lock(&self.queue.running);
            running.retain(is_running);
            running.append(&mut begun);
        }
        Ok(told)
    }
}

/// `Answer` or `CallError`.
fn answered(py: Python<'_>, answer: Result<CallAnswer, NoAnswer>) -> PyResult<Bound<'_, PyAny>> {
    let api = py.import("pymesh.filters.api")?;
    match answer {
        Err(failure) => api.call_method1("CallError", (failure.reason, failure.flags)),
        Ok(answer) => {
            let headers = PyDict::new(py);
            for (name, value) in &answer.headers {
                let (name, value) = (crate::views::string(py, name), crate::views::string(py, value));
                let value = match headers.get_item(&name)? {
                    // RFC 9110 section 5.3.
                    Some(before) => before.add(", ")?.add(value)?,
                    None => value.into_any(),
                };
                headers.set_item(name, value)?;
            }
            api.call_method1("Answer", (answer.status, headers, PyBytes::new(py, &answer.body)))
        }
    }
}

/// One call of a hook, as the lane has it.
#[pyclass(module = "pymesh._proxy", frozen)]
pub(crate) struct Call(Arc<Ongoing>);

#[pymethods]
impl Call {
    /// No other call of the process has it.
    #[getter]
    fn id(&self) -> u64 {
        self.0.id
    }

    /// `module:Class`
    #[getter]
    fn filter(&self) -> &str {
        &self.0.call.filter.class
    }

    /// Name of the hook.
    #[getter]
    fn hook(&self) -> &'static str {
        self.0.hook_name()
    }

    /// The request's; empty if it has none.
    #[getter]
    fn request_id(&self) -> &str {
        &self.0.request_id
    }

    #[getter]
    fn is_async(&self) -> bool {
        self.0.function().is_some_and(|function| function.is_async)
    }

    #[getter]
    fn has_ended(&self) -> bool {
        self.0.has_ended.load(Ordering::Acquire)
    }

    /// Its time is that of a simulated proxy.
    #[getter]
    fn is_simulated(&self) -> bool {
        self.0.is_simulated()
    }

    /// The thread pool of the filter.
    #[getter]
    fn pool(&self, py: Python<'_>) -> Py<PyAny> {
        self.0.filter.pool.clone_ref(py)
    }

    /// Calls the hook: its result, or its coroutine. To be called once.
    fn begin<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let ongoing = &self.0;
        let function = ongoing.function().ok_or_else(|| PyRuntimeError::new_err("the filter has no such hook"))?;
        let (context, body, end) = {
            let mut heads = lock(&ongoing.heads);
            let heads = heads.as_mut().ok_or_else(|| PyRuntimeError::new_err("the call has ended"))?;
            (views::context(py, heads)?, PyBytes::new(py, heads.body.as_slice()), heads.end)
        };
        context.get().enter(ongoing);
        let function = function.function.bind(py);
        let lent = &ongoing.lent;
        match ongoing.call.hook {
            Hook::RequestHeaders => function.call1((request_view(py, lent)?, context)),
            Hook::RequestBody => function.call1((request_view(py, lent)?, body, context)),
            Hook::ResponseHeaders => function.call1((response_view(py, lent)?, context)),
            Hook::ResponseBody => function.call1((response_view(py, lent)?, body, context)),
            Hook::RequestChunk | Hook::ResponseChunk => function.call1((body, end, context)),
            Hook::RequestTrailers | Hook::ResponseTrailers => function.call1((headers_view(py, lent)?, context)),
            Hook::Log => Ok(py.None().into_bound(py)),
        }
    }

    /// The hook has returned.
    fn finish(&self, py: Python<'_>, result: &Bound<'_, PyAny>) {
        self.0.set_returned();
        match host::made(result, Change::Nothing, self.0.call.hook) {
            Err(error) => self.fail(py, error.into_value(py).into_bound(py).into_any()),
            Ok(outcome) => {
                let Some((heads, changed)) = self.0.end() else { return };
                let outcome = match outcome {
                    Outcome::Continue { body, .. } => Outcome::Continue { changed, body },
                    other => other,
                };
                self.0.mailbox.put(Said::Finished(self.0.clone(), Box::new((heads, outcome))));
            }
        }
    }

    /// The hook has raised.
    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) {
        self.0.set_returned();
        let Some((heads, _)) = self.0.end() else { return };
        let text = error.str().map_or_else(|_| "it has raised".to_owned(), |text| text.to_string());
        self.0.mailbox.put(Said::Finished(self.0.clone(), Box::new((heads, Outcome::Failed(text)))));
        // The author wants the traceback; the client must not see it.
        let _reported = self.0.filter.report.call1(py, (self.0.hook_name(), self.request_id(), error));
    }

    /// A plain hook runs in this thread from now on, or no more.
    fn set_thread(&self, thread: Option<u64>) {
        *lock(&self.0.thread) = thread;
    }

    /// Asks a cluster; `future` is told what comes of it. Returns the question's number.
    #[allow(clippy::too_many_arguments)]
    fn ask(
        &self,
        future: Py<PyAny>,
        cluster: String,
        method: String,
        path: String,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
        timeout: Option<f64>,
    ) -> PyResult<u64> {
        let ongoing = &self.0;
        let mut authority = cluster.split_once("||").map_or_else(|| cluster.clone(), |(_, host)| host.to_owned());
        let mut fields = Vec::with_capacity(headers.len());
        for (name, value) in headers {
            let (name, value) = (rules::field_name(name.as_bytes())?, field_value(&value)?);
            match &*name {
                b"host" => authority = String::from_utf8_lossy(&value).into_owned(),
                b"content-length" | b"transfer-encoding" | b"connection" | b"keep-alive" | b"upgrade" | b"te" => {
                    let name = String::from_utf8_lossy(&name);
                    return Err(PyValueError::new_err(format!("`{name}` is written by the proxy and cannot be set")));
                }
                _ => fields.push((name.into_owned(), value.into_owned())),
            }
        }
        if !body.is_empty() || matches!(method.as_str(), "POST" | "PUT" | "PATCH") {
            fields.push((b"content-length".to_vec(), body.len().to_string().into_bytes()));
        }
        let mut head = pymesh_http::RequestHead::default();
        head.set_method(method.as_bytes());
        head.set_path(path.as_bytes());
        head.set_authority(authority.as_bytes());
        let is_method = pymesh_http::is_token(method.as_bytes()) && method != "CONNECT";
        if !is_method || !head.is_well_formed() {
            return Err(PyValueError::new_err(format!(
                "`{method} {path}` at `{authority}` is no request that can be sent"
            )));
        }
        let timeout = match timeout {
            None => Duration::ZERO,
            Some(seconds) => {
                Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero()).ok_or_else(|| {
                    PyValueError::new_err(format!("a timeout is a number of seconds above 0, not {seconds}"))
                })?
            }
        };
        let question = ongoing.questions.fetch_add(1, Ordering::Relaxed) + 1;
        let asked =
            CallQuestion { cluster, method, path, authority, headers: fields, body, timeout, most: MOST_ANSWER };
        ongoing.mailbox.put(Said::Asks { ongoing: ongoing.clone(), question, asked: Box::new(asked), future });
        Ok(question)
    }

    /// Nobody waits for that answer any more.
    fn ask_no_more(&self, question: u64) {
        self.0.mailbox.put(Said::AsksNoMore(self.0.clone(), question));
    }
}

impl Call {
    pub(crate) fn of(ongoing: &Arc<Ongoing>) -> Call {
        Call(ongoing.clone())
    }
}
