//! The header block: an ordered multimap in one arena.

use std::fmt;

/// A piece of a [`Headers`] arena. Only meaningful for the arena that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    at: u32,
    len: u32,
}

impl Span {
    /// Length in octets.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// True for a span of no octets, as [`Span::default`] is.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

macro_rules! known_headers {
    ($($variant:ident = $name:literal,)*) => {
        /// Field names that the proxy itself reads or writes. Comparing one is
        /// an integer comparison, and its name takes no room in the arena.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Known {
            $(#[doc = $name] $variant,)*
        }

        impl Known {
            /// Every known name, in the order of the discriminants.
            pub const ALL: &'static [Known] = &[$(Known::$variant,)*];

            /// The lower-case field name.
            #[inline]
            pub const fn name(self) -> &'static str {
                match self { $(Known::$variant => $name,)* }
            }
        }
    };
}

known_headers! {
    Accept = "accept",
    AcceptEncoding = "accept-encoding",
    AcceptLanguage = "accept-language",
    Age = "age",
    Authorization = "authorization",
    CacheControl = "cache-control",
    Connection = "connection",
    ContentEncoding = "content-encoding",
    ContentLength = "content-length",
    ContentType = "content-type",
    Cookie = "cookie",
    Date = "date",
    Etag = "etag",
    Expect = "expect",
    GrpcStatus = "grpc-status",
    GrpcMessage = "grpc-message",
    GrpcTimeout = "grpc-timeout",
    Host = "host",
    Http2Settings = "http2-settings",
    IfModifiedSince = "if-modified-since",
    IfNoneMatch = "if-none-match",
    KeepAlive = "keep-alive",
    LastModified = "last-modified",
    Location = "location",
    Origin = "origin",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    ProxyConnection = "proxy-connection",
    Range = "range",
    Referer = "referer",
    Server = "server",
    SetCookie = "set-cookie",
    Te = "te",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Trailer = "trailer",
    TransferEncoding = "transfer-encoding",
    Upgrade = "upgrade",
    UserAgent = "user-agent",
    Vary = "vary",
    Via = "via",
    WwwAuthenticate = "www-authenticate",
    XEnvoyAttemptCount = "x-envoy-attempt-count",
    XEnvoyDecoratorOperation = "x-envoy-decorator-operation",
    XEnvoyExternalAddress = "x-envoy-external-address",
    XEnvoyExpectedRqTimeoutMs = "x-envoy-expected-rq-timeout-ms",
    XEnvoyOriginalHost = "x-envoy-original-host",
    XEnvoyOriginalPath = "x-envoy-original-path",
    XEnvoyUpstreamServiceTime = "x-envoy-upstream-service-time",
    XForwardedClientCert = "x-forwarded-client-cert",
    XForwardedFor = "x-forwarded-for",
    XForwardedHost = "x-forwarded-host",
    XForwardedProto = "x-forwarded-proto",
    XRequestId = "x-request-id",
}

/// Where each known name is found by [`place`], or behind that: open addressing, made by the compiler.
#[expect(clippy::indexing_slicing, reason = "a mistake does not compile")]
static PLACES: [u8; 256] = {
    let mut places = [UNKNOWN; 256];
    let mut rest = Known::ALL;
    while let [known, others @ ..] = rest {
        let mut at = place(known.name().as_bytes());
        while places[at as usize] != UNKNOWN {
            at = at.wrapping_add(1);
        }
        places[at as usize] = *known as u8;
        rest = others;
    }
    places
};

/// Names differ in their length, their ends or their middle; the factors keep those that we know apart.
const fn place(name: &[u8]) -> u8 {
    let (front, back) = name.split_at(name.len() / 2);
    let [first, .., last] = name else { return 0 };
    let middle = match back {
        [middle, ..] => *middle,
        [] => 0,
    };
    let len = (front.len() + back.len()) as u8;
    let ends = first.wrapping_mul(125).wrapping_add(last.wrapping_mul(42));
    len.wrapping_mul(58).wrapping_add(middle.wrapping_mul(5)).wrapping_add(ends)
}

