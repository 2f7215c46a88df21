//! `DownstreamTlsContext` and `UpstreamTlsContext`.

use base64::Engine as _;
use pymesh_model::tls::{
    Cipher, ClientTls, Pins, Profile, SanKind, SanMatch, SecretName, ServerTls, Validation, Version, Versions,
};

use super::common::{config_source, enumerator};
use super::{matcher, secret, Context, Patience};
use crate::diagnostic::At;
use crate::proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use tls::common_tls_context::ValidationContextType;

pub(super) fn downstream(context: &tls::DownstreamTlsContext, at: &At<'_>, cx: &mut Context<'_>) -> Option<ServerTls> {
    let Some(common) = &context.common_tls_context else {
        at.field("common_tls_context").refuse("this must be set");
        return None;
    };
    let common_at = at.field("common_tls_context");
    let certificates = certificates(common, &common_at, cx);
    if certificates.is_empty() {
        common_at.refuse("one of `tls_certificates`, `tls_certificate_sds_secret_configs` must be set");
    }
    let require_client_certificate = context.require_client_certificate.unwrap_or(false);
    let validation = validation(common, false, &common_at, cx);
    if require_client_certificate && validation.is_none() {
        at.field("require_client_certificate").refuse_with_hint(
            "nothing says which client certificates to trust",
            "set `common_tls_context.validation_context.trusted_ca`",
        );
    }
    Some(ServerTls {
        certificates,
        require_client_certificate,
        validation,
        alpn: alpn(common),
        versions: versions(common.tls_params.as_ref(), &common_at.field("tls_params")),
        ciphers: ciphers(common.tls_params.as_ref(), &common_at.field("tls_params")),
    })
}

pub(super) fn upstream(context: &tls::UpstreamTlsContext, at: &At<'_>, cx: &mut Context<'_>) -> ClientTls {
    let default = tls::CommonTlsContext::default();
    let common = context.common_tls_context.as_ref().unwrap_or(&default);
    let common_at = at.field("common_tls_context");
    let mut certificates = certificates(common, &common_at, cx);
    if certificates.len() > 1 {
        common_at.refuse("a client has at most one certificate");
    }
    let validation = validation(common, context.auto_sni_san_validation, &common_at, cx);
    if context.auto_sni_san_validation && validation.is_none() {
        at.field("auto_sni_san_validation")
            .refuse_with_hint("nothing says which certificates to trust", "set `validation_context.trusted_ca`");
    }
    ClientTls {
        certificate: certificates.pop(),
        validation,
        sni: (!context.sni.is_empty()).then(|| context.sni.as_str().into()),
        alpn: alpn(common),
        versions: versions(common.tls_params.as_ref(), &common_at.field("tls_params")),
        ciphers: ciphers(common.tls_params.as_ref(), &common_at.field("tls_params")),
    }
}

