//! The `inline` lane: hooks are called by the worker itself, all calls of one
//! loop turn under one attach to the interpreter. Compiled hooks are called
//! without it ([`crate::compiled`]).
//!
//! A filter is loaded by `pymesh._bridge.filters.load(class, source, config)`,
//! once per worker and configuration, before the worker hears of it
//! ([`crate::generations`]) or, if it is from the bootstrap, here; its answer
//! says which hooks it has and which requests concern it. It is closed when
//! nobody passes it any more. What a hook raises is logged there and becomes
//! the filter's failure policy here; it concerns no other request.

use std::sync::Arc;

use pymesh_engine::base::time::Time;
use pymesh_engine::filter::log::{LogCall, LogRecord};
use pymesh_engine::filter::{Change, FilterCall, Gate, Heads, Hook, Outcome};
use pymesh_engine::Engine;
use pymesh_model::filter::PythonFilter;
use pymesh_model::matcher::{HeaderMatch, HeaderTest, StringMatch, StringPattern};
use pymesh_net::{FilterHost, WorkerWaker};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::compiled::Compiled;
use crate::generations::{close, config, Generations};
use crate::interpreter::{self, Known};
use crate::lane::{Beside, Calls, Function};
use crate::lap::{Clock, Lap};
use crate::rules;
use crate::views::{
    field_value, kept_context, text, with_trailers, Context, Head, Request, Response, Reusable, SpareContext,
};
use crate::watchdog::{Slot, Watched};

/// The Python filters of one worker.
pub(crate) struct PythonHost {
    worker: usize,
    generations: Arc<Generations>,
    loaded: Vec<Loaded>,
    /// Wakes the worker, if it is one.
    waker: Option<WorkerWaker>,
    /// Once there is a filter of lane `async`.
    lane: Option<Calls>,
    watched: Option<Watched>,
    /// Once a worker has filters.
    known: Option<Known>,
    clock: Clock,
    context: SpareContext,
}

struct Loaded {
    filter: Arc<PythonFilter>,
    result: Result<Instance, String>,
}

/// A filter as one worker has it.
pub(crate) struct Instance {
    gate: Gate,
    compiled: Option<Compiled>,
    /// In the order of [`Hook::ALL`].
    hooks: [Option<Py<PyAny>>; Hook::ALL.len()],
    request_view: Reusable<Request>,
    response_view: Reusable<Response>,
    /// Makes a `LogRecord`.
    record: Py<PyAny>,
    report: Py<PyAny>,
    /// Its lane is `async`.
    beside: Option<Arc<Beside>>,
    /// The `Loaded` that all this is of.
    whole: Py<PyAny>,
}

impl PythonHost {
    pub(crate) fn new(worker: usize, generations: Arc<Generations>) -> Self {
        PythonHost {
            worker,
            generations,
            loaded: Vec::new(),
            waker: None,
            lane: None,
            watched: None,
            known: None,
            clock: Clock::default(),
            context: SpareContext::default(),
        }
    }

    /// The worker's instance of a filter that it has not had.
    fn take(&self, py: Python<'_>, filter: &Arc<PythonFilter>) -> Result<Instance, String> {
        if let Some(made) = self.generations.take(filter, self.worker) {
            return made;
        }
        let loaded = load(py, filter, self.generations.runner()).and_then(|loaded| instance(&loaded, filter));
        loaded.map_err(|error| {
            let reason = error.value(py).to_string();
            eprintln!("filter {}: {reason}", filter.class);
            reason
        })
    }

    pub(crate) fn watched(mut self, watched: Watched) -> Self {
        self.watched = Some(watched);
        self
    }

    /// Where a filter stands among those that are loaded.
    fn place(&self, filter: &Arc<PythonFilter>) -> Option<usize> {
        self.loaded.iter().position(|loaded| Arc::ptr_eq(&loaded.filter, filter))
    }

    fn instance(&self, place: Option<usize>) -> Option<&Instance> {
        self.loaded.get(place?)?.result.as_ref().ok()
    }

    /// The compiled filter, if the hook is a function of it.
    fn compiled(&self, call: &FilterCall) -> Option<&Compiled> {
        self.instance(self.place(&call.filter))?.compiled(call.hook)
    }

    /// True if the hook is compiled.
    pub(crate) fn is_compiled(&self, call: &FilterCall) -> bool {
        self.compiled(call).is_some()
    }

