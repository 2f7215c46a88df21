//! Protobuf's JSON mapping (proto3 specification, "JSON Mapping"), from a
//! [`Node`] tree to a message, with the place of everything.
//!
//! Names may be in camelCase or as the proto file has them. Whatever is not
//! understood is reported and left out; reading goes on, so that all problems
//! of a file are found at once. `@type` objects are read as what they name and
//! packed; a `TypedStruct` is read as the message that its `type_url` names.

mod scalar;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use prost::Message as _;
use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Field};

use crate::diagnostic::{At, Diagnostic, Place};
use crate::document::{Entry, Mark, Node, Value};
use crate::proto::{self, is_typed_struct};
use crate::{optional, suggest, unsupported};

/// Where the fields of a file stand, by their path.
#[derive(Debug, Default)]
pub(crate) struct Places(RefCell<HashMap<String, Mark>>);

impl Places {
    fn note(&self, at: &At<'_>, mark: Mark) {
        self.0.borrow_mut().insert(at.path(), mark);
    }

    /// Says of each problem where it stands: the field itself, or the nearest
    /// one around it that the file has.
    pub(crate) fn locate(&self, file: &Arc<str>, diagnostics: &mut [Diagnostic]) {
        let marks = self.0.borrow();
        for diagnostic in diagnostics.iter_mut().filter(|diagnostic| diagnostic.place.is_none()) {
            let mut path = diagnostic.path.as_str();
            let mark = loop {
                match marks.get(path) {
                    Some(mark) => break *mark,
                    None if path.is_empty() => break Mark { line: 1, column: 1 },
                    None => path = parent(path),
                }
            };
            diagnostic.place = Some(Place { file: file.clone(), line: mark.line.max(1), column: mark.column.max(1) });
        }
    }
}

fn parent(path: &str) -> &str {
    let cut = if path.ends_with(']') { path.rfind('[') } else { path.rfind('.') };
    cut.and_then(|cut| path.get(..cut)).unwrap_or_default()
}

/// Reads `node` as a message of type `descriptor`.
pub(crate) fn read(node: &Node, descriptor: &MessageDescriptor, at: &At<'_>, places: &Places) -> DynamicMessage {
    Reader { places }.message(node, descriptor, at)
}

struct Reader<'p> {
    places: &'p Places,
}