impl Known {
    /// The known name that equals `name` (already lower case), if any.
    pub fn from_name(name: &[u8]) -> Option<Known> {
        let mut at = place(name);
        loop {
            // An empty place ends the search: its number is that of no name.
            let known = Known::ALL.get(usize::from(*PLACES.get(usize::from(at))?))?;
            if known.name().as_bytes() == name {
                return Some(*known);
            }
            at = at.wrapping_add(1);
        }
    }

    /// Its bit in [`Headers::present`].
    fn bit(self) -> u64 {
        1 << self as u8
    }

    /// Fields that frame, route or authorise a message, say how to read it, or
    /// concern one connection: too late for them in a trailer (RFC 9110 section 6.5.1).
    pub(crate) fn is_too_late(self) -> bool {
        matches!(
            self,
            Known::Authorization
                | Known::Connection
                | Known::ContentEncoding
                | Known::ContentLength
                | Known::ContentType
                | Known::Host
                | Known::Http2Settings
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::SetCookie
                | Known::Te
                | Known::Trailer
                | Known::TransferEncoding
                | Known::Upgrade
        )
    }
}

const UNKNOWN: u8 = u8::MAX;
const _: () = assert!(Known::ALL.len() <= u64::BITS as usize, "a bit for each");
const SENSITIVE: u8 = 1;

#[derive(Clone, Copy)]
struct Field {
    /// Discriminant of [`Known`], or [`UNKNOWN`].
    known: u8,
    flags: u8,
    name: Span,
    value: Span,
}

/// Header fields in order of arrival, names in lower case, in one arena.
///
/// `clear` keeps the allocation, so a `Headers` that is reused for message
/// after message stops allocating. Removing or replacing a field leaves its
/// old octets in the arena until the next `clear`; the arena is bounded
/// because the codecs bound what they put in.
///
/// The pseudo-header parts of a message (`:path` and so on) live in the same
/// arena as [`Span`]s that [`crate::RequestHead`] keeps.
#[derive(Clone, Default)]
pub struct Headers {
    arena: Vec<u8>,
    fields: Vec<Field>,
    /// A bit for each known name that there is a field of: most questions are about fields that are not there.
    present: u64,
    list_size: usize,
    case: Case,
    /// Names as they were spelled, for [`Case::Kept`].
    spelled: Vec<Span>,
}

/// How HTTP/1 writes the names of these fields. HTTP/2 knows lower case only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Case {
    /// In lower case.
    #[default]
    Lower,
    /// Each word with a capital: `Content-Length`.
    Proper,
    /// As they were spelled when they came; in lower case those that were added since.
    Kept,
}

