//! TLS as configuration states it (Envoy `extensions.transport_sockets.tls.v3`).
//!
//! Keys and roots are not here: a context names secrets, and `pymesh-tls`
//! looks those names up in its store during each handshake. So the rotation of
//! a certificate changes no snapshot, and a snapshot can be dumped to anyone.

use std::fmt;
use std::sync::Arc;

use crate::matcher::{StringMatch, StringPattern};

/// Name of a secret: an SDS resource name, or one made up for inline material.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(Arc<str>);

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SecretName {
    fn from(name: &str) -> Self {
        SecretName(name.into())
    }
}

impl From<String> for SecretName {
    fn from(name: String) -> Self {
        SecretName(name.into())
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `DownstreamTlsContext`: TLS terminated by a filter chain.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerTls {
    /// At least one. With several, the first whose certificate covers the
    /// client's SNI is presented, otherwise the first.
    pub certificates: Vec<SecretName>,
    /// Refuse clients that present no certificate. Needs `validation`.
    pub require_client_certificate: bool,
    /// How client certificates are judged; `None`: none is asked for. Without
    /// `require_client_certificate` a client may present none, not a bad one.
    pub validation: Option<Validation>,
    /// `alpn_protocols`, most preferred first. A client that offers only
    /// others is refused (RFC 7301, section 3.2); one that offers none is served.
    pub alpn: Vec<Vec<u8>>,
    /// Protocol versions that are accepted.
    pub versions: Versions,
    /// `cipher_suites` that are accepted, most preferred first; empty leaves the choice to the client.
    pub ciphers: Vec<Cipher>,
}

/// `UpstreamTlsContext`: TLS originated towards a cluster's endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientTls {
    /// Presented when the server asks for a certificate.
    pub certificate: Option<SecretName>,
    /// How the server's certificate is judged; `None`: any certificate will
    /// do, so the connection is encrypted but its peer is unknown.
    pub validation: Option<Validation>,
    /// `sni`: the name that is asked for; `None` sends no name.
    pub sni: Option<Arc<str>>,
    /// `alpn_protocols`, most preferred first.
    pub alpn: Vec<Vec<u8>>,
    /// Protocol versions that are offered.
    pub versions: Versions,
    /// `cipher_suites` that are offered; empty: all.
    pub ciphers: Vec<Cipher>,
}

/// `tls_minimum_protocol_version` and `tls_maximum_protocol_version`; `min <= max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Versions {
    pub min: Version,
    pub max: Version,
}

impl Versions {
    /// TLS 1.3 alone: what members of a mesh speak to each other.
    pub const ONLY_1_3: Versions = Versions { min: Version::Tls1_3, max: Version::Tls1_3 };
}

impl Default for Versions {
    fn default() -> Self {
        Versions { min: Version::Tls1_2, max: Version::Tls1_3 }
    }
}

/// The versions that exist here; older ones are refused by translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Version {
    Tls1_2,
    Tls1_3,
}

/// A cipher suite of TLS 1.2. Those of TLS 1.3 are all good and, as in Envoy, not for configuration to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cipher {
    EcdheEcdsaAes128Gcm,
    EcdheEcdsaAes256Gcm,
    EcdheEcdsaChaCha20,
    EcdheRsaAes128Gcm,
    EcdheRsaAes256Gcm,
    EcdheRsaChaCha20,
}

impl Cipher {
    /// All there are: with forward secrecy, authenticated, without known weakness.
    pub const ALL: [Cipher; 6] = [
        Cipher::EcdheEcdsaAes128Gcm,
        Cipher::EcdheEcdsaAes256Gcm,
        Cipher::EcdheEcdsaChaCha20,
        Cipher::EcdheRsaAes128Gcm,
        Cipher::EcdheRsaAes256Gcm,
        Cipher::EcdheRsaChaCha20,
    ];

    /// OpenSSL's name, by which Envoy's configuration knows it.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::EcdheEcdsaAes128Gcm => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Cipher::EcdheEcdsaAes256Gcm => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Cipher::EcdheEcdsaChaCha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Cipher::EcdheRsaAes128Gcm => "ECDHE-RSA-AES128-GCM-SHA256",
            Cipher::EcdheRsaAes256Gcm => "ECDHE-RSA-AES256-GCM-SHA384",
            Cipher::EcdheRsaChaCha20 => "ECDHE-RSA-CHACHA20-POLY1305",
        }
    }

    /// The suite of that name.
    pub fn named(name: &str) -> Option<Cipher> {
        Cipher::ALL.into_iter().find(|cipher| cipher.name() == name)
    }
}

