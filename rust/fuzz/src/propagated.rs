//! Headers that say where a request belongs and who asks: traces, deadlines, certificates of clients.

use std::sync::LazyLock;
use std::time::Duration;

use pymesh_engine::testing::{forwarded_client_cert, grpc_timeout, grpc_timeout_value, read_trace, write_trace, Told};
use pymesh_http::Headers;
use pymesh_model::http::{ClientCert, ClientCertDetails};
use regex::bytes::{Captures, Regex};

use crate::input::Input;
use crate::strict::show;

/// Which of them, then what they say.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.octet() % 4 {
        0 => trace(&mut input),
        1 => trace_round_trip(&mut input),
        2 => timeout(&mut input),
        _ => client_cert(&mut input),
    }
}

const NAMES: &[&[u8]] = &[
    b"traceparent",
    b"b3",
    b"x-b3-traceid",
    b"x-b3-spanid",
    b"x-b3-sampled",
    b"x-b3-flags",
    b"x-b3-parentspanid",
    b"tracestate",
];

fn trace(input: &mut Input<'_>) {
    let mut headers = Headers::new();
    while !input.is_empty() {
        let name = *input.pick(NAMES);
        let value = input.string();
        // The grammars know one of each.
        if headers.get(name).is_none() || name == b"traceparent" {
            headers.append(name, value);
        }
    }
    let told = read_trace(&headers);
    assert_eq!((told.parent, told.sampled), judged(&headers), "{headers:?}");
    let again =
        Told { parent: Some(told.parent.unwrap_or((1, 1))), sampled: Some(told.sampled.unwrap_or(false)), ..told };
    write_trace(&mut headers, &again);
    assert_eq!(read_trace(&headers), again, "{headers:?}");
    assert!(headers.get_all(b"traceparent").count() == 1, "{headers:?}");
}

fn pattern(text: &str) -> Regex {
    Regex::new(&format!("(?s-u)^(?:{text})$")).unwrap()
}

type Parent = Option<(u128, u64)>;

/// As the specifications' own grammars read it: W3C Trace Context section 3.2, and that of B3.
fn judged(headers: &Headers) -> (Parent, Option<bool>) {
    // Of a later version at least this much is read, and a dash parts it from what is new (section 3.2.4).
    static W3C: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(?:00-(?P<i>[0-9a-f]{32})-(?P<s>[0-9a-f]{16})-(?P<f>[0-9a-f]{2})|[0-9a-f]{2}-(?P<j>[0-9a-f]{32})-(?P<t>[0-9a-f]{16})-(?P<g>[0-9a-f]{2})(?:-.*)?)")
    });
    static B3: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(?P<i>(?:[0-9A-Fa-f]{16}){1,2})-(?P<s>[0-9A-Fa-f]{16})(?:-(?P<f>[01d])(?:-[0-9A-Fa-f]{16})?)?|(?P<g>[01d])")
    });
    static ID: LazyLock<Regex> = LazyLock::new(|| pattern("(?:[0-9A-Fa-f]{16}){1,2}"));
    static SPAN: LazyLock<Regex> = LazyLock::new(|| pattern("[0-9A-Fa-f]{16}"));
    let parents: Vec<&[u8]> = headers.get_all(b"traceparent").collect();
    if let [parent] = parents[..] {
        let known = if parent.starts_with(b"00") { &["i", "s", "f"] } else { &["j", "t", "g"] };
        let found = W3C.captures(parent).filter(|found| !parent.starts_with(b"ff") && found.name(known[0]).is_some());
        let said = found.and_then(|found| {
            let [id, span, flags] = known.map(|name| &found[name]);
            Some((numbers(id, span)?, number(flags) & 1 == 1))
        });
        if let Some((parent, is_sampled)) = said {
            return (Some(parent), Some(is_sampled));
        }
    }
    if let Some(b3) = headers.get(b"b3") {
        let Some(found) = B3.captures(b3) else { return (None, None) };
        let get = |found: &Captures<'_>, name: &str| found.name(name).map(|found| found.as_bytes().to_vec());
        let parent = get(&found, "i").zip(get(&found, "s")).and_then(|(id, span)| numbers(&id, &span));
        let sampled = get(&found, "f").or_else(|| get(&found, "g")).map(|flag| flag != b"0");
        return (parent, sampled);
    }
    let id = headers.get(b"x-b3-traceid").filter(|id| ID.is_match(id));
    let span = headers.get(b"x-b3-spanid").filter(|span| SPAN.is_match(span));
    let sampled = match (headers.get(b"x-b3-flags"), headers.get(b"x-b3-sampled")) {
        (Some(b"1"), _) | (_, Some(b"1" | b"true")) => Some(true),
        (_, Some(b"0" | b"false")) => Some(false),
        _ => None,
    };
    (id.zip(span).and_then(|(id, span)| numbers(id, span)), sampled)
}

fn number(digits: &[u8]) -> u128 {
    u128::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
}

/// Zeros are nobody's.
fn numbers(id: &[u8], span: &[u8]) -> Parent {
    let (id, span) = (number(id), number(span) as u64);
    (id != 0 && span != 0).then_some((id, span))
}

