//! Who is let in.
//!
//! rustls checks that the peer holds the key of its certificate; whether that
//! certificate may be here is judged by [`PeerVerifier`], for clients and
//! servers alike, in this order: chain, times and purpose (by webpki, against
//! the bundle that the store has now), the strength of its key, then key usage, then SPIFFE's
//! rules, then the matchers of the configuration, then its pins. The first rule that is broken is
//! the [`Reason`]; no rule can let anyone in, only the end of the list does.

use std::sync::Arc;

use pymesh_model::matcher::StringPattern;
use pymesh_model::tls::{Pins, Profile, SanKind, SanMatch, Validation};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, ExtendedKeyPurpose, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::certificate::{dns_covers, public_key, sha256, unix_time, Facts};
use crate::error::{Reason, Refusal};
use crate::secret::TrustBundle;
use crate::spiffe::SpiffeId;
use crate::SecretStore;

/// Judges the peers of one filter chain or cluster.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    validation: Validation,
    mandatory: bool,
    store: Arc<SecretStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(crate) fn new(validation: Validation, mandatory: bool, store: Arc<SecretStore>) -> Self {
        let algorithms = store.provider().signature_verification_algorithms;
        PeerVerifier { validation, mandatory, store, algorithms }
    }

    pub(crate) fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let facts = Facts::from_der(leaf).map_err(|what| Refusal::new(Reason::Malformed, what))?;
        let Some(trust) = self.store.trust(&self.validation.trust) else {
            let detail = format!("the trust bundle `{}` has not been loaded", self.validation.trust);
            return Err(Refusal::new(Reason::TrustNotLoaded, detail).into());
        };
        let certificate = EndEntityCert::try_from(leaf).map_err(chain_error)?;
        // Only clients hand in the name of their server.
        let purpose = if server_name.is_some() { KeyUsage::server_auth() } else { KeyUsage::client_auth() };
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &trust.anchors,
                intermediates,
                now,
                purpose,
                None,
                Some(&|path| issuers_are_fit(&trust, path, now)),
            )
            .map_err(chain_error)?;
        judge_key(&facts)?;
        match &self.validation.profile {
            Profile::Spiffe { trust_domains } => judge_svid(&facts, trust_domains)?,
            Profile::Pki { match_server_name } => {
                judge_key_usage(&facts, false)?;
                if let (true, Some(name)) = (match_server_name, server_name) {
                    certificate.verify_is_valid_for_subject_name(name).map_err(|_| {
                        let detail = format!("it is valid for {}, not for {:?}", names(&facts), name.to_str());
                        Refusal::new(Reason::ServerNameMismatch, detail)
                    })?;
                }
            }
        }
        judge_names(&facts, &self.validation.san_matches)?;
        Ok(judge_pins(leaf, &self.validation.pins)?)
    }
}

/// What webpki does not look at: whether an intermediate may sign certificates at all (RFC 5280, section 4.2.1.3), and
/// the dates of trust anchors.
fn issuers_are_fit(trust: &TrustBundle, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
    intermediates_are_fit(path)?;
    root_is_valid(trust, path, now)
}

fn intermediates_are_fit(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    for issuer in path.intermediate_certificates() {
        let facts = Facts::from_der(&issuer.der()).map_err(|_| webpki::Error::BadDer)?;
        if facts.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
    }
    Ok(())
}