    /// Calls a hook outside of an exchange, as one that is alone in its turn.
    pub(crate) fn call(&mut self, call: &FilterCall, heads: &mut Heads) -> Outcome {
        let mut lap = self.clock.lap();
        match self.compiled(call) {
            Some(compiled) => in_time(&mut lap, call, compiled.call(call, heads)),
            None => Python::attach(|py| {
                lap.begin();
                let place = self.place(&call.filter);
                in_time(&mut lap, call, self.call_python(py, place, call, heads))
            }),
        }
    }

    fn call_python(&mut self, py: Python<'_>, place: Option<usize>, call: &FilterCall, heads: &mut Heads) -> Outcome {
        let PythonHost { loaded, watched, context, .. } = self;
        let found = place.and_then(|at| Some((at, loaded.get_mut(at)?.result.as_mut().ok()?)));
        let Some((at, instance)) = found else { return Outcome::Failed("the filter is not loaded".to_owned()) };
        let watch = Watch { slot: watched.as_ref().map(|watched| &*watched.slot), at };
        instance.call(py, call, heads, context, watch)
    }
}

/// Where a hook of the filter at a place tells the watchdog that it runs.
#[derive(Clone, Copy)]
struct Watch<'a> {
    slot: Option<&'a Slot>,
    at: usize,
}

impl Watch<'_> {
    fn enter(self, hook: Hook, context: &Py<Context>) {
        if let Some(slot) = self.slot {
            slot.enter(self.at, hook, context);
        }
    }

    fn leave(self, py: Python<'_>) {
        if let Some(slot) = self.slot {
            slot.leave(py);
        }
    }
}

impl FilterHost for PythonHost {
    fn load(&mut self, filters: Vec<Arc<PythonFilter>>) -> Vec<(Arc<PythonFilter>, Result<Gate, String>)> {
        if filters.is_empty() && self.loaded.is_empty() {
            // A proxy without filters never enters the interpreter.
            return Vec::new();
        }
        let mut old = std::mem::take(&mut self.loaded);
        Python::attach(|py| {
            for filter in filters {
                if self.loaded.iter().any(|loaded| Arc::ptr_eq(&loaded.filter, &filter)) {
                    continue;
                }
                // An equal filter in a new snapshot keeps its instance and its state.
                let same = old.iter().position(|loaded| loaded.filter == filter && loaded.result.is_ok());
                let result = match same {
                    Some(at) => old.swap_remove(at).result,
                    None => self.take(py, &filter),
                };
                let is_beside = result.as_ref().is_ok_and(|instance| instance.beside.is_some());
                let result = match self.lane.is_none() && is_beside {
                    false => result,
                    true => Calls::new(py, self.waker.clone(), self.generations.runner())
                        .map(|lane| self.lane = Some(lane))
                        .map_err(|error| format!("lane `async` does not start: {error}"))
                        .and(result),
                };
                self.loaded.push(Loaded { filter, result });
            }
            if let Some(watched) = &self.watched {
                watched.begin(py, self.loaded.iter().map(|loaded| loaded.filter.clone()).collect());
                self.lane.iter().for_each(|lane| watched.lane(lane.queue()));
            }
            close_all(py, old);
            if self.waker.is_some() && self.known.is_none() {
                self.known = Some(Known::this_thread(py));
            }
        });
        if self.generations.runner().is_none() {
            self.clock = Clock::for_limits(self.loaded.iter().map(|loaded| loaded.filter.timeout));
        }
        let gate = |loaded: &Loaded| {
            let gate = loaded.result.as_ref().map(|instance| instance.gate.clone()).map_err(Clone::clone);
            (loaded.filter.clone(), gate)
        };
        self.loaded.iter().map(gate).collect()
    }

    fn run(&mut self, engine: &mut Engine, calls: &[FilterCall]) {
        let mut lap = self.clock.lap();
        let mut is_for_python = false;
        for call in calls {
            let place = self.place(&call.filter);
            let Some(instance) = self.instance(place) else {
                is_for_python = true;
                continue;
            };
            if let Some(filter) = instance.beside.clone() {
                if let Some(lane) = &mut self.lane {
                    lane.hand_over(engine, call, &filter);
                }
                lap.begin();
            } else if let Some(compiled) = instance.compiled(call.hook) {
                let Some(mut heads) = engine.lend_heads(call) else { continue };
                let outcome = in_time(&mut lap, call, compiled.call(call, &mut heads));
                engine.finish_filter(call, heads, outcome);
            } else {
                is_for_python = true;
            }
        }
        if !is_for_python {
            return;
        }
        Python::attach(|py| {
            // Waiting for the interpreter was nobody's hook.
            lap.begin();
            for call in calls {
                let place = self.place(&call.filter);
                if self.instance(place).is_some_and(|instance| !instance.is_inline(call.hook)) {
                    continue;
                }
                let Some(mut heads) = engine.lend_heads(call) else { continue };
                let outcome = self.call_python(py, place, call, &mut heads);
                let outcome = in_time(&mut lap, call, outcome);
                engine.finish_filter(call, heads, outcome);
            }
        });
    }

