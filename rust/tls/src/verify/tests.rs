use std::sync::Arc;

use pymesh_model::matcher::{full_match, StringMatch, StringPattern};
use pymesh_model::tls::{Pins, Profile, SanKind, SanMatch, ServerTls, Validation, Versions};
use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::Reason;
use crate::testing::*;
use crate::{SecretStore, Session, TlsError};

const UI: &str = "spiffe://cluster.local/ns/shop/sa/ui";

fn refusal(error: Option<TlsError>) -> Option<Reason> {
    match error {
        None => None,
        Some(TlsError::Refused(refusal)) => Some(refusal.reason),
        Some(other) => panic!("not a refusal: {other}"),
    }
}

/// What a mesh server that trusts `root` says to a client with this certificate,
/// and a mesh client to a server with it. Those use bare rustls: our own
/// store would not have some of these certificates.
fn judged(root: &Authority, pair: &Pair) -> (Option<Reason>, Option<Reason>) {
    let judge = mesh_store(&Clock::new(), root, "judge");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let provider = judge.provider();

    let client_config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(super::AnyServer::new(provider)))
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .unwrap();
    let peer = Session::client(Arc::new(client_config), None, [127, 0, 0, 1].into()).unwrap();
    let as_client = Wire::new(peer, server(&mesh_server(), &judge)).run();

    let mut server_config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    server_config.alpn_protocols = vec![b"h2".to_vec()];
    let peer = Session::server(Arc::new(server_config)).unwrap();
    let as_server = Wire::new(client(&mesh_client(), &judge), peer).run();
    (refusal(as_client.server), refusal(as_server.client))
}

#[test]
fn each_bad_certificate_is_refused_for_its_own_reason() {
    let root = Authority::new("root");
    let with = |change: &dyn Fn(&mut CertificateParams)| root.issue(&altered(svid(UI), change));
    let ids = |ids: &[&str]| with(&|params| params.subject_alt_names = ids.iter().map(|id| uri(id)).collect());
    let usages = |usages: &[KeyUsagePurpose]| with(&|params| params.key_usages = usages.to_vec());
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};

    let mut expired_ca = ca_params("short");
    expired_ca.not_after = date_time_ymd(2026, 2, 1);
    let expired_intermediate = root.intermediate(expired_ca);
    let mut pair_of_expired = expired_intermediate.issue(&svid(UI));
    pair_of_expired.chain.push_str(&expired_intermediate.pem);

    let not_a_ca = root.intermediate(svid(UI));
    let mut pair_of_leaf = not_a_ca.issue(&svid(UI));
    pair_of_leaf.chain.push_str(&not_a_ca.pem);

    let unfit = root.intermediate(altered(ca_params("unfit"), |p| p.key_usages = vec![DigitalSignature]));
    let mut pair_of_unfit = unfit.issue(&svid(UI));
    pair_of_unfit.chain.push_str(&unfit.pem);

    let mut narrow = ca_params("narrow");
    narrow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let narrow = root.intermediate(narrow);
    let below = narrow.intermediate(ca_params("below"));
    let mut pair_too_deep = below.issue(&svid(UI));
    pair_too_deep.chain.push_str(&below.pem);
    pair_too_deep.chain.push_str(&narrow.pem);

    let cases: Vec<(&str, Pair, Reason)> = vec![
        ("expired", with(&|p| p.not_after = date_time_ymd(2026, 2, 1)), Reason::Expired),
        ("not yet valid", with(&|p| p.not_before = date_time_ymd(2026, 6, 1)), Reason::NotYetValid),
        ("unknown root", Authority::new("other").issue(&svid(UI)), Reason::UnknownIssuer),
        // webpki tries the key of the root with the same name.
        ("root of the same name", Authority::new("root").issue(&svid(UI)), Reason::BadSignature),
        ("expired intermediate", pair_of_expired, Reason::Expired),
        ("leaf as issuer", pair_of_leaf, Reason::IssuerMayNotSign),
        ("issuer for other uses", pair_of_unfit, Reason::IssuerMayNotSign),
        ("path too long", pair_too_deep, Reason::PathTooLong),
        ("CA as leaf", with(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Reason::LeafIsCa),
        (
            "email only",
            with(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]),
            Reason::WrongExtendedKeyUsage,
        ),
        ("no key usage", usages(&[]), Reason::NoDigitalSignature),
        ("encipherment only", usages(&[KeyEncipherment]), Reason::NoDigitalSignature),
        ("signs certificates", usages(&[DigitalSignature, KeyCertSign]), Reason::LeafSignsCertificates),
        ("signs CRLs", usages(&[DigitalSignature, CrlSign]), Reason::LeafSignsCertificates),
        ("no SAN", ids(&[]), Reason::NoSpiffeId),
        ("DNS SAN only", with(&|p| p.subject_alt_names = vec![dns("ui.shop")]), Reason::NoSpiffeId),
        ("two SPIFFE IDs", ids(&[UI, "spiffe://cluster.local/ns/shop/sa/b"]), Reason::SeveralUriSans),
        ("two URIs", ids(&[UI, "https://example.com/"]), Reason::SeveralUriSans),
        ("not a SPIFFE ID", ids(&["https://cluster.local/ns/shop/sa/ui"]), Reason::InvalidSpiffeId),
        ("no path", ids(&["spiffe://cluster.local"]), Reason::InvalidSpiffeId),
        ("dots", ids(&["spiffe://cluster.local/ns/../sa/ui"]), Reason::InvalidSpiffeId),
        ("upper-case domain", ids(&["spiffe://Cluster.local/ns/shop/sa/ui"]), Reason::InvalidSpiffeId),
        ("NUL in the ID", ids(&["spiffe://cluster.local/ns/shop/sa/ui\0x"]), Reason::Malformed),
        ("other trust domain", ids(&["spiffe://evil.local/ns/shop/sa/ui"]), Reason::WrongTrustDomain),
        ("longer trust domain", ids(&["spiffe://cluster.local.evil/ns/shop/sa/ui"]), Reason::WrongTrustDomain),
    ];
    for (case, pair, reason) in &cases {
        assert_eq!(judged(&root, pair), (Some(*reason), Some(*reason)), "{case}");
    }
    assert_eq!(judged(&root, &with(&|_| {})), (None, None), "the good certificate");
    let plus_dns = with(&|p| p.subject_alt_names.push(dns("ui.shop")));
    assert_eq!(judged(&root, &plus_dns), (None, None), "DNS names beside the SPIFFE ID are allowed");
}

