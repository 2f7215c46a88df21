//! Why a connection ended: one [`Reason`] for each way in which a peer fails.
//!
//! A verdict goes through rustls, which sends the peer an alert by the variant of its own
//! [`CertificateError`] (RFC 8446, section 6.2). Where a reason has an alert of its own, it travels as that
//! variant, and is read back from it; every other one travels as it is, and the alert is `certificate_unknown`.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, ExtendedKeyPurpose, OtherError};

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
    /// A signature in its chain does not verify.
    BadSignature,
    UnsupportedAlgorithm,
    /// An RSA key of less than 2,048 bits.
    WeakKey,
    /// Whoever shows it did not sign the handshake with its key.
    KeyNotProven,
    Expired,
    NotYetValid,
    /// The extended key usage does not allow the role that the peer plays.
    WrongExtendedKeyUsage,
    LeafIsCa,
    /// Key usage lacks digitalSignature.
    NoDigitalSignature,
    /// Key usage of the leaf includes keyCertSign or cRLSign.
    LeafSignsCertificates,
    /// A certificate that is no authority's stands in its chain as an issuer.
    IssuerMayNotSign,
    PathTooLong,
    NameNotPermitted,
    UnknownCriticalExtension,
    /// Whatever else is wrong with the chain.
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
            Reason::WeakKey => "weak_key",
            Reason::KeyNotProven => "key_not_proven",
            Reason::Expired => "certificate_expired",
            Reason::NotYetValid => "certificate_not_yet_valid",
            Reason::WrongExtendedKeyUsage => "wrong_extended_key_usage",
            Reason::LeafIsCa => "leaf_is_ca",
            Reason::NoDigitalSignature => "no_digital_signature_usage",
            Reason::LeafSignsCertificates => "leaf_signs_certificates",
            Reason::IssuerMayNotSign => "issuer_may_not_sign",
            Reason::PathTooLong => "path_too_long",
            Reason::NameNotPermitted => "name_not_permitted",
            Reason::UnknownCriticalExtension => "unknown_critical_extension",
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

    /// Which of Envoy's counters it belongs to.
    pub fn class(self) -> Class {
        match self {
            Reason::NoCertificate => Class::NoCertificate,
            Reason::NotPinned => Class::NotPinned,
            // Envoy does not count it as a matter of the certificate.
            Reason::KeyNotProven => Class::Connection,
            Reason::NoSpiffeId
            | Reason::SeveralUriSans
            | Reason::InvalidSpiffeId
            | Reason::WrongTrustDomain
            | Reason::SanMismatch
            | Reason::ServerNameMismatch => Class::Name,
            _ => Class::Certificate,
        }
    }
}

/// A failed handshake, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `ssl.fail_verify_no_cert`
    NoCertificate,
    /// `ssl.fail_verify_san`
    Name,
    /// `ssl.fail_verify_cert_hash`
    NotPinned,
    /// `ssl.fail_verify_error`
    Certificate,
    /// `ssl.connection_error`
    Connection,
}

/// A peer was refused: the reason, and what exactly was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The class of failure.
    pub reason: Reason,
    /// For people; names and times, never key material.
    pub detail: String,
}

/// Characters of a detail; what a certificate says is as long as its owner likes.
const LONGEST_DETAIL: usize = 400;

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(LONGEST_DETAIL) {
            detail.truncate(end);
            detail.push_str("...");
        }
        Refusal { reason, detail }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.code(), self.detail)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for CertificateError {
    fn from(refusal: Refusal) -> Self {
        CertificateError::Other(OtherError(Arc::new(refusal)))
    }
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Self {
        use CertificateError as E;
        let (reason, detail) = match &error {
            E::Other(other) => match other.0.downcast_ref::<Refusal>() {
                Some(refusal) => return refusal.clone(),
                None => (Reason::InvalidChain, other.0.to_string()),
            },
            E::ExpiredContext { time, not_after } => {
                let since = time.as_secs().saturating_sub(not_after.as_secs());
                (Reason::Expired, format!("it expired {since} seconds ago"))
            }
            E::NotValidYetContext { time, not_before } => {
                let until = not_before.as_secs().saturating_sub(time.as_secs());
                (Reason::NotYetValid, format!("it will be valid in {until} seconds"))
            }
            E::UnknownIssuer => (Reason::UnknownIssuer, "no root of the trust bundle has signed its chain".into()),
            E::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. } => {
                let name = crate::certificate::algorithm(signature_algorithm_id);
                (Reason::UnsupportedAlgorithm, format!("its chain has a signature by {name}, which proves nothing"))
            }
            E::UnhandledCriticalExtension => {
                (Reason::UnknownCriticalExtension, "it has a critical extension that is not known".into())
            }
            E::InvalidPurposeContext { required, presented } => {
                let presented: Vec<String> = presented.iter().map(purpose).collect();
                let detail = format!("it is for {}, not for {}", presented.join(", "), purpose(required));
                (Reason::WrongExtendedKeyUsage, detail)
            }
            // What a chain's signatures come to is not told in this way.
            E::BadSignature => (Reason::KeyNotProven, "the handshake was not signed with its key".into()),
            other => (Reason::InvalidChain, other.to_string()),
        };
        Refusal { reason, detail }
    }
}

fn purpose(purpose: &ExtendedKeyPurpose) -> String {
    match purpose {
        ExtendedKeyPurpose::ClientAuth => "clients".into(),
        ExtendedKeyPurpose::ServerAuth => "servers".into(),
        ExtendedKeyPurpose::Other(oid) => oid.iter().map(ToString::to_string).collect::<Vec<_>>().join("."),
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

    /// Which of Envoy's counters it belongs to.
    pub fn class(&self) -> Class {
        match self {
            TlsError::Refused(refusal) => refusal.reason.class(),
            _ => Class::Connection,
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
            rustls::Error::InvalidCertificate(error) => TlsError::Refused(error.into()),
            rustls::Error::NoCertificatesPresented => TlsError::Refused(Refusal::new(
                Reason::NoCertificate,
                "a certificate is required and the peer presented none",
            )),
            rustls::Error::AlertReceived(alert) => TlsError::Alert(format!("{alert:?}")),
            other => TlsError::Protocol(other.to_string()),
        }
    }
}
