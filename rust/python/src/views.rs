//! What a filter sees of a message.
//!
//! A view owns the head while a hook runs and gives it back afterwards; a
//! filter that keeps the view finds it closed. Text is Latin-1, as ASGI and
//! WSGI do it: each octet is one character, so nothing is lost.
//!
//! The Python objects of a view are made once and lent again for the next call,
//! unless somebody has kept one of them ([`Reusable`]).

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use pymesh_engine::filter::{Change, Heads, Kept, Origin};
use pymesh_http::{Headers as HeaderBlock, RequestHead, ResponseHead};
use pyo3::exceptions::{PyKeyError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyDict, PyString};
use pyo3::{PyClass, PyClassInitializer};

use crate::lane::{Call, Ongoing};
use crate::rules::{self, Refusal};

/// A head on loan to Python.
pub(crate) enum Head {
    Request(RequestHead),
    Response(ResponseHead),
    Trailers(HeaderBlock),
}

impl Head {
    fn headers(&self) -> &HeaderBlock {
        match self {
            Head::Request(head) => &head.headers,
            Head::Response(head) => &head.headers,
            Head::Trailers(headers) => headers,
        }
    }

    fn headers_mut(&mut self) -> &mut HeaderBlock {
        match self {
            Head::Request(head) => &mut head.headers,
            Head::Response(head) => &mut head.headers,
            Head::Trailers(headers) => headers,
        }
    }
}

#[derive(Default)]
struct Loan {
    head: Option<Head>,
    changed: Change,
}

/// Shared by a view and its `headers`.
#[derive(Clone, Default)]
pub(crate) struct Lent(Arc<Mutex<Loan>>);

impl Lent {
    pub(crate) fn lend(&self, head: Head) {
        *self.lock() = Loan { head: Some(head), changed: Change::Nothing };
    }

    /// Ends the loan: the head, and what was changed of it.
    pub(crate) fn take_back(&self) -> (Option<Head>, Change) {
        let mut loan = self.lock();
        (loan.head.take(), loan.changed)
    }

    fn lock(&self) -> MutexGuard<'_, Loan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, f: impl FnOnce(&Head) -> PyResult<T>) -> PyResult<T> {
        self.lock().head.as_ref().map_or_else(|| Err(closed()), f)
    }

    /// Changes fields.
    fn change<T>(&self, f: impl FnOnce(&mut Head) -> PyResult<T>) -> PyResult<T> {
        self.change_as(Change::Fields, f)
    }

    fn change_as<T>(&self, change: Change, f: impl FnOnce(&mut Head) -> PyResult<T>) -> PyResult<T> {
        let mut loan = self.lock();
        let result = loan.head.as_mut().map_or_else(|| Err(closed()), f)?;
        loan.changed = loan.changed.max(change);
        Ok(result)
    }

    fn request<T>(&self, f: impl FnOnce(&RequestHead) -> T) -> PyResult<T> {
        self.read(|head| match head {
            Head::Request(head) => Ok(f(head)),
            Head::Response(_) | Head::Trailers(_) => Err(closed()),
        })
    }

    fn change_request(&self, f: impl FnOnce(&mut RequestHead)) -> PyResult<()> {
        self.change_as(Change::Target, |head| match head {
            Head::Request(head) => {
                f(head);
                Ok(())
            }
            Head::Response(_) | Head::Trailers(_) => Err(closed()),
        })
    }
}

fn closed() -> PyErr {
    PyRuntimeError::new_err("this message is over: read what you need of it inside the hook")
}

/// Octets as Latin-1 text.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(ascii) if bytes.is_ascii() => Cow::Borrowed(ascii),
        _ => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

/// The same for Python, which has such text without looking at it twice.
pub(crate) fn string<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    let size = isize::try_from(bytes.len()).unwrap_or(isize::MAX);
    // SAFETY: this thread is attached, and so many octets can be read. What is made is a string of ours, or NULL.
    let made = unsafe {
        let made = pyo3::ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), size, std::ptr::null());
        Bound::from_owned_ptr_or_opt(py, made)
    };
    match made.and_then(|made| made.cast_into::<PyString>().ok()) {
        Some(string) => string,
        None => {
            // There was no memory for it. To try again is what can be done, and what fails loudly.
            let _said = PyErr::take(py);
            PyString::new(py, &text(bytes))
        }
    }
}

