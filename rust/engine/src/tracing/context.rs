//! The trace that a request belongs to, as its headers say: W3C Trace Context, level 1, and B3.
//!
//! `traceparent` counts where it is there and can be read; else `b3`, else `x-b3-*`. The next one is always told in
//! `traceparent`, and in B3 as well if that is what was spoken here: an application that knows only B3 goes on to see it.

use pymesh_http::{Headers, Known};

/// What the next one is told beside `traceparent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    #[default]
    W3c,
    /// `b3`
    B3,
    /// `x-b3-traceid` and its kin.
    B3Headers,
}

/// What the headers of a request say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// The trace, and the span of whoever asks.
    pub parent: Option<(u128, u64)>,
    /// Whether spans are to be kept, if that has been decided.
    pub sampled: Option<bool>,
    pub dialect: Dialect,
}

/// Reads what is there. What cannot be read counts as not said.
pub(crate) fn read(headers: &Headers) -> Inherited {
    let dialect = if headers.get(B3).is_some() {
        Dialect::B3
    } else if headers.get(B3_TRACE_ID).is_some() || headers.get(B3_SAMPLED).is_some() || headers.get(B3_FLAGS).is_some()
    {
        Dialect::B3Headers
    } else {
        Dialect::W3c
    };
    let mut parents = headers.get_all_known(Known::Traceparent);
    let w3c = parents.next().filter(|_| parents.next().is_none()).and_then(read_traceparent);
    if let Some((parent, is_sampled)) = w3c {
        return Inherited { parent: Some(parent), sampled: Some(is_sampled), dialect };
    }
    let (parent, sampled) = match dialect {
        Dialect::W3c => (None, None),
        Dialect::B3 => headers.get(B3).map_or((None, None), read_b3),
        Dialect::B3Headers => read_b3_headers(headers),
    };
    Inherited { parent, sampled, dialect }
}

/// Tells the next one that `span` of `id` asks it.
pub(crate) fn write(headers: &mut Headers, dialect: Dialect, (id, span): (u128, u64), is_sampled: bool) {
    let (mut id_text, mut span_text) = ([0; 32], [0; 16]);
    hex(id, &mut id_text);
    hex(span.into(), &mut span_text);
    let decided: &[u8] = if is_sampled { b"1" } else { b"0" };
    let mut value = [b'-'; 55];
    for (at, part) in [(0, &b"00"[..]), (3, &id_text), (36, &span_text), (53, b"0"), (54, decided)] {
        put(&mut value, at, part);
    }
    headers.set_known(Known::Traceparent, &value);
    match dialect {
        Dialect::W3c => {}
        Dialect::B3 => {
            let mut value = [b'-'; 51];
            for (at, part) in [(0, &id_text[..]), (33, &span_text), (50, decided)] {
                put(&mut value, at, part);
            }
            headers.set(B3, &value);
        }
        Dialect::B3Headers => {
            headers.set(B3_TRACE_ID, &id_text);
            headers.set(B3_SPAN_ID, &span_text);
            headers.set(B3_SAMPLED, decided);
            // It was whose span was the parent of our parent.
            headers.remove(B3_PARENT);
        }
    }
}

const B3: &[u8] = b"b3";
const B3_TRACE_ID: &[u8] = b"x-b3-traceid";
const B3_SPAN_ID: &[u8] = b"x-b3-spanid";
const B3_PARENT: &[u8] = b"x-b3-parentspanid";
const B3_SAMPLED: &[u8] = b"x-b3-sampled";
const B3_FLAGS: &[u8] = b"x-b3-flags";

