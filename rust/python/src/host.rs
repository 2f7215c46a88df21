//! The `inline` lane: hooks are called by the worker itself, all calls of one
//! loop turn under one attach to the interpreter. Compiled hooks are called
//! without it ([`crate::compiled`]).
//!
//! A filter is loaded by `pymesh._bridge.filters.load(class, source, config)`,
//! once per worker and configuration; its answer says which hooks it has and
//! which requests concern it. What a hook raises is logged there and becomes
//! the filter's failure policy here; it concerns no other request.

use std::sync::Arc;
use std::time::Instant;

use pymesh_engine::filter::{FilterCall, Gate, Heads, Kept, Outcome, Phase};
use pymesh_engine::Engine;
use pymesh_model::filter::PythonFilter;
use pymesh_model::matcher::{HeaderMatch, HeaderTest, StringMatch, StringPattern};
use pymesh_net::FilterHost;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::compiled::Compiled;
use crate::rules;
use crate::views::{field_value, Context, Head, Request, Response, Reusable};

/// The Python filters of one worker.
pub(crate) struct PythonHost {
    loaded: Vec<Loaded>,
}

struct Loaded {
    filter: Arc<PythonFilter>,
    result: Result<Hooks, String>,
}

struct Hooks {
    gate: Gate,
    compiled: Option<Compiled>,
    request: Option<Py<PyAny>>,
    request_view: Reusable<Request>,
    response: Option<Py<PyAny>>,
    response_view: Reusable<Response>,
    report: Py<PyAny>,
}

impl PythonHost {
    pub(crate) fn new() -> Self {
        PythonHost { loaded: Vec::new() }
    }
}

impl FilterHost for PythonHost {
    fn load(&mut self, filters: Vec<Arc<PythonFilter>>) -> Vec<(Arc<PythonFilter>, Result<Gate, String>)> {
        if filters.is_empty() {
            // A proxy without filters never enters the interpreter.
            self.loaded.clear();
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
                    None => load(py, &filter).map_err(|error| error.to_string()),
                };
                if let Err(error) = &result {
                    eprintln!("filter {}: {error}", filter.class);
                }
                self.loaded.push(Loaded { filter, result });
            }
        });
        let gate = |loaded: &Loaded| {
            let gate = loaded.result.as_ref().map(|hooks| hooks.gate.clone()).map_err(Clone::clone);
            (loaded.filter.clone(), gate)
        };
        self.loaded.iter().map(gate).collect()
    }

    fn run(&mut self, engine: &mut Engine, calls: &[FilterCall]) {
        let in_python: Vec<&FilterCall> = calls.iter().filter(|call| !self.run_compiled(engine, call)).collect();
        if in_python.is_empty() {
            return;
        }
        Python::attach(|py| {
            for call in in_python {
                let Some(heads) = engine.lend_heads(call) else { continue };
                let (heads, outcome) = self.call_python(py, call, heads);
                engine.finish_filter(call, heads, outcome);
            }
        });
    }
}

impl PythonHost {
    fn hooks(&mut self, call: &FilterCall) -> Option<&mut Hooks> {
        let loaded = self.loaded.iter_mut().find(|loaded| Arc::ptr_eq(&loaded.filter, &call.filter))?;
        loaded.result.as_mut().ok()
    }

    /// The compiled filter, if the hook is a function of it.
    fn compiled(&mut self, call: &FilterCall) -> Option<&Compiled> {
        let compiled = self.hooks(call)?.compiled.as_ref();
        compiled.filter(|compiled| compiled.has(call.phase))
    }

    /// True if the hook is compiled.
    pub(crate) fn is_compiled(&mut self, call: &FilterCall) -> bool {
        self.compiled(call).is_some()
    }

    /// Calls a hook outside of an exchange, as one that is alone in its turn.
    pub(crate) fn call(&mut self, call: &FilterCall, heads: Heads) -> (Heads, Outcome) {
        match self.compiled(call) {
            Some(compiled) => in_time(call, || compiled.call(call, heads)),
            None => Python::attach(|py| self.call_python(py, call, heads)),
        }
    }

    fn call_python(&mut self, py: Python<'_>, call: &FilterCall, heads: Heads) -> (Heads, Outcome) {
        match self.hooks(call) {
            Some(hooks) => hooks.call(py, call, heads),
            None => (heads, Outcome::Failed("the filter is not loaded".to_owned())),
        }
    }

    /// Calls the hook if it is compiled; false if it is not.
    fn run_compiled(&mut self, engine: &mut Engine, call: &FilterCall) -> bool {
        let Some(compiled) = self.compiled(call) else { return false };
        if let Some(heads) = engine.lend_heads(call) {
            let (heads, outcome) = in_time(call, || compiled.call(call, heads));
            engine.finish_filter(call, heads, outcome);
        }
        true
    }
}

/// A hook cannot be stopped from outside; one that has taken too long is found out afterwards.
fn in_time(call: &FilterCall, run: impl FnOnce() -> (Heads, Outcome)) -> (Heads, Outcome) {
    let limit = call.filter.timeout;
    if limit.is_zero() {
        return run();
    }
    let started = Instant::now();
    let (heads, outcome) = run();
    match started.elapsed() > limit {
        true => (heads, Outcome::Failed(format!("the hook took longer than {limit:?}"))),
        false => (heads, outcome),
    }
}

