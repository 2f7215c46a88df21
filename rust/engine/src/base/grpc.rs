//! gRPC's frame around a message, and what makes an answer one of gRPC (gRPC over HTTP/2, "Requests", "Responses").

use pymesh_http::{Headers, Known, ResponseHead};

/// A message in its frame, not compressed.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(5 + message.len());
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
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