/// `version "-" trace-id "-" parent-id "-" trace-flags` (section 3.2.2). Of a later version what version 00 says is read,
/// whatever follows it.
fn read_traceparent(value: &[u8]) -> Option<((u128, u64), bool)> {
    let (version, rest) = value.split_at_checked(2)?;
    let version = lower_hex(version)?;
    let (known, behind) = rest.split_at_checked(53)?;
    let is_whole = behind.is_empty() || version > 0 && behind.first() == Some(&b'-');
    if version == 0xff || !is_whole {
        return None;
    }
    let mut parts = known.strip_prefix(b"-")?.split(|octet| *octet == b'-');
    let id = parts.next().filter(|id| id.len() == 32).and_then(lower_hex)?;
    let span = parts.next().filter(|span| span.len() == 16).and_then(lower_hex)?;
    let flags = parts.next().filter(|flags| flags.len() == 2).and_then(lower_hex)?;
    let parent = numbers(id, span)?;
    Some((parent, flags & 1 == 1))
}

/// `{trace-id}-{span-id}-{sampling}-{parent}`, of which the last two may be missing; or the sampling alone. All of it is
/// read or nothing: whoever spoils one part of it is not believed the others.
fn read_b3(value: &[u8]) -> (Option<(u128, u64)>, Option<bool>) {
    let sampling = |value: &[u8]| match value {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    };
    let mut parts = value.splitn(4, |octet| *octet == b'-');
    let (first, span) = (parts.next().unwrap_or_default(), parts.next());
    let Some(span) = span else { return (None, sampling(first)) };
    let (decided, above) = (parts.next(), parts.next());
    let sampled = decided.and_then(sampling);
    let is_whole = decided.is_some() == sampled.is_some() && above.is_none_or(|span| read_span(span).is_some());
    match (is_whole, read_id(first), read_span(span)) {
        (true, Some(id), Some(span)) => (numbers(id, span), sampled),
        _ => (None, None),
    }
}

fn read_b3_headers(headers: &Headers) -> (Option<(u128, u64)>, Option<bool>) {
    let parent = headers.get(B3_TRACE_ID).zip(headers.get(B3_SPAN_ID)).and_then(|(id, span)| read_numbers(id, span));
    // Debug says that it is to be kept, whatever else is said.
    let is_debug = (headers.get(B3_FLAGS) == Some(b"1")).then_some(true);
    (parent, is_debug.or_else(|| headers.get(B3_SAMPLED).and_then(read_sampling)))
}

/// Words are from before there was a specification, which allows them here.
fn read_sampling(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

fn read_numbers(id: &[u8], span: &[u8]) -> Option<(u128, u64)> {
    numbers(read_id(id)?, read_span(span)?)
}

/// B3's trace ids may have half the length.
fn read_id(id: &[u8]) -> Option<u128> {
    Some(id).filter(|id| matches!(id.len(), 16 | 32)).and_then(any_hex)
}

fn read_span(span: &[u8]) -> Option<u128> {
    Some(span).filter(|span| span.len() == 16).and_then(any_hex)
}

fn numbers(id: u128, span: u128) -> Option<(u128, u64)> {
    let span = u64::try_from(span).ok()?;
    (id != 0 && span != 0).then_some((id, span))
}

fn lower_hex(text: &[u8]) -> Option<u128> {
    if text.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    any_hex(text)
}

fn any_hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0_u128, |number, digit| Some(number << 4 | u128::from(char::from(*digit).to_digit(16)?)))
}

/// The last digits of a number, as many as there is room for.
fn hex(mut number: u128, into: &mut [u8]) {
    for digit in into.iter_mut().rev() {
        let nibble = (number & 0xf) as u8;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        number >>= 4;
    }
}

