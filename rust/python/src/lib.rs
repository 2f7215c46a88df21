//! The extension module `pymesh._proxy`.
//!
//! Only `pymesh._bridge` imports it. It holds six things: the functions that
//! run the proxy, the views of a message that filters work on
//! ([`views`]), the filter host ([`host`], with what is loaded for it in [`generations`], [`compiled`] for filters that are
//! no Python and [`lane`] for hooks beside the workers), a proxy without sockets and clock ([`simulated`]), the load
//! generator ([`load`]), and what filters cost ([`timing`]).

mod compiled;
mod generations;
mod host;
mod interpreter;
mod lane;
mod lap;
mod load;
mod rules;
mod simulated;
mod timing;
mod views;
mod watchdog;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// A hook that lasts longer is told.
const WATCHDOG_LIMIT: Duration = Duration::from_secs(1);

/// Runs the proxy until SIGTERM or SIGINT. The interpreter lock is free
/// meanwhile; filters take it for their calls.
///
/// Raises RuntimeError with one problem a line.
#[pyfunction]
#[pyo3(signature = (config_path, *, concurrency=None, drain_seconds=30.0, drain_accept_seconds=0.0,
    parent_shutdown_seconds=900.0, upgrade_socket=None, pid_file=None))]
#[allow(clippy::too_many_arguments)]
fn run(
    py: Python<'_>,
    config_path: PathBuf,
    concurrency: Option<usize>,
    drain_seconds: f64,
    drain_accept_seconds: f64,
    parent_shutdown_seconds: f64,
    upgrade_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
) -> PyResult<()> {
    let duration = |name: &str, seconds: f64| {
        Duration::try_from_secs_f64(seconds).map_err(|error| PyRuntimeError::new_err(format!("{name}: {error}")))
    };
    let options = pymesh_app::Options {
        config: config_path,
        concurrency,
        drain_time: duration("drain_seconds", drain_seconds)?,
        drain_accept_time: duration("drain_accept_seconds", drain_accept_seconds)?,
        parent_shutdown_time: duration("parent_shutdown_seconds", parent_shutdown_seconds)?,
        upgrade_socket,
        pid_file,
        filter_watch: Arc::default(),
    };
    let generations = Arc::new(generations::Generations::default());
    // It ends before the interpreter does.
    let watchdog = watchdog::Watchdog::start(WATCHDOG_LIMIT, options.filter_watch.clone())?;
    let watched = watchdog.maker();
    let result = py.detach(move || {
        let of_workers = generations.clone();
        let make_host = move |worker| {
            host::PythonHost::new(worker, of_workers.clone()).watched(watched(format!("worker {worker}")))
        };
        let load = move |filter: &_, workers| generations.load(filter, workers);
        let result = pymesh_app::run(&options, make_host, load);
        drop(watchdog);
        result
    });
    result.map_err(|errors| PyRuntimeError::new_err(errors.join("\n")))
}

/// Everything that is wrong with a bootstrap; an empty list if nothing is.
#[pyfunction]
fn validate(py: Python<'_>, config_path: PathBuf) -> Vec<String> {
    py.detach(|| pymesh_app::validate(Path::new(&config_path))).err().unwrap_or_default()
}

/// Version of the data plane.
#[pyfunction]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// `pymesh._proxy`
#[pymodule]
fn _proxy(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(run, module)?)?;
    module.add_function(wrap_pyfunction!(validate, module)?)?;
    module.add_function(wrap_pyfunction!(version, module)?)?;
    module.add_function(wrap_pyfunction!(load::bench, module)?)?;
    module.add_function(wrap_pyfunction!(timing::time_hooks, module)?)?;
    module.add_class::<simulated::SimulatedProxy>()?;
    module.add_class::<lane::Lane>()?;
    module.add_class::<lane::Call>()?;
    module.add_class::<views::Request>()?;
    module.add_class::<views::Response>()?;
    module.add_class::<views::Headers>()?;
    module.add_class::<views::Context>()?;
    Ok(())
}