    fn serve(&mut self, worker: WorkerWaker) {
        self.waker = Some(worker);
    }

    fn turn(&mut self, engine: &mut Engine) {
        if let Some(lane) = &mut self.lane {
            lane.turn(engine);
        }
    }

    fn due(&self) -> Option<Time> {
        self.lane.as_ref()?.due()
    }

    fn log(&mut self, calls: &[LogCall]) {
        Python::attach(|py| {
            for call in calls {
                let place = self.place(&call.filter);
                if let Some((at, instance)) = place.zip(self.instance(place)) {
                    let watch = Watch { slot: self.watched.as_ref().map(|watched| &*watched.slot), at };
                    instance.log(py, call, watch);
                }
            }
        });
    }
}

impl Drop for PythonHost {
    fn drop(&mut self) {
        let loaded = std::mem::take(&mut self.loaded);
        if loaded.is_empty() && self.lane.is_none() {
            return;
        }
        let _interpreter_is_gone = Python::try_attach(|py| {
            close_all(py, loaded);
            if let Some(lane) = self.lane.take() {
                lane.close(py);
            }
            if let Some(known) = self.known.take() {
                known.forget(py);
            }
        });
    }
}

/// What has become of a hook that has just returned.
fn in_time(lap: &mut Lap, call: &FilterCall, outcome: Outcome) -> Outcome {
    match lap.is_over(call.filter.timeout) {
        true => Outcome::TimedOut,
        false => outcome,
    }
}

/// Instances that nobody passes any more.
fn close_all(py: Python<'_>, instances: Vec<Loaded>) {
    instances.into_iter().filter_map(|loaded| loaded.result.ok()).for_each(|instance| instance.close(py));
}

fn load<'py>(py: Python<'py>, filter: &PythonFilter, runner: Option<&Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    let bridge = py.import("pymesh._bridge.filters")?;
    let runner = runner.map(|runner| runner.clone_ref(py));
    bridge.call_method1("load", (&*filter.class, &*filter.source, config(py, filter)?, runner))
}

/// What the host needs of a filter that `pymesh._bridge.filters.load` has loaded.
pub(crate) fn instance(loaded: &Bound<'_, PyAny>, filter: &PythonFilter) -> PyResult<Instance> {
    let py = loaded.py();
    let bridge = py.import("pymesh._bridge.filters")?;
    let known = loaded.getattr("hooks")?;
    let mut hooks = [const { None }; Hook::ALL.len()];
    for (place, hook) in hooks.iter_mut().zip(Hook::ALL) {
        let function = known.call_method1("get", (hook.name(),))?;
        *place = (!function.is_none()).then(|| function.unbind());
    }
    let (capsule, instance) = (loaded.getattr("capsule")?, loaded.getattr("instance")?);
    let compiled = match capsule.is_none() {
        true => None,
        false => Some(Compiled::load(&capsule, Some(&instance).filter(|one| !one.is_none()), filter)?),
    };
    let conditions: Vec<(String, String, String)> = match &compiled {
        Some(compiled) if instance.is_none() => compiled.when(),
        _ => loaded.getattr("when")?.extract()?,
    };
    let when = conditions.iter().map(|(name, test, value)| condition(name, test, value)).collect::<PyResult<_>>()?;
    let wants: Vec<String> = loaded.getattr("wants")?.extract()?;
    let is_there = |(hook, function): &(Hook, &Option<_>)| {
        function.is_some() || compiled.as_ref().is_some_and(|compiled| compiled.has(*hook))
    };
    let gate = Gate {
        hooks: Hook::ALL.into_iter().zip(&hooks).filter(is_there).map(|(hook, _)| hook).collect(),
        when,
        wants: wants.into_iter().map(String::into_boxed_str).collect(),
        max_body: loaded.getattr("max_body")?.extract()?,
    };
    let awaited: Vec<String> = loaded.getattr("awaited")?.extract()?;
    let mut functions = [const { None }; Hook::ALL.len()];
    for ((place, function), hook) in functions.iter_mut().zip(&hooks).zip(Hook::ALL) {
        let is_async = awaited.iter().any(|name| name == hook.name());
        *place = function.as_ref().map(|function| Function { function: function.clone_ref(py), is_async });
    }
    let report = loaded.getattr("report")?.unbind();
    let beside = match loaded.getattr("lane")?.extract::<String>()? == "async" {
        true => Some(Beside::new(py, filter, functions, report.clone_ref(py))?),
        false => None,
    };
    Ok(Instance {
        gate,
        compiled,
        hooks,
        request_view: Reusable::new(),
        response_view: Reusable::new(),
        record: bridge.getattr("LogRecord")?.unbind(),
        report,
        beside,
        whole: loaded.clone().unbind(),
    })
}

