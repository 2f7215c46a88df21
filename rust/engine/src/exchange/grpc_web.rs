//! gRPC-Web (`envoy.filters.http.grpc_web`): gRPC for browsers, which show no trailers to their scripts.
//!
//! Upstream it is gRPC. The client's content type says which form it speaks: `application/grpc-web` carries the messages
//! as they are, `application/grpc-web-text` in base64. In an answer that is gRPC the trailers become the last frame of
//! the body, of type 0x80; its messages are in text if `accept` asks for that. An answer of the proxy's
//! own keeps its status of HTTP and says why as gRPC does; any other of an endpoint passes as it is.
//!
//! Octets are translated as they come, before they wait in the exchange's [`Pipe`](super::Pipe)s, at the filter's place
//! among those that see bodies as they stream ([`super::stream`]). What is held back is less than a group of base64: four octets of a request, two of a response, whose text is padded at the end of each frame
//! so that a message never waits for the next.

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use pymesh_http::{Headers, Known, RequestHead, ResponseHead};

use crate::base::grpc::{Frame, FRAME_HEAD};

const WEB: &[u8] = b"application/grpc-web";
const WEB_TEXT: &[u8] = b"application/grpc-web-text";
const TRAILERS: u8 = 0x80;

/// A request that is gRPC-Web, and its answer.
#[derive(Debug, Default)]
pub(crate) struct GrpcWeb {
    /// The filter's place in its chain.
    pub index: usize,
    is_text: bool,
    wants_text: bool,
    /// The answer is gRPC, and has come to the filter.
    pub is_grpc_answer: bool,
    group: Group,
    frame: Frame,
}

/// The base64 of a request is not base64.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotBase64;

/// Part of a group of base64: of up to four characters, or of up to three octets.
#[derive(Debug, Default)]
struct Group {
    octets: [u8; 4],
    length: usize,
}

impl Group {
    /// Takes from `input` until there are `size`; true if there are.
    fn fill(&mut self, input: &mut &[u8], size: usize) -> bool {
        while self.length < size {
            let (Some((first, rest)), Some(place)) = (input.split_first(), self.octets.get_mut(self.length)) else {
                return false;
            };
            *place = *first;
            *input = rest;
            self.length += 1;
        }
        true
    }

    fn take(&mut self) -> &[u8] {
        let length = std::mem::take(&mut self.length);
        self.octets.get(..length).unwrap_or_default()
    }
}

impl GrpcWeb {
    /// Makes a request gRPC if it is gRPC-Web.
    pub fn open(request: &mut RequestHead, index: usize) -> Option<Box<GrpcWeb>> {
        let is_text = form(request.headers.get_known(Known::ContentType)?)?;
        let wants_text = request.headers.get(b"accept").and_then(form).unwrap_or(false);
        let headers = &mut request.headers;
        // It counts the octets of another form.
        headers.remove_known(Known::ContentLength);
        headers.set_known(Known::ContentType, b"application/grpc");
        headers.set_known(Known::Te, b"trailers");
        headers.set(b"grpc-accept-encoding", b"identity,deflate,gzip");
        Some(Box::new(GrpcWeb { index, is_text, wants_text, ..GrpcWeb::default() }))
    }

    /// Octets of the request.
    pub fn request_data(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<(), NotBase64> {
        if !self.is_text {
            out.extend_from_slice(data);
            return Ok(());
        }
        if self.group.length > 0 {
            if !self.group.fill(&mut data, 4) {
                return Ok(());
            }
            decode(self.group.take(), out)?;
        }
        let (whole, rest) = data.split_at(data.len() / 4 * 4);
        decode(whole, out)?;
        let mut rest = rest;
        self.group.fill(&mut rest, 4);
        Ok(())
    }

    /// The request is complete.
    pub fn request_end(&mut self) -> Result<(), NotBase64> {
        match self.group.take() {
            [] => Ok(()),
            _ => Err(NotBase64),
        }
    }

    /// The head of an answer has come to the filter: its body is to be translated if it is gRPC, and the client is told
    /// which form it has.
    pub fn begin_answer(&mut self, response: &mut ResponseHead) {
        let content_type = response.headers.get_known(Known::ContentType).unwrap_or_default();
        self.is_grpc_answer = content_type.starts_with(b"application/grpc");
        self.group = Group::default();
        self.frame = Frame::default();
        if self.is_grpc_answer {
            response.headers.set_known(Known::ContentType, self.content_type());
            response.headers.remove_known(Known::ContentLength);
        }
    }

    /// What the client is told of an answer's form.
    pub fn content_type(&self) -> &'static [u8] {
        match self.wants_text {
            true => b"application/grpc-web-text+proto",
            false => b"application/grpc-web+proto",
        }
    }

    /// Octets of an answer that is gRPC.
    pub fn answer_data(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        if !self.wants_text {
            return out.extend_from_slice(data);
        }
        while !data.is_empty() {
            let (length, ends) = self.frame.advance(data);
            let (frame, rest) = data.split_at(length);
            self.encode(frame, ends, out);
            data = rest;
        }
    }

