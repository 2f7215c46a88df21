//! Why a connection ended: one [`Reason`] for each way in which a peer fails.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};

/// What is wrong with a peer's certificate. [`Reason::code`] is stable: access
/// logs, metrics and tests rely on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Reason {
    /// A certificate is required and the peer presented none.
    NoCertificate,
    /// The trust bundle that would judge it has not been loaded.
    TrustNotLoaded,
    Malformed,
    UnknownIssuer,
    BadSignature,
    UnsupportedAlgorithm,
    Expired,
    NotYetValid,
    /// The extended key usage does not allow the role that the peer plays.
    WrongExtendedKeyUsage,
    LeafIsCa,
    /// Key usage lacks digitalSignature.
    NoDigitalSignature,
    /// Key usage of the leaf includes keyCertSign or cRLSign.
    LeafSignsCertificates,
    /// Path length, name constraints, critical extensions and the like.
    InvalidChain,
    NoSpiffeId,
    SeveralUriSans,
    InvalidSpiffeId,
    WrongTrustDomain,
    SanMismatch,
    ServerNameMismatch,
    /// Neither the certificate nor its key is among those that are pinned.
    NotPinned,
}

impl Reason {
    /// Stable text of this reason.
    pub fn code(self) -> &'static str {
        match self {
            Reason::NoCertificate => "no_certificate",
            Reason::TrustNotLoaded => "trust_not_loaded",
            Reason::Malformed => "malformed_certificate",
            Reason::UnknownIssuer => "unknown_issuer",
            Reason::BadSignature => "bad_signature",
            Reason::UnsupportedAlgorithm => "unsupported_algorithm",
            Reason::Expired => "certificate_expired",
            Reason::NotYetValid => "certificate_not_yet_valid",
            Reason::WrongExtendedKeyUsage => "wrong_extended_key_usage",
            Reason::LeafIsCa => "leaf_is_ca",
            Reason::NoDigitalSignature => "no_digital_signature_usage",
            Reason::LeafSignsCertificates => "leaf_signs_certificates",
            Reason::InvalidChain => "invalid_chain",
            Reason::NoSpiffeId => "no_spiffe_id",
            Reason::SeveralUriSans => "several_uri_sans",
            Reason::InvalidSpiffeId => "invalid_spiffe_id",
            Reason::WrongTrustDomain => "wrong_trust_domain",
            Reason::SanMismatch => "san_mismatch",
            Reason::ServerNameMismatch => "server_name_mismatch",
            Reason::NotPinned => "not_pinned",
        }
    }
}

/// A peer was refused: the reason, and what exactly was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The class of failure.
    pub reason: Reason,
    /// For people; names and times, never key material.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Refusal { reason, detail: detail.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.detail)
    }
}

impl std::error::Error for Refusal {}

/// Carried through rustls, which hands it back from the failed handshake.
impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// A session failed, or a configuration cannot be built. No failed session can be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// We refused the peer's certificate.
    Refused(Refusal),
    /// The peer ended the session with this alert.
    Alert(String),
    /// The peer broke the protocol, or shares no version, cipher suite or ALPN with us.
    Protocol(String),
    /// The configuration contradicts itself.
    Config(String),
}

impl TlsError {
    /// Stable text for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            TlsError::Refused(refusal) => refusal.reason.code(),
            TlsError::Alert(_) => "peer_alert",
            TlsError::Protocol(_) => "tls_protocol_error",
            TlsError::Config(_) => "tls_config_error",
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Refused(refusal) => write!(f, "the peer's certificate was refused: {refusal}"),
            TlsError::Alert(alert) => write!(f, "the peer ended the TLS session with alert {alert}"),
            TlsError::Protocol(what) => write!(f, "TLS failed: {what}"),
            TlsError::Config(what) => write!(f, "the TLS configuration cannot be used: {what}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<Refusal>() {
                    Some(refusal) => TlsError::Refused(refusal.clone()),
                    None => TlsError::Protocol(other.0.to_string()),
                }
            }
            rustls::Error::NoCertificatesPresented => TlsError::Refused(Refusal::new(
                Reason::NoCertificate,
                "a certificate is required and the peer presented none",
            )),
            rustls::Error::AlertReceived(alert) => TlsError::Alert(format!("{alert:?}")),
            other => TlsError::Protocol(other.to_string()),
        }
    }
}