fn load(py: Python<'_>, filter: &PythonFilter) -> PyResult<Hooks> {
    let bridge = py.import("pymesh._bridge.filters")?;
    let config = py.import("json")?.call_method1("loads", (&*filter.config_json,))?;
    let loaded = bridge.call_method1("load", (&*filter.class, &*filter.source, config))?;
    let hook = |name: &str| -> PyResult<Option<Py<PyAny>>> {
        let hook = loaded.getattr(name)?;
        Ok(if hook.is_none() { None } else { Some(hook.unbind()) })
    };
    let (request, response) = (hook("on_request_headers")?, hook("on_response_headers")?);
    let (capsule, instance) = (loaded.getattr("capsule")?, loaded.getattr("instance")?);
    let compiled = match capsule.is_none() {
        true => None,
        false => Some(Compiled::load(&capsule, Some(&instance).filter(|one| !one.is_none()), &filter.config_json)?),
    };
    let is_compiled = |phase| compiled.as_ref().is_some_and(|compiled| compiled.has(phase));
    let (on_request, on_response) =
        (request.is_some() || is_compiled(Phase::Request), response.is_some() || is_compiled(Phase::Response));
    let conditions: Vec<(String, String, String)> = match &compiled {
        Some(compiled) if instance.is_none() => compiled.when(),
        _ => loaded.getattr("when")?.extract()?,
    };
    let when = conditions.iter().map(|(name, test, value)| condition(name, test, value)).collect::<PyResult<_>>()?;
    Ok(Hooks {
        gate: Gate { on_request, on_response, when },
        compiled,
        request,
        request_view: Reusable::new(),
        response,
        response_view: Reusable::new(),
        report: loaded.getattr("report")?.unbind(),
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

impl Hooks {
    /// Calls one hook; gives the heads back as it left them.
    fn call(&mut self, py: Python<'_>, call: &FilterCall, heads: Heads) -> (Heads, Outcome) {
        in_time(call, || {
            let (heads, result) = match call.phase {
                Phase::Request => self.call_request(py, heads),
                Phase::Response => self.call_response(py, heads),
            };
            let outcome = result.unwrap_or_else(|error| {
                let text = error.to_string();
                // The author wants the traceback; the client must not see it.
                let _reported = self.report.call1(py, (error.into_value(py),));
                Outcome::Failed(text)
            });
            (heads, outcome)
        })
    }

    fn call_request(&mut self, py: Python<'_>, mut heads: Heads) -> (Heads, PyResult<Outcome>) {
        let Some(hook) = &self.request else { return (heads, Ok(Outcome::Continue { changed: false })) };
        let context = match context(py, &mut heads) {
            Ok(context) => context,
            Err(error) => return (heads, Err(error)),
        };
        let head = Head::Request(std::mem::take(&mut heads.request));
        let (head, changed, result) = self.request_view.with(py, head, |view| hook.call1(py, (view, context)));
        if let Some(Head::Request(head)) = head {
            heads.request = head;
        }
        (heads, result.and_then(|reply| outcome(reply.bind(py), changed)))
    }

    fn call_response(&mut self, py: Python<'_>, mut heads: Heads) -> (Heads, PyResult<Outcome>) {
        let Some(hook) = &self.response else { return (heads, Ok(Outcome::Continue { changed: false })) };
        let context = match context(py, &mut heads) {
            Ok(context) => context,
            Err(error) => return (heads, Err(error)),
        };
        let head = Head::Response(std::mem::take(&mut heads.response));
        let (head, changed, result) = self.response_view.with(py, head, |view| hook.call1(py, (view, context)));
        if let Some(Head::Response(head)) = head {
            heads.response = head;
        }
        (heads, result.and_then(|reply| outcome(reply.bind(py), changed)))
    }
}

/// The context of an exchange: the same object in both hooks.
fn context(py: Python<'_>, heads: &mut Heads) -> PyResult<Py<Context>> {
    if let Some(context) = heads.kept.0.as_ref().and_then(|kept| kept.downcast_ref::<Py<Context>>()) {
        return Ok(context.clone_ref(py));
    }
    let context = Py::new(py, Context::new(heads.route.clone(), heads.peer.as_deref().map(Arc::from)))?;
    heads.kept = Kept(Some(Box::new(context.clone_ref(py))));
    Ok(context)
}

/// `None` lets the message pass; a `Reply` ends it.
fn outcome(reply: &Bound<'_, PyAny>, changed: bool) -> PyResult<Outcome> {
    if reply.is_none() {
        return Ok(Outcome::Continue { changed });
    }
    let status = rules::status(reply.getattr("status")?.extract()?)?;
    let pairs: Vec<(String, String)> = reply
        .getattr("headers")?
        .call_method0("items")?
        .try_iter()?
        .map(|pair| pair?.extract())
        .collect::<PyResult<_>>()?;
    let headers = pairs
        .iter()
        .map(|(name, value)| Ok((rules::field_name(name.as_bytes())?.into_owned(), field_value(value)?.into_owned())))
        .collect::<PyResult<_>>()?;
    let body: Vec<u8> = reply.getattr("body")?.extract()?;
    Ok(Outcome::Reply { status, headers, body })
}
