//! Messages of the scripts in HTTP/1.1, written and read with the codec.

use pymesh_http::h1::{self, BodyDecoder, BodyEncoder, Framing};
use pymesh_http::{Headers, Known, Limits, Method, RequestHead, ResponseHead, Version};

use super::payload::{body, Expected, Way};
use super::plan::{Kind, Message, Spec};

/// The pieces in which a body without declared length is written.
const CHUNK: usize = 5000;

pub fn request_head(spec: &Spec) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(spec.method.as_bytes());
    head.set_path(format!("/{}?of=simulation", spec.id).as_bytes());
    head.set_authority(b"app.sim");
    head.headers.append(b"x-id", spec.id.to_string().as_bytes());
    pad(&mut head.headers, spec);
    if spec.kind == Kind::Upgrade {
        head.headers.append_known(Known::Upgrade, b"websocket");
    }
    if spec.expect {
        head.headers.append_known(Known::Expect, b"100-continue");
    }
    declare(&mut head.headers, &spec.request, spec.has_request_body());
    head
}

pub fn response_head(spec: &Spec, status: u16) -> ResponseHead {
    let mut head = ResponseHead { status, ..ResponseHead::default() };
    head.headers.append(b"x-id", spec.id.to_string().as_bytes());
    pad(&mut head.headers, spec);
    match status {
        101 => head.headers.append_known(Known::Upgrade, b"websocket"),
        200 => declare(&mut head.headers, &spec.response, true),
        103 => {}
        _ => head.headers.append_known(Known::ContentLength, b"0"),
    }
    head
}

fn pad(headers: &mut Headers, spec: &Spec) {
    if spec.padding > 0 {
        headers.append(b"x-padding", &vec![b'p'; spec.padding]);
    }
}

/// The field that makes a head long came through as it was.
pub fn check_padding(spec: &Spec, found: &Headers) {
    assert_eq!(found.get(b"x-padding").map_or(0, <[u8]>::len), spec.padding, "the padding of {}", spec.id);
}

fn declare(headers: &mut Headers, message: &Message, has_body: bool) {
    if message.declared && has_body {
        headers.append_known(Known::ContentLength, message.length.to_string().as_bytes());
    }
}

pub fn trailers(id: u32) -> Headers {
    let mut trailers = Headers::new();
    trailers.append(b"x-trailer", id.to_string().as_bytes());
    trailers
}

/// Trailers that arrived belong to this message; they may be lost where
/// `content-length` leaves no place for them.
pub fn check_trailers(id: u32, message: &Message, found: &Headers) {
    let expected = message.trailers && !message.declared;
    match found.get(b"x-trailer") {
        Some(value) => assert_eq!(value, id.to_string().as_bytes(), "trailers of another message"),
        None => assert!(!expected, "the trailers of request {id} are missing"),
    }
}

pub fn id_of(headers: &Headers) -> Option<u32> {
    std::str::from_utf8(headers.get(b"x-id")?).ok()?.parse().ok()
}

/// A whole request: head, and body with its end.
pub fn write_request(spec: &Spec, out: &mut Vec<u8>) -> usize {
    let framing = h1::request_framing(&request_head(spec), !spec.has_request_body());
    h1::write_request(out, &request_head(spec), framing);
    let head = out.len();
    if spec.has_request_body() {
        write_body(spec.id, Way::Request, &spec.request, framing, out);
    }
    head
}

/// A whole response.
pub fn write_response(spec: &Spec, method: Method, status: u16, keep_alive: bool, out: &mut Vec<u8>) {
    let head = response_head(spec, status);
    let framing = h1::response_framing(&head, method, Version::Http11, false);
    h1::write_response(out, &head, framing, Version::Http11, keep_alive);
    let message = if status == 200 { spec.response } else { Message { length: 0, declared: true, trailers: false } };
    if framing != Framing::None {
        write_body(spec.id, Way::Response, &message, framing, out);
    }
}

fn write_body(id: u32, way: Way, message: &Message, framing: Framing, out: &mut Vec<u8>) {
    let mut encoder = BodyEncoder::new(framing);
    for chunk in body(id, way, message.length).chunks(CHUNK) {
        encoder.encode(out, chunk).unwrap();
    }
    let last = trailers(id);
    encoder.finish(out, message.trailers.then_some(&last)).unwrap();
}

/// A body on its way in.
pub struct Body {
    decoder: BodyDecoder,
    expected: Option<Expected>,
    id: u32,
    message: Message,
    pub received: usize,
}

impl Body {
    /// `expected` is false where only its end matters.
    pub fn new(framing: Framing, id: u32, way: Way, message: Message, expected: bool) -> Body {
        Body {
            decoder: BodyDecoder::new(framing, &Limits::default()),
            expected: expected.then(|| Expected::new(id, way, message.length)),
            id,
            message,
            received: 0,
        }
    }

    /// Takes from `input`; true at the end.
    pub fn take(&mut self, input: &mut Vec<u8>) -> bool {
        let mut found = Headers::new();
        loop {
            let step = self.decoder.decode(input, &mut found).expect("chunks are well formed");
            let data = &input[step.data.clone()];
            self.received += data.len();
            if let Some(expected) = &mut self.expected {
                expected.take(data);
            }
            input.drain(..step.consumed);
            if step.ended {
                if let Some(expected) = &self.expected {
                    expected.finish();
                    check_trailers(self.id, &self.message, &found);
                }
                return true;
            }
            if step.consumed == 0 {
                return false;
            }
        }
    }
}