impl Headers {
    /// An empty block that has not allocated.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all fields and spans, keeps the memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.fields.clear();
        self.present = 0;
        self.list_size = 0;
        self.case = Case::Lower;
        self.spelled.clear();
    }

    /// Sets how names are written, unless it is known how they were spelled.
    pub fn write_in(&mut self, case: Case) {
        if self.case != Case::Kept {
            self.case = case;
        }
    }

    /// Remembers how a name is spelled.
    pub fn keep_spelling(&mut self, name: &[u8]) {
        self.case = Case::Kept;
        let name = self.store(name);
        self.spelled.push(name);
    }

    /// Appends a lower-case name as it is to be written.
    pub(crate) fn write_name(&self, out: &mut Vec<u8>, name: &[u8]) {
        let start = out.len();
        out.extend_from_slice(name);
        let written = out.get_mut(start..).unwrap_or_default();
        match self.case {
            Case::Lower => {}
            Case::Proper => {
                let mut begins = true;
                for octet in written {
                    if begins {
                        octet.make_ascii_uppercase();
                    }
                    begins = !octet.is_ascii_alphanumeric();
                }
            }
            Case::Kept => {
                let spelled = self.spelled.iter().map(|span| self.bytes(*span));
                if let Some(spelled) = spelled.into_iter().find(|spelled| spelled.eq_ignore_ascii_case(name)) {
                    written.copy_from_slice(spelled);
                }
            }
        }
    }

    /// Gives memory back when the arena has grown past `keep` octets.
    pub fn shrink(&mut self, keep: usize) {
        if self.arena.is_empty() && self.arena.capacity() > keep {
            self.arena = Vec::new();
            self.fields = Vec::new();
        }
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// True if there are no fields.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Size as RFC 9113 section 6.5.2 counts it: name + value + 32 for each field.
    pub fn list_size(&self) -> usize {
        self.list_size
    }

    /// Copies `bytes` into the arena.
    pub fn store(&mut self, bytes: &[u8]) -> Span {
        // Spans are 32 bits wide. The codecs cap a message far below that, so
        // saturation can only shorten data that a limit has already refused.
        let at = u32::try_from(self.arena.len()).unwrap_or(u32::MAX);
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.arena.extend_from_slice(bytes);
        Span { at, len }
    }

    /// Makes room for so many octets. If what stands in the arena had to move for that, the memory that it has left is
    /// returned: pointers into it are good as long as that is kept.
    pub fn make_room(&mut self, octets: usize) -> Option<Vec<u8>> {
        if self.arena.capacity() - self.arena.len() >= octets {
            return None;
        }
        let mut larger = Vec::with_capacity((self.arena.len() + octets).next_power_of_two());
        larger.extend_from_slice(&self.arena);
        Some(std::mem::replace(&mut self.arena, larger))
    }

    /// The octets of a span of this arena; empty for a span that is not.
    pub fn bytes(&self, span: Span) -> &[u8] {
        let at = span.at as usize;
        self.arena.get(at..at + span.len as usize).unwrap_or_default()
    }

    /// Adds a field at the end. `name` must be lower case already.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        match Known::from_name(name) {
            Some(known) => self.append_known(known, value),
            None => {
                let name = self.store(name);
                self.append_field(UNKNOWN, name, name.len(), value);
            }
        }
    }

    /// Adds a field at the end, lower-casing the name on the way in.
    pub fn append_lower(&mut self, name: &[u8], value: &[u8]) {
        let start = self.arena.len();
        let span = self.store(name);
        let stored = self.arena.get_mut(start..).unwrap_or_default();
        stored.make_ascii_lowercase();
        match Known::from_name(stored) {
            Some(known) => {
                self.arena.truncate(start);
                self.append_known(known, value);
            }
            None => self.append_field(UNKNOWN, span, span.len(), value),
        }
    }

    /// Adds a field with a known name at the end.
    pub fn append_known(&mut self, known: Known, value: &[u8]) {
        self.present |= known.bit();
        self.append_field(known as u8, Span::default(), known.name().len(), value);
    }

    /// Adds a field whose name has been looked up before; `name` is not stored if it is known.
    pub(crate) fn append_resolved(&mut self, known: Option<Known>, name: &[u8], value: &[u8]) {
        match known {
            Some(known) => self.append_known(known, value),
            None => {
                let name = self.store(name);
                self.append_field(UNKNOWN, name, name.len(), value);
            }
        }
    }

    fn append_field(&mut self, known: u8, name: Span, name_len: usize, value: &[u8]) {
        let value = self.store(value);
        self.list_size += name_len + value.len() + 32;
        self.fields.push(Field { known, flags: 0, name, value });
    }

    /// Marks the field added last as never to be indexed (RFC 7541 section 7.1.3).
    pub fn mark_last_sensitive(&mut self) {
        if let Some(field) = self.fields.last_mut() {
            field.flags |= SENSITIVE;
        }
    }

    /// Replaces every field of this name by one. `name` must be lower case.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        match Known::from_name(name) {
            Some(known) => self.set_known(known, value),
            None => {
                self.remove_unknown(name);
                self.append_resolved(None, name, value);
            }
        }
    }

    /// Replaces every field of this known name by one.
    pub fn set_known(&mut self, known: Known, value: &[u8]) {
        self.remove_known(known);
        self.append_known(known, value);
    }

    /// Removes every field of this name (lower case); true if there was one.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        match Known::from_name(name) {
            Some(known) => self.remove_known(known),
            None => self.remove_unknown(name),
        }
    }

    fn remove_unknown(&mut self, name: &[u8]) -> bool {
        // Mostly there is none.
        self.fields.iter().any(|field| self.is_named(field, None, name))
            && self.retain(|_, field_name, _| field_name != name)
    }

    /// Removes every field of this known name; true if there was one.
    pub fn remove_known(&mut self, known: Known) -> bool {
        if !self.contains_known(known) {
            return false;
        }
        self.retain(|field_known, _, _| field_known != Some(known))
    }

    /// Keeps the fields for which `keep(known, name, value)` is true; true if any went.
    pub fn retain(&mut self, mut keep: impl FnMut(Option<Known>, &[u8], &[u8]) -> bool) -> bool {
        let mut fields = std::mem::take(&mut self.fields);
        let before = fields.len();
        fields.retain(|field| {
            let (name, value) = (self.name_of(field), self.bytes(field.value));
            keep(known_of(field), name, value)
        });
        let gone = fields.len() != before;
        if gone {
            self.list_size = fields.iter().map(|field| self.name_of(field).len() + field.value.len() + 32).sum();
            self.present = fields.iter().filter_map(known_of).fold(0, |present, known| present | known.bit());
        }
        self.fields = fields;
        gone
    }

    /// The first value of this name (lower case).
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let known = Known::from_name(name);
        if known.is_some_and(|known| !self.contains_known(known)) {
            return None;
        }
        let field = self.fields.iter().find(|field| self.is_named(field, known, name))?;
        Some(self.bytes(field.value))
    }

    /// Every value of this name (lower case), in order.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        let known = Known::from_name(name);
        self.fields.iter().filter(move |field| self.is_named(field, known, name)).map(|field| self.bytes(field.value))
    }

    fn is_named(&self, field: &Field, known: Option<Known>, name: &[u8]) -> bool {
        match known {
            Some(known) => field.known == known as u8,
            None => field.known == UNKNOWN && self.bytes(field.name) == name,
        }
    }

    /// The first value of this known name.
    pub fn get_known(&self, known: Known) -> Option<&[u8]> {
        self.contains_known(known).then(|| self.get_all_known(known).next()).flatten()
    }

    /// Every value of this known name, in order.
    pub fn get_all_known(&self, known: Known) -> impl Iterator<Item = &[u8]> + '_ {
        self.fields.iter().filter(move |field| field.known == known as u8).map(|field| self.bytes(field.value))
    }

    /// Where the first value of this known name stands in the arena. It stays there
    /// until the next `clear`, even if the field is removed.
    pub(crate) fn span_of_known(&self, known: Known) -> Option<Span> {
        if !self.contains_known(known) {
            return None;
        }
        self.fields.iter().find(|field| field.known == known as u8).map(|field| field.value)
    }

    /// True if there is a field of this known name.
    pub fn contains_known(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = HeaderRef<'_>> + '_ {
        self.fields.iter().map(|field| HeaderRef {
            known: known_of(field),
            name: self.name_of(field),
            value: self.bytes(field.value),
            sensitive: field.flags & SENSITIVE != 0,
        })
    }

    #[inline]
    fn name_of<'a>(&'a self, field: &Field) -> &'a [u8] {
        match known_of(field) {
            Some(known) => known.name().as_bytes(),
            None => self.bytes(field.name),
        }
    }
}