fn alpn(common: &tls::CommonTlsContext) -> Vec<Vec<u8>> {
    common.alpn_protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

fn certificates(common: &tls::CommonTlsContext, at: &At<'_>, cx: &mut Context<'_>) -> Vec<SecretName> {
    let mut names = Vec::new();
    let inline_at = at.field("tls_certificates");
    for (index, certificate) in common.tls_certificates.iter().enumerate() {
        if let Some(material) = secret::identity(certificate, None, &inline_at.index(index), cx) {
            names.push(material.name.clone());
            cx.needs.materials.push(material);
        }
    }
    let sds_at = at.field("tls_certificate_sds_secret_configs");
    for (index, config) in common.tls_certificate_sds_secret_configs.iter().enumerate() {
        names.push(sds(config, &sds_at.index(index), cx));
    }
    names
}

/// A secret by name: our own, a static one (no `sds_config`), or from SDS.
fn sds(config: &tls::SdsSecretConfig, at: &At<'_>, cx: &mut Context<'_>) -> SecretName {
    let name = SecretName::from(config.name.as_str());
    let local = config.sds_config.is_none() || cx.environment.own_secrets.contains(&name);
    let patience = match local {
        true => Patience::Local,
        false => config_source(config.sds_config.as_ref(), &at.field("sds_config"), cx),
    };
    cx.needs.secrets.insert(name.clone(), patience);
    name
}

fn validation(
    common: &tls::CommonTlsContext,
    match_server_name: bool,
    at: &At<'_>,
    cx: &mut Context<'_>,
) -> Option<Validation> {
    let (trust, sans, pins) = match common.validation_context_type.as_ref()? {
        ValidationContextType::ValidationContext(context) => {
            inline_trust(context, &at.field("validation_context"), cx)?
        }
        ValidationContextType::ValidationContextSdsSecretConfig(config) => {
            (sds(config, &at.field("validation_context_sds_secret_config"), cx), Vec::new(), Pins::default())
        }
        ValidationContextType::CombinedValidationContext(combined) => {
            let at = &at.field("combined_validation_context");
            let default = tls::CertificateValidationContext::default();
            let context = combined.default_validation_context.as_ref().unwrap_or(&default);
            let context_at = at.field("default_validation_context");
            if context.trusted_ca.is_some() {
                context_at.field("trusted_ca").refuse("the secret brings the trusted certificates");
            }
            let sans = sans(context, &context_at);
            let pins = pins(context, &context_at);
            let config = combined.validation_context_sds_secret_config.as_ref()?;
            (sds(config, &at.field("validation_context_sds_secret_config"), cx), sans, pins)
        }
    };
    Some(Validation { trust, profile: Profile::implied_by(&sans, match_server_name), san_matches: sans, pins })
}

fn inline_trust(
    context: &tls::CertificateValidationContext,
    at: &At<'_>,
    cx: &mut Context<'_>,
) -> Option<(SecretName, Vec<SanMatch>, Pins)> {
    let sans = sans(context, at);
    let pins = pins(context, at);
    if context.trusted_ca.is_none() {
        if !sans.is_empty() {
            at.field("match_typed_subject_alt_names")
                .refuse_with_hint("names prove nothing without a trusted issuer", "set `trusted_ca`");
        }
        if !pins.is_empty() {
            at.refuse_with_hint("a pinned certificate needs a trusted issuer here", "set `trusted_ca`");
        }
        return None;
    }
    let material = secret::trust(context.trusted_ca.as_ref(), None, &at.field("trusted_ca"), cx)?;
    let trust = material.name.clone();
    cx.needs.materials.push(material);
    Some((trust, sans, pins))
}

/// `verify_certificate_hash`: hexadecimal, perhaps with colons; `verify_certificate_spki`: Base64.
fn pins(context: &tls::CertificateValidationContext, at: &At<'_>) -> Pins {
    let mut pins = Pins::default();
    let hash_at = at.field("verify_certificate_hash");
    for (index, text) in context.verify_certificate_hash.iter().enumerate() {
        match hexadecimal(text) {
            Some(hash) => pins.certificates.push(hash),
            None => hash_at.index(index).refuse_with_hint(
                format!("`{text}` is not a SHA-256 hash in hexadecimal"),
                "write what `openssl x509 -fingerprint -sha256` says",
            ),
        }
    }
    let key_at = at.field("verify_certificate_spki");
    for (index, text) in context.verify_certificate_spki.iter().enumerate() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text).ok();
        match decoded.and_then(|hash| <[u8; 32]>::try_from(hash).ok()) {
            Some(hash) => pins.keys.push(hash),
            None => key_at.index(index).refuse_with_hint(
                format!("`{text}` is not a SHA-256 hash in Base64"),
                "it is the hash of the public key in DER",
            ),
        }
    }
    pins
}

fn hexadecimal(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u32> = text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let octets: Vec<u8> = digits.chunks(2).map(octet).collect::<Option<_>>()?;
    octets.try_into().ok()
}

fn octet(digits: &[u32]) -> Option<u8> {
    match digits {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    }
}

fn sans(context: &tls::CertificateValidationContext, at: &At<'_>) -> Vec<SanMatch> {
    use tls::subject_alt_name_matcher::SanType;
    let at = at.field("match_typed_subject_alt_names");
    let mut sans = Vec::with_capacity(context.match_typed_subject_alt_names.len());
    for (index, san) in context.match_typed_subject_alt_names.iter().enumerate() {
        let at = at.index(index);
        let kind = match enumerator(san.san_type) {
            SanType::Dns => SanKind::Dns,
            SanType::Uri => SanKind::Uri,
            SanType::Email => SanKind::Email,
            SanType::IpAddress => SanKind::Ip,
            SanType::Unspecified | SanType::OtherName => {
                at.field("san_type")
                    .refuse_with_hint("this type is not supported", "write DNS, URI, EMAIL or IP_ADDRESS");
                continue;
            }
        };
        let value = san.matcher.as_ref().and_then(|value| matcher::string(value, &at.field("matcher")));
        sans.extend(value.map(|value| SanMatch { kind, value }));
    }
    sans
}