/// `CertificateValidationContext`: how a peer's certificate is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// The trust bundle; until the store has it, every peer is refused.
    pub trust: SecretName,
    /// What kind of certificate it must be.
    pub profile: Profile,
    /// `match_typed_subject_alt_names`: at least one name of the certificate
    /// must match one of these; empty asks nothing.
    pub san_matches: Vec<SanMatch>,
    /// Which certificates alone are let in.
    pub pins: Pins,
}

/// `verify_certificate_hash` and `verify_certificate_spki`: a certificate must be one of the first or have a key of the
/// second. Without any, every certificate will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// SHA-256 of the whole certificate in DER.
    pub certificates: Vec<[u8; 32]>,
    /// SHA-256 of its `SubjectPublicKeyInfo` in DER.
    pub keys: Vec<[u8; 32]>,
}

impl Pins {
    /// Whether nothing is pinned.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty()
    }
}

/// What is demanded of a certificate besides its chain, times and key usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// An X.509-SVID (`envoy.tls.cert_validator.spiffe`, and what every member
    /// of a mesh presents): exactly one SPIFFE ID.
    Spiffe {
        /// Trust domains that are let in; empty leaves that to `san_matches`.
        trust_domains: Vec<Arc<str>>,
    },
    /// An ordinary certificate.
    Pki {
        /// `auto_sni_san_validation`: it must be valid for the server name
        /// that was asked for, or without one for the endpoint's IP address.
        /// Clients only.
        match_server_name: bool,
    },
}

/// `SubjectAltNameMatcher`.
#[derive(Clone, Debug)]
pub struct SanMatch {
    /// Names of which type are looked at.
    pub kind: SanKind,
    /// What such a name must look like. IP addresses are compared as text.
    pub value: StringMatch,
}

impl PartialEq for SanMatch {
    fn eq(&self, other: &Self) -> bool {
        use StringPattern::{Contains, Exact, Prefix, Regex, Suffix};
        let same_pattern = match (&self.value.pattern, &other.value.pattern) {
            (Exact(a), Exact(b)) | (Prefix(a), Prefix(b)) | (Suffix(a), Suffix(b)) | (Contains(a), Contains(b)) => {
                a == b
            }
            (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        };
        same_pattern && self.kind == other.kind && self.value.ignore_case == other.value.ignore_case
    }
}

/// `SanType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SanKind {
    Dns,
    Uri,
    Email,
    Ip,
}

impl Profile {
    /// The profile that matchers imply where configuration names no validator.
    ///
    /// Istio and its like use Envoy's ordinary validator and matchers of
    /// `spiffe://` URIs; whoever may pass those is an SVID, so SVID rules
    /// apply. They only ever refuse more than Envoy would.
    pub fn implied_by(san_matches: &[SanMatch], match_server_name: bool) -> Profile {
        let spiffe = |san: &SanMatch| {
            let (StringPattern::Exact(text) | StringPattern::Prefix(text)) = &san.value.pattern else {
                return false;
            };
            san.kind == SanKind::Uri && text.starts_with(b"spiffe://")
        };
        if !san_matches.is_empty() && san_matches.iter().all(spiffe) {
            Profile::Spiffe { trust_domains: Vec::new() }
        } else {
            Profile::Pki { match_server_name }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(pattern: StringPattern) -> SanMatch {
        SanMatch { kind: SanKind::Uri, value: StringMatch { pattern, ignore_case: false } }
    }

    #[test]
    fn spiffe_matchers_imply_svid_rules() {
        let mesh = uri(StringPattern::Prefix(b"spiffe://cluster.local/"[..].into()));
        let one = uri(StringPattern::Exact(b"spiffe://cluster.local/ns/a/sa/b"[..].into()));
        let site = SanMatch { kind: SanKind::Dns, value: StringMatch::exact("shop.example") };
        let svid = Profile::Spiffe { trust_domains: Vec::new() };
        let pki = Profile::Pki { match_server_name: true };

        assert_eq!(Profile::implied_by(&[mesh.clone(), one], true), svid);
        assert_eq!(Profile::implied_by(&[mesh.clone(), site], true), pki);
        assert_eq!(Profile::implied_by(&[], true), pki);
        let dns = SanMatch { kind: SanKind::Dns, ..mesh };
        assert_eq!(Profile::implied_by(&[dns], true), pki);
        let broad = uri(StringPattern::Prefix(b"spiffe"[..].into()));
        assert_eq!(Profile::implied_by(&[broad], true), pki);
    }
}
