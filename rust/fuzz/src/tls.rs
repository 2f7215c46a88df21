//! TLS: client hellos, sessions, certificates and secrets.

use std::sync::{Arc, OnceLock};

use pymesh_model::tls::{SecretName, Validation};
use pymesh_tls::client_hello::{self, Inspect};
use pymesh_tls::spiffe::SpiffeId;
use pymesh_tls::testing::{self as pki, Authority, Clock};
use pymesh_tls::{Reason, SecretStore};
use rcgen::{date_time_ymd, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use rustls::server::Acceptor;

use crate::input::Input;
use crate::strict::show;

/// The first octets of a connection.
pub fn client_hello(data: &[u8]) {
    let whole = client_hello::inspect(data);
    for at in 0..data.len().min(600) {
        match client_hello::inspect(&data[..at]) {
            Inspect::NeedMore => {}
            early => assert_eq!(early, whole, "after {at} of {} octets", data.len()),
        }
    }
    // What rustls would serve is seen as what it is.
    let mut acceptor = Acceptor::default();
    let mut wire = data;
    while !wire.is_empty() && acceptor.read_tls(&mut wire).is_ok() {
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let (sni, alpn) = match &whole {
                    Inspect::Hello { sni, alpn } => (sni, alpn),
                    // rustls does not mind what stands behind the first server name; others do.
                    Inspect::NotTls => return,
                    other => panic!("{other:?}, but rustls accepts {}", show(data)),
                };
                if let (Some(ours), Some(theirs)) = (sni, hello.server_name()) {
                    assert!(ours.eq_ignore_ascii_case(theirs), "{ours} and {theirs}");
                }
                let theirs: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
                assert_eq!(*alpn, theirs);
                return;
            }
            Err(_) => return,
        }
    }
}

/// An ID against the grammar of the standard, read by a regular expression.
pub fn spiffe_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = SpiffeId::parse(text);
    assert_eq!(parsed.is_ok(), is_spiffe_id(text), "{text:?}: {parsed:?}");
    if let Ok(id) = parsed {
        assert_eq!(id.as_str(), text);
        assert!(text.starts_with(&format!("spiffe://{}/", id.trust_domain())));
    }
}

fn is_spiffe_id(text: &str) -> bool {
    static GRAMMAR: OnceLock<regex::Regex> = OnceLock::new();
    let grammar = GRAMMAR.get_or_init(|| {
        regex::Regex::new(
            r"\Aspiffe://[a-z0-9._-]{1,255}(/(\.[A-Za-z0-9_-]|\.\.[A-Za-z0-9._-]|[A-Za-z0-9_-])?[A-Za-z0-9._-]*)+\z",
        )
        .unwrap()
    });
    let has_dots = text.split('/').skip(3).any(|segment| matches!(segment, "" | "." | ".."));
    text.len() <= 2048 && grammar.is_match(text) && !has_dots
}

struct Mesh {
    clock: Arc<Clock>,
    root: Authority,
    other: Authority,
    store: Arc<SecretStore>,
}

/// Made once for each process.
fn mesh() -> &'static Mesh {
    static MESH: OnceLock<Mesh> = OnceLock::new();
    MESH.get_or_init(|| {
        let (clock, root, other) = (Clock::new(), Authority::new("root"), Authority::new("root"));
        let store = pki::mesh_store(&clock, &root, "fuzz");
        Mesh { clock, root, other, store }
    })
}

const IDS: [&str; 6] = [
    "spiffe://cluster.local/ns/shop/sa/ui",
    "spiffe://other.local/ns/shop/sa/ui",
    "spiffe://cluster.local",
    "spiffe://cluster.local/a/../b",
    "https://cluster.local/ns/shop",
    "spiffe://cluster.local/a\u{1}",
];