#[test]
fn purpose_is_judged_by_role() {
    let root = Authority::new("root");
    let only = |usage: ExtendedKeyUsagePurpose| {
        root.issue(&altered(svid(UI), |p| p.extended_key_usages = vec![usage.clone()]))
    };
    let wrong = Some(Reason::WrongExtendedKeyUsage);
    assert_eq!(judged(&root, &only(ExtendedKeyUsagePurpose::ClientAuth)), (None, wrong));
    assert_eq!(judged(&root, &only(ExtendedKeyUsagePurpose::ServerAuth)), (wrong, None));
}

#[test]
fn chains_through_an_intermediate_are_followed() {
    let root = Authority::new("root");
    let intermediate = root.intermediate(ca_params("intermediate"));
    let mut pair = intermediate.issue(&svid(UI));
    assert_eq!(judged(&root, &pair), (Some(Reason::UnknownIssuer), Some(Reason::UnknownIssuer)));
    pair.chain.push_str(&intermediate.pem);
    assert_eq!(judged(&root, &pair), (None, None));
}

#[test]
fn time_is_that_of_the_handshake() {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let store = mesh_store(&clock, &root, "ui");
    let run = || Wire::new(client(&mesh_client(), &store), server(&mesh_server(), &store)).run();
    assert_eq!(run(), Default::default());
    clock.set(NOW + 400 * DAY);
    assert_eq!(refusal(run().client), Some(Reason::Expired));
    clock.set(NOW - 100 * DAY);
    assert_eq!(refusal(run().client), Some(Reason::NotYetValid));
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let clock = Clock::new();
    let mut params = ca_params("root");
    params.not_after = date_time_ymd(2026, 3, 2);
    let old = Authority::with(params);
    let store = mesh_store(&clock, &old, "ui");
    let run = || Wire::new(client(&mesh_client(), &store), server(&mesh_server(), &store)).run();
    assert_eq!(run(), Default::default());
    clock.set(NOW + 30 * DAY);
    assert_eq!(refusal(run().client), Some(Reason::Expired));
}

