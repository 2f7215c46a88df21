//! gRPC's frame around a message, and what makes an answer one of gRPC (gRPC over HTTP/2, "Requests", "Responses").
//!
//! What passes is seen in pieces that end anywhere: [`Frame`] knows where in a frame an octet stands.

use pymesh_http::{Headers, Known, ResponseHead};

/// A message in its frame, not compressed.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(5 + message.len());
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// Whether a body is one of gRPC, as Envoy sees it: `application/grpc-web` is another form.
pub fn is_grpc(headers: &Headers) -> bool {
    let content_type = headers.get_known(Known::ContentType);
    let rest = content_type.and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

/// Type and length of a frame.
pub const FRAME_HEAD: usize = 5;

/// Where in a frame an octet stands.
#[derive(Debug, Default)]
pub struct Frame {
    head: [u8; FRAME_HEAD],
    seen: usize,
    /// Octets of the message that are to come.
    left: usize,
}

impl Frame {
    /// How many of `data` belong to the frame, and whether it ends with them.
    pub fn advance(&mut self, data: &[u8]) -> (usize, bool) {
        let mut used = 0;
        while self.seen < FRAME_HEAD {
            let (Some(octet), Some(place)) = (data.get(used), self.head.get_mut(self.seen)) else {
                return (used, false);
            };
            *place = *octet;
            used += 1;
            self.seen += 1;
            if self.seen == FRAME_HEAD {
                let [_, a, b, c, d] = self.head;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
            }
        }
        let message = self.left.min(data.len() - used);
        self.left -= message;
        let ends = self.left == 0;
        if ends {
            self.seen = 0;
        }
        (used + message, ends)
    }

    /// How many frames begin in `data`. It takes as long as there are frames, however long they are.
    pub fn begun(&mut self, mut data: &[u8]) -> u64 {
        let mut begun = 0;
        while !data.is_empty() {
            begun += u64::from(self.seen == 0);
            let (used, _) = self.advance(data);
            data = data.get(used..).unwrap_or_default();
        }
        begun
    }
}

/// The message of an answer that is whole and went well. It must be the only one, and not compressed.
pub fn message<'a>(head: &ResponseHead, body: &'a [u8], trailers: &Headers) -> Option<&'a [u8]> {
    let content_type = head.headers.get_known(Known::ContentType).unwrap_or_default();
    let is_grpc = content_type == b"application/grpc"
        || content_type.starts_with(b"application/grpc+")
        || content_type.starts_with(b"application/grpc;");
    if head.status != 200 || !is_grpc || trailers.get_known(Known::GrpcStatus) != Some(b"0") {
        return None;
    }
    let (prefix, message) = body.split_at_checked(5)?;
    let (flags, length) = prefix.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    (*flags == 0 && usize::try_from(length).ok()? == message.len()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_framed() {
        assert_eq!(frame(b""), [0, 0, 0, 0, 0]);
        assert_eq!(frame(b"ab"), [0, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(&frame(&[0; 300])[..5], [0, 0, 0, 1, 44]);
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let whole = [frame(b""), frame(b"abc"), frame(&[0; 300]), frame(b""), frame(b"d")].concat();
        for step in 1..whole.len() {
            let mut place = Frame::default();
            for (piece, at) in whole.chunks(step).zip((0..).step_by(step)) {
                let begins = [0, 5, 13, 318, 323].iter().filter(|begin| (at..at + step).contains(*begin)).count();
                assert_eq!(place.begun(piece), begins as u64, "{step} {at}");
            }
            assert_eq!(place.begun(b""), 0);
            assert_eq!(place.begun(&[0]), 1, "the next one begins with its first octet");
        }
    }

    #[test]
    fn content_types() {
        let is = |value: &str| {
            let mut headers = Headers::new();
            headers.append(b"content-type", value.as_bytes());
            is_grpc(&headers)
        };
        assert!(["application/grpc", "application/grpc+proto"].into_iter().all(is));
        let others = ["application/grpc-web", "application/grpcs", "application/json", ""];
        assert!(!others.into_iter().any(is) && !is_grpc(&Headers::new()));
    }

    #[test]
    fn only_one_whole_message_is_an_answer() {
        let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
        head.headers.append(b"content-type", b"application/grpc");
        let mut trailers = Headers::new();
        trailers.append(b"grpc-status", b"0");
        assert_eq!(message(&head, &frame(b"ab"), &trailers), Some(&b"ab"[..]));
        assert_eq!(message(&head, &frame(b""), &trailers), Some(&b""[..]));
        for garbage in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 1, 8, 1]]
        {
            assert_eq!(message(&head, garbage, &trailers), None, "{garbage:?}");
        }
        assert_eq!(message(&head, &[frame(b"a"), frame(b"b")].concat(), &trailers), None, "two");
        assert_eq!(message(&head, &frame(b"ab"), &Headers::new()), None, "no status");
        trailers.set(b"grpc-status", b"13");
        assert_eq!(message(&head, &frame(b"ab"), &trailers), None, "it went wrong");
        trailers.set(b"grpc-status", b"0");
        head.status = 503;
        assert_eq!(message(&head, &frame(b"ab"), &trailers), None);
        head.status = 200;
        head.headers.set(b"content-type", b"text/html");
        assert_eq!(message(&head, &frame(b"ab"), &trailers), None);
    }
}
