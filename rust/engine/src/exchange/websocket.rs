//! The part of a WebSocket's opening that HTTP/1.1 has and HTTP/2 has not (RFC 6455 section 4, RFC 8441 section 5):
//! a key, which shows to a client that the server has understood. A proxy between the two gives and checks it itself.

use aws_lc_rs::digest;
use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use pymesh_http::{Headers, Known};

use crate::base::rng::Rng;

const KEY: &[u8] = b"sec-websocket-key";
pub(super) const ACCEPT: &[u8] = b"sec-websocket-accept";

/// Gives the request of a client of HTTP/2 a key, if it opens a WebSocket. True if it did.
pub(super) fn give_key(request: &mut Headers, rng: &mut Rng) -> bool {
    let is_websocket = request.get_known(Known::Upgrade).is_some_and(|name| name.eq_ignore_ascii_case(b"websocket"));
    if !is_websocket || request.get(KEY).is_some() {
        return false;
    }
    let nonce = u128::from(rng.bits()) << 64 | u128::from(rng.bits());
    request.append(KEY, STANDARD.encode(nonce.to_be_bytes()).as_bytes());
    true
}

/// The answer has understood the key of the request.
pub(super) fn is_accepted(request: &Headers, answer: &Headers) -> bool {
    let key = request.get(KEY).unwrap_or_default();
    answer.get(ACCEPT) == Some(accept_of(key).as_bytes())
}

/// Answers the key of a client of HTTP/1.1 in place of a server of HTTP/2.
pub(super) fn accept(request: &Headers, answer: &mut Headers) {
    if let (Some(key), None) = (request.get(KEY), answer.get(ACCEPT)) {
        answer.append(ACCEPT, accept_of(key).as_bytes());
    }
}

fn accept_of(key: &[u8]) -> String {
    const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    // SHA-1 is what RFC 6455 asks for. It keeps no secret here.
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key, MAGIC].concat());
    STANDARD.encode(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_6455() {
        let mut request = Headers::new();
        request.append(KEY, b"dGhlIHNhbXBsZSBub25jZQ==");
        let mut answer = Headers::new();
        assert!(!is_accepted(&request, &answer));
        accept(&request, &mut answer);
        assert_eq!(answer.get(ACCEPT), Some(&b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="[..]));
        assert!(is_accepted(&request, &answer));
    }

    #[test]
    fn a_key_is_given_once_and_to_websockets_only() {
        let mut request = Headers::new();
        assert!(!give_key(&mut request, &mut Rng::new(1)));
        request.append_known(Known::Upgrade, b"WebSocket");
        assert!(give_key(&mut request, &mut Rng::new(1)));
        assert_eq!(request.get(KEY).map(<[u8]>::len), Some(24));
        assert!(!give_key(&mut request, &mut Rng::new(1)));
    }
}
