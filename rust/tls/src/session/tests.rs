use std::sync::Arc;

use pymesh_model::tls::{Cipher, ClientTls, ServerTls, Version, Versions};

use crate::error::Reason;
use crate::testing::*;
use crate::{client_config, SecretStore, Session, TlsError};

fn mesh() -> (Authority, Arc<SecretStore>, Arc<SecretStore>) {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let (client, server) = (mesh_store(&clock, &root, "ui"), mesh_store(&clock, &root, "reviews"));
    (root, client, server)
}

fn connect(client_store: &Arc<SecretStore>, server_store: &Arc<SecretStore>) -> Wire {
    let mut wire = Wire::new(client(&mesh_client(), client_store), server(&mesh_server(), server_store));
    assert_eq!(wire.run(), Default::default());
    wire
}

#[test]
fn mutual_tls_in_chunks_of_any_size() {
    let (_root, client_store, server_store) = mesh();
    for chunk in [1, 2, 7, 100, 1500, usize::MAX] {
        let mut wire = Wire::new(client(&mesh_client(), &client_store), server(&mesh_server(), &server_store));
        wire.chunk = chunk;
        assert!(wire.client.is_handshaking() && wire.server.is_handshaking());
        assert_eq!(wire.run(), Default::default(), "chunk {chunk}");
        assert!(!wire.client.is_handshaking() && !wire.server.is_handshaking());

        for session in [&wire.client, &wire.server] {
            assert_eq!(session.alpn(), Some(&b"h2"[..]));
            assert_eq!(session.version(), Some("TLSv1.3"));
            assert!(session.cipher().unwrap().starts_with("TLS_"), "{:?}", session.cipher());
        }
        assert_eq!(wire.server.sni(), Some("outbound_.80_._.reviews.shop.svc.cluster.local"));
        let peer = wire.server.peer().unwrap();
        assert_eq!(peer.spiffe_id(), Some("spiffe://cluster.local/ns/shop/sa/ui"));
        assert_eq!(peer.sans.uri.len(), 1);
        assert_ne!(peer.sha256, [0; 32]);
        assert_eq!(wire.client.peer().unwrap().spiffe_id(), Some("spiffe://cluster.local/ns/shop/sa/reviews"));
        let presented = crate::presented_uris(&mesh_server().certificates, &server_store, wire.server.sni());
        assert_eq!(presented, wire.client.peer().unwrap().sans.uri);

        wire.client.send(b"GET / HTTP/1.1\r\n\r\n");
        wire.server.send(b"early answer");
        assert_eq!(wire.run(), Default::default());
        assert_eq!(wire.at_server, b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(wire.at_client, b"early answer");
    }
}

#[test]
fn one_small_write_is_one_record_and_a_large_one_is_split() {
    let (_root, client_store, server_store) = mesh();
    let mut wire = connect(&client_store, &server_store);
    wire.client.send(&[b'x'; 300]);
    // RFC 8446, section 5.2: header 5, content type 1, tag 16.
    assert_eq!(wire.client.output().len(), 300 + 22);
    wire.run();

    let body: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    wire.at_server.clear();
    wire.client.send(&body);
    assert_eq!(wire.client.output().len(), body.len() + 22 * body.len().div_ceil(16 * 1024));
    wire.chunk = 1000;
    assert_eq!(wire.run(), Default::default());
    assert_eq!(wire.at_server, body);
    assert!(wire.client.output.capacity() <= super::OUTPUT_KEPT, "a large buffer is given back");
}

#[test]
fn each_side_closes_for_itself() {
    let (_root, client_store, server_store) = mesh();
    let mut wire = connect(&client_store, &server_store);
    wire.client.send(b"last words");
    wire.client.close();
    wire.client.close();
    wire.client.send(b"never sent");
    assert_eq!(wire.run(), Default::default());
    assert!(wire.server.peer_closed() && !wire.client.peer_closed());
    assert_eq!(wire.at_server, b"last words");
    wire.server.send(b"answer");
    wire.server.close();
    assert_eq!(wire.run(), Default::default());
    assert!(wire.client.peer_closed());
    assert_eq!(wire.at_client, b"answer");
}

#[test]
fn nothing_resumes_where_clients_show_certificates() {
    let (_root, client_store, server_store) = mesh();
    for versions in [Versions::ONLY_1_3, Versions { min: Version::Tls1_2, max: Version::Tls1_2 }] {
        let mut tls = mesh_client();
        tls.versions = versions;
        let mut server_tls = mesh_server();
        server_tls.versions = Versions::default();
        let client_config = crate::client_config(&tls, &client_store).unwrap();
        let server_config = crate::server_config(&server_tls, &server_store).unwrap();
        for _ in 0..2 {
            let client = Session::client(client_config.clone(), Some("a.example"), [127, 0, 0, 1].into()).unwrap();
            let mut wire = Wire::new(client, Session::server(server_config.clone()).unwrap());
            assert_eq!(wire.run(), Default::default());
            assert_eq!(wire.client.connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
            assert!(wire.server.peer().is_some());
        }
    }
}

/// A ticket of any worker is good at every chain that asks for no certificate, and worth nothing at one that does.
#[test]
fn sessions_of_anonymous_clients_resume() {
    use rustls::HandshakeKind::{Full, Resumed};
    let (_root, client_store, server_store) = mesh();
    let open = ServerTls { require_client_certificate: false, validation: None, ..mesh_server() };
    let closed = ServerTls { require_client_certificate: false, ..mesh_server() };
    for version in [Version::Tls1_3, Version::Tls1_2] {
        let versions = Versions { min: version, max: version };
        let tls = ClientTls { versions, certificate: None, ..mesh_client() };
        let mut config = (*crate::client_config(&tls, &client_store).unwrap()).clone();
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let connect = |server_tls: &ServerTls, name: &str| {
            let client = Session::client(config.clone(), Some(name), [127, 0, 0, 1].into()).unwrap();
            let server_tls = ServerTls { versions: Versions::default(), ..server_tls.clone() };
            let mut wire = Wire::new(client, server(&server_tls, &server_store));
            assert_eq!(wire.run(), Default::default());
            wire.server.connection.handshake_kind()
        };
        assert_eq!(connect(&open, "a.example"), Some(Full));
        assert_eq!(connect(&open, "a.example"), Some(Resumed), "{version:?}");
        assert_eq!(connect(&open, "b.example"), Some(Full));
        assert_eq!(connect(&closed, "b.example"), Some(Full));
    }
}

#[test]
fn an_alert_tells_the_peer_of_a_refusal() {
    let (_root, client_store, server_store) = mesh();
    let mut tls = mesh_client();
    tls.certificate = None;
    for chunk in [1, usize::MAX] {
        let mut wire = Wire::new(client(&tls, &client_store), server(&mesh_server(), &server_store));
        wire.chunk = chunk;
        let outcome = wire.run();
        assert!(matches!(outcome.server, Some(TlsError::Refused(r)) if r.reason == Reason::NoCertificate));
        assert_eq!(outcome.client, Some(TlsError::Alert("CertificateRequired".into())));
        assert!(wire.server.peer().is_none());
    }
}

#[test]
fn versions_and_protocols_must_be_shared() {
    let (_root, client_store, server_store) = mesh();
    let mut tls = mesh_client();
    tls.versions = Versions { min: Version::Tls1_2, max: Version::Tls1_2 };
    let outcome = Wire::new(client(&tls, &client_store), server(&mesh_server(), &server_store)).run();
    assert_eq!(outcome.server.unwrap().code(), "tls_protocol_error");
    assert_eq!(outcome.client, Some(TlsError::Alert("ProtocolVersion".into())));

    let mut tls = mesh_client();
    tls.alpn = vec![b"spdy".to_vec()];
    let outcome = Wire::new(client(&tls, &client_store), server(&mesh_server(), &server_store)).run();
    assert_eq!(outcome.client, Some(TlsError::Alert("NoApplicationProtocol".into())));

    tls.alpn.clear();
    let mut wire = Wire::new(client(&tls, &client_store), server(&mesh_server(), &server_store));
    assert_eq!(wire.run(), Default::default());
    assert_eq!(wire.server.alpn(), None);
}

#[test]
fn rotation_changes_new_handshakes_and_no_connection() {
    let (root, client_store, server_store) = mesh();
    let server_config = crate::server_config(&mesh_server(), &server_store).unwrap();
    let accept = || Session::server(server_config.clone()).unwrap();
    let mut old = Wire::new(client(&mesh_client(), &client_store), accept());
    assert_eq!(old.run(), Default::default());
    let first_serial = old.client.peer().unwrap().serial.clone();

    // The leaf is replaced: connections go on, new ones see the new leaf.
    put(&server_store, "default", &root.issue(&svid("spiffe://cluster.local/ns/shop/sa/reviews")));
    let mut new = Wire::new(client(&mesh_client(), &client_store), accept());
    assert_eq!(new.run(), Default::default());
    assert_ne!(new.client.peer().unwrap().serial, first_serial);

    // The root is replaced: both are trusted, leaves follow, the old one goes.
    let next = Authority::new("next root");
    let both = format!("{}{}", root.pem, next.pem);
    for store in [&client_store, &server_store] {
        store.put_trust(&name("ROOTCA"), both.as_bytes()).unwrap();
    }
    put(&server_store, "default", &next.issue(&svid("spiffe://cluster.local/ns/shop/sa/reviews")));
    assert_eq!(Wire::new(client(&mesh_client(), &client_store), accept()).run(), Default::default());
    server_store.put_trust(&name("ROOTCA"), next.pem.as_bytes()).unwrap();
    let outcome = Wire::new(client(&mesh_client(), &client_store), accept()).run();
    assert_eq!(outcome.server.unwrap().code(), "unknown_issuer");
    put(&client_store, "default", &next.issue(&svid("spiffe://cluster.local/ns/shop/sa/ui")));
    assert_eq!(Wire::new(client(&mesh_client(), &client_store), accept()).run(), Default::default());

    old.client.send(b"still here");
    old.server.send(b"so am I");
    assert_eq!(old.run(), Default::default());
    assert_eq!((&old.at_server[..], &old.at_client[..]), (&b"still here"[..], &b"so am I"[..]));
}

#[test]
fn damage_on_the_wire_is_an_error_and_never_plaintext() {
    let (_root, client_store, server_store) = mesh();
    for at in [0, 3, 5, 40, 200] {
        let mut wire = connect(&client_store, &server_store);
        wire.client.send(&[b'x'; 300]);
        let mut octets = wire.client.output().to_vec();
        octets[at] ^= 0x55;
        let mut plaintext = Vec::new();
        // A longer length in the header makes the record wait for more.
        octets.extend_from_slice(&[0; 40_000]);
        let error = wire.server.receive(&octets, &mut plaintext).unwrap_err();
        assert_eq!(error.code(), "tls_protocol_error");
        assert!(plaintext.is_empty());
        assert!(!wire.server.output().is_empty(), "an alert stands in the output");
        assert!(wire.server.receive(b"more", &mut plaintext).is_err(), "it stays broken");
    }
}

#[test]
fn any_octets_in_place_of_a_handshake_are_survived() {
    let (_root, client_store, server_store) = mesh();
    let hello = client(&mesh_client(), &client_store).output().to_vec();
    let mut seed = 0x2545_F491_4F6C_DD1Du64;
    for _ in 0..2000 {
        let mut octets = hello.clone();
        for _ in 0..4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = (seed % octets.len() as u64) as usize;
            octets[at] = (seed >> 32) as u8;
        }
        let mut plaintext = Vec::new();
        let _ = server(&mesh_server(), &server_store).receive(&octets, &mut plaintext);
        let _ = client(&mesh_client(), &client_store).receive(&octets, &mut plaintext);
        assert!(plaintext.is_empty());
        crate::client_hello::inspect(&octets);
    }
}

#[test]
fn a_name_that_is_no_host_is_refused() {
    let (_root, client_store, _) = mesh();
    let config = crate::client_config(&mesh_client(), &client_store).unwrap();
    let error = Session::client(config, Some("not a host"), [127, 0, 0, 1].into()).unwrap_err();
    assert_eq!(error.code(), "tls_config_error");
}

/// Found by fuzzing: a debug build panicked.
#[test]
fn a_session_that_has_failed_sends_nothing() {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let mut server = server(&mesh_server(), &mesh_store(&clock, &root, "web"));
    assert!(server.receive(b"GET / HTTP/1.1\r\n\r\n", &mut Vec::new()).is_err());
    let alert = server.output().to_vec();
    server.send(b"hello");
    assert_eq!(server.output(), alert);
}

const ONLY_1_2: Versions = Versions { min: Version::Tls1_2, max: Version::Tls1_2 };

#[test]
fn the_named_suites_are_spoken_and_no_others() {
    let (_root, client_store, server_store) = mesh();
    let spoken = |offered: &[Cipher], accepted: &[Cipher], versions| {
        let client_tls = ClientTls { versions, ciphers: offered.to_vec(), ..mesh_client() };
        let server_tls = ServerTls { versions: Versions::default(), ciphers: accepted.to_vec(), ..mesh_server() };
        let mut wire = Wire::new(client(&client_tls, &client_store), server(&server_tls, &server_store));
        let outcome = wire.run();
        wire.client.cipher().filter(|_| outcome == Default::default())
    };
    use Cipher::{EcdheEcdsaAes128Gcm as Aes128, EcdheEcdsaChaCha20 as ChaCha, EcdheRsaAes128Gcm as Rsa};

    assert_eq!(spoken(&[], &[ChaCha], ONLY_1_2), Some("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"));
    assert_eq!(spoken(&[ChaCha], &[], ONLY_1_2), Some("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"));
    assert_eq!(spoken(&[ChaCha, Aes128], &[Aes128, ChaCha], ONLY_1_2), Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"));
    assert_eq!(spoken(&[ChaCha], &[Aes128], ONLY_1_2), None, "nothing in common");
    assert_eq!(spoken(&[], &[Rsa], ONLY_1_2), None, "the certificate has no such key");
    assert!(spoken(&[ChaCha], &[Rsa], Versions::ONLY_1_3).is_some(), "TLS 1.3 has suites of its own");
}

/// The key that a client can verify: `tests/interop/test_ingress_tls.py`, by a client that can only verify RSA.
#[test]
fn the_server_name_chooses_the_certificate_and_ecdsa_is_presented_before_rsa() {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let store = Arc::new(SecretStore::new(clock));
    let both = leaf(&[dns("a.example")]);
    put(&store, "a-rsa", &root.issue_rsa(&both));
    put(&store, "a-ecdsa", &root.issue(&both));
    put(&store, "b", &root.issue_rsa(&leaf(&[dns("*.b.example")])));
    let certificates = ["b", "a-rsa", "a-ecdsa"].map(name).to_vec();
    let tls = ServerTls {
        certificates,
        require_client_certificate: false,
        validation: None,
        versions: ONLY_1_2,
        ..mesh_server()
    };
    let presented = |sni: &str| {
        let mut asks = ClientTls { versions: ONLY_1_2, ..mesh_client() };
        (asks.certificate, asks.validation, asks.sni) = (None, None, Some(sni.into()));
        let mut wire = Wire::new(client(&asks, &store), server(&tls, &store));
        assert_eq!(wire.run(), Default::default(), "{sni}");
        let suite = wire.client.cipher().unwrap();
        (wire.client.peer().unwrap().sans.dns.concat(), suite.contains("_RSA_"))
    };

    assert_eq!(presented("a.example"), ("a.example".into(), false), "of two for the name");
    assert_eq!(presented("x.b.example"), ("*.b.example".into(), true));
    assert_eq!(presented("other.example"), ("a.example".into(), false), "none covers it");
}

/// A mesh in whose root somebody else has found a place: the client's certificate is of the old one.
fn rotating() -> (Arc<Clock>, Authority, Authority, Arc<SecretStore>, Arc<SecretStore>) {
    let (clock, old, new) = (Clock::new(), Authority::new("old"), Authority::new("new"));
    let (client, server) = (mesh_store(&clock, &old, "ui"), mesh_store(&clock, &new, "reviews"));
    for store in [&client, &server] {
        store.put_trust(&name("ROOTCA"), format!("{}{}", new.pem, old.pem).as_bytes()).unwrap();
    }
    (clock, old, new, client, server)
}

fn judged(mut session: Session) -> Session {
    session.judged_by(Some(name("ROOTCA")));
    session
}

#[test]
fn a_peer_is_trusted_for_as_long_as_its_root_is() {
    let (clock, old, new, client_store, server_store) = rotating();
    let client = judged(client(&mesh_client(), &client_store));
    let mut wire = Wire::new(client, judged(server(&mesh_server(), &server_store)));
    assert_eq!(wire.run(), Default::default());
    assert!(wire.client.is_trusted(&client_store) && wire.server.is_trusted(&server_store));

    // Connections outlive certificates.
    clock.set(NOW + 400 * DAY);
    assert!(wire.server.is_trusted(&server_store));

    server_store.put_trust(&name("ROOTCA"), new.pem.as_bytes()).unwrap();
    assert!(!wire.server.is_trusted(&server_store), "the client's root is gone");
    client_store.put_trust(&name("ROOTCA"), new.pem.as_bytes()).unwrap();
    assert!(wire.client.is_trusted(&client_store), "the server's is there");
    client_store.put_trust(&name("ROOTCA"), old.pem.as_bytes()).unwrap();
    assert!(!wire.client.is_trusted(&client_store));
}

#[test]
fn who_stops_amid_a_handshake_is_not_forgotten() {
    let (_clock, _old, new, client_store, server_store) = rotating();
    // In many records: certificate, proof and end come apart.
    let mut config = rustls::ClientConfig::clone(&client_config(&mesh_client(), &client_store).unwrap());
    config.max_fragment_size = Some(64);
    let client = Session::client(Arc::new(config), Some("a.example"), [127, 0, 0, 1].into()).unwrap();
    let mut wire = Wire::new(client, judged(server(&mesh_server(), &server_store)));
    let mut seen = false;
    // Octet by octet until the server has the client's certificate, and not yet the end of its handshake.
    let carry = |from: &mut Session, to: &mut Session| {
        while let Some(octet) = from.output().first().copied() {
            from.advance_output(1);
            to.receive(&[octet], &mut Vec::new()).unwrap();
            if to.judgement().is_some() && to.is_handshaking() {
                return true;
            }
        }
        false
    };
    for _ in 0..4 {
        seen |= carry(&mut wire.client, &mut wire.server);
        if seen {
            break;
        }
        carry(&mut wire.server, &mut wire.client);
    }
    assert!(seen && wire.server.peer().is_none());
    assert!(wire.server.is_trusted(&server_store));
    server_store.put_trust(&name("ROOTCA"), new.pem.as_bytes()).unwrap();
    assert!(!wire.server.is_trusted(&server_store));
}

#[test]
fn who_is_not_judged_is_not_distrusted() {
    let (_clock, _old, new, client_store, server_store) = rotating();
    let mut wire = Wire::new(client(&mesh_client(), &client_store), server(&mesh_server(), &server_store));
    assert_eq!(wire.run(), Default::default());
    server_store.put_trust(&name("ROOTCA"), new.pem.as_bytes()).unwrap();
    assert!(wire.server.is_trusted(&server_store) && wire.server.judgement().is_none());
    wire.server.judged_by(Some(name("gone")));
    assert!(wire.server.is_trusted(&server_store), "nobody refers to that bundle any more");
}
