//! Key sets.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, ECDSA_P256_SHA256_FIXED,
    ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
};
use pymesh_model::metadata::{Struct, Value};

use crate::{base64url, json, Algorithm, Failure, Token};

/// Keys that can be used; at least one.
pub struct Jwks {
    keys: Vec<Jwk>,
}

/// Keys of HMACs are secret.
impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwks({} keys)", self.keys.len())
    }
}

struct Jwk {
    id: Option<Box<str>>,
    /// `alg`, as it is written: a token must say the same.
    name: Option<Box<str>>,
    /// What it can verify, of its own kind.
    verifiers: Vec<(Algorithm, Verifier)>,
}

enum Verifier {
    Signature(ParsedPublicKey),
    Hmac(Box<hmac::Key>),
}

const RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &RSA_PSS_2048_8192_SHA512),
];

/// Name of the curve, octets of a coordinate.
const CURVES: [(&str, Algorithm, usize, &EcdsaVerificationAlgorithm); 3] = [
    ("P-256", Algorithm::Es256, 32, &ECDSA_P256_SHA256_FIXED),
    ("P-384", Algorithm::Es384, 48, &ECDSA_P384_SHA384_FIXED),
    ("P-521", Algorithm::Es512, 66, &ECDSA_P521_SHA512_FIXED),
];

impl Jwks {
    /// Reads `{"keys": [...]}`. Keys that cannot be used are passed over, as RFC 7517 section 5 asks, as long as there is
    /// one that can.
    ///
    /// # Errors
    /// It is no key set, or has no key that can be used.
    pub fn parse(octets: &[u8]) -> Result<Jwks, Failure> {
        let set = json::object(octets).ok_or(Failure::JwksBadJson)?;
        let keys = match set.get("keys") {
            None => return Err(Failure::JwksNoKeys),
            Some(Value::List(keys)) => keys,
            Some(_) => return Err(Failure::JwksBadKeys),
        };
        let object = |key: &Value| match key {
            Value::Struct(key) => Jwk::read(key),
            _ => None,
        };
        let keys: Vec<Jwk> = keys.iter().filter_map(object).collect();
        match keys.is_empty() {
            true => Err(Failure::JwksNoValidKeys),
            false => Ok(Jwks { keys }),
        }
    }

    /// Whether one of the keys has signed the token.
    ///
    /// # Errors
    /// No key is meant, or none of those that are has.
    pub fn verify(&self, token: &Token) -> Result<(), Failure> {
        let mut failure = Failure::JwksKidAlgMismatch;
        for key in self.keys.iter().filter(|key| key.is_meant(token)) {
            failure = Failure::VerificationFails;
            let verifier = key.verifiers.iter().find(|(algorithm, _)| *algorithm == token.algorithm);
            let Some((algorithm, verifier)) = verifier else { continue };
            if *algorithm == Algorithm::EdDsa && token.signature.len() != 64 {
                return Err(Failure::Ed25519WrongLength);
            }
            let is_right = match verifier {
                Verifier::Signature(key) => key.verify_sig(token.signed.as_bytes(), &token.signature).is_ok(),
                Verifier::Hmac(key) => hmac::verify(key, token.signed.as_bytes(), &token.signature).is_ok(),
            };
            if is_right {
                return Ok(());
            }
        }
        Err(failure)
    }
}

impl Jwk {
    fn is_meant(&self, token: &Token) -> bool {
        let same_id = match (&self.id, &token.key_id) {
            (Some(own), Some(wanted)) => own == wanted,
            // Who does not say which key it is tries all.
            _ => true,
        };
        same_id && self.name.as_deref().is_none_or(|name| name == token.algorithm.name())
    }

