//! The mesh's authority and the identities of the two sidecars.
//!
//! Keys are Ed25519: its signatures have one length, so that what a handshake
//! weighs does not change from run to run, as it would with ECDSA's DER.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pymesh_model::tls::{ClientTls, Pins, Profile, SecretName, ServerTls, Validation, Versions};
use pymesh_tls::{SecretStore, TimeProvider};
use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, PKCS_ED25519,
};
use rustls::pki_types::UnixTime;

/// 1 March 2026, always.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_772_323_200)))
    }
}

struct Material {
    root: String,
    chain: String,
    key: String,
}

fn material() -> &'static Material {
    static MATERIAL: OnceLock<Material> = OnceLock::new();
    MATERIAL.get_or_init(|| {
        let valid = |mut params: CertificateParams| {
            params.distinguished_name = DistinguishedName::new();
            // Drawn ones differ in length now and then.
            params.serial_number = Some(7_u64.into());
            params.not_before = date_time_ymd(2026, 1, 1);
            params.not_after = date_time_ymd(2027, 1, 1);
            params
        };
        let mut root = valid(CertificateParams::default());
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let mut leaf = valid(CertificateParams::default());
        leaf.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/sim/sa/app".try_into().unwrap())];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let chain = leaf.signed_by(&leaf_key, &Issuer::new(root, root_key)).unwrap().pem();
        Material { root: root_pem, chain, key: leaf_key.serialize_pem() }
    })
}

/// A store with the identity and the root, as SDS would fill it.
pub fn store() -> Arc<SecretStore> {
    let store = Arc::new(SecretStore::new(Arc::new(Clock)));
    let Material { root, chain, key } = material();
    store.put_identity(&SecretName::from("default"), chain.as_bytes(), key.as_bytes()).unwrap();
    store.put_trust(&SecretName::from("ROOTCA"), root.as_bytes()).unwrap();
    store
}

fn validation() -> Validation {
    let profile = Profile::Spiffe { trust_domains: vec!["cluster.local".into()] };
    Validation { trust: SecretName::from("ROOTCA"), profile, san_matches: Vec::new(), pins: Pins::default() }
}

pub fn server_tls(alpn: &[&str]) -> ServerTls {
    ServerTls {
        certificates: vec![SecretName::from("default")],
        require_client_certificate: true,
        validation: Some(validation()),
        alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        versions: Versions::ONLY_1_3,
        ciphers: Vec::new(),
    }
}

pub fn client_tls(alpn: &[&str]) -> ClientTls {
    ClientTls {
        certificate: Some(SecretName::from("default")),
        validation: Some(validation()),
        sni: Some("app.sim.svc.cluster.local".into()),
        alpn: alpn.iter().map(|name| name.as_bytes().to_vec()).collect(),
        versions: Versions::ONLY_1_3,
        ciphers: Vec::new(),
    }
}
