//! What every message must pass before it is translated: no field that we do
//! not know, no enum value without a name, and Envoy's own rules.
//!
//! Types that are packed into an `Any` are opened and checked as well.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};

use crate::diagnostic::At;
use crate::proto::{self, is_typed_struct};
use crate::{optional, rules, unsupported};

/// `Any` within `Any` beyond this is refused; decoding bounds the rest.
const MAX_ANY_DEPTH: usize = 16;

/// Decodes a message that came over the wire; reports whatever is wrong with it.
pub(crate) fn decode<T: prost::Message + prost::Name + Default>(octets: &[u8], at: &At<'_>) -> Option<T> {
    let descriptor = proto::pool().get_message_by_name(&T::full_name())?;
    let before = at.problems().len();
    let dynamic = dynamic(&descriptor, octets, at)?;
    message(&dynamic, at);
    if at.problems().len() > before {
        return None;
    }
    at.ok(T::decode(octets))
}

fn dynamic(descriptor: &MessageDescriptor, octets: &[u8], at: &At<'_>) -> Option<DynamicMessage> {
    match DynamicMessage::decode(descriptor.clone(), octets) {
        Ok(message) => Some(message),
        Err(error) => {
            at.refuse(format!("this is not a {}: {error}", descriptor.full_name()));
            None
        }
    }
}

/// Reports everything that is wrong with `message` and the messages within it.
pub(crate) fn message(message: &DynamicMessage, at: &At<'_>) {
    visit(message, at, 0);
}

fn visit(message: &DynamicMessage, at: &At<'_>, depth: usize) {
    let descriptor = message.descriptor();
    let name = descriptor.full_name();
    if name == "google.protobuf.Any" {
        return any(message, at, depth);
    }
    if name.starts_with("google.protobuf.") {
        return;
    }
    // The JSON reader has already named what it could not understand here; rules
    // about what is missing would only repeat that.
    let untouched = !at.problems().touches(&at.path());
    for field in message.unknown_fields() {
        unknown_field(&descriptor, field.number(), at);
    }
    for (field, value) in message.fields() {
        let at = &at.field(field.name());
        if is_stranger(message, &field, value) {
            continue;
        }
        match value {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    visit_value(item, &field, &at.index(index), depth);
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    if let MapKey::String(key) = key {
                        visit_value(value, &field, &at.key(key), depth);
                    }
                }
            }
            _ => visit_value(value, &field, at, depth),
        }
    }
    if untouched {
        rules::check(message, at);
    }
}

/// See [`optional`].
fn is_stranger(holder: &DynamicMessage, field: &FieldDescriptor, value: &Value) -> bool {
    let (Value::Message(packed), Kind::Message(kind)) = (value, field.kind()) else { return false };
    if kind.full_name() != "google.protobuf.Any" {
        return false;
    }
    let is_optional = holder.get_field_by_name("is_optional").is_some_and(|value| value.as_bool() == Some(true));
    let url = packed.get_field_by_name("type_url");
    let url = url.as_ref().and_then(|url| url.as_str()).unwrap_or_default();
    optional::may_be_unknown(holder.descriptor().full_name(), field.name(), is_optional, url)
}

fn visit_value(value: &Value, field: &FieldDescriptor, at: &At<'_>, depth: usize) {
    match (value, field.kind()) {
        (Value::Message(inner), _) => visit(inner, at, depth),
        (Value::EnumNumber(number), Kind::Enum(descriptor)) if descriptor.get_value(*number).is_none() => {
            at.refuse(format!("{} has no value {number}", descriptor.full_name()));
        }
        _ => {}
    }
}

fn unknown_field(descriptor: &MessageDescriptor, number: u32, at: &At<'_>) {
    let message = descriptor.full_name();
    match unsupported::name_of(message, number) {
        Some(name) => {
            let text = format!("field `{name}` of {message} is not supported");
            match unsupported::alternative(message, name) {
                Some(hint) => at.field(name).refuse_with_hint(text, hint),
                None => at.field(name).refuse(text),
            }
        }
        None => at.refuse(format!("{message} has no field with number {number}")),
    }
}

