//! `DownstreamTlsContext` and `UpstreamTlsContext`.

use pymesh_model::tls::{ClientTls, Profile, SanKind, SanMatch, SecretName, ServerTls, Validation, Version, Versions};

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
    let (trust, sans) = match common.validation_context_type.as_ref()? {
        ValidationContextType::ValidationContext(context) => {
            inline_trust(context, &at.field("validation_context"), cx)?
        }
        ValidationContextType::ValidationContextSdsSecretConfig(config) => {
            (sds(config, &at.field("validation_context_sds_secret_config"), cx), Vec::new())
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
            let config = combined.validation_context_sds_secret_config.as_ref()?;
            (sds(config, &at.field("validation_context_sds_secret_config"), cx), sans)
        }
    };
    Some(Validation { trust, profile: Profile::implied_by(&sans, match_server_name), san_matches: sans })
}

fn inline_trust(
    context: &tls::CertificateValidationContext,
    at: &At<'_>,
    cx: &mut Context<'_>,
) -> Option<(SecretName, Vec<SanMatch>)> {
    let sans = sans(context, at);
    if context.trusted_ca.is_none() {
        if !sans.is_empty() {
            at.field("match_typed_subject_alt_names")
                .refuse_with_hint("names prove nothing without a trusted issuer", "set `trusted_ca`");
        }
        return None;
    }
    let material = secret::trust(context.trusted_ca.as_ref(), None, &at.field("trusted_ca"), cx)?;
    let trust = material.name.clone();
    cx.needs.materials.push(material);
    Some((trust, sans))
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