    /// The trailers of an answer that is gRPC, as a frame.
    pub fn answer_trailers(&mut self, trailers: &Headers, out: &mut Vec<u8>) {
        let mut frame = vec![TRAILERS, 0, 0, 0, 0];
        for field in trailers.iter() {
            frame.extend_from_slice(&[field.name, b":", field.value, b"\r\n"].concat());
        }
        let length = u32::try_from(frame.len() - FRAME_HEAD).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(place) = frame.get_mut(1..FRAME_HEAD) {
            place.copy_from_slice(&length);
        }
        match self.wants_text {
            true => self.encode(&frame, true, out),
            false => out.extend_from_slice(&frame),
        }
    }

    fn encode(&mut self, mut data: &[u8], ends: bool, out: &mut Vec<u8>) {
        if self.group.length > 0 && self.group.fill(&mut data, 3) {
            encode(self.group.take(), out);
        }
        let whole = if self.group.length > 0 { 0 } else { data.len() / 3 * 3 };
        let (groups, mut rest) = data.split_at(whole);
        encode(groups, out);
        self.group.fill(&mut rest, 3);
        if ends {
            encode(self.group.take(), out);
        }
    }
}

/// Whether a content type is one of gRPC-Web, and then whether it is text.
fn form(content_type: &[u8]) -> Option<bool> {
    let is = |name: &[u8]| content_type == name || content_type.strip_prefix(name) == Some(b"+proto");
    if is(WEB_TEXT) {
        return Some(true);
    }
    is(WEB).then_some(false)
}

/// Decodes whole groups. Most often only the last is padded, but a client may pad each of its messages.
fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), NotBase64> {
    let before = out.len();
    if STANDARD.decode_vec(text, out).is_ok() {
        return Ok(());
    }
    out.truncate(before);
    text.chunks(4).try_for_each(|group| STANDARD.decode_vec(group, out)).map_err(|_| NotBase64)
}

fn encode(data: &[u8], out: &mut Vec<u8>) {
    let before = out.len();
    out.resize(before + data.len().div_ceil(3) * 4, 0);
    // The room is what it takes.
    let written = out.get_mut(before..).and_then(|room| STANDARD.encode_slice(data, room).ok());
    out.truncate(before + written.unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(content_type: &[u8], accept: &[u8]) -> Option<Box<GrpcWeb>> {
        let mut request = RequestHead::default();
        request.headers.append_known(Known::ContentType, content_type);
        request.headers.append(b"accept", accept);
        let web = GrpcWeb::open(&mut request, 0);
        let expected = if web.is_some() { b"application/grpc" } else { content_type };
        assert_eq!(request.headers.get_known(Known::ContentType), Some(expected));
        web
    }

    #[test]
    fn only_its_own_content_types() {
        for name in ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text+proto"] {
            assert!(opened(name.as_bytes(), b"").is_some(), "{name}");
        }
        for name in ["application/grpc", "application/grpc-web+json", "application/grpc-webs", ""] {
            assert!(opened(name.as_bytes(), b"").is_none(), "{name}");
        }
    }

    #[test]
    fn text_of_a_request_however_it_is_cut() {
        let text = [STANDARD.encode(b"\0\0\0\0\x01a"), STANDARD.encode(b"\0\0\0\0\x02bc")].concat();
        for step in 1..text.len() {
            let mut web = opened(b"application/grpc-web-text", b"").unwrap();
            let mut out = Vec::new();
            text.as_bytes().chunks(step).for_each(|piece| web.request_data(piece, &mut out).unwrap());
            assert_eq!((web.request_end(), out.as_slice()), (Ok(()), &b"\0\0\0\0\x01a\0\0\0\0\x02bc"[..]));
        }
        for bad in ["AAAA*AAA", "AA=A", "AAAAA"] {
            let mut web = opened(b"application/grpc-web-text", b"").unwrap();
            let taken = web.request_data(bad.as_bytes(), &mut Vec::new());
            assert!(taken.and_then(|()| web.request_end()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_padded_at_the_end_of_each_frame() {
        let frames = [&b"\0\0\0\0\x01a"[..], b"\0\0\0\0\0", b"\0\0\0\0\x04bcde"];
        let whole = frames.concat();
        let mut trailers = Headers::new();
        trailers.append(b"grpc-status", b"0");
        let end = b"\x80\0\0\0\x0fgrpc-status:0\r\n";
        let text: String = frames.iter().chain([&&end[..]]).map(|frame| STANDARD.encode(frame)).collect();
        for step in 1..whole.len() {
            for (accept, wanted) in
                [(&b"application/grpc-web-text"[..], text.as_bytes()), (b"*/*", &[whole.as_slice(), end].concat())]
            {
                let mut web = opened(b"application/grpc-web", accept).unwrap();
                let mut out = Vec::new();
                whole.chunks(step).for_each(|piece| web.answer_data(piece, &mut out));
                web.answer_trailers(&trailers, &mut out);
                assert_eq!(out, wanted, "{step}");
            }
        }
    }
}
