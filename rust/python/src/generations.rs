//! Filters that were loaded before they come into force.
//!
//! When a configuration brings a filter, the side thread has an instance made for each worker
//! (`pymesh._bridge.generations`), while the workers go on with the earlier ones. Only if all of them are there does the
//! filter come into force, and each worker takes its own at its next turn. So a worker never waits for an import, and no
//! two workers disagree about a filter that one of them could not load.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pymesh_model::filter::PythonFilter;
use pyo3::prelude::*;

/// See the module. One per process.
#[derive(Default)]
pub(crate) struct Generations(Mutex<Vec<Generation>>);

struct Generation {
    /// Nobody who takes an instance has any other.
    filter: Weak<PythonFilter>,
    /// For each worker, until it takes it; or why there is none.
    made: Result<Vec<Option<Py<PyAny>>>, String>,
}

impl Generations {
    /// Makes the instances, unless they are there already. What has failed is tried again.
    pub(crate) fn load(&self, filter: &Arc<PythonFilter>, workers: usize) -> Result<(), String> {
        let known = self.lock().iter().any(|one| one.is_of(filter) && one.made.is_ok());
        self.forget_unused();
        if known {
            return Ok(());
        }
        let made = Python::attach(|py| make(py, filter, workers).map_err(|error| error.value(py).to_string()));
        let result = made.as_ref().map(|_| ()).map_err(Clone::clone);
        let generation = Generation { filter: Arc::downgrade(filter), made };
        let mut generations = self.lock();
        generations.retain(|one| !one.is_of(filter));
        generations.push(generation);
        result
    }

    /// A worker's own instance. `None` if the filter is not from a configuration that was looked at before, or the worker
    /// has had it.
    pub(crate) fn take(&self, filter: &Arc<PythonFilter>, worker: usize) -> Option<Result<Py<PyAny>, String>> {
        match &mut self.lock().iter_mut().find(|one| one.is_of(filter))?.made {
            Ok(instances) => instances.get_mut(worker)?.take().map(Ok),
            Err(reason) => Some(Err(reason.clone())),
        }
    }

    /// Closes what no worker has taken before its filter was gone.
    fn forget_unused(&self) {
        let (kept, over): (Vec<_>, Vec<_>) = self.lock().drain(..).partition(|one| one.filter.strong_count() > 0);
        self.lock().extend(kept);
        let left: Vec<Py<PyAny>> = over.into_iter().filter_map(|one| one.made.ok()).flatten().flatten().collect();
        if !left.is_empty() {
            Python::attach(|py| left.iter().for_each(|loaded| close(loaded.bind(py))));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Generation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generation {
    fn is_of(&self, filter: &Arc<PythonFilter>) -> bool {
        std::ptr::eq(self.filter.as_ptr(), Arc::as_ptr(filter))
    }
}

/// The filter's `config`, as Python has it.
pub(crate) fn config<'py>(py: Python<'py>, filter: &PythonFilter) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (&*filter.config_json,))
}

/// Ends an instance. What its `close` raises is reported there.
pub(crate) fn close(loaded: &Bound<'_, PyAny>) {
    if let Err(error) = loaded.call_method0("close") {
        eprintln!("a filter could not be closed: {error}");
    }
}

fn make(py: Python<'_>, filter: &PythonFilter, workers: usize) -> PyResult<Vec<Option<Py<PyAny>>>> {
    let bridge = py.import("pymesh._bridge.generations")?;
    let config = config(py, filter)?;
    let made = bridge.call_method1("make", (&*filter.class, &*filter.source, config, workers))?;
    Ok(made.extract::<Vec<Py<PyAny>>>()?.into_iter().map(Some).collect())
}
