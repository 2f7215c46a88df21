//! Envoy's messages, twice from one descriptor set: as Rust types, and as
//! descriptors, for what needs names (JSON, unknown fields, validation rules).

use std::sync::OnceLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::suggest;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoy_api.rs"));
}
pub use generated::*;

/// What stands before the name of a message in a type URL.
pub const TYPE_PREFIX: &str = "type.googleapis.com/";

static DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.binpb"));

/// All descriptors.
pub(crate) fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        // The build script has decoded the same octets; a test looks at the result.
        DescriptorPool::decode(DESCRIPTOR_SET).unwrap_or_default()
    })
}

/// The name of the message in a type URL.
pub(crate) fn type_name(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, name)| name)
}

/// True for the two messages that carry a message of any type as a `Struct`.
pub(crate) fn is_typed_struct(name: &str) -> bool {
    matches!(name, "xds.type.v3.TypedStruct" | "udpa.type.v1.TypedStruct")
}

/// A type URL cannot be used here.
#[derive(Debug)]
pub(crate) struct UnknownType {
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// The descriptor of the message that a type URL names.
pub(crate) fn descriptor(url: &str) -> Result<MessageDescriptor, UnknownType> {
    let name = type_name(url);
    pool().get_message_by_name(name).ok_or_else(|| {
        let alternatives = alternatives(name);
        let hint = match suggest::nearest(
            name,
            pool().all_messages().map(|m| m.full_name().to_owned()).collect::<Vec<_>>().iter().map(String::as_str),
        ) {
            Some(near) => format!("did you mean `{near}`?"),
            None if alternatives.is_empty() => "give the full name of a supported message".to_owned(),
            None => format!("supported here: {}", alternatives.join(", ")),
        };
        UnknownType { message: format!("type `{name}` is not supported"), hint }
    })
}

/// Supported extensions of the same category, as in `envoy.extensions.filters.http.*`.
fn alternatives(name: &str) -> Vec<String> {
    let depth = if name.starts_with("envoy.extensions.filters.") { 4 } else { 3 };
    let category: Vec<&str> = name.split('.').take(depth).collect();
    if !name.starts_with("envoy.extensions.") || category.len() < depth {
        return Vec::new();
    }
    let category = format!("{}.", category.join("."));
    let mut found: Vec<String> = pool()
        .all_messages()
        .filter(|message| message.parent_message().is_none() && message.full_name().starts_with(&category))
        .filter(|message| !NOT_EXTENSIONS.contains(&message.name()))
        .map(|message| message.full_name().to_owned())
        .collect();
    if category == "envoy.extensions.filters.http." {
        found.push("pymesh.filters.v1.PythonFilter".to_owned());
    }
    found.sort();
    found
}

/// Messages of extension packages that are only parts of others.
const NOT_EXTENSIONS: &[&str] = &[
    "Rds",
    "HttpFilter",
    "CommonTlsContext",
    "TlsParameters",
    "TlsCertificate",
    "CertificateValidationContext",
    "SubjectAltNameMatcher",
    "SdsSecretConfig",
    "Secret",
    "BufferSettings",
    "HttpService",
    "AuthorizationRequest",
    "AuthorizationResponse",
    "CheckSettings",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_is_whole() {
        assert!(pool().all_messages().len() > 150);
        for name in ["envoy.config.bootstrap.v3.Bootstrap", "pymesh.filters.v1.PythonFilter", "google.protobuf.Any"] {
            assert!(pool().get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn unsupported_extensions_name_the_supported_ones() {
        let error = descriptor("type.googleapis.com/envoy.extensions.filters.http.tap.v3.Tap").unwrap_err();
        assert_eq!(error.message, "type `envoy.extensions.filters.http.tap.v3.Tap` is not supported");
        for supported in
            ["envoy.extensions.filters.http.cors.v3.Cors, ", ".fault.v3.HTTPFault, ", ".router.v3.Router, "]
        {
            assert!(error.hint.contains(supported), "{}", error.hint);
        }
        assert!(error.hint.starts_with("supported here: ") && error.hint.ends_with("pymesh.filters.v1.PythonFilter"));
        let error = descriptor("envoy.extensions.filters.http.router.v3.Ruoter").unwrap_err();
        assert_eq!(error.hint, "did you mean `envoy.extensions.filters.http.router.v3.Router`?");
    }
}
