//! Keys, and tokens that they sign, for tests.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
};
use base64::Engine as _;

use crate::{Algorithm, BASE64URL};

/// Somebody who signs.
pub struct Signer {
    algorithm: Algorithm,
    key: Key,
}

enum Key {
    Hmac(Vec<u8>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    /// With a new key; of HMACs it is the same each time.
    pub fn new(algorithm: Algorithm) -> Signer {
        use Algorithm::*;
        let ec = |how| Key::Ec(EcdsaKeyPair::generate(how).unwrap());
        let key = match algorithm {
            Hs256 | Hs384 | Hs512 => Key::Hmac(b"a secret that everybody knows, of more than 32 octets".to_vec()),
            Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512 => Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
            Es256 => ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Es384 => ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Es512 => ec(&ECDSA_P521_SHA512_FIXED_SIGNING),
            EdDsa => Key::Ed25519(Ed25519KeyPair::generate().unwrap()),
        };
        Signer { algorithm, key }
    }

    /// `{"keys": [...]}` with the key that verifies, and other members of it.
    pub fn jwks(&self, others: &str) -> String {
        format!(r#"{{"keys":[{{{}{others}}}]}}"#, self.members())
    }

    /// The members that every JWK of its kind has.
    pub fn members(&self) -> String {
        match &self.key {
            Key::Hmac(secret) => format!(r#""kty":"oct","k":"{}""#, encode(secret)),
            Key::Rsa(pair) => {
                // RSAPublicKey (RFC 8017): a sequence of two integers, with the exponent 65537 at the end.
                let (n, e) = (pair.public_key().as_ref().get(9..265).unwrap(), [1, 0, 1]);
                format!(r#""kty":"RSA","n":"{}","e":"{}""#, encode(n), encode(e))
            }
            Key::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point.get(1..).unwrap().split_at(point.len() / 2);
                let curve = match self.algorithm {
                    Algorithm::Es384 => "P-384",
                    Algorithm::Es512 => "P-521",
                    _ => "P-256",
                };
                format!(r#""kty":"EC","crv":"{curve}","x":"{}","y":"{}""#, encode(x), encode(y))
            }
            Key::Ed25519(pair) => {
                format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, encode(pair.public_key().as_ref()))
            }
        }
    }

    /// A token with other members of the header.
    pub fn token(&self, others: &str, payload: &str) -> String {
        let header = format!(r#"{{"alg":"{}"{others}}}"#, self.algorithm.name());
        let signed = format!("{}.{}", encode(header), encode(payload));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    /// A signature.
    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        use Algorithm::*;
        match &self.key {
            Key::Hmac(secret) => {
                let hash = match self.algorithm {
                    Hs384 => hmac::HMAC_SHA384,
                    Hs512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(hash, secret), signed).as_ref().to_vec()
            }
            Key::Rsa(pair) => {
                let how: &'static dyn RsaEncoding = match self.algorithm {
                    Rs384 => &RSA_PKCS1_SHA384,
                    Rs512 => &RSA_PKCS1_SHA512,
                    Ps256 => &RSA_PSS_SHA256,
                    Ps384 => &RSA_PSS_SHA384,
                    Ps512 => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(how, &SystemRandom::new(), signed, &mut signature).unwrap();
                signature
            }
            Key::Ec(pair) => pair.sign(&SystemRandom::new(), signed).unwrap().as_ref().to_vec(),
            Key::Ed25519(pair) => pair.sign(signed).as_ref().to_vec(),
        }
    }
}

/// In base64url.
pub fn encode(octets: impl AsRef<[u8]>) -> String {
    BASE64URL.encode(octets)
}
