//! HTTP/1: heads and bodies.
//!
//! Whatever was read is written again and read by [`strict`], so that a request
//! that two recipients could understand differently is found by its rewriting.

use pymesh_http::h1::{self, BodyDecoder, BodyEncoder, Framing};
use pymesh_http::{Headers, Known, Limits, Method, RequestHead, ResponseHead, Scheme, Version};

use crate::input::Input;
use crate::strict::{self, show};

/// Most prefixes of an input that are tried.
const MOST_CUTS: usize = 192;

/// Lengths of prefixes of `data`: all, or evenly spaced ones and those at the end.
fn cuts(data: &[u8]) -> impl Iterator<Item = usize> {
    let (length, step) = (data.len(), data.len() / MOST_CUTS + 1);
    (0..length).filter(move |at| at % step == 0 || at + 8 > length)
}

/// Few of everything, so that short inputs come to the limits.
fn small() -> Limits {
    Limits { header_list_size: 256, header_count: 4, target_size: 16, chunk_line_size: 8, ..Limits::default() }
}

/// A request head, and what is behind it.
pub fn request(data: &[u8]) {
    let limits = Limits::default();
    let mut head = RequestHead::default();
    let whole = h1::parse_request(data, Scheme::Http, &limits, &mut head);
    let mut part = RequestHead::default();
    for at in cuts(data) {
        match h1::parse_request(&data[..at], Scheme::Http, &limits, &mut part) {
            Ok(None) => assert!(!matches!(whole, Ok(Some(info)) if info.consumed <= at), "{at} octets were enough"),
            Ok(Some(info)) => assert_eq!((Ok(Some(info)), &part.headers), (whole, &head.headers), "after {at} octets"),
            Err(refusal) => assert!(whole.is_err(), "{refusal} after {at} octets is taken back"),
        }
    }
    match h1::parse_request(data, Scheme::Http, &small(), &mut part) {
        Ok(info) => assert!(whole.is_ok() && (info.is_none() || whole == Ok(info)), "less is allowed, more is read"),
        Err(refusal) => assert!(whole.is_err() || matches!(refusal.status, 414 | 431), "{refusal} for a limit"),
    }
    let Ok(Some(info)) = whole else { return };
    assert!(info.consumed <= data.len());
    check_looks(data, info.consumed);
    if !head.is_well_formed() {
        // A fragment, which is refused when the path is made canonical.
        return assert!(head.path().contains(&b'#'), "{}", show(data));
    }
    let framing = h1::request_framing(&head, info.framing == Framing::None);
    let mut written = Vec::new();
    h1::write_request(&mut written, &head, framing);
    let judged = match strict::request(&written) {
        Ok(Some(judged)) => judged,
        other => panic!("{} is written as {}: {other:?}", show(data), show(&written)),
    };
    assert_eq!(judged.length, written.len(), "more than one request is written: {}", show(&written));
    assert_eq!(judged.first, head.method_bytes());
    assert_eq!(judged.second, if head.method == Method::Connect { head.authority() } else { head.path() });
    assert_eq!(judged.all("host").next(), Some(head.authority()));
    let wanted = match info.framing {
        Framing::Length(length) => strict::Body::Length(length),
        Framing::Chunked => strict::Body::Chunked,
        Framing::None | Framing::UntilClose => judged.body,
    };
    assert_eq!(judged.body, wanted, "the body ends elsewhere");
    assert!(info.framing != Framing::None || matches!(judged.body, strict::Body::Unsaid | strict::Body::Length(0)));
    let mut again = RequestHead::default();
    let read = h1::parse_request(&written, Scheme::Http, &limits, &mut again);
    assert!(
        read.is_ok_and(|read| read.is_some_and(|read| read.framing == info.framing)),
        "{read:?}: {}",
        show(&written)
    );
    assert_eq!(
        (again.method_bytes(), again.path(), again.authority()),
        (head.method_bytes(), head.path(), head.authority())
    );
    assert_eq!(forwarded(&again.headers), forwarded(&head.headers));
}

/// What is left when the framing is not looked at.
fn forwarded(headers: &Headers) -> Vec<(Vec<u8>, Vec<u8>)> {
    let kept = headers.iter().filter(|field| field.known != Some(Known::ContentLength));
    kept.map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
}

/// A head that grows octet by octet is parsed when its end has come.
fn check_looks(data: &[u8], consumed: usize) {
    let mut tried = 0;
    for at in 1..=consumed.min(512) {
        if h1::is_worth_parsing(&data[..at], tried) {
            tried = at;
        }
    }
    assert!(consumed > 512 || tried == consumed, "the end of {} is not looked at", show(&data[..consumed]));
}

