//! A proxy that Python is the network and the clock of ([`pymesh_app::simulated`]).
//!
//! Plain values cross the border: connections and listeners are numbers, addresses `IP:PORT`, times nanoseconds.
//! `pymesh._bridge.simulated` gives them types.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pymesh_app::simulated::Effect;
use pymesh_engine::base::time::Time;
use pymesh_engine::{ConnKey, Decision, FilterStep, ListenerKey};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::generations::Generations;
use crate::host::PythonHost;
use crate::lane::Lane;

type Proxy = pymesh_app::simulated::SimulatedProxy<PythonHost>;

/// One proxy, without sockets, threads and clock. Any thread may use it, or let go of it (Python's collector runs on
/// whichever it likes), one at a time: every method wants it whole, so nobody ever waits for the lock.
#[pyclass]
pub(crate) struct SimulatedProxy {
    proxy: Mutex<Proxy>,
    /// The time of its last turn, by which hooks beside it live.
    now: Arc<AtomicU64>,
}

impl SimulatedProxy {
    fn whole(&mut self) -> &mut Proxy {
        self.proxy.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl SimulatedProxy {
    /// Raises RuntimeError with one problem of the bootstrap a line.
    #[new]
    fn new(py: Python<'_>, bootstrap: &str, seed: u64, unix_nanos: u64) -> PyResult<Self> {
        let now: Arc<AtomicU64> = Arc::default();
        let lane = Py::new(py, Lane::simulated(now.clone()))?;
        let runner = py.import("pymesh._bridge.stepped")?.call_method1("Runner", (lane,))?;
        let generations = Arc::new(Generations::of(runner.unbind()));
        let host = PythonHost::new(0, generations.clone());
        Proxy::new(bootstrap, seed, unix_nanos, host, Box::new(move |filter| generations.load(filter, 1)))
            .map(|proxy| SimulatedProxy { proxy: Mutex::new(proxy), now })
            .map_err(|problems| PyRuntimeError::new_err(problems.join("\n")))
    }

    fn hear(&mut self, response: &[u8]) -> Vec<String> {
        self.whole().hear(response)
    }

    fn wait(&mut self, seconds: f64) -> PyResult<Vec<String>> {
        let time = Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(self.whole().pass(time))
    }

    fn listeners(&mut self) -> Vec<(u64, String, String)> {
        let listeners = self.whole().listeners();
        listeners.iter().map(|(key, one)| (key.to_bits(), one.name.to_string(), one.address.to_string())).collect()
    }

    fn accept(&mut self, listener: u64, remote: &str, local: &str, is_redirected: bool) -> PyResult<Option<u64>> {
        let (remote, local) = (address(remote)?, address(local)?);
        let accepted = self.whole().accept(ListenerKey::from_bits(listener), remote, local, is_redirected);
        Ok(accepted.map(ConnKey::to_bits))
    }

    fn connected(&mut self, connection: u64, local: &str) -> PyResult<()> {
        self.whole().connected(ConnKey::from_bits(connection), address(local)?);
        Ok(())
    }

    fn receive(&mut self, connection: u64, octets: &[u8]) {
        self.whole().receive(ConnKey::from_bits(connection), octets);
    }

    fn end_of_input(&mut self, connection: u64) {
        self.whole().end_of_input(ConnKey::from_bits(connection));
    }

    fn failed(&mut self, connection: u64, reason: &str) {
        self.whole().failed(ConnKey::from_bits(connection), reason);
    }

    fn turn<'py>(&mut self, py: Python<'py>, now: u64) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.now.fetch_max(now, Ordering::Relaxed);
        let effects = self.whole().turn(Time::from_nanos(now));
        effects.into_iter().map(|effect| shown(py, effect)).collect()
    }

    fn next_timeout(&mut self) -> Option<u64> {
        self.whole().next_timeout().map(Time::as_nanos)
    }

    fn take_log<'py>(&mut self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.whole().take_log())
    }

    fn stats(&mut self) -> String {
        self.whole().stats()
    }

    fn take_decisions<'py>(&mut self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        self.whole().take_decisions().into_iter().map(|decision| told(py, decision)).collect()
    }
}

fn address(text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{text:?} is not IP:PORT")))
}

fn shown(py: Python<'_>, effect: Effect) -> PyResult<Bound<'_, PyAny>> {
    let bound = match effect {
        Effect::Connect(key, address) => ("connect", key.to_bits(), address.to_string()).into_pyobject(py)?,
        Effect::Send(key, octets) => ("send", key.to_bits(), PyBytes::new(py, &octets)).into_pyobject(py)?,
        Effect::ShutdownWrite(key) => ("shutdown", key.to_bits(), py.None()).into_pyobject(py)?,
        Effect::Close(key) => ("close", key.to_bits(), py.None()).into_pyobject(py)?,
    };
    Ok(bound.into_any())
}

fn told(py: Python<'_>, decision: Decision) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    match decision {
        Decision::Chain { conn, listener, tls } => {
            dict.set_item("kind", "chain")?;
            dict.set_item("connection", conn.to_bits())?;
            dict.set_item("listener", &*listener)?;
            dict.set_item("tls", tls)?;
        }
        Decision::Failed { conn, reason } => {
            dict.set_item("kind", "failed")?;
            dict.set_item("connection", conn.to_bits())?;
            dict.set_item("reason", &*reason)?;
        }
        Decision::Access { filter, is_enforced, allowed, policy } => {
            dict.set_item("kind", "access")?;
            dict.set_item("filter", &*filter)?;
            dict.set_item("enforced", is_enforced)?;
            dict.set_item("allowed", allowed)?;
            dict.set_item("policy", policy.as_deref())?;
        }
        Decision::Asks { cluster } => {
            dict.set_item("kind", "asks")?;
            dict.set_item("cluster", &*cluster)?;
        }
        Decision::Filter { filter, step } => {
            dict.set_item("kind", "filter")?;
            dict.set_item("filter", &*filter)?;
            dict.set_item("step", step_name(step))?;
        }
    }
    Ok(dict)
}

fn step_name(step: FilterStep) -> &'static str {
    match step {
        FilterStep::Continues => "continues",
        FilterStep::Waits => "waits",
        FilterStep::Answers => "answers",
        FilterStep::Fails => "fails",
    }
}