impl Reader<'_> {
    /// A problem with a value stands where the value does, not its key.
    fn refuse(&self, node: &Node, at: &At<'_>, message: String, hint: Option<String>) {
        self.places.note(at, node.mark);
        match hint {
            Some(hint) => at.refuse_with_hint(message, hint),
            None => at.refuse(message),
        }
    }

    fn mistyped(&self, node: &Node, at: &At<'_>, wanted: &str) {
        self.refuse(node, at, format!("{wanted} belongs here, not {}", node.kind()), None);
    }

    fn message(&self, node: &Node, descriptor: &MessageDescriptor, at: &At<'_>) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        let Value::Map(entries) = &node.value else {
            self.mistyped(node, at, &format!("a mapping ({})", descriptor.full_name()));
            return message;
        };
        let mut oneofs: HashMap<String, &str> = HashMap::new();
        let optional = string_entry(entries, "is_optional").or_else(|| string_entry(entries, "isOptional"));
        let is_optional = optional.is_some_and(|(_, text)| text == "true");
        for entry in entries {
            let found =
                descriptor.get_field_by_name(&entry.key).or_else(|| descriptor.get_field_by_json_name(&entry.key));
            let Some(field) = found else {
                self.unknown_field(entry, descriptor, at);
                continue;
            };
            let at = &at.field(field.name());
            self.places.note(at, entry.mark);
            if message.has_field(&field) {
                at.refuse(format!("`{}` stands here twice, once in camelCase", field.name()));
                continue;
            }
            if let Some(oneof) = field.containing_oneof() {
                if !entry.value.is_null() {
                    if let Some(other) = oneofs.insert(oneof.full_name().to_owned(), &entry.key) {
                        at.refuse(format!("only one of `{other}` and `{}` may be set", entry.key));
                        continue;
                    }
                }
            }
            if let Some(value) = stranger(&entry.value, &field, descriptor, is_optional) {
                message.set_field(&field, value);
            } else if let Some(value) = self.field(&entry.value, &field, at) {
                message.set_field(&field, value);
            }
        }
        message
    }

    fn unknown_field(&self, entry: &Entry, descriptor: &MessageDescriptor, at: &At<'_>) {
        let message = descriptor.full_name();
        let at = &at.field(&entry.key);
        self.places.note(at, entry.mark);
        let name = snake_case(&entry.key);
        if unsupported::has(message, &name) {
            let text = format!("field `{}` of {message} is not supported", entry.key);
            match unsupported::alternative(message, &name) {
                Some(hint) => at.refuse_with_hint(text, hint),
                None => at.refuse(text),
            }
            return;
        }
        let text = format!("{message} has no field `{}`", entry.key);
        let names: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
        match suggest::nearest(&name, names.iter().map(String::as_str)) {
            Some(near) => at.refuse_with_hint(text, format!("did you mean `{near}`?")),
            None if names.is_empty() => at.refuse_with_hint(text, "it has no fields; write `{}`"),
            None => at.refuse_with_hint(text, format!("its fields are {}", names.join(", "))),
        }
    }

    fn field(&self, node: &Node, field: &FieldDescriptor, at: &At<'_>) -> Option<Field> {
        let kind = field.kind();
        let takes_null = matches!(&kind, Kind::Message(m) if m.full_name() == "google.protobuf.Value");
        if node.is_null() && !takes_null {
            return None;
        }
        if field.is_map() {
            return self.map(node, &kind, at);
        }
        if field.cardinality() == Cardinality::Repeated {
            let Value::List(items) = &node.value else {
                self.mistyped(node, at, "a list");
                return None;
            };
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.iter().enumerate() {
                let at = &at.index(index);
                self.places.note(at, item.mark);
                list.extend(self.value(item, &kind, at));
            }
            return Some(Field::List(list));
        }
        self.value(node, &kind, at)
    }

    fn map(&self, node: &Node, kind: &Kind, at: &At<'_>) -> Option<Field> {
        let (Value::Map(entries), Kind::Message(entry_type)) = (&node.value, kind) else {
            self.mistyped(node, at, "a mapping");
            return None;
        };
        let value_kind = entry_type.map_entry_value_field().kind();
        let mut map = HashMap::with_capacity(entries.len());
        for entry in entries {
            let at = &at.key(&entry.key);
            self.places.note(at, entry.mark);
            if let Some(value) = self.value(&entry.value, &value_kind, at) {
                // Every map of the supported messages has string keys.
                map.insert(MapKey::String(entry.key.clone()), value);
            }
        }
        Some(Field::Map(map))
    }

    fn value(&self, node: &Node, kind: &Kind, at: &At<'_>) -> Option<Field> {
        match kind {
            Kind::Message(descriptor) => self.message_value(node, descriptor, at),
            _ => match &node.value {
                Value::Scalar(scalar) => match scalar::read(scalar, kind) {
                    Ok(value) => Some(value),
                    Err(refusal) => {
                        self.refuse(node, at, refusal.message, refusal.hint);
                        None
                    }
                },
                _ => {
                    self.mistyped(node, at, scalar::name(kind));
                    None
                }
            },
        }
    }

    fn message_value(&self, node: &Node, descriptor: &MessageDescriptor, at: &At<'_>) -> Option<Field> {
        let message = match descriptor.full_name() {
            "google.protobuf.Any" => self.any(node, descriptor, at)?,
            "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue" => {
                self.dynamic_value(node, descriptor, at)?
            }
            "google.protobuf.Duration" => match &node.value {
                Value::Scalar(text) => match scalar::duration(text) {
                    Ok((seconds, nanos)) => {
                        let mut message = DynamicMessage::new(descriptor.clone());
                        message.set_field_by_name("seconds", Field::I64(seconds));
                        message.set_field_by_name("nanos", Field::I32(nanos));
                        message
                    }
                    Err(refusal) => {
                        self.refuse(node, at, refusal.message, refusal.hint);
                        return None;
                    }
                },
                _ => {
                    self.mistyped(node, at, "a duration such as `1.5s`");
                    return None;
                }
            },
            name if is_wrapper(name) => {
                let value = descriptor.get_field_by_name("value")?;
                let inner = self.value(node, &value.kind(), at)?;
                let mut message = DynamicMessage::new(descriptor.clone());
                message.set_field(&value, inner);
                message
            }
            _ => self.message(node, descriptor, at),
        };
        Some(Field::Message(message))
    }

    fn any(&self, node: &Node, descriptor: &MessageDescriptor, at: &At<'_>) -> Option<DynamicMessage> {
        let Value::Map(entries) = &node.value else {
            self.mistyped(node, at, "a mapping with `@type`");
            return None;
        };
        let Some((type_entry, url)) = string_entry(entries, "@type") else {
            let hint = "write `\"@type\": type.googleapis.com/...` with the full name of its message";
            self.refuse(node, at, "`@type` is missing".into(), Some(hint.into()));
            return None;
        };
        let rest = |skip: &str| {
            let kept = entries.iter().filter(|entry| entry.key != skip).cloned().collect();
            Node { value: Value::Map(kept), mark: node.mark }
        };
        if is_typed_struct(proto::type_name(url)) {
            return self.typed_struct(node, entries, descriptor, at);
        }
        let message = self.named(url, type_entry, &rest("@type"), at)?;
        Some(pack(descriptor, &message))
    }

    /// `{"@type": ...TypedStruct, type_url: T, value: {...}}` is a T.
    fn typed_struct(
        &self,
        node: &Node,
        entries: &[Entry],
        descriptor: &MessageDescriptor,
        at: &At<'_>,
    ) -> Option<DynamicMessage> {
        let url = string_entry(entries, "type_url").or_else(|| string_entry(entries, "typeUrl"));
        let Some((type_entry, url)) = url else {
            self.refuse(node, at, "a TypedStruct needs a `type_url`".into(), None);
            return None;
        };
        for entry in entries {
            if !matches!(entry.key.as_str(), "@type" | "type_url" | "typeUrl" | "value") {
                let at = &at.field(&entry.key);
                self.places.note(at, entry.mark);
                at.refuse(format!("a TypedStruct has no field `{}`", entry.key));
            }
        }
        let empty = Node { value: Value::Map(Vec::new()), mark: node.mark };
        let value = entries.iter().find(|entry| entry.key == "value").map_or(&empty, |entry| &entry.value);
        let message = self.named(url, type_entry, value, at)?;
        Some(pack(descriptor, &message))
    }

    fn named(&self, url: &str, type_entry: &Entry, node: &Node, at: &At<'_>) -> Option<DynamicMessage> {
        match proto::descriptor(url) {
            Ok(inner) => Some(self.message(node, &inner, at)),
            Err(refusal) => {
                let at = &at.field("@type");
                self.places.note(at, type_entry.value.mark);
                at.refuse_with_hint(refusal.message, refusal.hint);
                None
            }
        }
    }

    fn dynamic_value(&self, node: &Node, descriptor: &MessageDescriptor, at: &At<'_>) -> Option<DynamicMessage> {
        match to_struct_value(node) {
            Some(value) if descriptor.full_name() == "google.protobuf.Value" => transcode(descriptor, &value),
            Some(prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(inner)) })
                if descriptor.full_name() == "google.protobuf.Struct" =>
            {
                transcode(descriptor, &inner)
            }
            Some(prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(inner)) })
                if descriptor.full_name() == "google.protobuf.ListValue" =>
            {
                transcode(descriptor, &inner)
            }
            _ => {
                self.mistyped(node, at, "a mapping");
                None
            }
        }
    }
}

