//! `time_hooks`: what a call of each hook costs a worker, for `pymesh filter bench`.
//!
//! The path is the host's own, from lent heads to the outcome, and for hooks in Python through the interpreter's lock
//! each time, as for a request that is alone in its turn. Heads are made before the clock starts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pymesh_engine::filter::{FilterCall, Heads, Hook, Outcome};
use pymesh_engine::ExchangeKey;
use pymesh_http::{RequestHead, ResponseHead};
use pymesh_model::filter::{FailurePolicy, PythonFilter};
use pymesh_net::FilterHost;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::host::PythonHost;

/// Calls between two looks at the clock.
const BATCH: usize = 256;

type Fields = Vec<(String, String)>;

/// Nanoseconds for a call of each hook, one figure for each batch.
///
/// Raises RuntimeError if the filter cannot be loaded, or a hook fails or is slower than its timeout.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub(crate) fn time_hooks(
    py: Python<'_>,
    class_path: &str,
    source: &str,
    config: &str,
    request: (String, String, String, Fields),
    response: (u16, Fields),
    batches: usize,
) -> PyResult<Vec<(&'static str, bool, Vec<f64>)>> {
    let filter = Arc::new(PythonFilter {
        class: class_path.into(),
        source: source.into(),
        config_json: config.into(),
        failure_policy: FailurePolicy::Closed,
        timeout: Duration::from_millis(100),
    });
    let heads = || heads(&request, &response);
    py.detach(|| {
        let mut host = PythonHost::new(0, Arc::default());
        let mut loaded = host.load(vec![filter.clone()]);
        let gate = loaded.pop().map_or_else(|| Err("nothing was loaded".to_owned()), |(_, gate)| gate)?;
        let mut timed = Vec::new();
        for hook in [Hook::RequestHeaders, Hook::ResponseHeaders] {
            let call = FilterCall {
                id: 0,
                exchange: ExchangeKey::from_bits(0),
                hook,
                index: 0,
                filter: filter.clone(),
                hooks: gate.hooks,
                stats: Arc::default(),
            };
            if gate.hooks.has(hook) {
                let name = hook.name();
                let samples = (0..batches).map(|_| batch(&mut host, &call, heads)).collect::<Result<_, _>>();
                timed.push((name, host.is_compiled(&call), samples.map_err(|error| format!("{name}: {error}"))?));
            }
        }
        Ok(timed)
    })
    .map_err(PyRuntimeError::new_err::<String>)
}

/// Nanoseconds for a call, over one batch.
fn batch(host: &mut PythonHost, call: &FilterCall, heads: impl Fn() -> Heads) -> Result<f64, String> {
    let mut done = Vec::with_capacity(BATCH);
    let mut lent: Vec<Heads> = (0..BATCH).map(|_| heads()).collect();
    let started = Instant::now();
    for heads in &mut lent {
        done.push(host.call(call, heads));
    }
    let took = started.elapsed();
    for outcome in done {
        match outcome {
            Outcome::Continue { .. } | Outcome::Reply { .. } => {}
            Outcome::Failed(error) => return Err(error),
            Outcome::Overflow => return Err("too many calls of the filter are on their way".to_owned()),
            Outcome::TimedOut => return Err(format!("the hook took longer than {:?}", call.filter.timeout)),
        }
    }
    Ok(took.as_nanos() as f64 / BATCH as f64)
}

fn heads(request: &(String, String, String, Fields), response: &(u16, Fields)) -> Heads {
    let (method, path, authority, fields) = request;
    // Room as in a worker, whose arenas have served other requests before.
    let mut head = RequestHead::default();
    let _nothing_to_keep = head.headers.make_room(4096);
    head.set_method(method.as_bytes());
    head.set_path(path.as_bytes());
    head.set_authority(authority.as_bytes());
    fields.iter().for_each(|(name, value)| head.headers.append_lower(name.as_bytes(), value.as_bytes()));
    let mut answer = ResponseHead { status: response.0, ..ResponseHead::default() };
    let _nothing_to_keep = answer.headers.make_room(4096);
    response.1.iter().for_each(|(name, value)| answer.headers.append_lower(name.as_bytes(), value.as_bytes()));
    let mut heads = Heads { request: head, response: answer, ..Heads::default() };
    heads.origin.route = Some("bench".into());
    heads
}
