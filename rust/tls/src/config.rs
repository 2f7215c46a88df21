//! From configuration as data to configuration that rustls runs.

use std::sync::Arc;

use pymesh_model::tls::{ClientTls, Profile, ServerTls, Validation, Version, Versions};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

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
    let builder = ServerConfig::builder_with_details(store.provider().clone(), store.clock().clone())
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
    let mut config = ClientConfig::builder_with_details(store.provider().clone(), store.clock().clone())
        .with_protocol_versions(versions(tls.versions)?)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(presented));
    config.alpn_protocols.clone_from(&tls.alpn);
    config.enable_sni = tls.sni.is_some();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
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