fn string_entry<'e>(entries: &'e [Entry], key: &str) -> Option<(&'e Entry, &'e str)> {
    entries.iter().find(|entry| entry.key == key).and_then(|entry| match &entry.value.value {
        Value::Scalar(scalar) => Some((entry, scalar.text.as_str())),
        _ => None,
    })
}

/// A packed message that stays unread: see [`optional`].
fn stranger(node: &Node, field: &FieldDescriptor, holder: &MessageDescriptor, is_optional: bool) -> Option<Field> {
    let (Value::Map(entries), Kind::Message(any)) = (&node.value, field.kind()) else { return None };
    let url = string_entry(entries, "@type").map_or("", |(_, url)| url);
    if url.is_empty() && !entries.is_empty()
        || !optional::may_be_unknown(holder.full_name(), field.name(), is_optional, url)
    {
        return None;
    }
    let mut unread = DynamicMessage::new(any);
    unread.set_field_by_name("type_url", Field::String(url.to_owned()));
    Some(Field::Message(unread))
}

fn pack(any: &MessageDescriptor, message: &DynamicMessage) -> DynamicMessage {
    let mut packed = DynamicMessage::new(any.clone());
    let url = format!("{}{}", proto::TYPE_PREFIX, message.descriptor().full_name());
    packed.set_field_by_name("type_url", Field::String(url));
    packed.set_field_by_name("value", Field::Bytes(message.encode_to_vec().into()));
    packed
}