fn condition(name: &str, test: &str, value: &str) -> PyResult<HeaderMatch> {
    let octets: Box<[u8]> = value.as_bytes().into();
    let string = |pattern| HeaderTest::Value(StringMatch { pattern, ignore_case: false });
    let test = match test {
        "present" => HeaderTest::Present(true),
        "exact" => string(StringPattern::Exact(octets)),
        "prefix" => string(StringPattern::Prefix(octets)),
        "suffix" => string(StringPattern::Suffix(octets)),
        "contains" => string(StringPattern::Contains(octets)),
        other => return Err(PyValueError::new_err(format!("`when` knows no test `{other}`"))),
    };
    Ok(HeaderMatch { name: name.to_ascii_lowercase().into(), test, invert: false, missing_as_empty: false })
}

impl Instance {
    /// It is of no more use.
    pub(crate) fn close(self, py: Python<'_>) {
        close(self.whole.bind(py));
    }

    fn hook(&self, hook: Hook) -> Option<&Py<PyAny>> {
        self.hooks.get(hook as usize)?.as_ref()
    }

    /// What is compiled, if the hook is a function of it.
    fn compiled(&self, hook: Hook) -> Option<&Compiled> {
        self.compiled.as_ref().filter(|compiled| compiled.has(hook))
    }

    /// The hook is the worker's to call, and needs the interpreter.
    fn is_inline(&self, hook: Hook) -> bool {
        self.beside.is_none() && self.compiled(hook).is_none()
    }

