//! The `/config_dump` page: Envoy's `ConfigDump` as JSON, without keys.
//!
//! It is a `ConfigDump` to the letter (each packed message with its type, what was taken out replaced by something of the
//! same type), so that programs that read Envoy's read ours: `istioctl proxy-config -f` does.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use prost_reflect::{DynamicMessage, SerializeOptions};
use pymesh_tls::SecretDescription;
use serde_json::{json, Value};

use crate::catalog::{Catalog, Resource, Slot};
use crate::kind::ResourceKind;
use crate::{optional, proto};

const REDACTED: &str = "[redacted]";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";

/// Fields that hold or may hold a key.
const SECRET_FIELDS: [&str; 3] = ["private_key", "password", "token"];

/// The whole page; `bootstrap` is the file, as [`shown`].
pub(crate) fn json(bootstrap: &Value, catalog: &Catalog) -> String {
    let page = json!({ "configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            "bootstrap": bootstrap,
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "static_clusters": statics(catalog.clusters(), "cluster"),
            "dynamic_active_clusters": dynamics(catalog.clusters(), "cluster", |slot| slot.active.as_ref()),
            "dynamic_warming_clusters": dynamics(catalog.clusters(), "cluster", |slot| slot.warming.as_ref()),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "static_listeners": statics(catalog.listeners(), "listener"),
            "dynamic_listeners": listeners(catalog),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": named(catalog.routes(), "route_config"),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "dynamic_endpoint_configs": named(catalog.endpoints(), "endpoint_config"),
        },
        {
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": catalog.store().describe().iter().map(|one| secret(one, catalog)).collect::<Vec<_>>(),
        },
    ], "rejected": rejected(catalog) });
    serde_json::to_string_pretty(&page).unwrap_or_default()
}

fn statics<T>(slots: &BTreeMap<Arc<str>, Slot<T>>, field: &str) -> Vec<Value> {
    slots
        .values()
        .filter(|slot| slot.is_static)
        .filter_map(Slot::newest)
        .map(|one| json!({ field: message(&one.raw) }))
        .collect()
}

type Pick<T> = fn(&Slot<T>) -> Option<&Arc<Resource<T>>>;

fn dynamics<T>(slots: &BTreeMap<Arc<str>, Slot<T>>, field: &str, pick: Pick<T>) -> Vec<Value> {
    let of_ads = slots.values().filter(|slot| !slot.is_static);
    of_ads.filter_map(pick).map(|one| json!({ "version_info": one.version, field: message(&one.raw) })).collect()
}

fn listeners(catalog: &Catalog) -> Vec<Value> {
    let of_ads = catalog.listeners().iter().filter(|(_, slot)| !slot.is_static);
    of_ads
        .map(|(name, slot)| {
            let state = |one: &Option<Arc<Resource<_>>>| {
                one.as_ref().map(|one| json!({ "version_info": one.version, "listener": message(&one.raw) }))
            };
            json!({ "name": **name, "active_state": state(&slot.active), "warming_state": state(&slot.warming) })
        })
        .collect()
}

fn named<T>(resources: &BTreeMap<Arc<str>, Arc<Resource<T>>>, field: &str) -> Vec<Value> {
    resources.values().map(|one| json!({ "version_info": one.version, field: message(&one.raw) })).collect()
}

/// A secret as Envoy shows it: its certificates, and in the place of its key that there is one.
fn secret(described: &SecretDescription, catalog: &Catalog) -> Value {
    let name = described.name.as_str();
    let version = catalog.secrets().get(name).map_or("", |secret| secret.version.as_str());
    let pem: String = described.certificates.iter().map(|one| pem(&one.der)).collect();
    let certificates = json!({ "inline_bytes": STANDARD.encode(pem) });
    let (field, content) = match described.is_trust {
        true => ("validation_context", json!({ "trusted_ca": certificates })),
        false => {
            let key = json!({ "inline_bytes": STANDARD.encode(REDACTED) });
            ("tls_certificate", json!({ "certificate_chain": certificates, "private_key": key }))
        }
    };
    let secret = json!({ "@type": type_url(SECRET), "name": name, field: content });
    json!({ "name": name, "version_info": version, "secret": secret })
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy);
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.collect::<Vec<_>>().join("\n"))
}

