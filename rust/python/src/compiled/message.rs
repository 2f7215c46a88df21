//! A message while a compiled hook works on it, and the functions that the hook may call: `pymesh_host`.
//!
//! The hook gets pointers into the header arena. A change never moves what stands there: when there is no room behind
//! it, the arena is copied and the old one kept until the hook has returned.

use std::ffi::{c_int, c_void};
use std::mem::size_of;

use pymesh_engine::filter::{Change, Heads, Hook, Outcome};
use pymesh_http::{Headers, Known};

use super::abi::{self, Host, Opaque, Text};
use crate::rules::{self, Refusal};

/// What one hook may allocate.
const SCRATCH: usize = 1 << 20;

/// What is lent to a hook.
pub(super) struct Message<'h> {
    heads: &'h mut Heads,
    is_request: bool,
    changed: Change,
    reply: Option<Reply>,
    failure: Option<String>,
    /// Arenas that the header block has left.
    left: Vec<Vec<u8>>,
    scratch: Vec<Box<[u8]>>,
    scratch_size: usize,
}

struct Reply {
    status: u16,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
}

impl<'h> Message<'h> {
    pub fn new(is_request: bool, heads: &'h mut Heads) -> Self {
        Message {
            heads,
            is_request,
            changed: Change::Nothing,
            reply: None,
            failure: None,
            left: Vec::new(),
            scratch: Vec::new(),
            scratch_size: 0,
        }
    }

    /// As the hook knows it.
    pub fn handle(&mut self) -> *mut Opaque {
        (&raw mut *self).cast()
    }

    /// The hook has returned.
    pub fn end(self, returned: c_int) -> Outcome {
        let Message { changed, reply, failure, .. } = self;
        match (returned, reply) {
            (abi::CONTINUE, _) => Outcome::Continue { changed, body: None },
            (abi::REPLY, Some(Reply { status, headers, body })) => Outcome::Reply { status, headers, body },
            (abi::REPLY, None) => Outcome::Failed("the hook returned PYMESH_REPLY and has given no reply".to_owned()),
            (abi::FAILED, _) => Outcome::Failed(failure.unwrap_or_else(|| "the hook has not said why".to_owned())),
            (other, _) => Outcome::Failed(format!("the hook returned {other}, which is no result")),
        }
    }

    fn headers(&self) -> &Headers {
        match self.is_request {
            true => &self.heads.request.headers,
            false => &self.heads.response.headers,
        }
    }

    /// The header block, with room for so many octets.
    fn headers_with_room(&mut self, octets: usize) -> &mut Headers {
        let headers = match self.is_request {
            true => &mut self.heads.request.headers,
            false => &mut self.heads.response.headers,
        };
        self.left.extend(headers.make_room(octets));
        self.changed = self.changed.max(Change::Fields);
        headers
    }

    fn get(&self, part: c_int) -> Option<&[u8]> {
        let request = Some(&self.heads.request).filter(|_| self.is_request);
        match part {
            abi::PATH => request.map(|request| request.path()),
            abi::AUTHORITY => request.map(|request| request.authority()),
            abi::METHOD => request.map(|request| request.method_bytes()),
            abi::SCHEME => request.map(|request| request.scheme.as_str().as_bytes()),
            abi::ROUTE => self.heads.origin.route.as_deref().map(str::as_bytes),
            abi::PEER => self.heads.origin.peer().map(str::as_bytes),
            abi::REQUEST_ID => self.heads.request.headers.get_known(Known::XRequestId),
            _ => None,
        }
    }

    fn set(&mut self, part: c_int, value: &[u8]) -> Result<c_int, Refusal> {
        match (self.is_request, part) {
            (true, abi::PATH) => {
                rules::path(value)?;
                self.headers_with_room(value.len());
                self.heads.request.set_path(value);
                self.changed = Change::Target;
            }
            (true, abi::AUTHORITY) => {
                rules::authority(value)?;
                self.headers_with_room(value.len());
                self.heads.request.set_authority(value);
                self.changed = Change::Target;
            }
            _ => return Ok(abi::NOT_HERE),
        }
        Ok(abi::OK)
    }