fn put(value: &mut [u8], at: usize, part: &[u8]) {
    if let Some(place) = value.get_mut(at..at + part.len()) {
        place.copy_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;
    const W3C: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        fields.iter().for_each(|(name, value)| headers.append(name.as_bytes(), value.as_bytes()));
        headers
    }

    #[test]
    fn traceparent_is_read_as_its_grammar_says() {
        let read_one = |value: &str| read(&headers(&[("traceparent", value)]));
        let good = Inherited { parent: Some((ID, SPAN)), sampled: Some(true), dialect: Dialect::W3c };
        assert_eq!(read_one(W3C), good);
        assert_eq!(read_one(&W3C.replace("-01", "-00")).sampled, Some(false));
        assert_eq!(read_one(&W3C.replace("-01", "-ff")).sampled, Some(true), "other flags are not ours");
        assert_eq!(read_one(&W3C.replacen("00", "cc", 1)), good, "a later version");
        assert_eq!(read_one(&(W3C.replacen("00", "cc", 1) + "-what-comes")), good);
        for bad in [
            "",
            "00",
            W3C.strip_suffix('1').unwrap(),
            &W3C.to_uppercase(),
            &W3C.replacen("00", "ff", 1),
            &(W3C.to_owned() + "-more"),
            &(W3C.replacen("00", "cc", 1) + "more"),
            &W3C.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &W3C.replace("00f067aa0ba902b7", "0000000000000000"),
            &W3C.replace('f', "g"),
            &W3C.replace("7-01", "-701"),
        ] {
            assert_eq!(read_one(bad), Inherited::default(), "{bad}");
        }
        assert_eq!(read(&headers(&[("traceparent", W3C), ("traceparent", W3C)])).parent, None, "there can be one only");
    }

    #[test]
    fn b3_is_read_in_one_header_or_several() {
        let (id, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let parent = Some((ID, SPAN));
        let one = |value: &str| {
            let found = read(&headers(&[("b3", value)]));
            assert_eq!(found.dialect, Dialect::B3);
            (found.parent, found.sampled)
        };
        assert_eq!(one(&format!("{id}-{span}-1-{span}")), (parent, Some(true)));
        assert_eq!(one(&format!("{id}-{span}-d")), (parent, Some(true)));
        assert_eq!(one(&format!("{id}-{span}-0")), (parent, Some(false)));
        assert_eq!(one(&format!("{id}-{span}")), (parent, None));
        assert_eq!(one(&format!("a3ce929d0e0e4736-{span}")).0, Some((0xa3ce_929d_0e0e_4736, SPAN)));
        assert_eq!(one("0"), (None, Some(false)));
        assert_eq!(one("nonsense"), (None, None));
        for spoilt in ["1-", "1-x", "true", "1-0000000000000001-more", "1-0000000000000001-"] {
            assert_eq!(one(&format!("{id}-{span}-{spoilt}")), (None, None), "{spoilt}");
        }
        assert_eq!(one(&format!("{id}-{}-1", span.trim_start_matches('0'))), (None, None));
        assert_eq!(one("true"), (None, None), "that is a word of x-b3-sampled");
        let words = headers(&[("x-b3-sampled", "true")]);
        assert_eq!(read(&words).sampled, Some(true));
        let several = headers(&[("x-b3-traceid", id), ("x-b3-spanid", span), ("x-b3-sampled", "0")]);
        assert_eq!(read(&several), Inherited { parent, sampled: Some(false), dialect: Dialect::B3Headers });
        let debug = headers(&[("x-b3-traceid", id), ("x-b3-spanid", span), ("x-b3-flags", "1")]);
        assert_eq!(read(&debug).sampled, Some(true));
        let both = read(&headers(&[("traceparent", W3C), ("b3", "0")]));
        assert_eq!(both, Inherited { parent, sampled: Some(true), dialect: Dialect::B3 }, "W3C counts");
    }

    #[test]
    fn what_is_written_is_read() {
        for dialect in [Dialect::W3c, Dialect::B3, Dialect::B3Headers] {
            for is_sampled in [true, false] {
                let mut headers = headers(&[("x-b3-parentspanid", "00f067aa0ba902b7")]);
                write(&mut headers, dialect, (ID, SPAN), is_sampled);
                let told = Inherited { parent: Some((ID, SPAN)), sampled: Some(is_sampled), dialect };
                assert_eq!(read(&headers), told);
                headers.remove_known(Known::Traceparent);
                let told = if dialect == Dialect::W3c { Inherited::default() } else { told };
                assert_eq!(read(&headers), told, "in its dialect alone");
            }
        }
        let mut fresh = Headers::new();
        write(&mut fresh, Dialect::W3c, (ID, SPAN), true);
        assert_eq!(fresh.get(b"traceparent"), Some(W3C.as_bytes()));
    }
}