#[test]
fn without_trust_everybody_is_refused() {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let (peer, store) = (mesh_store(&clock, &root, "ui"), mesh_store(&clock, &root, "reviews"));
    store.remove(&name("ROOTCA"));
    let as_server = Wire::new(client(&mesh_client(), &peer), server(&mesh_server(), &store)).run();
    assert_eq!(refusal(as_server.server), Some(Reason::TrustNotLoaded));
    let as_client = Wire::new(client(&mesh_client(), &store), server(&mesh_server(), &peer)).run();
    assert_eq!(refusal(as_client.client), Some(Reason::TrustNotLoaded));
}

/// What a client says that trusts `root` as ordinary PKI.
fn pki(
    certificate: &CertificateParams,
    match_server_name: bool,
    sni: Option<&str>,
    san_matches: &[SanMatch],
) -> Option<Reason> {
    let (clock, root) = (Clock::new(), Authority::new("public root"));
    let store = Arc::new(SecretStore::new(clock));
    put(&store, "site", &root.issue(certificate));
    store.put_trust(&name("roots"), root.pem.as_bytes()).unwrap();
    let server_tls = ServerTls {
        certificates: vec![name("site")],
        require_client_certificate: false,
        validation: None,
        alpn: Vec::new(),
        versions: Versions::default(),
        ciphers: Vec::new(),
    };
    let mut client_tls = mesh_client();
    client_tls.certificate = None;
    client_tls.alpn.clear();
    client_tls.versions = Versions::default();
    client_tls.sni = sni.map(Into::into);
    client_tls.validation = Some(Validation {
        trust: name("roots"),
        profile: Profile::Pki { match_server_name },
        san_matches: san_matches.to_vec(),
        pins: Pins::default(),
    });
    let mut wire = Wire::new(client(&client_tls, &store), server(&server_tls, &store));
    let outcome = wire.run();
    assert_eq!(wire.server.sni(), sni);
    refusal(outcome.client)
}

