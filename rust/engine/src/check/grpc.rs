//! `grpc.health.v1.Health/Check`: its two messages, and gRPC's frame around them.

use pymesh_http::Known;

use crate::exchange::Answer;

pub(super) const PATH: &[u8] = b"/grpc.health.v1.Health/Check";
/// Octets of an answer that are looked at: its message has one small number.
pub(super) const LARGEST_ANSWER: usize = 1024;

const SERVING: u64 = 1;

/// A `HealthCheckRequest` for a service.
pub(super) fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, of length.
        message.push(1 << 3 | 2);
        write_number(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.append(&mut message);
    framed
}

/// The answer is whole, well, and says SERVING.
pub(super) fn is_serving(answer: &Answer<'_>) -> bool {
    let content_type = answer.head.headers.get_known(Known::ContentType).unwrap_or_default();
    let is_grpc = content_type == b"application/grpc"
        || content_type.starts_with(b"application/grpc+")
        || content_type.starts_with(b"application/grpc;");
    answer.head.status == 200
        && is_grpc
        && answer.trailers.get_known(Known::GrpcStatus) == Some(b"0")
        && status(answer.body) == Some(SERVING)
}

/// `HealthCheckResponse.status` in one frame that is not compressed; there must be no other.
fn status(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_at_checked(5)?;
    let (flags, length) = head.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if *flags != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let key = read_number(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = read_number(&mut rest)?,
            (_, 0) => drop(read_number(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(read_number(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn write_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (octet, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_framed() {
        assert_eq!(request(""), [0, 0, 0, 0, 0]);
        assert_eq!(request("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"s".repeat(200));
        assert_eq!((&long[1..5], &long[5..8]), (&[0, 0, 0, 203][..], &[0x0a, 200, 1][..]));
    }

    #[test]
    fn a_status_is_read_and_garbage_is_none() {
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0), "nothing said is UNKNOWN");
        // Fields of later versions are skipped.
        assert_eq!(status(&[0, 0, 0, 0, 6, 0x12, 2, 1, 1, 8, 1]), Some(1));
        for garbage in [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 1, 8]] {
            assert_eq!(status(garbage), None, "{garbage:?}");
        }
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1, 0, 0, 0, 0, 2, 8, 1]), None, "two frames");
    }
}
