//! A worker's way into the interpreter, and its calls there.

use std::thread::ThreadId;

use pyo3::ffi;
use pyo3::prelude::*;

/// A thread that Python goes on knowing while it is detached.
///
/// Of a thread that is not its own Python makes a state when that attaches, and throws it away when it detaches, with the
/// memory for its frames, which comes from the system each time and goes back. A worker attaches in each turn that calls
/// hooks, so it keeps its state as long as it has filters. No lock is held by that.
pub(crate) struct Known(ThreadId);

impl Known {
    /// The calling thread.
    pub fn this_thread(_attached: Python<'_>) -> Known {
        // SAFETY: this thread is attached, and may attach once more. Python counts that, and throws the state away when
        // the count is zero: at the end of `forget` at the earliest.
        let _locked_already = unsafe { ffi::PyGILState_Ensure() };
        Known(std::thread::current().id())
    }

    /// Its state goes when it detaches. By another thread nothing can be done for it: it is the interpreter's to the end.
    pub fn forget(self, _attached: Python<'_>) {
        if self.0 == std::thread::current().id() {
            // SAFETY: for the `Ensure` of `this_thread`, which this thread has called while it was attached. It is attached
            // again, so that the count does not reach zero before it detaches.
            unsafe { ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED) };
        }
    }
}

extern "C" {
    /// PEP 590. It is part of the stable ABI from 3.12 on, and of every libpython since 3.9: before 3.12, PyO3 does without
    /// it, and packs the arguments of each call into a tuple.
    fn PyObject_Vectorcall(
        callable: *mut ffi::PyObject,
        arguments: *const *mut ffi::PyObject,
        count: usize,
        names: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}

/// `PY_VECTORCALL_ARGUMENTS_OFFSET`: the place before the arguments is there to be written.
const OFFSET: usize = 1 << (usize::BITS - 1);
/// What a hook has at most.
const MOST: usize = 3;

/// Calls a function with up to three arguments.
pub(crate) fn call<'py, const N: usize>(
    py: Python<'py>,
    function: &Py<PyAny>,
    arguments: [&Py<PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(N <= MOST) };
    let mut places = [std::ptr::null_mut(); MOST + 1];
    for (place, argument) in places.iter_mut().skip(1).zip(arguments) {
        *place = argument.as_ptr();
    }
    // SAFETY: this thread is attached; function and arguments outlive the call, N of them stand behind the first place,
    // and the callee may use that one meanwhile. What it returns is ours, or NULL with the exception set.
    unsafe {
        let made = PyObject_Vectorcall(function.as_ptr(), places.as_mut_ptr().add(1), N | OFFSET, std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, made)
    }
}
