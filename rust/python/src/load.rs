//! `bench`: runs the load generator for `pymesh bench` (`pymesh/bench/run.py` says what the parts mean).
//!
//! The interpreter lock is free while a run lasts; ten times a second the caller is asked whether to go on, and that is
//! also when Python's signal handlers run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use pymesh_http::Scheme;
use pymesh_load::{Arrivals, End, Kind, Pace, Plan, Protocol, Request, RunError, Tally, Tls};
use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// A histogram: each (nanoseconds, how often).
type Recorded = Vec<(u64, u64)>;

/// `pymesh.bench.run.Plan`.
#[derive(FromPyObject)]
struct PlanGiven {
    address: String,
    tls: Option<TlsGiven>,
    http2: bool,
    keep_alive: bool,
    requests: Vec<RequestGiven>,
    workers: usize,
    connections: usize,
    streams: usize,
    rate: Option<f64>,
    poisson_seed: Option<u64>,
    duration: Option<f64>,
    count: Option<u64>,
    warm_up: f64,
    timeout: f64,
}

/// `pymesh.bench.run.Tls`.
#[derive(FromPyObject)]
struct TlsGiven {
    server_name: Option<String>,
    roots: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// `pymesh.bench.run.Request`.
#[derive(FromPyObject)]
struct RequestGiven {
    method: String,
    authority: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// `pymesh.bench.run.Counts`, as a dictionary.
#[derive(IntoPyObject)]
pub(crate) struct Counts {
    interrupted: bool,
    window: f64,
    begun: u64,
    answered_in_time: u64,
    unfinished: u64,
    resent: u64,
    body_octets: u64,
    waiting_most: usize,
    busy: f64,
    statuses: BTreeMap<u16, u64>,
    failures: BTreeMap<&'static str, (u64, Vec<String>)>,
    connections_opened: u64,
    connections_failed: u64,
    connections_closed_by_target: u64,
    latency: Recorded,
    service: Recorded,
    lag: Recorded,
    connect: Recorded,
    bin_width: f64,
    /// Answers and failures that came in it, latencies of what should have started in it.
    bins: Vec<(u64, u64, Recorded)>,
}

/// Carries a plan out; `watch(answered, failed)` says whether to go on.
///
/// Raises ValueError for a plan that cannot be carried out, ConnectionError if no connection could be made, and
/// RuntimeError if nothing else was measured either.
#[pyfunction]
pub(crate) fn bench(py: Python<'_>, plan: &Bound<'_, PyAny>, watch: Py<PyAny>) -> PyResult<Counts> {
    let plan = read(&plan.extract::<PlanGiven>()?).map_err(PyValueError::new_err)?;
    // Each connection takes a descriptor.
    pymesh_net::raise_descriptor_limit();
    let mut raised = None;
    let outcome = py.detach(|| {
        pymesh_load::run(&plan, |progress| {
            Python::attach(|py| {
                let goes_on = watch.call1(py, (progress.answered(), progress.failed()));
                let goes_on = goes_on.and_then(|answer| answer.extract::<bool>(py));
                goes_on.unwrap_or_else(|error| {
                    raised = Some(error);
                    false
                })
            })
        })
    });
    match (raised, outcome) {
        (Some(error), _) => Err(error),
        (None, Ok((tally, interrupted))) => Ok(counts(&tally, interrupted)),
        (None, Err(RunError::NoConnection(why))) => Err(PyConnectionError::new_err(why)),
        (None, Err(error)) => Err(PyRuntimeError::new_err(error.to_string())),
    }
}

fn read(given: &PlanGiven) -> Result<Plan, String> {
    let protocol = match given.http2 {
        true => Protocol::Http2,
        false => Protocol::Http1 { keep_alive: given.keep_alive },
    };
    let address: SocketAddr = given.address.parse().map_err(|_| format!("`{}` is not an address", given.address))?;
    let tls = given.tls.as_ref().map(|tls| {
        let identity = tls.identity.as_ref().map(|(chain, key)| (chain.as_slice(), key.as_slice()));
        Tls::new(protocol, tls.server_name.clone(), tls.roots.as_deref(), identity)
    });
    let scheme = if given.tls.is_some() { Scheme::Https } else { Scheme::Http };
    let requests = given
        .requests
        .iter()
        .map(|one| Request::new(protocol, scheme, &one.method, &one.authority, &one.path, &one.headers, &one.body));
    let arrivals = match given.poisson_seed {
        Some(seed) => Arrivals::Poisson { seed },
        None => Arrivals::Constant,
    };
    let duration = |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|error| format!("{seconds} s: {error}"));
    Ok(Plan {
        address,
        tls: tls.transpose()?,
        protocol,
        requests: requests.collect::<Result<Vec<_>, _>>()?.into(),
        workers: given.workers,
        connections: given.connections,
        streams: given.streams,
        pace: given.rate.map_or(Pace::Closed, |rate| Pace::Open { rate, arrivals }),
        end: match (given.count, given.duration) {
            (Some(count), _) => End::Requests(count),
            (None, Some(seconds)) => End::After(duration(seconds)?),
            (None, None) => return Err("a run needs a duration or a number of requests".into()),
        },
        warm_up: duration(given.warm_up)?,
        timeout: duration(given.timeout)?,
    })
}

fn counts(tally: &Tally, interrupted: bool) -> Counts {
    let failures = Kind::ALL.into_iter().map(|kind| (kind.as_str(), tally.failures(kind)));
    Counts {
        interrupted,
        window: tally.window.as_secs_f64(),
        begun: tally.begun,
        answered_in_time: tally.answered_in_time,
        unfinished: tally.unfinished,
        resent: tally.resent,
        body_octets: tally.body_octets,
        waiting_most: tally.waiting_most,
        busy: tally.busy,
        statuses: tally.statuses(),
        failures: failures
            .filter(|(_, failures)| failures.count > 0)
            .map(|(kind, failures)| (kind, (failures.count, failures.examples.clone())))
            .collect(),
        connections_opened: tally.connections.opened,
        connections_failed: tally.connections.failed,
        connections_closed_by_target: tally.connections.closed_by_target,
        latency: pymesh_load::recorded(&tally.latency),
        service: pymesh_load::recorded(&tally.service),
        lag: pymesh_load::recorded(&tally.lag),
        connect: pymesh_load::recorded(&tally.connect),
        bin_width: tally.series.width().as_secs_f64(),
        bins: tally
            .series
            .bins()
            .iter()
            .map(|bin| {
                let latency = bin.latency.as_ref().map(pymesh_load::recorded).unwrap_or_default();
                (bin.answered, bin.failed, latency)
            })
            .collect(),
    }
}
