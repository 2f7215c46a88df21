//! A token, read but not yet believed.

use std::fmt;

use pymesh_model::metadata::{Struct, Value};

use crate::{base64url, json, Algorithm, Failure};

/// A token whose form is right. Whether its signature is anybody's, [`crate::Jwks::verify`] says.
pub struct Token {
    pub(crate) algorithm: Algorithm,
    pub(crate) key_id: Option<Box<str>>,
    /// What is signed: the first two parts with their dot.
    pub(crate) signed: Box<str>,
    pub(crate) signature: Vec<u8>,
    payload_at: usize,
    header: Struct,
    payload: Struct,
    not_before: Option<u64>,
    expires: Option<u64>,
}

/// It is somebody's password.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Reads `header.payload.signature`.
    ///
    /// # Errors
    /// What is wrong with its form, or with the type of a registered claim.
    pub fn parse(token: &[u8]) -> Result<Token, Failure> {
        let token = std::str::from_utf8(token).map_err(|_| Failure::BadFormat)?;
        let mut parts = token.split('.');
        let (Some(header_text), Some(payload_text), Some(signature_text), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::BadFormat);
        };
        if [header_text, payload_text, signature_text].contains(&"") {
            return Err(Failure::BadFormat);
        }
        let header = base64url(header_text).ok_or(Failure::HeaderBadBase64)?;
        let header = json::object(&header).ok_or(Failure::HeaderBadJson)?;
        let Some(Value::String(name)) = header.get("alg") else { return Err(Failure::HeaderBadAlg) };
        let algorithm = Algorithm::from_name(name).ok_or(Failure::HeaderUnknownAlg)?;
        let key_id = text(&header, "kid", Failure::HeaderBadKid)?.filter(|id| !id.is_empty()).map(Into::into);
        if header.get("crit").is_some() {
            return Err(Failure::HeaderCritical);
        }
        let payload = base64url(payload_text).ok_or(Failure::PayloadBadBase64)?;
        let payload = json::object(&payload).ok_or(Failure::PayloadBadJson)?;
        text(&payload, "iss", Failure::IssuerNotString)?;
        text(&payload, "sub", Failure::SubjectNotString)?;
        seconds(&payload, "iat", Failure::IssuedAtNotInteger, Failure::IssuedAtOutOfRange)?;
        let not_before = seconds(&payload, "nbf", Failure::NotBeforeNotInteger, Failure::NotBeforeOutOfRange)?;
        let expires = seconds(&payload, "exp", Failure::ExpiresNotInteger, Failure::ExpiresOutOfRange)?;
        text(&payload, "jti", Failure::IdNotString)?;
        if audiences(&payload).iter().any(|one| !matches!(one, Value::String(_))) {
            return Err(Failure::AudienceNotString);
        }
        let signature = base64url(signature_text).ok_or(Failure::SignatureBadBase64)?;
        let signed = [header_text, payload_text].join(".").into();
        let payload_at = header_text.len() + 1;
        Ok(Token { algorithm, key_id, signed, signature, payload_at, header, payload, not_before, expires })
    }

    /// The header (RFC 7515 section 4).
    pub fn header(&self) -> &Struct {
        &self.header
    }

    /// The claims.
    pub fn payload(&self) -> &Struct {
        &self.payload
    }

    /// The claims as they were sent, in base64url.
    pub fn encoded_payload(&self) -> &str {
        self.signed.get(self.payload_at..).unwrap_or_default()
    }

    /// `iss`; empty without.
    pub fn issuer(&self) -> &str {
        claimed(&self.payload, "iss")
    }

    /// `sub`; empty without.
    pub fn subject(&self) -> &str {
        claimed(&self.payload, "sub")
    }

    /// `aud`.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        audiences(&self.payload).iter().filter_map(|audience| match audience {
            Value::String(text) => Some(&**text),
            _ => None,
        })
    }

    /// `nbf`, in seconds since 1970.
    pub fn not_before(&self) -> Option<u64> {
        self.not_before
    }

    /// `exp`, in seconds since 1970.
    pub fn expires(&self) -> Option<u64> {
        self.expires
    }

    /// Whether it is in force `now`, by clocks that may differ by `skew`; all in seconds.
    ///
    /// # Errors
    /// It is not yet, or not any more.
    pub fn check_time(&self, now: u64, skew: u64) -> Result<(), Failure> {
        if self.not_before.is_some_and(|from| now.saturating_add(skew) < from) {
            return Err(Failure::NotYetValid);
        }
        match self.expires {
            Some(until) if now > until.saturating_add(skew) => Err(Failure::Expired),
            _ => Ok(()),
        }
    }
}

fn claimed<'a>(claims: &'a Struct, name: &str) -> &'a str {
    match claims.get(name) {
        Some(Value::String(text)) => text,
        _ => "",
    }
}

fn text<'a>(object: &'a Struct, name: &str, otherwise: Failure) -> Result<Option<&'a str>, Failure> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(otherwise),
    }
}

/// A time in whole seconds; a fraction is cut off.
fn seconds(claims: &Struct, name: &str, no_number: Failure, out_of_range: Failure) -> Result<Option<u64>, Failure> {
    match claims.get(name) {
        None => Ok(None),
        // 2 to the power of 64.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(Value::Number(number)) if (0.0..18_446_744_073_709_551_616.0).contains(number) => Ok(Some(*number as u64)),
        Some(Value::Number(_)) => Err(out_of_range),
        Some(_) => Err(no_number),
    }
}

/// One, or a list.
fn audiences(claims: &Struct) -> &[Value] {
    match claims.get("aud") {
        None => &[],
        Some(Value::List(list)) => list,
        Some(one) => std::slice::from_ref(one),
    }
}
