//! Keys and certificate signing requests.
//!
//! A key is made here, asked for by its CSR and stored under its certificate;
//! it has no way out of the process.

use std::fmt;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType, PKCS_ECDSA_P256_SHA256};

use crate::spiffe::SpiffeId;
use crate::PrivateKey;

/// A fresh ECDSA P-256 key and the request for its certificate.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    /// PKCS #10, PEM: what a certificate authority is sent.
    pub csr_pem: String,
    /// Goes into the store with the chain that the authority answers.
    pub key: PrivateKey,
}

/// A request cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CsrError {
    /// This is not the SPIFFE ID of a workload.
    InvalidSpiffeId(String, &'static str),
    /// Key generation or encoding failed.
    Crypto(String),
}

impl fmt::Display for CsrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CsrError::InvalidSpiffeId(id, what) => {
                write!(f, "no certificate can be requested for `{id}`: {what}; use `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`")
            }
            CsrError::Crypto(what) => write!(f, "no key or certificate request could be made: {what}"),
        }
    }
}

impl std::error::Error for CsrError {}

/// Makes a key and a request for a certificate with `spiffe_id` as its only name.
///
/// # Errors
/// If the ID is not one, or the operating system has no randomness.
pub fn signing_request(spiffe_id: &str) -> Result<SigningRequest, CsrError> {
    let invalid = |what| CsrError::InvalidSpiffeId(spiffe_id.to_owned(), what);
    let crypto = |error: rcgen::Error| CsrError::Crypto(error.to_string());
    SpiffeId::parse(spiffe_id).map_err(invalid)?;
    let uri = Ia5String::try_from(spiffe_id).map_err(crypto)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri)];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto)?;
    let csr_pem = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(crypto)?;
    Ok(SigningRequest { csr_pem, key: PrivateKey::from_pkcs8(key.serialize_der()) })
}
