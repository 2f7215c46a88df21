//! From configuration as data to configuration that rustls runs.

use std::sync::Arc;

use pymesh_model::tls::{Cipher, ClientTls, Profile, ServerTls, Validation, Version, Versions};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, ServerConfig, SupportedProtocolVersion};

use crate::resolve::Presented;
use crate::verify::{AnyServer, PeerVerifier};
use crate::{SecretStore, TlsError};

/// The configuration of one filter chain.
///
/// # Errors
/// [`TlsError::Config`] if `tls` contradicts itself. Secrets need not be loaded yet.
pub fn server_config(tls: &ServerTls, store: &Arc<SecretStore>) -> Result<Arc<ServerConfig>, TlsError> {
    if tls.certificates.is_empty() {
        return Err(TlsError::Config("a server needs a certificate; name at least one secret".into()));
    }
    let builder = ServerConfig::builder_with_details(provider(store, &tls.ciphers), store.clock().clone())
        .with_protocol_versions(versions(tls.versions)?)?;
    let builder = match &tls.validation {
        Some(validation) => {
            if matches!(validation.profile, Profile::Pki { match_server_name: true }) {
                return Err(TlsError::Config(
                    "a server cannot compare client certificates with a server name; use SAN matchers".into(),
                ));
            }
            builder.with_client_cert_verifier(verifier(validation, tls.require_client_certificate, store))
        }
        None if tls.require_client_certificate => {
            return Err(TlsError::Config(
                "client certificates are required but nothing says which to trust; add a validation context".into(),
            ));
        }
        None => builder.with_no_client_auth(),
    };
    let presented = Presented { names: tls.certificates.clone(), store: store.clone() };
    let mut config = builder.with_cert_resolver(Arc::new(presented));
    config.alpn_protocols.clone_from(&tls.alpn);
    config.ignore_client_order = !tls.ciphers.is_empty();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match (&tls.validation, store.tickets()) {
        (None, Some(tickets)) => config.ticketer = tickets.clone(),
        // A resumed session would be judged by the policy and the roots of its first handshake (CVE-2022-21654): where
        // clients show certificates, each handshake is a whole one.
        _ => config.send_tls13_tickets = 0,
    }
    Ok(Arc::new(config))
}

/// The configuration of one cluster.
///
/// # Errors
/// [`TlsError::Config`] if `tls` contradicts itself. Secrets need not be loaded yet.
pub fn client_config(tls: &ClientTls, store: &Arc<SecretStore>) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier: Arc<dyn ServerCertVerifier> = match &tls.validation {
        Some(validation) => verifier(validation, true, store),
        None => Arc::new(AnyServer::new(store.provider())),
    };
    let presented = Presented { names: tls.certificate.iter().cloned().collect(), store: store.clone() };
    let mut config = ClientConfig::builder_with_details(provider(store, &tls.ciphers), store.clock().clone())
        .with_protocol_versions(versions(tls.versions)?)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(presented));
    config.alpn_protocols.clone_from(&tls.alpn);
    config.enable_sni = tls.sni.is_some();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The store's, with these suites of TLS 1.2 alone, in this order; with all if none are named.
fn provider(store: &SecretStore, ciphers: &[Cipher]) -> Arc<CryptoProvider> {
    if ciphers.is_empty() {
        return store.provider().clone();
    }
    let known = &store.provider().cipher_suites;
    let modern = known.iter().filter(|suite| suite.tls13().is_some());
    let chosen = ciphers.iter().filter_map(|cipher| known.iter().find(|suite| suite.suite() == number(*cipher)));
    let cipher_suites = modern.chain(chosen).copied().collect();
    Arc::new(CryptoProvider { cipher_suites, ..CryptoProvider::clone(store.provider()) })
}

fn number(cipher: Cipher) -> CipherSuite {
    match cipher {
        Cipher::EcdheEcdsaAes128Gcm => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Cipher::EcdheEcdsaAes256Gcm => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Cipher::EcdheEcdsaChaCha20 => CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        Cipher::EcdheRsaAes128Gcm => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        Cipher::EcdheRsaAes256Gcm => CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        Cipher::EcdheRsaChaCha20 => CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn verifier(validation: &Validation, mandatory: bool, store: &Arc<SecretStore>) -> Arc<PeerVerifier> {
    Arc::new(PeerVerifier::new(validation.clone(), mandatory, store.clone()))
}

fn versions(versions: Versions) -> Result<&'static [&'static SupportedProtocolVersion], TlsError> {
    static ONLY_1_2: [&SupportedProtocolVersion; 1] = [&TLS12];
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    static ONLY_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
    match (versions.min, versions.max) {
        (Version::Tls1_2, Version::Tls1_2) => Ok(&ONLY_1_2),
        (Version::Tls1_2, Version::Tls1_3) => Ok(&BOTH),
        (Version::Tls1_3, Version::Tls1_3) => Ok(&ONLY_1_3),
        (Version::Tls1_3, Version::Tls1_2) => {
            Err(TlsError::Config("the lowest TLS version is above the highest".into()))
        }
    }
}
