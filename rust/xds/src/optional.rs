//! Configuration of filters that need not be there, or not be understood: the only places where a packed message of
//! unknown type, or of none, is no error.

use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value};

use crate::proto;

const FILTER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter";
const ROUTE: &str = "envoy.config.route.v3.FilterConfig";

/// True if `field` of `holder` holds a type that may stand there without being known: the sender has said that whoever
/// does not know the filter shall go on without it, or `config: {}`, which switches a filter on.
pub(crate) fn may_be_unknown(holder: &str, field: &str, is_optional: bool, type_url: &str) -> bool {
    match (holder, field) {
        (ROUTE, "config") if type_url.is_empty() => true,
        (ROUTE, "config") | (FILTER, "typed_config") => is_optional && proto::descriptor(type_url).is_err(),
        _ => false,
    }
}

/// Takes out, at any depth, what cannot be shown because its type is not known.
pub(crate) fn without_unknown(message: &mut DynamicMessage) {
    let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        match message.get_field_mut(&field) {
            Value::Message(inner) if is_unknown(inner) => message.clear_field(&field),
            Value::Message(inner) => visit(inner),
            Value::List(items) => items.iter_mut().filter_map(Value::as_message_mut).for_each(visit),
            Value::Map(entries) => {
                let entries: Vec<(&MapKey, &mut Value)> = entries.iter_mut().collect();
                entries.into_iter().filter_map(|(_, value)| value.as_message_mut()).for_each(visit);
            }
            _ => {}
        }
    }
}

fn visit(message: &mut DynamicMessage) {
    if message.descriptor().full_name() != "google.protobuf.Any" {
        return without_unknown(message);
    }
    let Ok(mut packed) = message.transcode_to::<prost_types::Any>() else { return };
    let Ok(descriptor) = proto::descriptor(&packed.type_url) else { return };
    let Ok(mut inner) = DynamicMessage::decode(descriptor, packed.value.as_slice()) else { return };
    without_unknown(&mut inner);
    packed.value = prost::Message::encode_to_vec(&inner);
    let _same_type = message.transcode_from(&packed);
}

fn is_unknown(message: &DynamicMessage) -> bool {
    message.descriptor().full_name() == "google.protobuf.Any"
        && message.transcode_to::<prost_types::Any>().is_ok_and(|any| proto::descriptor(&any.type_url).is_err())
}