fn any(packed: &DynamicMessage, at: &At<'_>, depth: usize) {
    let Ok(packed) = packed.transcode_to::<prost_types::Any>() else { return };
    if depth >= MAX_ANY_DEPTH {
        return at.refuse("messages are packed into each other too deeply");
    }
    // A TypedStruct is checked when it is opened: it has no fields before that.
    if is_typed_struct(proto::type_name(&packed.type_url)) {
        return;
    }
    match proto::descriptor(&packed.type_url) {
        Ok(descriptor) => {
            if let Some(inner) = dynamic(&descriptor, &packed.value, at) {
                visit(&inner, at, depth + 1);
            }
        }
        Err(error) => at.field("@type").refuse_with_hint(error.message, error.hint),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::diagnostic::Problems;
    use crate::proto::envoy::config::{cluster::v3 as cluster, core::v3 as core, listener::v3 as listener};
    use crate::proto::envoy::extensions::access_loggers::file::v3::FileAccessLog;

    fn problems_of<T: prost::Message + prost::Name + Default>(octets: &[u8]) -> Vec<String> {
        let problems = Problems::default();
        let decoded = decode::<T>(octets, &At::root("r", &problems));
        let found: Vec<String> = problems.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(decoded.is_some(), found.is_empty());
        found
    }

    #[test]
    fn unsupported_fields_on_the_wire_are_named() {
        // `respect_dns_ttl` is field 39 of Cluster; 9999 is none.
        let mut octets = cluster::Cluster { name: "c".into(), ..Default::default() }.encode_to_vec();
        octets.extend([0xb8, 0x02, 0x01]);
        assert_eq!(
            problems_of::<cluster::Cluster>(&octets),
            ["r.respect_dns_ttl: field `respect_dns_ttl` of envoy.config.cluster.v3.Cluster is not supported (hint: use `dns_refresh_rate`)"]
        );
        let octets = [0xf8, 0xf0, 0x04, 0x01];
        assert!(problems_of::<core::Node>(&octets)[0].contains("has no field with number 9999"));
    }

    #[test]
    fn rules_of_envoy_are_kept() {
        let zero = cluster::Cluster {
            connect_timeout: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
            lb_config: Some(cluster::cluster::LbConfig::LeastRequestLbConfig(cluster::cluster::LeastRequestLbConfig {
                choice_count: Some(1),
                ..Default::default()
            })),
            lb_policy: 77,
            ..Default::default()
        };
        assert_eq!(
            problems_of::<cluster::Cluster>(&zero.encode_to_vec()),
            [
                "r.lb_policy: envoy.config.cluster.v3.Cluster.LbPolicy has no value 77",
                "r.least_request_lb_config.choice_count: this must be at least 2, not 1",
                "r.name: this must be set, and not be empty",
                "r.connect_timeout: this must be longer than 0s",
            ]
        );
        let header = core::HeaderValueOption {
            header: Some(core::HeaderValue { key: "a b".into(), value: "x\r\n".into() }),
            ..Default::default()
        };
        assert_eq!(
            problems_of::<core::HeaderValueOption>(&header.encode_to_vec()),
            ["r.header.value: `x\\r\\n` is not an HTTP header value",]
        );
        assert_eq!(problems_of::<core::HeaderValueOption>(&[]), ["r.header: this must be set"]);
        // `log_format` must not be empty if it is chosen; nothing has to be chosen.
        let log = FileAccessLog { path: "/dev/null".into(), ..Default::default() };
        assert_eq!(problems_of::<FileAccessLog>(&log.encode_to_vec()), [""; 0]);
    }

    #[test]
    fn packed_messages_are_checked() {
        let any = |name: &str, octets: Vec<u8>| prost_types::Any {
            type_url: format!("type.googleapis.com/{name}"),
            value: octets,
        };
        let filter = |config| listener::Filter {
            name: "f".into(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
        };
        let chain = listener::FilterChain {
            filters: vec![
                filter(any("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", vec![])),
                filter(any("nothing.like.It", vec![])),
                filter(any("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", vec![0xff])),
            ],
            ..Default::default()
        };
        let found = problems_of::<listener::FilterChain>(&chain.encode_to_vec());
        assert_eq!(found[0], "r.filters[0].typed_config: one of `cluster`, `weighted_clusters` must be set");
        assert_eq!(found[1], "r.filters[0].typed_config.stat_prefix: this must be set, and not be empty");
        assert_eq!(found[2], "r.filters[1].typed_config.@type: type `nothing.like.It` is not supported (hint: give the full name of a supported message)");
        assert!(found[3].starts_with("r.filters[2].typed_config: this is not a envoy"), "{found:?}");
        assert_eq!(found.len(), 4);
    }
}