fn transcode(descriptor: &MessageDescriptor, value: &impl prost::Message) -> Option<DynamicMessage> {
    DynamicMessage::decode(descriptor.clone(), value.encode_to_vec().as_slice()).ok()
}

use prost_reflect::ReflectMessage as _;

fn is_wrapper(name: &str) -> bool {
    matches!(
        name,
        "google.protobuf.DoubleValue"
            | "google.protobuf.FloatValue"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.Int32Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.BoolValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue"
    )
}

/// `fooBar` -> `foo_bar`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

/// A tree as a `google.protobuf.Value`.
fn to_struct_value(node: &Node) -> Option<prost_types::Value> {
    use prost_types::value::Kind as Of;
    let kind = match &node.value {
        Value::Scalar(scalar) if scalar.is_null() => Of::NullValue(0),
        Value::Scalar(scalar) => match (scalar.as_bool(), scalar.as_number()) {
            (Some(truth), _) => Of::BoolValue(truth),
            (None, Some(number)) => Of::NumberValue(number),
            (None, None) => Of::StringValue(scalar.text.clone()),
        },
        Value::List(items) => {
            Of::ListValue(prost_types::ListValue { values: items.iter().map(to_struct_value).collect::<Option<_>>()? })
        }
        Value::Map(entries) => {
            let pair = |entry: &Entry| Some((entry.key.clone(), to_struct_value(&entry.value)?));
            Of::StructValue(prost_types::Struct { fields: entries.iter().map(pair).collect::<Option<_>>()? })
        }
    };
    Some(prost_types::Value { kind: Some(kind) })
}

/// A `google.protobuf.Struct` as a tree, so that a `TypedStruct` that came over
/// the wire is read like one in a file.
pub(crate) fn from_struct(value: &prost_types::Struct) -> Node {
    let entries = value.fields.iter().map(|(key, value)| Entry {
        key: key.clone(),
        mark: Mark::default(),
        value: from_struct_value(value),
    });
    Node { value: Value::Map(entries.collect()), mark: Mark::default() }
}

fn from_struct_value(value: &prost_types::Value) -> Node {
    use crate::document::Scalar;
    use prost_types::value::Kind as Of;
    let plain = |text: String| Value::Scalar(Scalar { text, plain: true });
    let value = match &value.kind {
        None | Some(Of::NullValue(_)) => plain("null".into()),
        Some(Of::BoolValue(truth)) => plain(truth.to_string()),
        Some(Of::NumberValue(number)) => plain(number.to_string()),
        Some(Of::StringValue(text)) => Value::Scalar(Scalar { text: text.clone(), plain: false }),
        Some(Of::ListValue(list)) => Value::List(list.values.iter().map(from_struct_value).collect()),
        Some(Of::StructValue(inner)) => return from_struct(inner),
    };
    Node { value, mark: Mark::default() }
}

#[cfg(test)]
mod tests;
