//! `grpc.health.v1.Health/Check`: its two messages.

use crate::base::grpc;
use crate::base::protobuf::{Fields, Message};
use crate::exchange::Answer;

pub(super) const PATH: &[u8] = b"/grpc.health.v1.Health/Check";
/// Octets of an answer that are looked at: its message has one small number.
pub(super) const LARGEST_ANSWER: usize = 1024;

const SERVING: u64 = 1;

/// A `HealthCheckRequest` for a service.
pub(super) fn request(service: &str) -> Vec<u8> {
    let mut message = Message::default();
    message.octets(1, service.as_bytes());
    grpc::frame(&message.into_octets())
}

/// The answer is whole, well, and says SERVING.
pub(super) fn is_serving(answer: &Answer<'_>) -> bool {
    grpc::message(answer.head, answer.body, answer.trailers).and_then(status) == Some(SERVING)
}

/// `HealthCheckResponse.status`.
fn status(message: &[u8]) -> Option<u64> {
    let mut status = 0;
    for field in Fields(message) {
        if let (1, value) = field.ok()? {
            status = value.number()?;
        }
    }
    Some(status)
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
        assert_eq!(status(&[8, 1]), Some(1));
        assert_eq!(status(&[8, 2]), Some(2));
        assert_eq!(status(&[]), Some(0), "nothing said is UNKNOWN");
        // Fields of later versions are skipped.
        assert_eq!(status(&[0x12, 2, 1, 1, 8, 1]), Some(1));
        for garbage in [&[8][..], &[0x0a, 1, 1], &[0x12, 9]] {
            assert_eq!(status(garbage), None, "{garbage:?}");
        }
    }
}