/// The first octet says what was asked, the rest is the answer.
pub fn response(data: &[u8]) {
    let Some((flags, data)) = data.split_first() else { return };
    let method = if flags & 1 == 1 { Method::Head } else { Method::Get };
    let client = if flags & 4 == 4 { Version::Http10 } else { Version::Http11 };
    // A request of HTTP/1.0 cannot ask for another protocol.
    let asked_upgrade = flags & 2 == 2 && client == Version::Http11;
    let limits = Limits::default();
    let mut head = ResponseHead::default();
    let whole = h1::parse_response(data, method, asked_upgrade, &limits, &mut head);
    let mut part = ResponseHead::default();
    for at in cuts(data) {
        match h1::parse_response(&data[..at], method, asked_upgrade, &limits, &mut part) {
            Ok(None) => assert!(!matches!(whole, Ok(Some(info)) if info.consumed <= at), "{at} octets were enough"),
            Ok(Some(info)) => assert_eq!((Ok(Some(info)), &part.headers), (whole, &head.headers), "after {at} octets"),
            Err(refusal) => assert!(whole.is_err(), "{refusal} after {at} octets is taken back"),
        }
    }
    let Ok(Some(info)) = whole else { return };
    assert!(info.consumed <= data.len());
    check_looks(data, info.consumed);
    assert!(head.status != 101 || asked_upgrade, "an upgrade that nobody asked for");
    let ended = info.framing == Framing::None;
    let framing = h1::response_framing(&head, method, client, ended);
    let mut written = Vec::new();
    let persists = info.keep_alive && framing != Framing::UntilClose;
    h1::write_response(&mut written, &head, framing, client, persists);
    let judged = match strict::response(&written) {
        Ok(Some(judged)) => judged,
        other => panic!("{} is written as {}: {other:?}", show(data), show(&written)),
    };
    assert_eq!(judged.length, written.len(), "more than one response is written: {}", show(&written));
    assert_eq!(judged.second, head.status.to_string().as_bytes());
    assert_eq!(judged.first, client.as_str().as_bytes());
    assert!(client == Version::Http11 || judged.body != strict::Body::Chunked, "chunks for HTTP/1.0");
    match (info.framing, judged.body) {
        (Framing::Length(read), strict::Body::Length(wrote)) => assert_eq!(read, wrote),
        (Framing::Length(_), other) => panic!("a length becomes {other:?}"),
        (Framing::Chunked | Framing::UntilClose, strict::Body::Length(length)) => panic!("{length} from nowhere"),
        _ => {}
    }
    assert_eq!(forwarded(&head.headers), {
        let mut again = ResponseHead::default();
        let read = h1::parse_response(&written, method, true, &limits, &mut again);
        assert!(matches!(read, Ok(Some(_))), "{read:?}: {}", show(&written));
        forwarded(&again.headers)
    });
}

/// A body: how it is framed, where it is cut, and its octets.
pub fn body(data: &[u8]) {
    let mut input = Input::new(data);
    let framing = match input.octet() % 4 {
        0 => Framing::Length(u64::from(input.octet())),
        1 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let (limits, piece) = (if input.flag() { small() } else { Limits::default() }, input.below(16) + 1);
    let wire = input.rest();
    let (whole, whole_end) = decode(framing, &limits, wire, wire.len().max(1));
    let (pieces, pieces_end) = decode(framing, &limits, wire, piece);
    assert_eq!((&whole.payload, &whole_end), (&pieces.payload, &pieces_end), "cut by {piece}");
    assert!(!matches!(whole_end, Ok(Some(_))) || whole.trailers == pieces.trailers, "cut by {piece}");
    if let Framing::Length(length) = framing {
        assert_eq!(whole.payload.len() as u64, length.min(wire.len() as u64));
    }
    // What was understood is written as chunks and read by the judge.
    let Ok(Some(_)) = whole_end else { return };
    let mut written = Vec::new();
    let mut encoder = BodyEncoder::new(Framing::Chunked);
    for chunk in whole.payload.chunks(piece * 7) {
        encoder.encode(&mut written, chunk).unwrap();
    }
    encoder.finish(&mut written, Some(&whole.trailers)).unwrap();
    assert_eq!(strict::chunked(&written), Ok(Some((whole.payload, written.len()))));
}

#[derive(Debug, Default, PartialEq)]
struct Decoded {
    payload: Vec<u8>,
    trailers: Headers,
}

/// What is found in `wire`, and how it ends: how many octets belong to the body if it is complete.
fn decode(framing: Framing, limits: &Limits, wire: &[u8], piece: usize) -> (Decoded, Result<Option<usize>, ()>) {
    let (mut decoder, mut found) = (BodyDecoder::new(framing, limits), Decoded::default());
    let (mut used, mut known) = (0, 0);
    while known < wire.len() || used == 0 {
        known = (known + piece).min(wire.len());
        loop {
            let Ok(step) = decoder.decode(&wire[used..known], &mut found.trailers) else { return (found, Err(())) };
            assert!(step.data.end <= step.consumed && step.consumed <= known - used);
            found.payload.extend_from_slice(&wire[used..known][step.data.clone()]);
            used += step.consumed;
            if step.ended {
                return (found, Ok(Some(used)));
            }
            if step.consumed == 0 {
                break;
            }
        }
        if known == wire.len() {
            break;
        }
    }
    (found, Ok(None))
}