    fn set_header(&mut self, name: &[u8], value: &[u8]) -> Result<c_int, Refusal> {
        let name = rules::settable(name)?;
        rules::field_value(value)?;
        self.headers_with_room(name.len() + value.len()).set(&name, value);
        Ok(abi::OK)
    }

    fn add_header(&mut self, name: &[u8], value: &[u8]) -> Result<c_int, Refusal> {
        let name = rules::settable(name)?;
        rules::field_value(value)?;
        self.headers_with_room(name.len() + value.len()).append(&name, value);
        Ok(abi::OK)
    }

    fn remove_header(&mut self, name: &[u8]) -> Result<c_int, Refusal> {
        let name = rules::settable(name)?;
        match self.headers_with_room(0).remove(&name) {
            true => Ok(abi::OK),
            false => Ok(abi::ABSENT),
        }
    }

    fn begin_reply(&mut self, status: c_int, body: &[u8]) -> Result<c_int, Refusal> {
        let status = rules::status(i64::from(status))?;
        self.reply = Some(Reply { status, headers: Vec::new(), body: body.to_vec() });
        Ok(abi::OK)
    }

    fn reply_header(&mut self, name: &[u8], value: &[u8]) -> Result<c_int, Refusal> {
        let name = rules::field_name(name)?;
        rules::field_value(value)?;
        let Some(reply) = &mut self.reply else { return Ok(abi::NOT_HERE) };
        reply.headers.push((name.into_owned(), value.to_vec()));
        Ok(abi::OK)
    }

    fn allocate(&mut self, size: usize) -> *mut u8 {
        let Some(sum) = self.scratch_size.checked_add(size).filter(|sum| *sum <= SCRATCH) else {
            return std::ptr::null_mut();
        };
        self.scratch_size = sum;
        // One octet at least, so that the memory is somewhere.
        let mut octets = vec![0; size.max(1)].into_boxed_slice();
        let at = octets.as_mut_ptr();
        self.scratch.push(octets);
        at
    }
}

/// The functions of the proxy.
pub(super) static HOST: Host = Host {
    size: size_of::<Host>(),
    get,
    set,
    status,
    get_header,
    set_header,
    add_header,
    remove_header,
    header_count,
    header_at,
    reply,
    reply_header,
    allocate,
    fail,
};

/// The message behind a handle.
///
/// # Safety
/// The handle is the one that the running hook was called with, or NULL: that is what a filter promises.
unsafe fn read<'a>(message: *const Opaque) -> Option<&'a Message<'a>> {
    // SAFETY: `Message::handle` made it, and the message lives until the hook has returned. Only the thread that runs
    // the hook calls these functions, one at a time, so that nobody else refers to it meanwhile.
    unsafe { message.cast::<Message<'_>>().as_ref() }
}

/// The same, to change it.
///
/// # Safety
/// As of [`read`].
unsafe fn change<'a>(message: *mut Opaque) -> Option<&'a mut Message<'a>> {
    // SAFETY: as in `read`.
    unsafe { message.cast::<Message<'_>>().as_mut() }
}

fn code(result: Result<c_int, Refusal>) -> c_int {
    match result {
        Ok(code) => code,
        Err(Refusal::Name(_)) => abi::BAD_NAME,
        Err(Refusal::Protected(_)) => abi::PROTECTED,
        Err(_) => abi::BAD_VALUE,
    }
}

unsafe extern "C" fn get(message: *const Opaque, part: c_int) -> Text {
    // SAFETY: the hook's own message.
    let message = unsafe { read(message) };
    message.and_then(|message| message.get(part)).map_or(Text::ABSENT, Text::of)
}

unsafe extern "C" fn set(message: *mut Opaque, part: c_int, value: Text) -> c_int {
    // SAFETY: the hook's own message, and text that stays while it calls us.
    let (message, value) = unsafe { (change(message), value.octets()) };
    message.map_or(abi::NOT_HERE, |message| code(message.set(part, value)))
}

unsafe extern "C" fn status(message: *const Opaque) -> c_int {
    // SAFETY: the hook's own message.
    match unsafe { read(message) } {
        Some(message) if !message.is_request => c_int::from(message.heads.response.status),
        _ => 0,
    }
}