fn known_of(field: &Field) -> Option<Known> {
    Known::ALL.get(usize::from(field.known)).copied()
}

/// One field, borrowed from a [`Headers`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// The name as a [`Known`], if it is one.
    pub known: Option<Known>,
    /// The lower-case name.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Never to be put in an HPACK table.
    pub sensitive: bool,
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|h| (String::from_utf8_lossy(h.name), String::from_utf8_lossy(h.value))))
            .finish()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().map(|h| (h.name, h.value)).eq(other.iter().map(|h| (h.name, h.value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_finds_by_name() {
        let mut headers = Headers::new();
        headers.append(b"x-a", b"1");
        headers.append_lower(b"Content-Type", b"text/plain");
        headers.append(b"x-a", b"2");
        assert_eq!(headers.get_all(b"x-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(headers.get_known(Known::ContentType), Some(&b"text/plain"[..]));
        assert_eq!(headers.list_size(), 3 + 1 + 32 + 12 + 10 + 32 + 3 + 1 + 32);
        assert!(headers.remove(b"x-a"));
        assert!(!headers.remove(b"x-a"));
        assert_eq!(headers.len(), 1);
        assert_eq!(headers.list_size(), 12 + 10 + 32);
    }

    #[test]
    fn every_known_name_finds_itself_and_its_neighbours_find_nothing() {
        for &known in Known::ALL {
            let name = known.name().as_bytes();
            assert_eq!(Known::from_name(name), Some(known));
            // Mostly of the same length, ends and middle, and so of the same place.
            let mut other = name.to_vec();
            other[1] ^= 1;
            let is_known = Known::ALL.iter().any(|known| known.name().as_bytes() == other);
            assert_eq!(Known::from_name(&other).is_some(), is_known, "{}", String::from_utf8_lossy(&other));
        }
        for name in ["", "a", "te-", "x"] {
            assert_eq!(Known::from_name(name.as_bytes()), None);
        }
    }

    #[test]
    fn what_is_present_is_known_through_every_change() {
        let mut headers = Headers::new();
        let is_there = |headers: &Headers| Known::ALL.iter().filter(|known| headers.contains_known(**known)).count();
        headers.append(b"host", b"a");
        headers.append_lower(b"HOST", b"b");
        headers.append_known(Known::Via, b"c");
        headers.append(b"x-a", b"d");
        assert_eq!((is_there(&headers), headers.get(b"via"), headers.get(b"te")), (2, Some(&b"c"[..]), None));
        headers.retain(|_, _, value| value != b"a");
        assert_eq!(headers.get_known(Known::Host), Some(&b"b"[..]), "the other is still there");
        assert!(headers.remove(b"host") && !headers.remove_known(Known::Host));
        headers.set(b"date", b"e");
        assert_eq!((is_there(&headers), headers.clone().get(b"date")), (2, Some(&b"e"[..])));
        headers.clear();
        assert_eq!((is_there(&headers), headers.get_known(Known::Date)), (0, None));
    }

    #[test]
    fn what_stands_in_the_arena_moves_only_for_want_of_room() {
        let mut headers = Headers::new();
        headers.append(b"x-a", b"before");
        let at = headers.get(b"x-a").unwrap().as_ptr();
        let left = headers.make_room(1000).unwrap();
        assert!(left.as_ptr_range().contains(&at));
        let at = headers.get(b"x-a").unwrap().as_ptr();
        assert!(headers.make_room(1000).is_none());
        headers.append(b"x-b", &[b'v'; 997]);
        assert_eq!(headers.get(b"x-a").unwrap().as_ptr(), at);
        assert_eq!(headers.get(b"x-a"), Some(&b"before"[..]));
    }

    #[test]
    fn clear_keeps_the_allocation() {
        let mut headers = Headers::new();
        headers.append(b"x-long-name", &[b'v'; 500]);
        let capacity = headers.arena.capacity();
        headers.clear();
        headers.append(b"x-long-name", &[b'v'; 400]);
        assert_eq!(headers.arena.capacity(), capacity);
    }
}
