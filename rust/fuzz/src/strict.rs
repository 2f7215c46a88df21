//! HTTP/1 as the most careful recipient reads it: whatever two readers could
//! understand differently is an error here. It shares no code with our own
//! parser and judges what we write, which is plainer than what we accept.

/// One message head.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// Method and target, or version and status.
    pub first: &'a [u8],
    pub second: &'a [u8],
    pub fields: Vec<(&'a [u8], &'a [u8])>,
    /// Octets of the head with its empty line.
    pub length: usize,
    pub body: Body,
}

/// Where the body ends by the fields alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Unsaid,
    Length(u64),
    Chunked,
}

impl<'a> Head<'a> {
    pub(crate) fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.fields.iter().filter(move |(known, _)| *known == name.as_bytes()).map(|(_, value)| *value)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }
}

/// A request head at the start of `octets`; `None` if it is not complete yet.
pub(crate) fn request(octets: &[u8]) -> Result<Option<Head<'_>>, String> {
    let Some((line, mut head)) = head(octets)? else { return Ok(None) };
    let parts: Vec<&[u8]> = line.split(|octet| *octet == b' ').collect();
    let [method, target, version] = parts[..] else {
        return Err(format!("the request line has {} parts: {}", parts.len(), show(line)));
    };
    if version != b"HTTP/1.1" || !is_token(method) {
        return Err(format!("bad method or version: {}", show(line)));
    }
    let is_authority = method == b"CONNECT" && !target.starts_with(b"/");
    let is_origin = target.starts_with(b"/") || (method == b"OPTIONS" && target == b"*");
    let is_plain = target.iter().all(|octet| octet.is_ascii_graphic() && *octet != b'#');
    if target.is_empty() || !is_plain || !(is_authority || is_origin) {
        return Err(format!("bad target: {}", show(target)));
    }
    let hosts: Vec<&[u8]> = head.all("host").collect();
    let [host] = hosts[..] else { return Err(format!("{} hosts", hosts.len())) };
    if host.iter().any(|octet| !octet.is_ascii_graphic() || b"@/?#\\\"<>|^`{}".contains(octet)) {
        return Err(format!("bad host: {}", show(host)));
    }
    (head.first, head.second) = (method, target);
    Ok(Some(head))
}

/// A response head at the start of `octets`; `None` if it is not complete yet.
pub(crate) fn response(octets: &[u8]) -> Result<Option<Head<'_>>, String> {
    let Some((line, mut head)) = head(octets)? else { return Ok(None) };
    let bad = || format!("bad status line: {}", show(line));
    let (version, rest) = line.split_at_checked(9).ok_or_else(bad)?;
    let (status, reason) = rest.split_at_checked(3).ok_or_else(bad)?;
    if !matches!(version, b"HTTP/1.1 " | b"HTTP/1.0 ") {
        return Err(bad());
    }
    if !matches!(status, [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']) || !reason.starts_with(b" ") {
        return Err(format!("bad status: {}", show(line)));
    }
    (head.first, head.second) = (version.trim_ascii(), status);
    Ok(Some(head))
}

/// The octets of a chunked body at the start of `octets` and how many of them there
/// are with their framing; `None` if it is not complete yet.
pub(crate) fn chunked(octets: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut used) = (Vec::new(), 0);
    loop {
        let Some(line) = line(&octets[used..])? else { return Ok(None) };
        used += line.len() + 2;
        let is_size = !line.is_empty() && line.len() <= 16 && line.iter().all(u8::is_ascii_hexdigit);
        let size = is_size.then(|| std::str::from_utf8(line).ok()).flatten();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size else { return Err(format!("bad chunk size: {}", show(line))) };
        if size == 0 {
            let Some((_, length)) = fields(&octets[used..])? else { return Ok(None) };
            return Ok(Some((body, used + length)));
        }
        let Some(chunk) = octets.get(used..used + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        used += size;
        match octets.get(used..used + 2) {
            Some(b"\r\n") => used += 2,
            Some(other) => return Err(format!("no CRLF after a chunk: {}", show(other))),
            None => return Ok(None),
        }
    }
}

fn head(octets: &[u8]) -> Result<Option<(&[u8], Head<'_>)>, String> {
    let Some(first) = line(octets)? else { return Ok(None) };
    let start = first.len() + 2;
    let Some((fields, length)) = fields(&octets[start..])? else { return Ok(None) };
    let mut head = Head { first: b"", second: b"", fields, length: start + length, body: Body::Unsaid };
    let lengths: Vec<&[u8]> = head.all("content-length").collect();
    let codings: Vec<&[u8]> = head.all("transfer-encoding").collect();
    head.body = match (&lengths[..], &codings[..]) {
        ([], []) => Body::Unsaid,
        ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(length).unwrap();
            Body::Length(length.parse().map_err(|_| format!("content-length {length}"))?)
        }
        ([], [b"chunked"]) => Body::Chunked,
        _ => return Err(format!("ambiguous framing: {:?}", head.fields.iter().map(|f| show(f.1)).collect::<Vec<_>>())),
    };
    Ok(Some((first, head)))
}

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// Fields up to and with the empty line, and how many octets they are.
fn fields(octets: &[u8]) -> Result<Option<(Fields<'_>, usize)>, String> {
    let (mut found, mut used) = (Vec::new(), 0);
    loop {
        let Some(line) = line(&octets[used..])? else { return Ok(None) };
        used += line.len() + 2;
        if line.is_empty() {
            return Ok(Some((found, used)));
        }
        let colon = line.iter().position(|octet| *octet == b':').ok_or_else(|| format!("no colon: {}", show(line)))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // Lower case is not the standard's demand but our writer's habit.
        if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
            return Err(format!("bad field name: {}", show(line)));
        }
        found.push((name, value));
    }
}

/// The line that `octets` begin with, without its CRLF.
fn line(octets: &[u8]) -> Result<Option<&[u8]>, String> {
    let Some(end) = octets.iter().position(|octet| matches!(octet, b'\r' | b'\n')) else {
        return check_text(octets).map(|()| None);
    };
    check_text(&octets[..end])?;
    match &octets[end..] {
        [b'\r', b'\n', ..] => Ok(Some(&octets[..end])),
        [b'\r'] => Ok(None),
        _ => Err(format!("a bare CR or LF behind {}", show(&octets[..end]))),
    }
}

fn check_text(octets: &[u8]) -> Result<(), String> {
    match octets.iter().all(|octet| *octet == b'\t' || (*octet >= 0x20 && *octet != 0x7f)) {
        true => Ok(()),
        false => Err(format!("control octets: {}", show(octets))),
    }
}

fn is_token(octets: &[u8]) -> bool {
    !octets.is_empty() && octets.iter().all(|octet| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet))
}

/// For messages.
pub(crate) fn show(octets: &[u8]) -> String {
    octets.escape_ascii().to_string()
}