/// Latin-1 text as octets.
fn octets(value: &str) -> Result<Cow<'_, [u8]>, Refusal> {
    if value.is_ascii() {
        return Ok(Cow::Borrowed(value.as_bytes()));
    }
    let bytes: Result<Vec<u8>, _> = value.chars().map(|c| u8::try_from(u32::from(c))).collect();
    bytes.map(Cow::Owned).map_err(|_| Refusal::NotLatin1)
}

/// Text as a field's value.
pub(crate) fn field_value(value: &str) -> Result<Cow<'_, [u8]>, Refusal> {
    let value = octets(value)?;
    rules::field_value(&value)?;
    Ok(value)
}

/// Header fields of a message: a mapping from lower-case names to first values.
#[pyclass(module = "pymesh._proxy", frozen, mapping)]
pub(crate) struct Headers(Lent);

#[pymethods]
impl Headers {
    /// The first value, or `default`.
    #[pyo3(signature = (name, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        default: Option<Bound<'py, PyString>>,
    ) -> PyResult<Option<Bound<'py, PyString>>> {
        let name = rules::lower(name.as_bytes());
        self.0.read(|head| Ok(head.headers().get(&name).map(|value| string(py, value)).or(default)))
    }

    /// Every value, in order.
    fn getall<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Vec<Bound<'py, PyString>>> {
        let name = rules::lower(name.as_bytes());
        self.0.read(|head| Ok(head.headers().get_all(&name).map(|value| string(py, value)).collect()))
    }

    /// Adds a field and keeps those of the same name.
    fn add(&self, name: &str, value: &str) -> PyResult<()> {
        let (name, value) = (rules::settable(name.as_bytes())?, field_value(value)?);
        self.0.change(|head| {
            head.headers_mut().append(&name, &value);
            Ok(())
        })
    }

    /// All fields, in order.
    fn items<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyString>, Bound<'py, PyString>)>> {
        self.0.read(|head| {
            Ok(head.headers().iter().map(|field| (string(py, field.name), string(py, field.value))).collect())
        })
    }

    fn __getitem__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyString>> {
        self.get(py, name, None)?.ok_or_else(|| PyKeyError::new_err(name.to_owned()))
    }

    fn __setitem__(&self, name: &str, value: &str) -> PyResult<()> {
        let (name, value) = (rules::settable(name.as_bytes())?, field_value(value)?);
        self.0.change(|head| {
            head.headers_mut().set(&name, &value);
            Ok(())
        })
    }

    fn __delitem__(&self, name: &str) -> PyResult<()> {
        let bytes = rules::settable(name.as_bytes())?;
        let removed = self.0.change(|head| Ok(head.headers_mut().remove(&bytes)))?;
        if removed {
            Ok(())
        } else {
            Err(PyKeyError::new_err(name.to_owned()))
        }
    }

    fn __contains__(&self, name: &str) -> PyResult<bool> {
        let name = rules::lower(name.as_bytes());
        self.0.read(|head| Ok(head.headers().get(&name).is_some()))
    }

    fn __len__(&self) -> PyResult<usize> {
        self.0.read(|head| Ok(head.headers().len()))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let names =
            self.0.read(|head| Ok(head.headers().iter().map(|field| string(py, field.name)).collect::<Vec<_>>()))?;
        names.into_pyobject(py)?.try_iter().map(Bound::into_any)
    }

    fn __repr__(&self) -> PyResult<String> {
        self.0.read(|head| Ok(format!("Headers({:?})", head.headers())))
    }
}

/// A request on its way upstream.
#[pyclass(module = "pymesh._proxy", frozen)]
pub(crate) struct Request {
    lent: Lent,
    headers: Py<Headers>,
}