/// A certificate is put together by the input; whether it is to be let in is known.
pub fn certificate(data: &[u8]) {
    let mut input = Input::new(data);
    let mesh = mesh();
    let mut names = Vec::new();
    let mut uris = Vec::new();
    for _ in 0..input.below(4) {
        match input.below(4) {
            0 => {
                let text = std::str::from_utf8(input.string()).unwrap_or_default();
                let Ok(uri) = text.try_into() else { return };
                uris.push(text);
                names.push(SanType::URI(uri));
            }
            1 => names.push(pki::dns("ui.shop.svc")),
            _ => {
                let id = *input.pick(&IDS);
                uris.push(id);
                names.push(pki::uri(id));
            }
        }
    }
    let mut params: CertificateParams = pki::leaf(&names);
    params.is_ca = match input.below(4) {
        0 => IsCa::ExplicitNoCa,
        1 => IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        _ => IsCa::NoCa,
    };
    use ExtendedKeyUsagePurpose as Purpose;
    use KeyUsagePurpose as Usage;
    let all = [Usage::DigitalSignature, Usage::KeyCertSign, Usage::CrlSign, Usage::KeyEncipherment];
    let bits = input.octet();
    params.key_usages = all.into_iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, one)| one).collect();
    let purposes = [Purpose::ServerAuth, Purpose::ClientAuth, Purpose::CodeSigning, Purpose::Any];
    let bits = input.octet();
    params.extended_key_usages =
        purposes.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1).map(|(_, one)| one.clone()).collect();
    let years = (2020 + input.below(12) as i32, 2020 + input.below(12) as i32);
    (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
    let (is_trusted, as_server) = (!input.octet().is_multiple_of(4), input.flag());
    let pair = if is_trusted { mesh.root.issue(&params) } else { mesh.other.issue(&params) };
    let leaf = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
    let validation: Validation = pki::mesh_validation();
    let server_name = as_server.then_some("ui.shop.svc");
    let verdict = pki::judge(&validation, &mesh.store, &leaf, server_name);

    let purpose = if as_server { Purpose::ServerAuth } else { Purpose::ClientAuth };
    let is_for_this = params.extended_key_usages.is_empty() || params.extended_key_usages.contains(&purpose);
    let usages = &params.key_usages;
    let signs = usages.contains(&Usage::KeyCertSign) || usages.contains(&Usage::CrlSign);
    let is_mine = matches!(uris[..], [id] if is_spiffe_id(id) && id.starts_with("spiffe://cluster.local/"));
    let is_fit = is_trusted
        && (years.0 <= 2026 && years.1 > 2026)
        && is_for_this
        && !matches!(params.is_ca, IsCa::Ca(_))
        && usages.contains(&Usage::DigitalSignature)
        && !signs
        && is_mine;
    // Octets that no name may have make it unreadable, wherever they stand.
    assert_eq!(verdict.is_ok(), is_fit, "{verdict:?}: {params:?}");
    let is_printable = uris.iter().all(|uri| uri.bytes().all(|octet| (0x20..0x7f).contains(&octet)));
    match pki::identity(&leaf) {
        Ok(identity) => {
            assert_eq!((identity.sans.uri.iter().map(|uri| &**uri).collect::<Vec<_>>(), true), (uris, is_printable))
        }
        Err(_) => assert!(!is_printable && verdict == Err(Reason::Malformed), "{verdict:?}"),
    }
}

/// Material of a secret: as a trust bundle, as chain and key, and as one certificate.
pub fn secret(data: &[u8]) {
    let mut input = Input::new(data);
    let mesh = mesh();
    let store = SecretStore::new(mesh.clock.clone());
    let name = SecretName::from("fuzz");
    let is_accepted = match input.octet() % 3 {
        0 => store.put_trust(&name, input.rest()).is_ok(),
        1 => {
            let chain = input.long_string();
            store.put_identity(&name, chain, input.rest()).is_ok()
        }
        _ => {
            if let Ok(identity) = pki::identity(input.rest()) {
                let sans = &identity.sans;
                let names = sans.uri.iter().chain(&sans.dns).chain(&sans.email);
                assert!(names.flat_map(|name| name.bytes()).all(|octet| (0x20..0x7f).contains(&octet)));
                assert!(!identity.subject.chars().any(char::is_control), "{:?}", identity.subject);
            }
            return;
        }
    };
    assert_eq!(store.contains(&name), is_accepted);
    assert_eq!(store.describe().len(), usize::from(is_accepted));
    assert!(store.describe().iter().all(|secret| !secret.certificates.is_empty()));
}

/// Both ends of a session and a wire that does what the input says. Nothing is read
/// that was not written, whatever happens on the way.
pub fn session(data: &[u8]) {
    let mut input = Input::new(data);
    let mesh = mesh();
    let mut ends = [pki::client(&pki::mesh_client(), &mesh.store), pki::server(&pki::mesh_server(), &mesh.store)];
    let (mut said, mut heard) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut failed = [false; 2];
    while !input.is_empty() {
        let (what, from) = (input.octet(), input.below(2));
        let to = 1 - from;
        match what % 8 {
            0 => {
                let octets = input.string();
                ends[from].send(octets);
                said[from].extend_from_slice(octets);
            }
            1 => ends[from].close(),
            2 => {
                let octets = input.string();
                failed[to] |= failed[to] || ends[to].receive(octets, &mut heard[to]).is_err();
            }
            what => {
                let most = if what < 5 { usize::MAX } else { usize::from(input.octet()) };
                let output = ends[from].output();
                let mut octets = output[..output.len().min(most)].to_vec();
                ends[from].advance_output(octets.len());
                if what == 6 && !octets.is_empty() {
                    let at = input.below(octets.len());
                    octets[at] ^= input.octet();
                }
                failed[to] |= failed[to] || ends[to].receive(&octets, &mut heard[to]).is_err();
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            assert!(
                said[from].starts_with(&heard[to]),
                "{} was heard, {} was said",
                show(&heard[to]),
                show(&said[from])
            );
            assert!(heard[to].is_empty() || to == 0 || ends[to].peer().is_some(), "octets of somebody unknown");
        }
    }
}