    /// Calls one hook on heads, and leaves them as it does.
    fn call(
        &mut self,
        py: Python<'_>,
        call: &FilterCall,
        heads: &mut Heads,
        spare: &mut SpareContext,
        watch: Watch<'_>,
    ) -> Outcome {
        let context = match spare.lend(py, heads) {
            Ok(context) => context,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        watch.enter(call.hook, &context);
        let result = self.call_with(py, call.hook, heads, &context);
        watch.leave(py);
        let outcome = result.unwrap_or_else(|error| {
            let text = error.to_string();
            // The author wants the traceback; the client must not see it.
            self.report(call.hook.name(), &context.get().id(), error, py);
            Outcome::Failed(text)
        });
        spare.give_back(py, context, heads);
        outcome
    }

    fn call_with(&mut self, py: Python<'_>, hook: Hook, heads: &mut Heads, context: &Py<Context>) -> PyResult<Outcome> {
        let Some(function) = self.hooks.get(hook as usize).and_then(Option::as_ref) else { return Ok(Outcome::PASS) };
        match hook {
            Hook::RequestHeaders | Hook::RequestBody => {
                let head = Head::Request(std::mem::take(&mut heads.request));
                let body = (hook == Hook::RequestBody).then(|| octets_of(py, heads));
                let (head, changed, result) = self.request_view.with(py, head, |view| match &body {
                    Some(body) => interpreter::call(py, function, [view.as_any(), body, context.as_any()]),
                    None => interpreter::call(py, function, [view.as_any(), context.as_any()]),
                });
                if let Some(Head::Request(head)) = head {
                    heads.request = head;
                }
                outcome(&result?, changed, hook)
            }
            Hook::ResponseHeaders | Hook::ResponseBody => {
                let head = Head::Response(std::mem::take(&mut heads.response));
                let body = (hook == Hook::ResponseBody).then(|| octets_of(py, heads));
                let (head, changed, result) = self.response_view.with(py, head, |view| match &body {
                    Some(body) => interpreter::call(py, function, [view.as_any(), body, context.as_any()]),
                    None => interpreter::call(py, function, [view.as_any(), context.as_any()]),
                });
                if let Some(Head::Response(head)) = head {
                    heads.response = head;
                }
                outcome(&result?, changed, hook)
            }
            Hook::RequestChunk | Hook::ResponseChunk => {
                let chunk = PyBytes::new(py, heads.body.as_slice());
                made(function.call1(py, (chunk, heads.end, context))?.bind(py), Change::Nothing, hook)
            }
            Hook::RequestTrailers | Hook::ResponseTrailers => {
                let trailers = std::mem::take(&mut heads.trailers);
                let (trailers, result) = with_trailers(py, trailers, |view| function.call1(py, (view, context)));
                heads.trailers = trailers;
                made(result?.bind(py), Change::Nothing, hook)
            }
            Hook::Log => Ok(Outcome::PASS),
        }
    }

    fn log(&self, py: Python<'_>, call: &LogCall, watch: Watch<'_>) {
        let Some(function) = self.hook(Hook::Log) else { return };
        let context = match kept_context(&call.kept) {
            Some(context) => Ok(context.clone_ref(py)),
            None => Py::new(py, Context::new(call.record.origin.clone())),
        };
        let told = context.and_then(|context| {
            let record = self.record(py, &call.record)?;
            watch.enter(Hook::Log, &context);
            let told = function.call1(py, (record, context.clone_ref(py)));
            watch.leave(py);
            told
        });
        if let Err(error) = told {
            call.failed();
            self.report(Hook::Log.name(), &text(&call.record.origin.request_id), error, py);
        }
    }

    /// A `pymesh.filters.LogRecord`.
    fn record(&self, py: Python<'_>, record: &LogRecord) -> PyResult<Py<PyAny>> {
        let upstream = record.upstream.map(|address| address.to_string());
        self.record.call1(
            py,
            (
                text(&record.method),
                text(&record.path),
                text(&record.authority),
                record.status,
                &*record.flags,
                &*record.details,
                record.duration,
                record.request_bytes,
                record.response_bytes,
                upstream,
                record.origin.route.as_deref(),
                record.origin.peer(),
            ),
        )
    }

    /// Says it where the proxy logs.
    fn report(&self, hook: &str, request_id: &str, error: PyErr, py: Python<'_>) {
        let _reported = self.report.call1(py, (hook, request_id, error.into_value(py)));
    }
}

fn octets_of(py: Python<'_>, heads: &Heads) -> Py<PyAny> {
    PyBytes::new(py, heads.body.as_slice()).into_any().unbind()
}

/// What a hook that has returned `made` has made of its message.
pub(crate) fn made(made: &Bound<'_, PyAny>, changed: Change, hook: Hook) -> PyResult<Outcome> {
    match hook {
        Hook::RequestChunk | Hook::ResponseChunk => match octets(made) {
            _ if made.is_none() => Ok(Outcome::PASS),
            Some(body) => Ok(Outcome::Continue { changed: Change::Nothing, body: Some(body) }),
            None => Err(nonsense(made, hook, "None or bytes")),
        },
        Hook::RequestTrailers | Hook::ResponseTrailers if !made.is_none() => Err(nonsense(made, hook, "None")),
        _ => outcome(made, changed, hook),
    }
}

/// `None` lets the message pass; a `Reply` ends it; bytes replace a whole body.
fn outcome(made: &Bound<'_, PyAny>, changed: Change, hook: Hook) -> PyResult<Outcome> {
    if made.is_none() {
        return Ok(Outcome::Continue { changed, body: None });
    }
    let has_body = matches!(hook, Hook::RequestBody | Hook::ResponseBody);
    if let Some(body) = octets(made).filter(|_| has_body) {
        return Ok(Outcome::Continue { changed, body: Some(body) });
    }
    let Ok(status) = made.getattr("status") else {
        return Err(nonsense(made, hook, if has_body { "None, bytes or a Reply" } else { "None or a Reply" }));
    };
    let status = rules::status(status.extract()?)?;
    let pairs: Vec<(String, String)> = made
        .getattr("headers")?
        .call_method0("items")?
        .try_iter()?
        .map(|pair| pair?.extract())
        .collect::<PyResult<_>>()?;
    let headers = pairs
        .iter()
        .map(|(name, value)| Ok((rules::field_name(name.as_bytes())?.into_owned(), field_value(value)?.into_owned())))
        .collect::<PyResult<_>>()?;
    let body = made.getattr("body")?;
    let body = octets(&body).ok_or_else(|| PyTypeError::new_err("a reply's body is bytes"))?;
    Ok(Outcome::Reply { status, headers, body })
}

/// Of `bytes` or a `bytearray`.
fn octets(value: &Bound<'_, PyAny>) -> Option<Vec<u8>> {
    match value.cast::<PyBytes>() {
        Ok(bytes) => Some(bytes.as_bytes().to_vec()),
        Err(_) => value.cast::<PyByteArray>().ok().map(|bytes| bytes.to_vec()),
    }
}

fn nonsense(made: &Bound<'_, PyAny>, hook: Hook, wanted: &str) -> PyErr {
    let name = made.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("{} returns {wanted}, not {name}", hook.name()))
}