#[pymethods]
impl Request {
    /// `GET`, `POST`, ...
    #[getter]
    fn method(&self) -> PyResult<String> {
        self.lent.request(|head| text(head.method_bytes()).into_owned())
    }

    /// Path and query, canonical.
    #[getter]
    fn path(&self) -> PyResult<String> {
        self.lent.request(|head| text(head.path()).into_owned())
    }

    #[setter]
    fn set_path(&self, path: &str) -> PyResult<()> {
        let bytes = octets(path)?;
        rules::path(&bytes)?;
        self.lent.change_request(|head| head.set_path(&bytes))
    }

    /// Host and optional port.
    #[getter]
    fn authority(&self) -> PyResult<String> {
        self.lent.request(|head| text(head.authority()).into_owned())
    }

    #[setter]
    fn set_authority(&self, authority: &str) -> PyResult<()> {
        rules::authority(authority.as_bytes())?;
        self.lent.change_request(|head| head.set_authority(authority.as_bytes()))
    }

    /// `http` or `https`.
    #[getter]
    fn scheme(&self) -> PyResult<&'static str> {
        self.lent.request(|head| head.scheme.as_str())
    }

    #[getter]
    fn headers(&self, py: Python<'_>) -> Py<Headers> {
        self.headers.clone_ref(py)
    }
}

/// A response on its way to the client.
#[pyclass(module = "pymesh._proxy", frozen)]
pub(crate) struct Response {
    lent: Lent,
    headers: Py<Headers>,
}

#[pymethods]
impl Response {
    /// Status code.
    #[getter]
    fn status(&self) -> PyResult<u16> {
        self.lent.read(|head| match head {
            Head::Response(head) => Ok(head.status),
            Head::Request(_) | Head::Trailers(_) => Err(closed()),
        })
    }

    #[getter]
    fn headers(&self, py: Python<'_>) -> Py<Headers> {
        self.headers.clone_ref(py)
    }
}

/// A view that can be lent: [`Request`] or [`Response`].
pub(crate) trait View: PyClass<Frozen = True> + Sync {
    fn new(lent: Lent, headers: Py<Headers>) -> Self;
    fn parts(&self) -> (&Lent, &Py<Headers>);
}

impl View for Request {
    fn new(lent: Lent, headers: Py<Headers>) -> Self {
        Request { lent, headers }
    }
    fn parts(&self) -> (&Lent, &Py<Headers>) {
        (&self.lent, &self.headers)
    }
}

impl View for Response {
    fn new(lent: Lent, headers: Py<Headers>) -> Self {
        Response { lent, headers }
    }
    fn parts(&self) -> (&Lent, &Py<Headers>) {
        (&self.lent, &self.headers)
    }
}

/// One view for all calls of a hook. Whoever keeps it, or its headers, beyond the
/// hook keeps that one: the next call gets another, so nobody sees a message that is
/// not theirs.
pub(crate) struct Reusable<V>(Option<Py<V>>);

impl<V: View + Into<PyClassInitializer<V>>> Reusable<V> {
    pub(crate) fn new() -> Self {
        Reusable(None)
    }

    /// Lends `head` to `call`, and takes it back; also says what was changed of it.
    pub(crate) fn with<T>(
        &mut self,
        py: Python<'_>,
        head: Head,
        call: impl FnOnce(&Py<V>) -> PyResult<T>,
    ) -> (Option<Head>, Change, PyResult<T>) {
        let view = match self.0.take().filter(|view| !is_kept(py, view)).map_or_else(|| make(py), Ok) {
            Ok(view) => view,
            Err(error) => return (Some(head), Change::Nothing, Err(error)),
        };
        let (lent, _) = view.get().parts();
        lent.lend(head);
        let result = call(&view);
        let (head, changed) = lent.take_back();
        self.0 = Some(view);
        (head, changed, result)
    }
}