    /// `None`: it cannot be used.
    fn read(key: &Struct) -> Option<Jwk> {
        let text = |name: &str| match key.get(name) {
            Some(Value::String(text)) => Some(&**text),
            _ => None,
        };
        let name = text("alg").filter(|name| !name.is_empty());
        let verifiers = match text("kty")? {
            "RSA" => rsa(text("n")?, text("e")?)?,
            "EC" => vec![ec(name, key.get("crv").map(|_| text("crv")), text("x")?, text("y")?)?],
            "OKP" if text("crv")? == "Ed25519" => vec![ed25519(text("x")?)?],
            "oct" => oct(text("k")?)?,
            _ => return None,
        };
        if let Some(name) = name {
            let is_of_its_kind = verifiers.iter().any(|(algorithm, _)| algorithm.name() == name);
            // As in Envoy, an RSA key for something else than signatures stays, and matches no token.
            let is_of_rsa = matches!(text("kty")?, "RSA") && (name.starts_with("RS") || name.starts_with("PS"));
            if !is_of_its_kind && !is_of_rsa {
                return None;
            }
        }
        let id = text("kid").filter(|id| !id.is_empty()).map(Into::into);
        Some(Jwk { id, name: name.map(Into::into), verifiers })
    }
}

fn rsa(n: &str, e: &str) -> Option<Vec<(Algorithm, Verifier)>> {
    let (n, e) = (number(n)?, number(e)?);
    // As in Envoy: others are as slow as an attacker likes.
    if e != [3] && e != [1, 0, 1] {
        return None;
    }
    // A shorter one is no key (RFC 7518 section 3.3), a longer one takes too long.
    let bits = n.len() * 8 - n.first().map_or(0, |octet| octet.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return None;
    }
    let components = RsaPublicKeyComponents { n, e };
    let verifiers = RSA.iter().map(|(algorithm, parameters)| {
        let key = components.to_parsed_public_key(parameters).ok()?;
        Some((*algorithm, Verifier::Signature(key)))
    });
    verifiers.collect()
}

/// Big-endian, without leading zeros.
fn number(text: &str) -> Option<Vec<u8>> {
    let octets = base64url(text)?;
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    octets.get(zeros..).filter(|rest| !rest.is_empty()).map(<[u8]>::to_vec)
}

/// `curve`: not there, or no text, or text.
fn ec(name: Option<&str>, curve: Option<Option<&str>>, x: &str, y: &str) -> Option<(Algorithm, Verifier)> {
    let curve = match curve {
        None => None,
        Some(curve) => Some(curve?).filter(|curve| !curve.is_empty()),
    };
    let meant = |(known, algorithm, ..): &&(&str, Algorithm, usize, _)| match (curve, name) {
        (None, None) => *known == "P-256",
        (Some(curve), _) => *known == curve,
        (None, Some(name)) => algorithm.name() == name,
    };
    let (_, algorithm, size, verification) = CURVES.iter().find(meant)?;
    // Uncompressed (SEC 1 section 2.3.3).
    let mut point = vec![4];
    for coordinate in [x, y] {
        let octets = base64url(coordinate)?;
        let zeros = octets.len().saturating_sub(*size);
        if octets.iter().take(zeros).any(|octet| *octet != 0) {
            return None;
        }
        let octets = octets.get(zeros..)?;
        point.resize(point.len() + (size - octets.len()), 0);
        point.extend_from_slice(octets);
    }
    Some((*algorithm, Verifier::Signature(ParsedPublicKey::new(*verification, point).ok()?)))
}

fn ed25519(x: &str) -> Option<(Algorithm, Verifier)> {
    let octets = base64url(x)?;
    Some((Algorithm::EdDsa, Verifier::Signature(ParsedPublicKey::new(&ED25519, octets).ok()?)))
}

fn oct(k: &str) -> Option<Vec<(Algorithm, Verifier)>> {
    let octets = base64url(k).filter(|octets| !octets.is_empty())?;
    let hashes = [
        (Algorithm::Hs256, hmac::HMAC_SHA256),
        (Algorithm::Hs384, hmac::HMAC_SHA384),
        (Algorithm::Hs512, hmac::HMAC_SHA512),
    ];
    Some(hashes.map(|(algorithm, hash)| (algorithm, Verifier::Hmac(Box::new(hmac::Key::new(hash, &octets))))).into())
}