fn rejected(catalog: &Catalog) -> Vec<Value> {
    let of = |kind: &ResourceKind| kind.noun();
    catalog
        .rejected()
        .iter()
        .map(|((kind, name), one)| {
            let problems: Vec<String> = one.problems.iter().map(ToString::to_string).collect();
            json!({ "kind": of(kind), "name": name, "version_info": one.version, "problems": problems })
        })
        .collect()
}

/// A packed message as JSON.
pub(crate) fn message(any: &prost_types::Any) -> Value {
    let name = proto::type_name(&any.type_url);
    let Some(descriptor) = proto::pool().get_message_by_name(name) else { return Value::Null };
    let mut value = DynamicMessage::decode(descriptor, any.value.as_slice()).map_or(Value::Null, shown);
    if let Value::Object(fields) = &mut value {
        fields.insert("@type".to_owned(), type_url(name).into());
    }
    value
}

fn type_url(name: &str) -> String {
    format!("{}{name}", proto::TYPE_PREFIX)
}

/// A message as JSON, without keys.
pub(crate) fn shown(mut message: DynamicMessage) -> Value {
    optional::without_unknown(&mut message);
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut value = message.serialize_with_options(serde_json::value::Serializer, &options).unwrap_or(Value::Null);
    redact(&mut value);
    value
}

fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    // A `DataSource`, or plain text: what stands there is of the same type.
                    name if SECRET_FIELDS.contains(&name) => match value {
                        Value::Object(_) => *value = json!({ "inline_string": REDACTED }),
                        _ => *value = redacted(),
                    },
                    "local_jwks" => redact_key_set(value),
                    // What a proxy says to its control plane first is who it is.
                    "initial_metadata" => redact_values(value),
                    _ => redact(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn redact_values(headers: &mut Value) {
    for header in headers.as_array_mut().into_iter().flatten() {
        if let Some(value) = header.get_mut("value") {
            *value = redacted();
        }
    }
}

/// A key set is public, unless one of its keys is shared or private (RFC 7517, RFC 7518 section 6).
fn redact_key_set(source: &mut Value) {
    for inline in ["inline_string", "inline_bytes"] {
        let Some(Value::String(text)) = source.get(inline) else { continue };
        let octets = match inline {
            "inline_bytes" => STANDARD.decode(text).unwrap_or_default(),
            _ => text.as_bytes().to_vec(),
        };
        let set: Value = serde_json::from_slice(&octets).unwrap_or_default();
        let keys = set.get("keys").and_then(Value::as_array);
        let is_public = |key: &Value| ["k", "d"].iter().all(|secret| key.get(secret).is_none());
        if !keys.is_some_and(|keys| keys.iter().all(is_public)) {
            if let Some(value) = source.get_mut(inline) {
                *value = match inline {
                    "inline_bytes" => STANDARD.encode(REDACTED).into(),
                    _ => redacted(),
                };
            }
        }
    }
}

fn redacted() -> Value {
    Value::String(REDACTED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_left_out_wherever_they_stand() {
        let mut value = json!({"a": [{"private_key": {"inline_string": "KEY"}, "name": "x"}]});
        redact(&mut value);
        assert_eq!(value, json!({"a": [{"private_key": {"inline_string": "[redacted]"}, "name": "x"}]}));
        let mut value = json!({"token": "TOKEN"});
        redact(&mut value);
        assert_eq!(value, json!({"token": "[redacted]"}));
        let mut value = json!({"initial_metadata": [{"key": "authorization", "value": "Bearer TOKEN"}]});
        redact(&mut value);
        assert_eq!(value, json!({"initial_metadata": [{"key": "authorization", "value": "[redacted]"}]}));
    }

    #[test]
    fn key_sets_are_shown_if_they_are_public() {
        let public = r#"{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"}]}"#;
        let shared = r#"{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB"},{"kty":"oct","k":"c2VjcmV0"}]}"#;
        for (field, text, is_shown) in [
            ("inline_string", public.to_owned(), true),
            ("inline_string", shared.to_owned(), false),
            ("inline_string", "no key set: c2VjcmV0".to_owned(), false),
            ("inline_bytes", STANDARD.encode(public), true),
            ("inline_bytes", STANDARD.encode(shared), false),
        ] {
            let mut value = json!({"local_jwks": {field: text}});
            redact(&mut value);
            let hidden = if field == "inline_bytes" { STANDARD.encode(REDACTED) } else { REDACTED.to_owned() };
            let expected = if is_shown { text.clone() } else { hidden };
            assert_eq!(value, json!({"local_jwks": {field: expected}}), "{text}");
        }
    }
}
