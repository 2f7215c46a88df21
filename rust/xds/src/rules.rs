//! Envoy's own validation rules (`validate.rules`), as far as the supported
//! messages use them. They stand in the descriptor set; nothing is repeated here.

use std::collections::HashMap;
use std::sync::OnceLock;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};

use crate::diagnostic::At;
use crate::proto::{self, validate};
use validate::field_rules::Type;

/// The rules of all messages, by full name.
static RULES: OnceLock<HashMap<String, MessageRules>> = OnceLock::new();

#[derive(Default)]
struct MessageRules {
    fields: Vec<(FieldDescriptor, validate::FieldRules)>,
    /// Members of each oneof of which one must be set.
    required_oneofs: Vec<Vec<FieldDescriptor>>,
}

fn of(message: &MessageDescriptor) -> Option<&'static MessageRules> {
    let all = RULES.get_or_init(|| {
        proto::pool().all_messages().map(|message| (message.full_name().to_owned(), compile(&message))).collect()
    });
    all.get(message.full_name())
}

fn compile(message: &MessageDescriptor) -> MessageRules {
    let mut rules = MessageRules::default();
    let Some(extension) = proto::pool().get_extension_by_name("validate.rules") else { return rules };
    let Some(required) = proto::pool().get_extension_by_name("validate.required") else { return rules };
    for field in message.fields() {
        let options = field.options();
        if options.has_extension(&extension) {
            let value = options.get_extension(&extension);
            let compiled = value.as_message().and_then(|message| message.transcode_to().ok());
            rules.fields.extend(compiled.map(|compiled| (field.clone(), compiled)));
        }
    }
    for oneof in message.oneofs() {
        if oneof.options().get_extension(&required).as_bool() == Some(true) {
            rules.required_oneofs.push(oneof.fields().collect());
        }
    }
    rules
}

/// Reports every rule that the fields of `message` break. Messages within are
/// for the caller to visit.
pub(crate) fn check(message: &DynamicMessage, at: &At<'_>) {
    let Some(rules) = of(&message.descriptor()) else { return };
    for members in &rules.required_oneofs {
        if !members.iter().any(|member| message.has_field(member)) {
            let names: Vec<String> = members.iter().map(|member| format!("`{}`", member.name())).collect();
            at.refuse(match names.as_slice() {
                [only] => format!("{only} must be set"),
                several => format!("one of {} must be set", several.join(", ")),
            });
        }
    }
    for (field, rules) in &rules.fields {
        let at = &at.field(field.name());
        let set = message.has_field(field);
        // A member of a oneof that was not chosen breaks no rule at all, even where it is
        // the only member that is supported here.
        let is_choice = field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic());
        if !set && is_choice {
            continue;
        }
        if rules.message.as_ref().is_some_and(|rule| rule.required()) && !set {
            at.refuse("this must be set");
            continue;
        }
        // A message, or a member of a oneof, that is absent breaks no rule about its value.
        if !set && field.supports_presence() && !is_required(rules) {
            continue;
        }
        value(&message.get_field(field), field, rules, set, at);
    }
}

fn is_required(rules: &validate::FieldRules) -> bool {
    match &rules.r#type {
        Some(Type::Duration(rule)) => rule.required(),
        Some(Type::Any(rule)) => rule.required(),
        _ => false,
    }
}

