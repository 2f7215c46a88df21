//! Filters that were loaded before they come into force.
//!
//! When a configuration brings a filter, the side thread has an instance made for each worker
//! (`pymesh._bridge.generations`), while the workers go on with the earlier ones. Only if all of them are there does the
//! filter come into force, and each worker takes its own at its next turn. So a worker never waits for an import, and no
//! two workers disagree about a filter that one of them could not load. An instance is made as a whole, what a compiled
//! filter has in C included, so that whatever refuses its settings is refused here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pymesh_app::Loaded;
use pymesh_model::filter::PythonFilter;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use crate::host::{self, Instance};

/// See the module. One per process, or simulated proxy.
#[derive(Default)]
pub(crate) struct Generations {
    known: Mutex<Vec<Generation>>,
    /// Who runs what is `async def`, if that is not the lane of the process: of a simulated proxy.
    runner: Option<Py<PyAny>>,
}

struct Generation {
    /// Nobody who takes an instance has any other.
    filter: Weak<PythonFilter>,
    /// For each worker, until it takes it; or why there is none.
    made: Result<Vec<Option<Instance>>, String>,
}

impl Generations {
    /// Of a simulated proxy.
    pub(crate) fn of(runner: Py<PyAny>) -> Self {
        Generations { known: Mutex::default(), runner: Some(runner) }
    }

    /// See the field.
    pub(crate) fn runner(&self) -> Option<&Py<PyAny>> {
        self.runner.as_ref()
    }

    /// Makes the instances, unless they are there already. What has failed is tried again.
    pub(crate) fn load(&self, filter: &Arc<PythonFilter>, workers: usize) -> Result<Loaded, String> {
        let known = self.lock().iter().any(|one| one.is_of(filter) && one.made.is_ok());
        self.forget_unused();
        if known {
            return Ok(Loaded::Before);
        }
        let made = Python::attach(|py| self.make(py, filter, workers).map_err(|error| error.value(py).to_string()));
        let result = made.as_ref().map(|_| Loaded::Now).map_err(Clone::clone);
        let generation = Generation { filter: Arc::downgrade(filter), made };
        let mut generations = self.lock();
        generations.retain(|one| !one.is_of(filter));
        generations.push(generation);
        result
    }

    /// A worker's own instance. `None` if the filter is not from a configuration that was looked at before, or the worker
    /// has had it.
    pub(crate) fn take(&self, filter: &Arc<PythonFilter>, worker: usize) -> Option<Result<Instance, String>> {
        match &mut self.lock().iter_mut().find(|one| one.is_of(filter))?.made {
            Ok(instances) => instances.get_mut(worker)?.take().map(Ok),
            Err(reason) => Some(Err(reason.clone())),
        }
    }

    /// Closes what no worker has taken before its filter was gone.
    fn forget_unused(&self) {
        let (kept, over): (Vec<_>, Vec<_>) = self.lock().drain(..).partition(|one| one.filter.strong_count() > 0);
        self.lock().extend(kept);
        let left: Vec<Instance> = over.into_iter().filter_map(|one| one.made.ok()).flatten().flatten().collect();
        if !left.is_empty() {
            Python::attach(|py| left.into_iter().for_each(|instance| instance.close(py)));
        }
    }

    fn make(&self, py: Python<'_>, filter: &Arc<PythonFilter>, workers: usize) -> PyResult<Vec<Option<Instance>>> {
        let bridge = py.import("pymesh._bridge.generations")?;
        let config = config(py, filter)?;
        let finish = finishing(py, filter.clone())?;
        let runner = self.runner.as_ref().map(|runner| runner.clone_ref(py));
        let made = bridge.call_method1("make", (&*filter.class, &*filter.source, config, workers, finish, runner))?;
        made.try_iter()?.map(|whole| Ok(whole?.cast::<Whole>()?.get().take())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Generation>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

/// An instance as Python holds it, until it is taken.
#[pyclass(module = "pymesh._proxy", frozen)]
struct Whole(Mutex<Option<Instance>>);

impl Whole {
    fn take(&self) -> Option<Instance> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What makes an instance of what `pymesh._bridge.filters.load` has loaded: a function of Python, since it is called in
/// the thread that loads, while that has time.
fn finishing(py: Python<'_>, filter: Arc<PythonFilter>) -> PyResult<Bound<'_, PyCFunction>> {
    let finish = move |arguments: &Bound<'_, PyTuple>, _named: Option<&Bound<'_, PyDict>>| -> PyResult<Py<Whole>> {
        let instance = host::instance(&arguments.get_item(0)?, &filter)?;
        Py::new(arguments.py(), Whole(Mutex::new(Some(instance))))
    };
    PyCFunction::new_closure(py, None, None, finish)
}