#[test]
fn pki_compares_the_server_name_where_told() {
    let site = leaf(&[dns("shop.example"), dns("*.cdn.example")]);
    let mismatch = Some(Reason::ServerNameMismatch);
    assert_eq!(pki(&site, true, Some("shop.example"), &[]), None);
    assert_eq!(pki(&site, true, Some("a.cdn.example"), &[]), None);
    assert_eq!(pki(&site, true, Some("other.example"), &[]), mismatch);
    assert_eq!(pki(&site, true, Some("a.b.cdn.example"), &[]), mismatch);
    assert_eq!(pki(&site, false, Some("other.example"), &[]), None);
    assert_eq!(pki(&site, true, None, &[]), mismatch);
    let address = leaf(&[SanType::IpAddress([127, 0, 0, 1].into())]);
    assert_eq!(pki(&address, true, None, &[]), None);
    let encipher = altered(site, |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    assert_eq!(pki(&encipher, true, Some("shop.example"), &[]), Some(Reason::NoDigitalSignature));
}

#[test]
fn matchers_look_at_names_of_their_type_only() {
    let text = |kind, pattern| SanMatch { kind, value: StringMatch { pattern, ignore_case: false } };
    let exact = |kind, value: &str| text(kind, StringPattern::Exact(value.as_bytes().into()));
    let accepted = |names: &[SanType], san: SanMatch| pki(&leaf(names), false, None, &[san]).is_none();

    let names = [
        dns("*.shop.example"),
        uri("spiffe://td/a"),
        SanType::Rfc822Name("a@b.example".try_into().unwrap()),
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
    ];
    assert!(accepted(&names, exact(SanKind::Dns, "www.shop.example")));
    assert!(!accepted(&names, exact(SanKind::Dns, "shop.example")));
    assert!(!accepted(&names, exact(SanKind::Dns, "spiffe://td/a")));
    assert!(accepted(&names, exact(SanKind::Uri, "spiffe://td/a")));
    assert!(!accepted(&names, exact(SanKind::Uri, "spiffe://td/")));
    assert!(accepted(&names, text(SanKind::Uri, StringPattern::Prefix(b"spiffe://td/"[..].into()))));
    assert!(accepted(&names, exact(SanKind::Email, "a@b.example")));
    assert!(accepted(&names, exact(SanKind::Ip, "10.0.0.1")));
    assert!(!accepted(&names, exact(SanKind::Ip, "10.0.0.10")));
    assert!(accepted(&names, text(SanKind::Uri, StringPattern::Regex(full_match("spiffe://td/[ab]").unwrap()))));
    assert!(!accepted(
        &[uri("spiffe://td/abc")],
        text(SanKind::Uri, StringPattern::Regex(full_match("spiffe://td/[ab]").unwrap()))
    ));
    assert!(accepted(&names, text(SanKind::Dns, StringPattern::Suffix(b".example"[..].into()))));
    let either = [exact(SanKind::Uri, "spiffe://td/b"), exact(SanKind::Uri, "spiffe://td/a")];
    assert_eq!(pki(&leaf(&names), false, None, &either), None);
    assert_eq!(pki(&leaf(&names), false, None, &either[..1]), Some(Reason::SanMismatch));
    assert_eq!(pki(&leaf(&[]), false, None, &either), Some(Reason::SanMismatch));
}

#[test]
fn matchers_apply_to_workloads_too() {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let store = mesh_store(&clock, &root, "ui");
    let mut tls = mesh_server();
    let run = |tls: &ServerTls| refusal(Wire::new(client(&mesh_client(), &store), server(tls, &store)).run().server);
    let validation = tls.validation.as_mut().unwrap();
    validation.profile = Profile::Spiffe { trust_domains: Vec::new() };
    validation.san_matches = vec![uri_prefix("spiffe://cluster.local/ns/shop/")];
    assert_eq!(run(&tls), None);
    tls.validation.as_mut().unwrap().san_matches = vec![uri_prefix("spiffe://cluster.local/ns/bank/")];
    assert_eq!(run(&tls), Some(Reason::SanMismatch));
}

#[test]
fn an_optional_certificate_may_be_absent_but_not_bad() {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let (judge, stranger) = (mesh_store(&clock, &root, "judge"), mesh_store(&clock, &root, "ui"));
    let mut tls = mesh_server();
    tls.require_client_certificate = false;
    let mut anonymous = mesh_client();
    anonymous.certificate = None;
    let mut wire = Wire::new(client(&anonymous, &stranger), server(&tls, &judge));
    assert_eq!(wire.run(), Default::default());
    assert!(wire.server.peer().is_none());
    put(&stranger, "default", &Authority::new("other").issue(&svid(UI)));
    let outcome = Wire::new(client(&mesh_client(), &stranger), server(&tls, &judge)).run();
    assert_eq!(refusal(outcome.server), Some(Reason::UnknownIssuer));
}

#[test]
fn a_client_without_validation_takes_any_server() {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let store = mesh_store(&clock, &root, "ui");
    put(&store, "self", &Authority::new("nobody knows").issue(&leaf(&[dns("x.example")])));
    let mut server_tls = mesh_server();
    server_tls.certificates = vec![name("self")];
    server_tls.require_client_certificate = false;
    server_tls.validation = None;
    let mut client_tls = mesh_client();
    client_tls.validation = None;
    assert_eq!(Wire::new(client(&client_tls, &store), server(&server_tls, &store)).run(), Default::default());
}

#[test]
fn a_pin_lets_one_certificate_in_or_one_key() {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let store = mesh_store(&clock, &root, "judge");
    let pair = root.issue(&svid(UI));
    let other = root.issue(&svid(UI));
    let der = |pair: &Pair| CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
    let hash = identity(&der(&pair)).unwrap().sha256;
    let key = crate::certificate::sha256(crate::certificate::public_key(&der(&pair)).unwrap());
    let judged = |pair: &Pair, certificates: &[[u8; 32]], keys: &[[u8; 32]]| {
        let pins = Pins { certificates: certificates.to_vec(), keys: keys.to_vec() };
        judge(&Validation { pins, ..mesh_validation() }, &store, &der(pair), None)
    };

    let refused = Err(Reason::NotPinned);
    assert_eq!(judged(&pair, &[], &[]), Ok(()));
    assert_eq!(judged(&pair, &[[0; 32], hash], &[]), Ok(()));
    assert_eq!(judged(&pair, &[], &[key]), Ok(()));
    assert_eq!(judged(&pair, &[[0; 32]], &[key]), Ok(()), "one of either list will do");
    assert_eq!(judged(&pair, &[key], &[hash]), refused, "a hash counts in its own list");
    assert_eq!(judged(&other, &[hash], &[key]), refused);
    let stranger = Authority::new("stranger").issue(&svid(UI));
    assert_eq!(judged(&stranger, &[identity(&der(&stranger)).unwrap().sha256], &[]), Err(Reason::UnknownIssuer));
}