fn value(value: &Value, field: &FieldDescriptor, rules: &validate::FieldRules, set: bool, at: &At<'_>) {
    match (&rules.r#type, value) {
        (Some(Type::Repeated(rule)), Value::List(items)) => {
            let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
            if count < rule.min_items() {
                at.refuse(format!("at least {} must be given", rule.min_items()));
            }
            if rule.max_items.is_some_and(|most| count > most) {
                at.refuse(format!("at most {} may be given, here are {count}", rule.max_items()));
            }
            if let Some(item_rules) = &rule.items {
                for (index, item) in items.iter().enumerate() {
                    scalar(item, field, item_rules, &at.index(index));
                }
            }
        }
        (Some(Type::Map(rule)), Value::Map(entries)) => {
            let Some(Type::String(key_rule)) = rule.keys.as_ref().and_then(|keys| keys.r#type.as_ref()) else { return };
            for key in entries.keys() {
                if let MapKey::String(key) = key {
                    string(key, key_rule, &at.key(key));
                }
            }
        }
        (Some(Type::Duration(_) | Type::Any(_)), _) if !set => at.refuse("this must be set"),
        (Some(Type::Duration(rule)), Value::Message(message)) => duration(message, rule, at),
        (Some(_), Value::Message(message)) => {
            // A wrapper: the rule is about the value within.
            if let Some(inner) = message.get_field_by_name("value") {
                scalar(&inner, field, rules, at);
            }
        }
        _ => scalar(value, field, rules, at),
    }
}

fn scalar(value: &Value, field: &FieldDescriptor, rules: &validate::FieldRules, at: &At<'_>) {
    match (&rules.r#type, value) {
        (Some(Type::String(rule)), Value::String(text)) => string(text, rule, at),
        (Some(Type::Uint32(rule)), Value::U32(number)) => {
            bounds(*number, [rule.gt, rule.gte, rule.lt, rule.lte], at);
        }
        (Some(Type::Uint64(rule)), Value::U64(number)) => {
            bounds(*number, [rule.gt, rule.gte, rule.lt, rule.lte], at);
        }
        (Some(Type::Int64(rule)), Value::I64(number)) => {
            bounds(*number, [rule.gt, rule.gte, rule.lt, rule.lte], at);
        }
        (Some(Type::Double(rule)), Value::F64(number)) => {
            bounds(*number, [rule.gt, rule.gte, rule.lt, rule.lte], at);
        }
        (Some(Type::Enum(rule)), Value::EnumNumber(number)) if rule.not_in.contains(number) => {
            let name = match field.kind() {
                Kind::Enum(descriptor) => descriptor.get_value(*number).map(|value| value.name().to_owned()),
                _ => None,
            };
            at.refuse(format!("`{}` is not allowed here", name.unwrap_or_else(|| number.to_string())));
        }
        _ => {}
    }
}

/// `limits`: greater than, at least, less than, at most.
fn bounds<T: PartialOrd + std::fmt::Display + Copy>(number: T, limits: [Option<T>; 4], at: &At<'_>) {
    let [above, least, below, most] = limits;
    if let Some(limit) = above.filter(|limit| number <= *limit) {
        at.refuse(format!("this must be greater than {limit}, not {number}"));
    }
    if let Some(limit) = least.filter(|limit| number < *limit) {
        at.refuse(format!("this must be at least {limit}, not {number}"));
    }
    if let Some(limit) = below.filter(|limit| number >= *limit) {
        at.refuse(format!("this must be less than {limit}, not {number}"));
    }
    if let Some(limit) = most.filter(|limit| number > *limit) {
        at.refuse(format!("this must be at most {limit}, not {number}"));
    }
}

fn duration(message: &DynamicMessage, rule: &validate::DurationRules, at: &At<'_>) {
    let Ok(duration) = message.transcode_to::<prost_types::Duration>() else { return };
    let nanos = |d: &prost_types::Duration| i128::from(d.seconds) * 1_000_000_000 + i128::from(d.nanos);
    if rule.gt.as_ref().is_some_and(|limit| nanos(&duration) <= nanos(limit)) {
        at.refuse(format!("this must be longer than {}", rule.gt.unwrap_or_default()));
    }
    if rule.gte.as_ref().is_some_and(|limit| nanos(&duration) < nanos(limit)) {
        at.refuse(format!("this must be at least {}", rule.gte.unwrap_or_default()));
    }
}

fn string(text: &str, rule: &validate::StringRules, at: &At<'_>) {
    use validate::string_rules::WellKnown;
    use validate::KnownRegex;

    if text.is_empty() && rule.ignore_empty() {
        return;
    }
    let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if length < rule.min_len() {
        at.refuse(match rule.min_len() {
            1 => "this must be set, and not be empty".to_owned(),
            least => format!("this must have at least {least} characters"),
        });
        return;
    }
    let octets = u64::try_from(text.len()).unwrap_or(u64::MAX);
    if rule.max_bytes.is_some_and(|most| octets > most) {
        at.refuse(format!("this must have at most {} octets", rule.max_bytes()));
    }
    if let Some(pattern) = &rule.pattern {
        if !regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text)) {
            at.refuse(format!("`{text}` does not match {pattern}"));
        }
    }
    if let Some(WellKnown::WellKnownRegex(kind)) = rule.well_known {
        let name = kind == KnownRegex::HttpHeaderName as i32;
        let allowed = match (name, rule.strict()) {
            (true, true) => text.is_empty() || is_header_name(text),
            (false, true) => text.chars().all(|c| c == '\t' || !c.is_ascii_control()),
            (_, false) => !text.contains(['\0', '\r', '\n']),
        };
        if !allowed {
            at.refuse(format!(
                "`{}` is not an HTTP header {}",
                text.escape_debug(),
                if name { "name" } else { "value" }
            ));
        }
    }
}

fn is_header_name(text: &str) -> bool {
    let name = text.strip_prefix(':').unwrap_or(text);
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&b))
}