unsafe extern "C" fn get_header(message: *const Opaque, name: Text, n: usize) -> Text {
    // SAFETY: the hook's own message, and text that stays while it calls us.
    let (message, name) = unsafe { (read(message), name.octets()) };
    let Some(message) = message else { return Text::ABSENT };
    let name = rules::lower(name);
    let value = match n {
        0 => message.headers().get(&name),
        n => message.headers().get_all(&name).nth(n),
    };
    value.map_or(Text::ABSENT, Text::of)
}

unsafe extern "C" fn set_header(message: *mut Opaque, name: Text, value: Text) -> c_int {
    // SAFETY: the hook's own message, and text that stays while it calls us: its own, or of an arena that is kept.
    let (message, name, value) = unsafe { (change(message), name.octets(), value.octets()) };
    message.map_or(abi::NOT_HERE, |message| code(message.set_header(name, value)))
}

unsafe extern "C" fn add_header(message: *mut Opaque, name: Text, value: Text) -> c_int {
    // SAFETY: as in `set_header`.
    let (message, name, value) = unsafe { (change(message), name.octets(), value.octets()) };
    message.map_or(abi::NOT_HERE, |message| code(message.add_header(name, value)))
}

unsafe extern "C" fn remove_header(message: *mut Opaque, name: Text) -> c_int {
    // SAFETY: as in `set_header`.
    let (message, name) = unsafe { (change(message), name.octets()) };
    message.map_or(abi::NOT_HERE, |message| code(message.remove_header(name)))
}

unsafe extern "C" fn header_count(message: *const Opaque) -> usize {
    // SAFETY: the hook's own message.
    unsafe { read(message) }.map_or(0, |message| message.headers().len())
}

unsafe extern "C" fn header_at(message: *const Opaque, place: usize, name: *mut Text, value: *mut Text) -> c_int {
    // SAFETY: the hook's own message.
    let message = unsafe { read(message) };
    let Some(field) = message.and_then(|message| message.headers().iter().nth(place)) else { return abi::ABSENT };
    // SAFETY: the hook gives pointers to texts of its own, or NULL for what it does not want.
    unsafe {
        if let Some(name) = name.as_mut() {
            *name = Text::of(field.name);
        }
        if let Some(value) = value.as_mut() {
            *value = Text::of(field.value);
        }
    }
    abi::OK
}

unsafe extern "C" fn reply(message: *mut Opaque, status: c_int, body: Text) -> c_int {
    // SAFETY: as in `set_header`.
    let (message, body) = unsafe { (change(message), body.octets()) };
    message.map_or(abi::NOT_HERE, |message| code(message.begin_reply(status, body)))
}

unsafe extern "C" fn reply_header(message: *mut Opaque, name: Text, value: Text) -> c_int {
    // SAFETY: as in `set_header`.
    let (message, name, value) = unsafe { (change(message), name.octets(), value.octets()) };
    message.map_or(abi::NOT_HERE, |message| code(message.reply_header(name, value)))
}

unsafe extern "C" fn allocate(message: *mut Opaque, size: usize) -> *mut u8 {
    // SAFETY: the hook's own message.
    unsafe { change(message) }.map_or(std::ptr::null_mut(), |message| message.allocate(size))
}

unsafe extern "C" fn fail(message: *mut Opaque, why: Text) {
    // SAFETY: as in `set_header`.
    let (message, why) = unsafe { (change(message), why.octets()) };
    if let Some(message) = message {
        message.failure = Some(String::from_utf8_lossy(why).into_owned());
    }
}

/// Calls a hook.
///
/// # Safety
/// The hook and its object belong together, and the filter keeps to the rules of `pymesh_filter.h`.
pub(super) unsafe fn call(hook: abi::Hook, object: *mut c_void, which: Hook, heads: &mut Heads) -> Outcome {
    let mut message = Message::new(which.is_request(), heads);
    // SAFETY: the caller vouches for hook and object; the message outlives the call, and nobody else refers to it.
    let returned = unsafe { hook(object, &raw const HOST, message.handle()) };
    message.end(returned)
}
