//! gRPC-Web: base64 of requests, frames and trailers of answers, however they are cut.

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use pymesh_engine::base::grpc::Frame;
use pymesh_engine::testing::GrpcWebCodec;
use pymesh_http::{Headers, Known, RequestHead, ResponseHead};

use crate::input::Input;
use crate::strict::show;

/// What is asked for, where it is cut, and octets.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (what, piece) = (input.octet(), input.below(16) + 1);
    match what % 4 {
        0 => request(input.rest(), piece),
        1 => {
            let (messages, text) = messages(&mut input);
            assert_eq!(decoded(text.as_bytes(), piece), Some(messages), "{text}");
            request(text.as_bytes(), piece);
        }
        _ => answer(&mut input, what & 1 == 1, what & 4 == 4, piece),
    }
}

/// Messages, each with its own padding, as browsers send them that write more than one.
fn messages(input: &mut Input<'_>) -> (Vec<u8>, String) {
    let (mut octets, mut text) = (Vec::new(), String::new());
    while !input.is_empty() {
        let message = input.string();
        octets.extend_from_slice(message);
        text += &STANDARD.encode(message);
    }
    (octets, text)
}

fn opened(accept: &[u8], is_text: bool) -> GrpcWebCodec {
    let mut request = RequestHead::default();
    let form: &[u8] = if is_text { b"application/grpc-web-text+proto" } else { b"application/grpc-web" };
    request.headers.append_known(Known::ContentType, form);
    request.headers.append(b"accept", accept);
    GrpcWebCodec::open(&mut request).expect("it is gRPC-Web")
}

/// The octets of a request in text that comes in such pieces.
fn decoded(text: &[u8], piece: usize) -> Option<Vec<u8>> {
    let (mut codec, mut out) = (opened(b"", true), Vec::new());
    let is_good = text.chunks(piece).all(|piece| codec.request_data(piece, &mut out));
    (is_good && codec.request_end()).then_some(out)
}

fn request(text: &[u8], piece: usize) {
    let whole = decoded(text, text.len().max(1));
    assert_eq!(whole, judged(text), "{}", show(text));
    for piece in [1, 2, 3, 4, 5, piece] {
        assert_eq!(decoded(text, piece), whole, "cut by {piece}: {}", show(text));
    }
    // Text that ends once is base64 to anybody; text with padding within is not to all.
    let theirs = STANDARD.decode(text).ok();
    assert!(theirs.is_none() || theirs == whole, "{}", show(text));
    // In its other form nothing is translated.
    let (mut codec, mut out) = (opened(b"", false), Vec::new());
    assert!(text.chunks(piece).all(|piece| codec.request_data(piece, &mut out)) && codec.request_end());
    assert_eq!(out, text);
}

/// RFC 4648 section 4, group by group, without those that leave bits over (section 3.5).
fn judged(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut octets = Vec::new();
    for group in text.chunks(4) {
        let digits = group.iter().position(|digit| *digit == b'=').unwrap_or(group.len());
        let is_padded = group[digits..].iter().all(|digit| *digit == b'=');
        if group.len() != 4 || digits < 2 || !is_padded {
            return None;
        }
        let mut number = 0_u32;
        for digit in &group[..digits] {
            number = number << 6 | ALPHABET.iter().position(|known| known == digit)? as u32;
        }
        let [_, bits @ ..] = (number << (6 * (4 - digits))).to_be_bytes();
        let (said, over) = bits.split_at(digits - 1);
        if over.iter().any(|octet| *octet != 0) {
            return None;
        }
        octets.extend_from_slice(said);
    }
    Some(octets)
}

/// Octets of an answer, its frames with their own lengths or whatever they are, then trailers.
fn answer(input: &mut Input<'_>, is_framed: bool, wants_text: bool, piece: usize) {
    let mut trailers = Headers::new();
    for _ in 0..input.below(4) {
        // Only what the codec lets through gets here.
        let name: Vec<u8> = input.string().iter().map(|octet| b'a' + octet % 26).collect();
        let value = input.string().iter().filter(|octet| !matches!(octet, b'\r' | b'\n' | 0));
        let value: Vec<u8> = value.copied().collect();
        if !name.is_empty() {
            trailers.append(&name, &value);
        }
    }
    let mut data = Vec::new();
    while is_framed && !input.is_empty() {
        let (kind, message) = (input.octet(), input.string());
        data.push(kind);
        data.extend_from_slice(&(message.len() as u32).to_be_bytes());
        data.extend_from_slice(message);
    }
    data.extend_from_slice(input.rest());
    let (frames, tail) = frames(&data);

    let accept: &[u8] = if wants_text { b"application/grpc-web-text" } else { b"*/*" };
    let mut codec = opened(accept, !wants_text);
    let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
    head.headers.append(b"content-type", b"application/grpc");
    head.headers.append(b"content-length", b"7");
    assert!(codec.begin_answer(&mut head) && head.headers.get_known(Known::ContentLength).is_none());

    let (mut out, mut place, mut begun) = (Vec::new(), Frame::default(), 0);
    for piece in data.chunks(piece) {
        codec.answer_data(piece, &mut out);
        begun += place.begun(piece);
    }
    assert_eq!(begun, frames.len() as u64 + u64::from(!tail.is_empty()), "{}", show(&data));
    let before = out.len();
    codec.answer_trailers(&trailers, &mut out);
    if !wants_text {
        assert_eq!(out[..before], data);
        return check_trailers(&out[before..], &trailers);
    }
    // Each frame is there as soon as it is whole: it has its own padding, and nothing of it waits for the next.
    let text: String = frames.iter().map(|frame| STANDARD.encode(frame)).collect();
    assert!(out.starts_with(text.as_bytes()), "{} becomes {}", show(&data), show(&out));
    assert!((before - text.len()) / 4 == tail.len() / 3, "{} octets wait for more", tail.len());
    let rest = STANDARD.decode(&out[text.len()..]).expect("it is base64");
    assert!(rest.starts_with(tail), "{} becomes {}", show(&data), show(&out));
    assert_eq!(judged(&out), Some([&data[..], &rest[tail.len()..]].concat()));
    check_trailers(&rest[tail.len()..], &trailers);
}

/// Whole frames, and what is behind them.
fn frames(data: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut frames, mut rest) = (Vec::new(), data);
    while let [_, a, b, c, d, behind @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if behind.len() < length {
            break;
        }
        let (frame, behind) = rest.split_at(5 + length);
        frames.push(frame);
        rest = behind;
    }
    (frames, rest)
}

/// One frame of type 0x80, with lines as those of HTTP/1.
fn check_trailers(frame: &[u8], trailers: &Headers) {
    let (whole, rest) = frames(frame);
    assert!(whole.len() == 1 && rest.is_empty() && frame[0] == 0x80, "{}", show(frame));
    let lines: Vec<(Vec<u8>, Vec<u8>)> = frame[5..]
        .split_inclusive(|octet| *octet == b'\n')
        .map(|line| {
            let line = line.strip_suffix(b"\r\n").expect("a line has its end");
            let colon = line.iter().position(|octet| *octet == b':').expect("a field has its colon");
            (line[..colon].to_vec(), line[colon + 1..].to_vec())
        })
        .collect();
    let wanted: Vec<_> = trailers.iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
    assert_eq!(lines, wanted);
}