/// Lends trailers to `call`, and takes them back. They are rare, so their view is made each time.
pub(crate) fn with_trailers<T>(
    py: Python<'_>,
    trailers: HeaderBlock,
    call: impl FnOnce(&Py<Headers>) -> PyResult<T>,
) -> (HeaderBlock, PyResult<T>) {
    let lent = Lent::default();
    lent.lend(Head::Trailers(trailers));
    let result = Py::new(py, Headers(lent.clone())).and_then(|view| call(&view));
    match lent.take_back() {
        (Some(Head::Trailers(trailers)), _) => (trailers, result),
        _ => (HeaderBlock::new(), result),
    }
}

fn make<V: View + Into<PyClassInitializer<V>>>(py: Python<'_>) -> PyResult<Py<V>> {
    let lent = Lent::default();
    view_of(py, &lent)
}

fn view_of<V: View + Into<PyClassInitializer<V>>>(py: Python<'_>, lent: &Lent) -> PyResult<Py<V>> {
    let headers = headers_view(py, lent)?;
    Py::new(py, V::new(lent.clone(), headers))
}

/// A view of a request that was lent.
pub(crate) fn request_view(py: Python<'_>, lent: &Lent) -> PyResult<Py<Request>> {
    view_of(py, lent)
}

/// A view of a response that was lent.
pub(crate) fn response_view(py: Python<'_>, lent: &Lent) -> PyResult<Py<Response>> {
    view_of(py, lent)
}

/// A view of header fields, or trailers, that were lent.
pub(crate) fn headers_view(py: Python<'_>, lent: &Lent) -> PyResult<Py<Headers>> {
    Py::new(py, Headers(lent.clone()))
}

/// True if anybody but ourselves holds the view or its headers.
fn is_kept<V: View>(py: Python<'_>, view: &Py<V>) -> bool {
    let (_, headers) = view.get().parts();
    references(py, view) > 1 || references(py, headers) > 1
}

fn references<T>(_attached: Python<'_>, object: &Py<T>) -> isize {
    // SAFETY: `object` keeps what it points to alive, and the count is only read while
    // this thread is attached to the interpreter.
    unsafe { pyo3::ffi::Py_REFCNT(object.as_ptr()) }
}

/// The context that is lent to one hook after the other, as long as none keeps it or puts anything in. One that does
/// makes it the context of its exchange, and the next hook gets another.
#[derive(Default)]
pub(crate) struct SpareContext(Option<Py<Context>>);

impl SpareContext {
    /// The exchange's context, or the spare one. The caller gives it back when its hook is over.
    pub(crate) fn lend(&mut self, py: Python<'_>, heads: &mut Heads) -> PyResult<Py<Context>> {
        let context = match kept_context(&heads.kept) {
            Some(context) => context.clone_ref(py),
            None => self.0.take().map_or_else(|| Py::new(py, Context::new(Origin::default())), Ok)?,
        };
        context.get().tell(heads);
        Ok(context)
    }

    /// The hook is over.
    pub(crate) fn give_back(&mut self, py: Python<'_>, context: Py<Context>, heads: &mut Heads) {
        if heads.kept.0.is_some() {
            return;
        }
        match references(py, &context) == 1 && context.get().values.get().is_none() {
            true => {
                context.get().reset();
                self.0 = Some(context);
            }
            false => heads.kept = Kept(Some(Arc::new(context))),
        }
    }
}

/// The context of an exchange: the same object in all hooks.
pub(crate) fn context(py: Python<'_>, heads: &mut Heads) -> PyResult<Py<Context>> {
    let mut none_to_spare = SpareContext::default();
    let context = none_to_spare.lend(py, heads)?;
    if heads.kept.0.is_none() {
        heads.kept = Kept(Some(Arc::new(context.clone_ref(py))));
    }
    Ok(context)
}

/// The context of an exchange that has one.
pub(crate) fn kept_context(kept: &Kept) -> Option<&Py<Context>> {
    kept.0.as_ref()?.downcast_ref()
}

/// What a filter is told beside the message, and where it keeps things from
/// hook to hook: `ctx["key"] = value`.
#[pyclass(module = "pymesh._proxy", frozen, mapping)]
pub(crate) struct Context {
    origin: Mutex<Origin>,
    /// Most filters keep nothing.
    values: OnceLock<Py<PyDict>>,
    /// The hook of lane `async` that has it now.
    hook: Mutex<Option<Arc<Ongoing>>>,
}

