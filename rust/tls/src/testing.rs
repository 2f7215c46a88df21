//! A small public key infrastructure and two ends of a wire, for tests and fuzz
//! targets, and the judgement of a certificate without a handshake.

// For tests only: what fails here is the test.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::matcher::{StringMatch, StringPattern};
use pymesh_model::tls::{ClientTls, Pins, Profile, SanKind, SanMatch, SecretName, ServerTls, Validation, Versions};
use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{ServerName, UnixTime};

use crate::verify::PeerVerifier;
use crate::{client_config, server_config, PeerIdentity, Reason, SecretStore, Session, TimeProvider, TlsError};

/// 1 March 2026: certificates are valid throughout 2026 unless a test says otherwise.
pub const NOW: u64 = 1_772_323_200;
pub const DAY: u64 = 86_400;

#[derive(Debug)]
pub struct Clock(AtomicU64);

impl Clock {
    pub fn new() -> Arc<Self> {
        Arc::new(Clock(AtomicU64::new(NOW)))
    }

    pub fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A PEM chain and a PEM key.
pub struct Pair {
    pub chain: String,
    pub key: String,
}

pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Authority::with(ca_params(name))
    }

    pub fn with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// An authority below this one; its leaves need its own PEM in their chain.
    pub fn intermediate(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { chain, key: key.serialize_pem() }
    }

    /// The same with an RSA key.
    pub fn issue_rsa(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { chain, key: key.serialize_pem() }
    }

    /// Signs what a workload asked for, for `life` from one minute before `now`.
    pub fn sign(&self, csr_pem: &str, now: u64, life: u64) -> String {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let fresh = svid("spiffe://unused/a");
        csr.params.key_usages = fresh.key_usages;
        csr.params.extended_key_usages = fresh.extended_key_usages;
        csr.params.not_before = date_time_ymd(1970, 1, 1) + Duration::from_secs(now - 60);
        csr.params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(now + life);
        csr.signed_by(&self.issuer).unwrap().pem()
    }
}

/// A leaf with these names, right in everything else.
pub fn leaf(names: &[SanType]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = names.to_vec();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

pub fn svid(id: &str) -> CertificateParams {
    leaf(&[uri(id)])
}

pub fn altered(mut params: CertificateParams, change: impl Fn(&mut CertificateParams)) -> CertificateParams {
    change(&mut params);
    params
}

pub fn name(text: &str) -> SecretName {
    SecretName::from(text)
}

pub fn put(store: &SecretStore, secret: &str, pair: &Pair) {
    store.put_identity(&name(secret), pair.chain.as_bytes(), pair.key.as_bytes()).unwrap();
}

pub fn uri_prefix(text: &str) -> SanMatch {
    let pattern = StringPattern::Prefix(text.as_bytes().into());
    SanMatch { kind: SanKind::Uri, value: StringMatch { pattern, ignore_case: false } }
}

/// What members of a mesh demand: an SVID of `cluster.local` from bundle `ROOTCA`.
pub fn mesh_validation() -> Validation {
    Validation {
        trust: name("ROOTCA"),
        profile: Profile::Spiffe { trust_domains: vec!["cluster.local".into()] },
        san_matches: Vec::new(),
        pins: Pins::default(),
    }
}

pub fn mesh_server() -> ServerTls {
    ServerTls {
        certificates: vec![name("default")],
        require_client_certificate: true,
        validation: Some(mesh_validation()),
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        versions: Versions::ONLY_1_3,
        ciphers: Vec::new(),
    }
}

pub fn mesh_client() -> ClientTls {
    ClientTls {
        certificate: Some(name("default")),
        validation: Some(mesh_validation()),
        sni: Some("outbound_.80_._.reviews.shop.svc.cluster.local".into()),
        alpn: vec![b"h2".to_vec()],
        versions: Versions::ONLY_1_3,
        ciphers: Vec::new(),
    }
}

/// A store with a root and the SVID of `account`.
pub fn mesh_store(clock: &Arc<Clock>, root: &Authority, account: &str) -> Arc<SecretStore> {
    let store = Arc::new(SecretStore::new(clock.clone()));
    put(&store, "default", &root.issue(&svid(&format!("spiffe://cluster.local/ns/shop/sa/{account}"))));
    store.put_trust(&name("ROOTCA"), root.pem.as_bytes()).unwrap();
    store
}

pub fn server(tls: &ServerTls, store: &Arc<SecretStore>) -> Session {
    Session::server(server_config(tls, store).unwrap()).unwrap()
}

pub fn client(tls: &ClientTls, store: &Arc<SecretStore>) -> Session {
    let address = "127.0.0.1".parse().unwrap();
    Session::client(client_config(tls, store).unwrap(), tls.sni.as_deref(), address).unwrap()
}

/// Whether a peer with this certificate alone is let in: as a server if `server_name` is given.
///
/// # Errors
/// The reason for which it is refused.
pub fn judge(
    validation: &Validation,
    store: &Arc<SecretStore>,
    leaf: &[u8],
    server_name: Option<&str>,
) -> Result<(), Reason> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(store.now().try_into().unwrap()));
    let name = server_name.map(|name| ServerName::try_from(name.to_owned()).unwrap());
    let verifier = PeerVerifier::new(validation.clone(), true, store.clone());
    verifier.judge(&leaf.into(), &[], name.as_ref(), now).map_err(|error| crate::Refusal::from(error).reason)
}

/// What a certificate says of its owner.
///
/// # Errors
/// Why it cannot be read.
pub fn identity(der: &[u8]) -> Result<PeerIdentity, String> {
    PeerIdentity::from_der(der)
}

/// Both ends of a wire that carries `chunk` octets at a time.
pub struct Wire {
    pub client: Session,
    pub server: Session,
    pub at_client: Vec<u8>,
    pub at_server: Vec<u8>,
    pub chunk: usize,
}

/// How each end fared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub client: Option<TlsError>,
    pub server: Option<TlsError>,
}

impl Wire {
    pub fn new(client: Session, server: Session) -> Self {
        Wire { client, server, at_client: Vec::new(), at_server: Vec::new(), chunk: usize::MAX }
    }

    /// Carries octets both ways until there are none, or an end has failed and
    /// its last words have been delivered.
    pub fn run(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let forth = carry(&mut self.client, &mut self.server, &mut self.at_server, self.chunk, &mut outcome.server);
            let back = carry(&mut self.server, &mut self.client, &mut self.at_client, self.chunk, &mut outcome.client);
            if !forth && !back {
                return outcome;
            }
        }
    }
}

fn carry(from: &mut Session, to: &mut Session, at: &mut Vec<u8>, chunk: usize, error: &mut Option<TlsError>) -> bool {
    let octets = from.output();
    let octets = octets[..octets.len().min(chunk)].to_vec();
    from.advance_output(octets.len());
    if !octets.is_empty() && error.is_none() {
        *error = to.receive(&octets, at).err();
    }
    !octets.is_empty()
}
