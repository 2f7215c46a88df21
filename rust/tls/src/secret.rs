//! One secret: parsed and checked when it arrives, never when a peer waits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::tls::SecretName;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use rustls::InconsistentKeys;

use crate::certificate::{sha256, Facts, SubjectAltNames};

/// A secret was refused; the store keeps what it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretError {
    /// Which secret.
    pub name: SecretName,
    /// What is wrong with it.
    pub problem: SecretProblem,
}

/// What is wrong with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SecretProblem {
    NotPem(String),
    NoCertificate,
    NoPrivateKey,
    /// The n-th certificate (from 1) is not one.
    Malformed(usize, String),
    UnsupportedKey(String),
    KeyDoesNotMatch,
    /// `notAfter` of the leaf has passed, by this many seconds.
    Expired(i64),
}

impl SecretProblem {
    /// Stable text for metrics.
    pub fn code(&self) -> &'static str {
        match self {
            SecretProblem::NotPem(_) => "not_pem",
            SecretProblem::NoCertificate => "no_certificate",
            SecretProblem::NoPrivateKey => "no_private_key",
            SecretProblem::Malformed(..) => "malformed_certificate",
            SecretProblem::UnsupportedKey(_) => "unsupported_key",
            SecretProblem::KeyDoesNotMatch => "key_does_not_match",
            SecretProblem::Expired(_) => "certificate_expired",
        }
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret `{}`: ", self.name)?;
        match &self.problem {
            SecretProblem::NotPem(what) => write!(f, "it is not PEM ({what})"),
            SecretProblem::NoCertificate => f.write_str("it holds no `BEGIN CERTIFICATE` section"),
            SecretProblem::NoPrivateKey => f.write_str("it holds no unencrypted `BEGIN ... PRIVATE KEY` section"),
            SecretProblem::Malformed(at, what) => write!(f, "certificate {at} is malformed: {what}"),
            SecretProblem::UnsupportedKey(what) => write!(f, "the private key cannot be used: {what}"),
            SecretProblem::KeyDoesNotMatch => {
                f.write_str("the private key is not the key of the first certificate; put the leaf first")
            }
            SecretProblem::Expired(seconds) => write!(f, "its certificate expired {seconds} seconds ago"),
        }
    }
}

impl std::error::Error for SecretError {}

/// A private key on its way into a store. It is never printed.
pub struct PrivateKey(PrivateKeyDer<'static>);

impl PrivateKey {
    /// The first private key of a PEM text (PKCS #8, PKCS #1 or SEC1).
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, SecretProblem> {
        match PrivateKeyDer::from_pem_slice(pem) {
            Ok(key) => Ok(PrivateKey(key)),
            Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(SecretProblem::NoPrivateKey),
            // The error's own text may quote the input, which is a key.
            Err(_) => Err(SecretProblem::NotPem("in the private key".into())),
        }
    }

    pub(crate) fn from_pkcs8(der: Vec<u8>) -> Self {
        PrivateKey(PrivatePkcs8KeyDer::from(der).into())
    }
}

impl Clone for PrivateKey {
    fn clone(&self) -> Self {
        PrivateKey(self.0.clone_key())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

/// A certificate chain with its key.
pub(crate) struct Identity {
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) chain: Vec<CertificateDescription>,
}

impl Identity {
    pub(crate) fn new(
        chain_pem: &[u8],
        key: PrivateKey,
        now: i64,
        provider: &CryptoProvider,
    ) -> Result<Self, SecretProblem> {
        let certificates = certificates(chain_pem)?;
        let chain = describe(&certificates)?;
        let leaf = chain.first().ok_or(SecretProblem::NoCertificate)?;
        if leaf.not_after < now {
            return Err(SecretProblem::Expired(now.saturating_sub(leaf.not_after)));
        }
        let certified = CertifiedKey::from_der(certificates, key.0, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => SecretProblem::KeyDoesNotMatch,
            other => SecretProblem::UnsupportedKey(other.to_string()),
        })?;
        Ok(Identity { certified: Arc::new(certified), chain })
    }

    /// From when until when all of the chain is valid.
    pub(crate) fn validity(&self) -> Validity {
        let not_before = self.chain.iter().map(|one| one.not_before).max();
        let not_after = self.chain.iter().map(|one| one.not_after).min();
        Validity { not_before: since_epoch(not_before), not_after: since_epoch(not_after) }
    }

    /// DNS names of the leaf, by which SNI chooses among several identities.
    pub(crate) fn dns_names(&self) -> &[String] {
        self.chain.first().map_or(&[], |leaf| &leaf.sans.dns)
    }

    /// URIs of the leaf: who we are in the mesh.
    pub(crate) fn uris(&self) -> &[String] {
        self.chain.first().map_or(&[], |leaf| &leaf.sans.uri)
    }
}

/// When an identity can be used; durations since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Validity {
    pub not_before: Duration,
    pub not_after: Duration,
}

fn since_epoch(seconds: Option<i64>) -> Duration {
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0))
}

/// Roots that vouch for peers.
pub(crate) struct TrustBundle {
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    /// One for each anchor, in the same order.
    pub(crate) roots: Vec<CertificateDescription>,
    /// SHA-256 of the PEM text that it came as.
    pub(crate) digest: [u8; 32],
}

impl TrustBundle {
    /// True if `next` trusts all that this one does.
    pub(crate) fn is_part_of(&self, next: &TrustBundle) -> bool {
        self.anchors.iter().all(|anchor| next.anchors.contains(anchor))
    }

    pub(crate) fn new(pem: &[u8]) -> Result<Self, SecretProblem> {
        let certificates = certificates(pem)?;
        let roots = describe(&certificates)?;
        let anchors = certificates
            .iter()
            .enumerate()
            .map(|(at, der)| match webpki::anchor_from_trusted_cert(der) {
                Ok(anchor) => Ok(anchor.to_owned()),
                Err(error) => Err(SecretProblem::Malformed(at + 1, error.to_string())),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(TrustBundle { anchors, roots, digest: sha256(pem) })
    }
}

/// What may be shown of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateDescription {
    /// Distinguished name as RFC 2253 writes it.
    pub subject: String,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Its names.
    pub sans: SubjectAltNames,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// The certificate itself.
    pub der: CertificateDer<'static>,
}

impl CertificateDescription {
    /// Whole days until it expires, 0 once it has.
    pub fn days_until_expiration(&self, now: i64) -> u64 {
        u64::try_from(self.not_after.saturating_sub(now)).unwrap_or(0) / 86_400
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SecretProblem> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| SecretProblem::NotPem(error.to_string()))?;
    if certificates.is_empty() {
        return Err(SecretProblem::NoCertificate);
    }
    Ok(certificates)
}

fn describe(certificates: &[CertificateDer<'_>]) -> Result<Vec<CertificateDescription>, SecretProblem> {
    let one = |(at, der): (usize, &CertificateDer<'_>)| {
        let facts = Facts::from_der(der).map_err(|what| SecretProblem::Malformed(at + 1, what))?;
        Ok(CertificateDescription {
            subject: facts.subject,
            serial: facts.serial,
            sans: facts.sans,
            not_before: facts.not_before,
            not_after: facts.not_after,
            der: der.clone().into_owned(),
        })
    };
    certificates.iter().enumerate().map(one).collect()
}