impl Context {
    pub(crate) fn new(origin: Origin) -> Self {
        Context { origin: Mutex::new(origin), values: OnceLock::new(), hook: Mutex::default() }
    }

    fn origin(&self) -> MutexGuard<'_, Origin> {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hook begins that works on these heads: it is told what is so now.
    pub(crate) fn tell(&self, heads: &mut Heads) {
        let mut origin = self.origin();
        // Its memory serves again. The heads of a stream have no id: then it is the one that was told before.
        let mut id = std::mem::take(&mut origin.request_id);
        let now = heads.request_id();
        if !now.is_empty() {
            id.clear();
            id.extend_from_slice(now);
        }
        *origin = std::mem::take(&mut heads.origin);
        origin.request_id = id;
    }

    /// Forgets what it was told.
    fn reset(&self) {
        let mut origin = self.origin();
        let mut id = std::mem::take(&mut origin.request_id);
        id.clear();
        *origin = Origin::default();
        origin.request_id = id;
    }

    fn hook(&self) -> MutexGuard<'_, Option<Arc<Ongoing>>> {
        self.hook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A hook of lane `async` begins.
    pub(crate) fn enter(&self, hook: &Arc<Ongoing>) {
        *self.hook() = Some(hook.clone());
    }

    /// It has ended; the next one may have begun.
    pub(crate) fn leave(&self, hook: &Arc<Ongoing>) {
        let mut current = self.hook();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, hook)) {
            *current = None;
        }
    }

    /// `x-request-id`, as text.
    pub(crate) fn id(&self) -> String {
        text(&self.origin().request_id).into_owned()
    }

    fn kept<'py>(&self, py: Python<'py>, key: &Bound<'py, PyString>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.values.get().map_or(Ok(None), |values| values.bind(py).get_item(key))
    }
}

#[pymethods]
impl Context {
    /// Name of the chosen route, if any.
    #[getter]
    fn route<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyString>> {
        Some(PyString::new(py, self.origin().route.as_deref()?))
    }

    /// SPIFFE ID of the peer, if it has proved one.
    #[getter]
    fn peer<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyString>> {
        Some(PyString::new(py, self.origin().peer()?))
    }

    /// The request's `x-request-id`; empty if it has none.
    #[getter]
    fn request_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        string(py, &self.origin().request_id)
    }

    /// Seconds until the failure policy applies. Nobody stops a hook that the worker calls itself.
    #[getter]
    fn deadline(&self) -> Option<f64> {
        self.hook().as_ref()?.seconds_left()
    }

    /// Asks a cluster: `pymesh._bridge.lane.ask`.
    #[pyo3(signature = (cluster, method, path, headers=None, body=None, timeout=None))]
    #[allow(clippy::too_many_arguments)]
    fn call<'py>(
        &self,
        py: Python<'py>,
        cluster: &str,
        method: &str,
        path: &str,
        headers: Option<Bound<'py, PyAny>>,
        body: Option<&[u8]>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let hook = self.hook().clone();
        let hook = hook.ok_or_else(|| {
            PyRuntimeError::new_err("ctx.call is for hooks of a filter with lane = \"async\", while they run")
        })?;
        let headers = headers.unwrap_or_else(|| PyDict::new(py).into_any());
        let call = Py::new(py, Call::of(&hook))?;
        let ask = py.import("pymesh._bridge.lane")?.getattr("ask")?;
        ask.call1((call, cluster, method, path, headers, body.unwrap_or_default(), timeout))
    }

    #[pyo3(signature = (key, default=None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyString>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.kept(py, key)?.or(default))
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        self.kept(py, key)?.ok_or_else(|| PyKeyError::new_err(key.to_string()))
    }

    fn __setitem__(&self, py: Python<'_>, key: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.values.get_or_init(|| PyDict::new(py).unbind()).bind(py).set_item(key, value)
    }

    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyString>) -> PyResult<bool> {
        Ok(self.kept(py, key)?.is_some())
    }
}
