use std::sync::Arc;

use rcgen::{date_time_ymd, SanType};

use crate::secret::SecretProblem;
use crate::testing::*;
use crate::{server_config, SecretStore, TlsError};

fn store() -> SecretStore {
    SecretStore::new(Clock::new())
}

#[test]
fn bad_secrets_are_named_and_change_nothing() {
    let root = Authority::new("root");
    let good = root.issue(&svid("spiffe://td/a"));
    let other = root.issue(&svid("spiffe://td/b"));
    let old = root.issue(&altered(svid("spiffe://td/a"), |p| p.not_after = date_time_ymd(2026, 2, 1)));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let store = store();
    put(&store, "default", &good);
    let generation = store.generation();

    let code = |chain: &str, key: &str| {
        let error = store.put_identity(&name("default"), chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("secret `default`: "), "{error}");
        assert!(!error.to_string().contains("MIG"), "no key material: {error}");
        error.problem.code()
    };
    assert_eq!(code(&good.chain, &other.key), "key_does_not_match");
    assert_eq!(code(&old.chain, &old.key), "certificate_expired");
    assert_eq!(code("", &good.key), "no_certificate");
    assert_eq!(code("no PEM at all", &good.key), "no_certificate");
    assert_eq!(code(&good.key, &good.key), "no_certificate");
    assert_eq!(code("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", &good.key), "not_pem");
    assert_eq!(code(&good.chain, ""), "no_private_key");
    assert_eq!(code(&good.chain, &good.chain), "no_private_key");
    assert_eq!(code(broken, &good.key), "malformed_certificate");
    assert_eq!(code(&good.chain, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "unsupported_key");

    let error = store.put_trust(&name("ROOTCA"), b"").unwrap_err();
    assert_eq!(error.problem, SecretProblem::NoCertificate);
    let one_broken = format!("{}{broken}", root.pem);
    let error = store.put_trust(&name("ROOTCA"), one_broken.as_bytes()).unwrap_err();
    assert!(matches!(error.problem, SecretProblem::Malformed(2, _)), "{error}");

    assert_eq!(store.generation(), generation);
    assert!(store.contains(&name("default")) && !store.contains(&name("ROOTCA")));
}

#[test]
fn what_is_shown_has_no_keys() {
    let store = store();
    let root = Authority::new("mesh, root");
    let mut params = svid("spiffe://td/ns/shop/sa/ui");
    params.subject_alt_names.push(dns("ui.shop"));
    params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
    let pair = root.issue(&params);
    let validity = store.put_identity(&name("default"), pair.chain.as_bytes(), pair.key.as_bytes()).unwrap();
    store.put_trust(&name("ROOTCA"), root.pem.as_bytes()).unwrap();

    let shown = store.describe();
    let [trust, identity] = &shown[..] else { panic!("{shown:?}") };
    assert!(trust.is_trust && !identity.is_trust);
    assert_eq!((trust.name.as_str(), identity.name.as_str()), ("ROOTCA", "default"));
    assert_eq!(trust.certificates[0].subject, "CN=mesh\\, root");
    let leaf = &identity.certificates[0];
    assert_eq!(leaf.sans.uri, ["spiffe://td/ns/shop/sa/ui"]);
    assert_eq!(leaf.sans.dns, ["ui.shop"]);
    assert_eq!(leaf.sans.ip.len(), 1);
    assert!(!leaf.serial.is_empty());
    assert_eq!(leaf.days_until_expiration(store.now()), 306);
    assert_eq!(leaf.days_until_expiration(leaf.not_after + 1), 0);
    assert_eq!(validity.not_after.as_secs() as i64, leaf.not_after);

    let text = format!("{store:?} {shown:?} {:?}", crate::csr::signing_request("spiffe://td/a").unwrap().key);
    assert!(!text.contains("PRIVATE KEY") && text.contains("redacted"), "{text}");
}

#[test]
fn secrets_are_replaced_and_removed() {
    let (store, root) = (store(), Authority::new("root"));
    assert_eq!(store.generation(), 0);
    put(&store, "a", &root.issue(&svid("spiffe://td/a")));
    store.put_trust(&name("a"), root.pem.as_bytes()).unwrap();
    assert_eq!(store.describe().len(), 1, "a name stands for one secret");
    store.remove(&name("a"));
    assert!(!store.contains(&name("a")) && store.describe().is_empty());
    assert_eq!(store.generation(), 3);
}

#[test]
fn writers_lose_nothing_to_each_other() {
    let store = Arc::new(store());
    let pem = Authority::new("root").pem;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, pem) = (&store, &pem);
            scope.spawn(move || {
                for at in 0..25 {
                    store.put_trust(&name(&format!("{thread}-{at}")), pem.as_bytes()).unwrap();
                }
            });
        }
    });
    assert_eq!((store.describe().len(), store.generation()), (100, 100));
}