fn ciphers(params: Option<&tls::TlsParameters>, at: &At<'_>) -> Vec<Cipher> {
    let at = at.field("cipher_suites");
    let names = params.map(|params| params.cipher_suites.as_slice()).unwrap_or_default();
    let mut ciphers = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        match Cipher::named(name) {
            Some(cipher) => ciphers.push(cipher),
            None => at.index(index).refuse_with_hint(
                format!("cipher suite `{name}` is not supported"),
                format!("of TLS 1.2 there are {}", Cipher::ALL.map(Cipher::name).join(", ")),
            ),
        }
    }
    ciphers
}

fn versions(params: Option<&tls::TlsParameters>, at: &At<'_>) -> Versions {
    use tls::tls_parameters::TlsProtocol;
    let mut versions = Versions::default();
    let Some(params) = params else { return versions };
    let read = |value: i32, default: Version, at: &At<'_>| match enumerator(value) {
        TlsProtocol::TlsAuto => default,
        TlsProtocol::TlSv12 => Version::Tls1_2,
        TlsProtocol::TlSv13 => Version::Tls1_3,
        TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
            at.refuse_with_hint("TLS before 1.2 is not secure and not supported", "write TLSv1_2");
            default
        }
    };
    versions.min = read(params.tls_minimum_protocol_version, versions.min, &at.field("tls_minimum_protocol_version"));
    versions.max = read(params.tls_maximum_protocol_version, versions.max, &at.field("tls_maximum_protocol_version"));
    if versions.min > versions.max {
        at.refuse("the lowest TLS version is above the highest");
    }
    versions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::translated;

    fn with(common: &str) -> (Option<ClientTls>, Vec<String>) {
        let context = format!(
            "{{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
             common_tls_context: {{{common}}}}}"
        );
        let (cluster, problems) = translated(&format!(
            "{{name: any, type: STATIC, transport_socket: {{name: tls, typed_config: {context}}}}}"
        ));
        (cluster.transport.default.tls.map(|tls| ClientTls::clone(&tls)), problems)
    }

    #[test]
    fn cipher_suites_have_the_names_of_openssl() {
        let (tls, problems) =
            with("tls_params: {cipher_suites: [ECDHE-RSA-CHACHA20-POLY1305, ECDHE-ECDSA-AES128-GCM-SHA256]}");
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(tls.unwrap().ciphers, [Cipher::EcdheRsaChaCha20, Cipher::EcdheEcdsaAes128Gcm]);
        let (_, problems) = with("tls_params: {cipher_suites: [AES128-SHA]}");
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(
            problem.contains("tls_params.cipher_suites[0]: cipher suite `AES128-SHA` is not supported"),
            "{problem}"
        );
    }

    #[test]
    fn pins_are_hexadecimal_and_base64() {
        let hash = "AB:".repeat(31) + "AB";
        let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
        let roots =
            "trusted_ca: {inline_string: ROOTS}, verify_certificate_hash: ['HASH'], verify_certificate_spki: [KEY]";
        let roots = roots.replace("ROOTS", "''");
        let context = |hash: &str, key: &str| {
            format!("validation_context: {{{}}}", roots.replace("HASH", hash).replace("KEY", key))
        };
        let (tls, problems) = with(&context(&hash, &key));
        // The roots are no roots; the pins are read all the same.
        assert!(problems.iter().all(|problem| problem.contains("trusted_ca")), "{problems:?}");
        if let Some(validation) = tls.and_then(|tls| tls.validation) {
            assert_eq!(validation.pins, Pins { certificates: vec![[0xab; 32]], keys: vec![[7; 32]] });
        }
        let (_, problems) = with(&context("AB", "AAAA"));
        let text = problems.join("\n");
        assert!(text.contains("verify_certificate_hash[0]: `AB` is not a SHA-256 hash in hexadecimal"), "{text}");
        assert!(text.contains("verify_certificate_spki[0]: `AAAA` is not a SHA-256 hash in Base64"), "{text}");
        assert_eq!(hexadecimal(&"é".repeat(32)), None);
    }
}
