//! JSON Web Tokens (RFC 7519) in the compact form of RFC 7515, and the key sets (RFC 7517) that they are checked with.
//!
//! [`Token::parse`] reads a token without believing it; [`Jwks::parse`] reads keys; [`Jwks::verify`] says whether one of
//! them has signed it. What a token claims is judged by who uses it: this crate knows no clock and no configuration.
//!
//! # What is believed
//! * A key verifies the algorithms of its own kind and, if the set names one (`alg`), that one only. The token's `alg`
//!   only chooses among them (RFC 8725 section 3.1): `none` is no algorithm, and an RSA key is no secret for an HMAC.
//! * Nothing else in a token's header is acted on: not `jwk`, `jku`, `x5u` or `x5c`, which bring or name keys. A token
//!   that wants more understood (`crit`) is refused (RFC 7515 section 4.1.11).
//! * A token has three parts and nothing else. They are base64url, padded or not, in the one form that an encoder writes;
//!   JSON names each member of an object once.
//!
//! The failures are those of Envoy, in its words ([`Failure`]), as far as it knows them.
//!
//! Neither a token nor a key is ever written by `Debug`.
#![forbid(unsafe_code)]

mod algorithm;
mod failure;
mod json;
mod jwks;
#[cfg(feature = "testing")]
pub mod testing;
mod token;

pub use algorithm::Algorithm;
pub use failure::Failure;
pub use jwks::Jwks;
pub use token::Token;

use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::Engine as _;

/// Padding is not written (RFC 7515 section 2) but, as in Envoy, read.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn base64url(text: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    BASE64URL.decode(text).ok()
}