#[test]
fn sni_chooses_the_certificate() {
    let (store, root) = (Arc::new(store()), Authority::new("root"));
    let site = |host: &str| root.issue(&leaf(&[dns(host)]));
    put(&store, "first", &site("first.example"));
    put(&store, "wild", &site("*.second.example"));
    let mut tls = mesh_server();
    tls.certificates = vec![name("first"), name("not loaded"), name("wild")];
    tls.require_client_certificate = false;
    tls.validation = None;
    let presented = |sni: Option<&str>| {
        let mut client_tls = mesh_client();
        client_tls.validation = None;
        client_tls.sni = sni.map(Into::into);
        let mut wire = Wire::new(client(&client_tls, &store), server(&tls, &store));
        assert_eq!(wire.run(), Default::default());
        wire.client.peer().unwrap().sans.dns[0].clone()
    };
    assert_eq!(presented(Some("www.second.example")), "*.second.example");
    assert_eq!(presented(Some("FIRST.example")), "first.example");
    assert_eq!(presented(Some("unknown.example")), "first.example");
    assert_eq!(presented(None), "first.example");
}

#[test]
fn contradictory_configuration_is_refused() {
    let store = Arc::new(store());
    let refused = |tls| matches!(server_config(&tls, &store), Err(TlsError::Config(_)));
    let mut tls = mesh_server();
    tls.certificates.clear();
    assert!(refused(tls));
    let mut tls = mesh_server();
    tls.validation = None;
    assert!(refused(tls));
    let mut tls = mesh_server();
    tls.versions = pymesh_model::tls::Versions {
        min: pymesh_model::tls::Version::Tls1_3,
        max: pymesh_model::tls::Version::Tls1_2,
    };
    assert!(refused(tls));
    assert!(server_config(&mesh_server(), &store).is_ok(), "secrets need not be loaded yet");
}

#[test]
fn a_root_that_is_gone_is_counted() {
    let (store, old, new) = (store(), Authority::new("root"), Authority::new("root"));
    let both = format!("{}{}", old.pem, new.pem);
    let steps = [
        (&old.pem, 0),
        (&old.pem, 0),
        (&both, 0),
        (&format!("{}{}", new.pem, old.pem), 0),
        (&new.pem, 1),
        (&old.pem, 2),
    ];
    for (bundle, removals) in steps {
        store.put_trust(&name("ROOTCA"), bundle.as_bytes()).unwrap();
        assert_eq!(store.removals(), removals, "{bundle}");
    }
    store.remove(&name("ROOTCA"));
    assert_eq!(store.removals(), 2);
}

#[test]
fn the_first_root_tells_whether_an_identity_is_of_it() {
    let (store, old, new) = (store(), Authority::new("root"), Authority::new("root"));
    let ask = || store.is_of_first_root(&name("default"), &name("ROOTCA"));
    assert_eq!(ask(), None);
    put(&store, "default", &old.issue(&svid("spiffe://td/a")));
    assert_eq!(ask(), None);
    let digests: Vec<_> = [format!("{}{}", old.pem, new.pem), format!("{}{}", new.pem, old.pem), new.pem.clone()]
        .iter()
        .map(|bundle| {
            store.put_trust(&name("ROOTCA"), bundle.as_bytes()).unwrap();
            (ask(), store.trust_digest(&name("ROOTCA")).unwrap())
        })
        .collect();
    let [(Some(true), one), (Some(false), two), (Some(false), three)] = digests[..] else { panic!("{digests:?}") };
    assert!(one != two && two != three, "an order is another bundle");

    // Of a root by way of an intermediate.
    let between = new.intermediate(ca_params("between"));
    let mut pair = between.issue(&svid("spiffe://td/a"));
    pair.chain.push_str(&between.pem);
    put(&store, "default", &pair);
    assert_eq!(ask(), Some(true));
}