/// Whether a chain, leaf first, leads to one of these roots at this time. Nothing else is judged.
pub(crate) fn leads_to(
    provider: &CryptoProvider,
    anchors: &[TrustAnchor<'_>],
    chain: &[CertificateDer<'_>],
    purpose: KeyUsage,
    at: UnixTime,
) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else { return false };
    let algorithms = provider.signature_verification_algorithms.all;
    EndEntityCert::try_from(leaf).is_ok_and(|certificate| {
        let fit = Some(&intermediates_are_fit as &dyn Fn(&VerifiedPath<'_>) -> Result<(), webpki::Error>);
        certificate.verify_for_usage(algorithms, anchors, intermediates, at, purpose, None, fit).is_ok()
    })
}

fn root_is_valid(trust: &TrustBundle, path: &VerifiedPath<'_>, now: UnixTime) -> Result<(), webpki::Error> {
    let at = trust.anchors.iter().position(|anchor| anchor == path.anchor());
    let root = at.and_then(|at| trust.roots.get(at)).ok_or(webpki::Error::UnknownIssuer)?;
    let (not_before, not_after) = (unix_time(root.not_before), unix_time(root.not_after));
    if now > not_after {
        return Err(webpki::Error::CertExpired { time: now, not_after });
    }
    if now < not_before {
        return Err(webpki::Error::CertNotValidYet { time: now, not_before });
    }
    Ok(())
}

/// As webpki does of the keys that sign: who proves a key that is too weak proves nothing.
fn judge_key(facts: &Facts) -> Result<(), Refusal> {
    match facts.rsa_bits {
        Some(bits) if bits < WEAKEST_RSA => {
            let detail = format!("its RSA key has {bits} bits; it needs {WEAKEST_RSA}");
            Err(Refusal::new(Reason::WeakKey, detail))
        }
        _ => Ok(()),
    }
}

const WEAKEST_RSA: usize = 2048;

/// X509-SVID, sections 2, 4 and 5.2.
fn judge_svid(facts: &Facts, trust_domains: &[Arc<str>]) -> Result<(), Refusal> {
    if facts.is_ca {
        return Err(Refusal::new(Reason::LeafIsCa, "a certificate authority may not act as a workload"));
    }
    judge_key_usage(facts, true)?;
    let uri = match &facts.sans.uri[..] {
        [uri] => uri,
        [] => {
            let detail = format!("it has no URI among its names ({})", names(facts));
            return Err(Refusal::new(Reason::NoSpiffeId, detail));
        }
        several => {
            let detail = format!("it has {} URIs; an X.509-SVID has exactly one", several.len());
            return Err(Refusal::new(Reason::SeveralUriSans, detail));
        }
    };
    let id = SpiffeId::parse(uri)
        .map_err(|what| Refusal::new(Reason::InvalidSpiffeId, format!("`{uri}` is not a SPIFFE ID: {what}")))?;
    if trust_domains.is_empty() || trust_domains.iter().any(|domain| **domain == *id.trust_domain()) {
        Ok(())
    } else {
        let detail = format!("`{uri}` is not of {}", trust_domains.join(" or "));
        Err(Refusal::new(Reason::WrongTrustDomain, detail))
    }
}

/// RFC 5280, section 4.2.1.3: with the extension, digitalSignature must be set
/// to sign handshakes. SPIFFE demands the extension, and no signing of certificates.
fn judge_key_usage(facts: &Facts, is_svid: bool) -> Result<(), Refusal> {
    let refuse = |reason, detail: &str| Err(Refusal::new(reason, detail));
    match facts.key_usage {
        None if is_svid => refuse(Reason::NoDigitalSignature, "it has no key usage extension"),
        Some(usage) if !usage.digital_signature => {
            refuse(Reason::NoDigitalSignature, "its key usage does not include digitalSignature")
        }
        Some(usage) if is_svid && (usage.key_cert_sign || usage.crl_sign) => {
            refuse(Reason::LeafSignsCertificates, "its key usage includes keyCertSign or cRLSign")
        }
        _ => Ok(()),
    }
}

/// `match_typed_subject_alt_names`: any matcher and any name of its type will do.
fn judge_names(facts: &Facts, matches: &[SanMatch]) -> Result<(), Refusal> {
    if matches.is_empty() || matches.iter().any(|san| has_match(facts, san)) {
        Ok(())
    } else {
        let detail = format!("none of {} is expected here", names(facts));
        Err(Refusal::new(Reason::SanMismatch, detail))
    }
}

/// `verify_certificate_hash` and `verify_certificate_spki`: as in Envoy, one of either will do.
fn judge_pins(leaf: &CertificateDer<'_>, pins: &Pins) -> Result<(), Refusal> {
    if pins.is_empty() || pins.certificates.contains(&sha256(leaf)) {
        return Ok(());
    }
    let key = public_key(leaf).map_err(|what| Refusal::new(Reason::Malformed, what))?;
    if pins.keys.contains(&sha256(key)) {
        return Ok(());
    }
    Err(Refusal::new(Reason::NotPinned, "neither its hash nor that of its key is expected here"))
}

fn has_match(facts: &Facts, san: &SanMatch) -> bool {
    let any = |names: &[String]| names.iter().any(|name| san.value.matches(name.as_bytes()));
    match san.kind {
        SanKind::Uri => any(&facts.sans.uri),
        SanKind::Email => any(&facts.sans.email),
        SanKind::Ip => facts.sans.ip.iter().any(|ip| san.value.matches(ip.to_string().as_bytes())),
        // Envoy, too, lets a certificate's wildcard satisfy an exact DNS matcher.
        SanKind::Dns => match (&san.value.pattern, std::str::from_utf8(exact(&san.value.pattern))) {
            (StringPattern::Exact(_), Ok(host)) => facts.sans.dns.iter().any(|name| dns_covers(name, host)),
            _ => any(&facts.sans.dns),
        },
    }
}

fn exact(pattern: &StringPattern) -> &[u8] {
    match pattern {
        StringPattern::Exact(text) => text,
        _ => b"",
    }
}

/// The names of a certificate for an error text, few enough for a log line.
fn names(facts: &Facts) -> String {
    const SHOWN: usize = 8;
    let sans = &facts.sans;
    let ips: Vec<String> = sans.ip.iter().map(ToString::to_string).collect();
    let all = || sans.uri.iter().chain(&sans.dns).chain(&sans.email).chain(&ips);
    let shown: Vec<&str> = all().take(SHOWN).map(String::as_str).collect();
    match all().skip(SHOWN).count() {
        0 if shown.is_empty() => "no names".into(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What webpki says of a chain; as rustls's own variant where there is an alert for it (see [`Refusal`]).
fn chain_error(error: webpki::Error) -> CertificateError {
    use webpki::Error as E;
    let refuse = |reason, detail: &str| Refusal::new(reason, detail).into();
    match error {
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::UnsupportedCriticalExtension => CertificateError::UnhandledCriticalExtension,
        E::UnsupportedSignatureAlgorithmContext(context) => CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: context.signature_algorithm_id,
            supported_algorithms: context.supported_algorithms,
        },
        E::RequiredEkuNotFoundContext(context) => CertificateError::InvalidPurposeContext {
            required: purpose(context.required.oid_values().collect()),
            presented: context.present.into_iter().map(purpose).collect(),
        },
        E::EmptyEkuExtension => refuse(Reason::WrongExtendedKeyUsage, "it is for nothing"),
        E::CaUsedAsEndEntity => refuse(Reason::LeafIsCa, "a certificate authority may not act as a peer"),
        E::InvalidSignatureForPublicKey | E::SignatureAlgorithmMismatch => {
            refuse(Reason::BadSignature, "a signature in its chain does not verify")
        }
        E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            refuse(Reason::UnsupportedAlgorithm, "the key of an issuer cannot have made the signature")
        }
        E::EndEntityUsedAsCa => refuse(Reason::IssuerMayNotSign, "an issuer in its chain may not sign certificates"),
        E::PathLenConstraintViolated => {
            refuse(Reason::PathTooLong, "there are more authorities below one than that one allows")
        }
        E::MaximumPathDepthExceeded => refuse(Reason::PathTooLong, "its chain is too long"),
        E::NameConstraintViolation => refuse(Reason::NameNotPermitted, "its issuer may not sign for its names"),
        E::BadDer
        | E::BadDerTime
        | E::ExtensionValueInvalid
        | E::InvalidCertValidity
        | E::InvalidSerialNumber
        | E::MalformedExtensions
        | E::TrailingData(_)
        | E::UnsupportedCertVersion => refuse(Reason::Malformed, &error.to_string()),
        other => refuse(Reason::InvalidChain, &other.to_string()),
    }
}

/// By object identifier (RFC 5280, section 4.2.1.12).
fn purpose(oid: Vec<usize>) -> ExtendedKeyPurpose {
    match oid[..] {
        [1, 3, 6, 1, 5, 5, 7, 3, 1] => ExtendedKeyPurpose::ServerAuth,
        [1, 3, 6, 1, 5, 5, 7, 3, 2] => ExtendedKeyPurpose::ClientAuth,
        _ => ExtendedKeyPurpose::Other(oid),
    }
}

/// What both verifier traits ask besides judging: does the peer hold the key?
macro_rules! check_signatures_with {
    ($algorithms:ident) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, certificate, signature, &self.$algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, &self.$algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.$algorithms.supported_schemes()
        }
    };
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: naming our roots to every client helps nobody in a mesh.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(leaf, intermediates, None, now).map_err(rustls::Error::InvalidCertificate)?;
        Ok(ClientCertVerified::assertion())
    }

    check_signatures_with!(algorithms);
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(leaf, intermediates, Some(server_name), now).map_err(rustls::Error::InvalidCertificate)?;
        Ok(ServerCertVerified::assertion())
    }

    check_signatures_with!(algorithms);
}

/// For clusters without a validation context: whoever holds the key of the
/// certificate that it presents is the server.
#[derive(Debug)]
pub(crate) struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyServer {
    pub(crate) fn new(provider: &CryptoProvider) -> Self {
        AnyServer { algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    check_signatures_with!(algorithms);
}

#[cfg(test)]
mod tests;