fn trace_round_trip(input: &mut Input<'_>) {
    let mut long = || u128::from(input.long()) << 32 | u128::from(input.long());
    let (id, span) = (long() << 64 | long(), long() as u64);
    let told = Told {
        parent: Some((id.max(1), span.max(1))),
        sampled: Some(input.flag()),
        b3: input.flag(),
        b3_headers: false,
    };
    let told = Told { b3_headers: !told.b3 && input.flag(), ..told };
    let mut headers = Headers::new();
    write_trace(&mut headers, &told);
    assert_eq!((read_trace(&headers), judged(&headers)), (told, (told.parent, told.sampled)), "{headers:?}");
    headers.remove(b"traceparent");
    let alone = if told.b3 || told.b3_headers { (told.parent, told.sampled) } else { (None, None) };
    let read = read_trace(&headers);
    assert_eq!(((read.parent, read.sampled), judged(&headers)), (alone, alone), "{headers:?}");
}

/// gRPC over HTTP/2, "Requests": `TimeoutValue` and `TimeoutUnit`.
fn timeout(input: &mut Input<'_>) {
    static TIMEOUT: LazyLock<Regex> = LazyLock::new(|| pattern("([0-9]{1,8})([HMSmun])"));
    let judged = |value: &[u8]| {
        let found = TIMEOUT.captures(value)?;
        let digits: u128 = std::str::from_utf8(&found[1]).unwrap().parse().unwrap();
        let nanos: u128 = match &found[2] {
            b"H" => 3_600_000_000_000,
            b"M" => 60_000_000_000,
            b"S" => 1_000_000_000,
            b"m" => 1_000_000,
            b"u" => 1_000,
            _ => 1,
        };
        Some((digits * nanos, nanos))
    };
    let time = Duration::new(u64::from(input.long()) << input.below(32), input.long() % 1_000_000_000);
    let text = grpc_timeout_value(time);
    let (nanos, unit) = judged(text.as_bytes()).unwrap_or_else(|| panic!("{time:?} is written as {text}"));
    assert!(nanos <= time.as_nanos(), "{time:?} becomes longer: {text}");
    let most = 99_999_999 * 3_600_000_000_000;
    assert!(time.as_nanos() - nanos < unit || nanos == most, "{time:?} becomes {text}");
    assert_eq!(grpc_timeout(text.as_bytes()).map(|read| read.as_nanos()), Some(nanos), "{text}");
    let value = input.rest();
    let read = grpc_timeout(value).map(|read| read.as_nanos());
    assert_eq!(read, judged(value).map(|(nanos, _)| nanos), "{}", show(value));
}

/// `x-forwarded-client-cert`: what a client says of itself stays only where it may, and ours is one element behind it.
fn client_cert(input: &mut Input<'_>) {
    use ClientCert::*;
    let how = *input.pick(&[Sanitize, ForwardOnly, AppendForward, SanitizeSet, AlwaysForwardOnly]);
    let details = ClientCertDetails { subject: input.flag(), uri: input.flag(), dns: input.flag() };
    let has_cert = input.flag();
    // Names of certificates that are let in have no separators of this header.
    let mut name = |also: &[u8]| -> String {
        let of = |octet: &u8| char::from(if also.contains(octet) { *octet } else { b'a' + octet % 26 });
        input.string().iter().map(of).collect()
    };
    let (subject, own, uri, dns) = (name(b"\",;= \n"), name(b":/."), name(b":/."), name(b".*-"));
    let old = input.rest();
    let mut headers = Headers::new();
    if !old.is_empty() {
        headers.append(b"x-forwarded-client-cert", old);
    }
    let hash = [0xab; 32];
    let cert = has_cert.then_some((&subject[..], &own[..], &uri[..], &dns[..], hash));
    forwarded_client_cert(&mut headers, how, details, cert);
    let all: Vec<&[u8]> = headers.get_all(b"x-forwarded-client-cert").collect();
    assert!(all.len() <= 1, "{headers:?}");
    let old = Some(old).filter(|old| !old.is_empty());
    let kept = match how {
        AlwaysForwardOnly => old,
        ForwardOnly | AppendForward => old.filter(|_| has_cert),
        Sanitize | SanitizeSet => None,
    };
    if !has_cert || !matches!(how, AppendForward | SanitizeSet) {
        return assert_eq!(all.first().copied(), kept);
    }
    let ours = match kept {
        Some(kept) => all[0].strip_prefix(kept).and_then(|rest| rest.strip_prefix(b",")).expect("the old one is first"),
        None => all[0],
    };
    let mut wanted = vec![("By", own), ("Hash", "ab".repeat(32))];
    wanted.extend(details.subject.then_some(("Subject", subject)));
    wanted.extend(details.uri.then_some(("URI", uri)));
    wanted.extend(details.dns.then_some(("DNS", dns)));
    let wanted: Vec<(String, String)> = wanted.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    assert_eq!(element(ours), Some(wanted), "{}", show(ours));
}

/// The one element that this is: `;` between pairs, values with separators in quotes, quotes in them behind a backslash.
fn element(octets: &[u8]) -> Option<Vec<(String, String)>> {
    static PAIR: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"(?s)^([A-Za-z]+)=(?:"((?:[^"\\]|\\")*)"|([^",;=]*))(;|$)"#).unwrap());
    let (mut pairs, mut rest) = (Vec::new(), octets);
    loop {
        let found = PAIR.captures(rest)?;
        let value = found.get(2).or(found.get(3))?.as_bytes();
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).ok();
        pairs.push((text(&found[1])?, text(value)?.replace("\\\"", "\"")));
        if found[4].is_empty() {
            return Some(pairs);
        }
        rest = &rest[found[0].len()..];
    }
}
