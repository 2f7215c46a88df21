//! The compiled tier: hooks that are C functions (`pymesh/filters/pymesh_filter.h`), called by the worker without the
//! interpreter. No lock is taken and no Python object touched on the way of a request; the interpreter is only entered
//! to load a filter.
//!
//! Where a class has a capsule, its hooks in C take the place of the Python methods of the same name; what it has in
//! Python alone is called as ever. A capsule that stands where a class is expected is a filter written in C.

mod abi;
mod message;

use std::ffi::{c_char, c_void, CStr};
use std::mem::size_of;

use pymesh_engine::filter::{FilterCall, Heads, Hook, Outcome};
use pymesh_http::Known;
use pymesh_model::filter::PythonFilter;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyCapsuleMethods};

use abi::{Condition, Creation, Filter, Text};

/// A filter object of a shared library.
pub(crate) struct Compiled {
    filter: Filter,
    object: *mut c_void,
    /// Keeps the library's struct where it is, and the instance that the object may refer to.
    _capsule: Py<PyAny>,
    _instance: Option<Py<PyAny>>,
}

// SAFETY: `pymesh_filter.h` allows any thread to call the hooks of an object and to end it, one at a time. A
// `Compiled` has one owner and is not shared.
unsafe impl Send for Compiled {}

impl Compiled {
    /// Makes the object of a capsule; `instance` is that of the class which has it.
    pub fn load(
        capsule: &Bound<'_, PyAny>,
        instance: Option<&Bound<'_, PyAny>>,
        wanted: &PythonFilter,
    ) -> PyResult<Self> {
        let at = capsule.cast::<PyCapsule>()?.pointer_checked(Some(abi::CAPSULE))?;
        // SAFETY: a capsule of this name holds a `pymesh_filter`, which stays as long as the capsule.
        let filter = unsafe { Filter::read(at.as_ptr().cast::<Filter>().cast_const()) };
        let filter = filter.ok_or_else(|| {
            let class = &wanted.class;
            let text = format!(
                "`{class}` has hooks that this proxy does not know\n\
                 hint: build it with the pymesh_filter.h of this release (`pymesh filter build`), or upgrade the proxy"
            );
            refused(capsule.py(), text)
        })?;
        let mut error = [0; 1024];
        let creation = Creation {
            size: size_of::<Creation>(),
            config: Text::of(wanted.config_json.as_bytes()),
            instance: instance.map_or(std::ptr::null_mut(), |instance| instance.as_ptr().cast()),
            error: error.as_mut_ptr(),
            error_size: error.len(),
        };
        let object = match filter.create {
            // SAFETY: everything that `creation` points to outlives the call, and this thread holds the interpreter.
            Some(create) => {
                let object = unsafe { create(&raw const creation) };
                if object.is_null() {
                    let class = &wanted.class;
                    return Err(match PyErr::take(capsule.py()) {
                        Some(raised) => raised,
                        None => refused(capsule.py(), format!("`{class}` cannot be made: {}", told(&error))),
                    });
                }
                object
            }
            None => std::ptr::null_mut(),
        };
        Ok(Compiled {
            filter,
            object,
            _capsule: capsule.clone().unbind(),
            _instance: instance.map(|instance| instance.clone().unbind()),
        })
    }

    /// True if the hook is a C function.
    pub fn has(&self, hook: Hook) -> bool {
        self.hook(hook).is_some()
    }

    /// Conditions that the library itself names.
    pub fn when(&self) -> Vec<(String, String, String)> {
        if self.filter.when.is_null() {
            return Vec::new();
        }
        // SAFETY: so many conditions stand there, and stay as long as the capsule.
        let conditions = unsafe { std::slice::from_raw_parts(self.filter.when, self.filter.when_count) };
        conditions.iter().map(|Condition { name, test, value }| (text(*name), text(*test), text(*value))).collect()
    }

    /// Calls a hook on heads, without the interpreter. Why it fails, if it does, goes to the proxy's log.
    pub fn call(&self, call: &FilterCall, heads: &mut Heads) -> Outcome {
        let Some(hook) = self.hook(call.hook) else { return Outcome::PASS };
        // SAFETY: `create` of the same library made the object.
        let outcome = unsafe { message::call(hook, self.object, call.hook, heads) };
        if let Outcome::Failed(why) = &outcome {
            let id = heads.request.headers.get_known(Known::XRequestId).unwrap_or(b"-");
            eprintln!("filter {} has failed (request {}): {why}", call.filter.class, String::from_utf8_lossy(id));
        }
        outcome
    }

    fn hook(&self, hook: Hook) -> Option<abi::Hook> {
        match hook {
            Hook::RequestHeaders => self.filter.on_request_headers,
            Hook::ResponseHeaders => self.filter.on_response_headers,
            _ => None,
        }
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        if let (Some(destroy), false) = (self.filter.destroy, self.object.is_null()) {
            // SAFETY: `create` of the same library made the object, and no hook will be called with it again.
            unsafe { destroy(self.object) };
        }
    }
}

/// A `pymesh.filters.FilterError`.
fn refused(py: Python<'_>, text: String) -> PyErr {
    let made = py.import("pymesh.filters.loader").and_then(|loader| loader.call_method1("FilterError", (text,)));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// A terminated string; NULL is an empty one.
fn text(at: *const c_char) -> String {
    if at.is_null() {
        return String::new();
    }
    // SAFETY: the header asks for terminated strings that stay as long as the capsule.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}

/// What a library has written of its error.
fn told(error: &[c_char]) -> String {
    let octets: Vec<u8> = error.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned()).collect();
    match octets.is_empty() {
        true => "it has not said why".to_owned(),
        false => String::from_utf8_lossy(&octets).into_owned(),
    }
}
