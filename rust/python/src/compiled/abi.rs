//! `pymesh/filters/pymesh_filter.h` in Rust, field by field. The header is the truth.

use std::ffi::{c_char, c_int, c_void, CStr};
use std::mem::size_of;

/// `PYMESH_FILTER_CAPSULE`
pub(super) const CAPSULE: &CStr = c"pymesh.filter.v1";

pub(super) const OK: c_int = 0;
pub(super) const ABSENT: c_int = 1;
pub(super) const BAD_NAME: c_int = 2;
pub(super) const BAD_VALUE: c_int = 3;
pub(super) const PROTECTED: c_int = 4;
pub(super) const NOT_HERE: c_int = 5;

pub(super) const CONTINUE: c_int = 0;
pub(super) const REPLY: c_int = 1;
pub(super) const FAILED: c_int = 2;

pub(super) const PATH: c_int = 0;
pub(super) const AUTHORITY: c_int = 1;
pub(super) const METHOD: c_int = 2;
pub(super) const SCHEME: c_int = 3;
pub(super) const ROUTE: c_int = 4;
pub(super) const PEER: c_int = 5;
pub(super) const REQUEST_ID: c_int = 6;

/// `pymesh_text`
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Text {
    pub data: *const u8,
    pub size: usize,
}

impl Text {
    pub const ABSENT: Text = Text { data: std::ptr::null(), size: 0 };

    pub fn of(octets: &[u8]) -> Text {
        Text { data: octets.as_ptr(), size: octets.len() }
    }

    /// # Safety
    /// Where `data` points, `size` octets can be read for as long as `'a`, and nobody writes them.
    pub unsafe fn octets<'a>(self) -> &'a [u8] {
        if self.data.is_null() || self.size == 0 {
            return &[];
        }
        // SAFETY: the caller vouches for it.
        unsafe { std::slice::from_raw_parts(self.data, self.size) }
    }
}

/// `pymesh_message`: what it is, only `message.rs` knows.
#[repr(C)]
pub(super) struct Opaque {
    nothing: [u8; 0],
}

pub(super) type Hook = unsafe extern "C" fn(filter: *mut c_void, host: *const Host, message: *mut Opaque) -> c_int;

/// `pymesh_host`
#[repr(C)]
pub(super) struct Host {
    pub size: usize,
    pub get: unsafe extern "C" fn(*const Opaque, c_int) -> Text,
    pub set: unsafe extern "C" fn(*mut Opaque, c_int, Text) -> c_int,
    pub status: unsafe extern "C" fn(*const Opaque) -> c_int,
    pub get_header: unsafe extern "C" fn(*const Opaque, Text, usize) -> Text,
    pub set_header: unsafe extern "C" fn(*mut Opaque, Text, Text) -> c_int,
    pub add_header: unsafe extern "C" fn(*mut Opaque, Text, Text) -> c_int,
    pub remove_header: unsafe extern "C" fn(*mut Opaque, Text) -> c_int,
    pub header_count: unsafe extern "C" fn(*const Opaque) -> usize,
    pub header_at: unsafe extern "C" fn(*const Opaque, usize, *mut Text, *mut Text) -> c_int,
    pub reply: unsafe extern "C" fn(*mut Opaque, c_int, Text) -> c_int,
    pub reply_header: unsafe extern "C" fn(*mut Opaque, Text, Text) -> c_int,
    pub allocate: unsafe extern "C" fn(*mut Opaque, usize) -> *mut u8,
    pub fail: unsafe extern "C" fn(*mut Opaque, Text),
}

/// `pymesh_creation`
#[repr(C)]
pub(super) struct Creation {
    pub size: usize,
    pub config: Text,
    pub instance: *mut c_void,
    pub error: *mut c_char,
    pub error_size: usize,
}

/// `pymesh_condition`
#[repr(C)]
pub(super) struct Condition {
    pub name: *const c_char,
    pub test: *const c_char,
    pub value: *const c_char,
}

/// `pymesh_filter`
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Filter {
    pub size: usize,
    pub when: *const Condition,
    pub when_count: usize,
    pub create: Option<unsafe extern "C" fn(*const Creation) -> *mut c_void>,
    pub destroy: Option<unsafe extern "C" fn(*mut c_void)>,
    pub on_request_headers: Option<Hook>,
    pub on_response_headers: Option<Hook>,
}

impl Filter {
    /// What a library says, as far as this proxy knows it. `None` if it says more than that.
    ///
    /// # Safety
    /// At `at` stands a `pymesh_filter`: a size, and so many octets.
    pub unsafe fn read(at: *const Filter) -> Option<Filter> {
        // SAFETY: every version of the struct begins with its size.
        let size = unsafe { at.cast::<usize>().read() };
        let octets = at.cast::<u8>();
        let known = size.min(size_of::<Filter>());
        let mut filter = Filter {
            size,
            when: std::ptr::null(),
            when_count: 0,
            create: None,
            destroy: None,
            on_request_headers: None,
            on_response_headers: None,
        };
        // SAFETY: so many octets are there, on both sides. Of each field all octets are taken or none, since older
        // structs end at the end of a field; the octets of a C function pointer are those of an `Option` of ours.
        unsafe { octets.copy_to_nonoverlapping((&raw mut filter).cast(), known) };
        // SAFETY: the struct goes on to its size.
        let beyond = unsafe { std::slice::from_raw_parts(octets.add(known), size - known) };
        beyond.iter().all(|octet| *octet == 0).then_some(filter)
    }
}
