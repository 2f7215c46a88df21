//! `Secret`, and the keys and roots that TLS contexts bring along.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};

use pymesh_model::tls::SecretName;

use super::common::data_source;
use super::Context;
use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::extensions::transport_sockets::tls::v3 as tls;

/// What a secret store is given. Keys are never printed.
#[derive(Clone, PartialEq)]
pub(crate) struct Material {
    pub(crate) name: SecretName,
    pub(crate) kind: MaterialKind,
    /// Path of the field that it came from.
    pub(crate) path: String,
}

#[derive(Clone, PartialEq)]
pub(crate) enum MaterialKind {
    /// PEM chain and PEM key.
    Identity { chain: Vec<u8>, key: Vec<u8> },
    /// PEM roots.
    Trust { roots: Vec<u8> },
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            MaterialKind::Identity { .. } => "identity",
            MaterialKind::Trust { .. } => "trust",
        };
        write!(f, "Material({}, {kind})", self.name)
    }
}

/// Translates an SDS resource or a static secret.
pub(crate) fn secret(secret: &tls::Secret, at: &At<'_>, cx: &Context<'_>) -> Option<Material> {
    let name = SecretName::from(secret.name.as_str());
    match &secret.r#type {
        None => {
            at.refuse("one of `tls_certificate`, `validation_context` must be set");
            None
        }
        Some(tls::secret::Type::TlsCertificate(certificate)) => {
            identity(certificate, Some(name), &at.field("tls_certificate"), cx)
        }
        Some(tls::secret::Type::ValidationContext(context)) => {
            let at = &at.field("validation_context");
            if !context.match_typed_subject_alt_names.is_empty() {
                at.field("match_typed_subject_alt_names").refuse_with_hint(
                    "a secret cannot say which names are let in",
                    "set it in `combined_validation_context.default_validation_context` of the TLS context",
                );
            }
            trust(context.trusted_ca.as_ref(), Some(name), &at.field("trusted_ca"), cx)
        }
    }
}

/// A certificate and its key. Without a name it gets one that stays the same
/// as long as its contents do.
pub(super) fn identity(
    certificate: &tls::TlsCertificate,
    name: Option<SecretName>,
    at: &At<'_>,
    cx: &Context<'_>,
) -> Option<Material> {
    let chain = data_source(certificate.certificate_chain.as_ref(), &at.field("certificate_chain"), cx);
    let key = data_source(certificate.private_key.as_ref(), &at.field("private_key"), cx);
    let (chain, key) = (chain?, key?);
    let name = name.unwrap_or_else(|| generated(certificate.certificate_chain.as_ref(), &[&chain, &key]));
    Some(Material { name, kind: MaterialKind::Identity { chain, key }, path: at.path() })
}

/// Roots, named like [`identity`].
pub(super) fn trust(
    roots: Option<&core::DataSource>,
    name: Option<SecretName>,
    at: &At<'_>,
    cx: &Context<'_>,
) -> Option<Material> {
    let octets = data_source(roots, at, cx)?;
    let name = name.unwrap_or_else(|| generated(roots, &[&octets]));
    Some(Material { name, kind: MaterialKind::Trust { roots: octets }, path: at.path() })
}

/// `file:PATH#HASH` or `inline#HASH`. The hash is a short one and only keeps
/// old and new contents apart while both are in use; nobody else chooses them.
fn generated(source: Option<&core::DataSource>, contents: &[&[u8]]) -> SecretName {
    let mut hasher = DefaultHasher::new();
    contents.hash(&mut hasher);
    let digest = hasher.finish();
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(core::data_source::Specifier::Filename(path)) => format!("file:{path}#{digest:016x}"),
        _ => format!("inline#{digest:016x}"),
    }
    .into()
}
