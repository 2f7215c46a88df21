//! Dynamic metadata: what filters find out about an exchange, for filters behind them and for the access log
//! (`envoy.config.core.v3.Metadata`).
//!
//! A [`Metadata`] is a list of namespaces, each usually named like the filter that writes it, with a [`Struct`]. Values are
//! those of `google.protobuf.Value`, which are JSON's. Who reads asks for a namespace and a path of keys.
//!
//! An exchange whose filters write nothing has none of this: an empty list, which has no memory of its own. What is
//! written is shared by reference, so that a token's payload that many requests bring is kept once.

use std::sync::Arc;

use crate::matcher::StringMatch;

/// `google.protobuf.Value`. Copies share what is large.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    String(Arc<str>),
    List(Arc<[Value]>),
    Struct(Struct),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

/// `google.protobuf.Struct`: values by key, in order of the keys, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Struct(Arc<[(Box<str>, Value)]>);

impl Struct {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// It says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every key with its value.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// This one with the fields of another, which replace those of the same key as they are.
    #[must_use]
    fn with(&self, newer: &Struct) -> Struct {
        match (self.0.is_empty(), newer.0.is_empty()) {
            (true, _) => newer.clone(),
            (_, true) => self.clone(),
            _ => self.0.iter().chain(newer.0.iter()).cloned().collect(),
        }
    }
}

/// Of several values for one key the last counts.
impl FromIterator<(Box<str>, Value)> for Struct {
    fn from_iter<I: IntoIterator<Item = (Box<str>, Value)>>(fields: I) -> Struct {
        let mut fields: Vec<(Box<str>, Value)> = fields.into_iter().collect();
        // Stable: later ones stay behind earlier ones of their key, and replace them.
        fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        fields.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(&mut earlier.1, &mut later.1);
            }
            same
        });
        Struct(fields.into())
    }
}

/// What is known of one exchange, by namespace.
#[derive(Debug, Default)]
pub struct Metadata(Vec<(Arc<str>, Struct)>);

impl Metadata {
    /// Adds fields to a namespace; those that it had are replaced.
    pub fn add(&mut self, namespace: &Arc<str>, fields: &Struct) {
        match self.0.iter_mut().find(|(name, _)| name == namespace) {
            Some((_, known)) => *known = known.with(fields),
            None => self.0.push((namespace.clone(), fields.clone())),
        }
    }

    /// What a filter has said.
    pub fn namespace(&self, namespace: &str) -> Option<&Struct> {
        self.0.iter().find(|(name, _)| **name == *namespace).map(|(_, fields)| fields)
    }

    /// Every namespace.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Struct)> {
        self.0.iter().map(|(name, fields)| (name, fields))
    }

    /// The value at a path of keys, of which there must be one at least.
    pub fn value(&self, namespace: &str, path: &[Box<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut value = self.namespace(namespace)?.get(first)?;
        for key in rest {
            let Value::Struct(fields) = value else { return None };
            value = fields.get(key)?;
        }
        Some(value)
    }

    /// Of another exchange; keeps memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// `MetadataMatcher`.
#[derive(Clone, Debug)]
pub struct MetadataMatch {
    /// The namespace.
    pub filter: Box<str>,
    /// Keys, from the outside in; one at least.
    pub path: Vec<Box<str>>,
    /// What the value must be.
    pub value: ValueMatch,
    /// The result is turned around.
    pub invert: bool,
}

impl MetadataMatch {
    /// True if it matches.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.value.matches(metadata.value(&self.filter, &self.path)) != self.invert
    }
}

/// `ValueMatcher`. What is not there matches none of them.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// It is null.
    Null,
    /// It is this.
    Bool(bool),
    /// It is there; for false nothing matches, as in Envoy.
    Present(bool),
    /// It is this number.
    Exactly(f64),
    /// It is a number from the first to below the second.
    Range(f64, f64),
    /// It is text that matches.
    String(StringMatch),
    /// It is a list of which one matches.
    OneOf(Box<ValueMatch>),
    /// One of these matches.
    Or(Vec<ValueMatch>),
}

impl ValueMatch {
    fn matches(&self, value: Option<&Value>) -> bool {
        let Some(value) = value else { return false };
        match (self, value) {
            (ValueMatch::Or(some), _) => some.iter().any(|one| one.matches(Some(value))),
            (ValueMatch::Present(wanted), _) => *wanted,
            (ValueMatch::Null, Value::Null) => true,
            (ValueMatch::Bool(wanted), Value::Bool(truth)) => wanted == truth,
            (ValueMatch::Exactly(wanted), Value::Number(number)) => wanted == number,
            (ValueMatch::Range(from, to), Value::Number(number)) => (*from..*to).contains(number),
            (ValueMatch::String(wanted), Value::String(text)) => wanted.matches(text.as_bytes()),
            (ValueMatch::OneOf(wanted), Value::List(values)) => values.iter().any(|value| wanted.matches(Some(value))),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Struct {
        fields.into_iter().map(|(key, value)| (key.into(), value)).collect()
    }

    fn known() -> Metadata {
        let mut metadata = Metadata::default();
        let claims = object([
            ("groups", Value::List([Value::from("a"), Value::Number(2.0)].into())),
            ("admin", Value::Bool(true)),
            ("none", Value::Null),
            ("deep", Value::Struct(object([("er", Value::Number(7.5))]))),
        ]);
        metadata.add(&"jwt".into(), &object([("payload", Value::Struct(claims))]));
        metadata
    }

    fn matches(path: &[&str], value: ValueMatch) -> bool {
        let path = path.iter().map(|key| (*key).into()).collect();
        MetadataMatch { filter: "jwt".into(), path, value, invert: false }.matches(&known())
    }

    #[test]
    fn values_are_found_by_path_and_kind() {
        let text = |exact: &str| ValueMatch::String(StringMatch::exact(exact));
        let one_of = |one| ValueMatch::OneOf(Box::new(one));
        for (path, value, expected) in [
            (&["payload", "groups"][..], one_of(text("a")), true),
            (&["payload", "groups"], one_of(ValueMatch::Exactly(2.0)), true),
            (&["payload", "groups"], one_of(text("b")), false),
            (&["payload", "groups"], text("a"), false),
            (&["payload", "admin"], ValueMatch::Bool(true), true),
            (&["payload", "admin"], ValueMatch::Bool(false), false),
            (&["payload", "none"], ValueMatch::Null, true),
            (&["payload", "none"], ValueMatch::Present(true), true),
            (&["payload", "absent"], ValueMatch::Null, false),
            (&["payload", "absent"], ValueMatch::Present(true), false),
            (&["payload", "absent"], ValueMatch::Present(false), false),
            (&["payload", "admin"], ValueMatch::Present(false), false),
            (&["payload", "deep", "er"], ValueMatch::Range(7.5, 8.0), true),
            (&["payload", "deep", "er"], ValueMatch::Range(7.0, 7.5), false),
            (&["payload", "deep", "er"], ValueMatch::Or(vec![ValueMatch::Null, ValueMatch::Exactly(7.5)]), true),
            (&["payload", "admin", "er"], ValueMatch::Present(true), false),
            (&[], ValueMatch::Present(true), false),
        ] {
            assert_eq!(matches(path, value.clone()), expected, "{path:?} {value:?}");
        }
        let absent = MetadataMatch {
            filter: "other".into(),
            path: vec!["payload".into()],
            value: ValueMatch::Present(true),
            invert: true,
        };
        assert!(absent.matches(&known()), "what is not there is not present");
    }

    #[test]
    fn later_fields_replace_earlier_ones() {
        let mut metadata = known();
        metadata
            .add(&"jwt".into(), &object([("a", Value::Null), ("payload", Value::from("b")), ("a", Value::from("c"))]));
        let fields: Vec<_> = metadata.namespace("jwt").unwrap().iter().collect();
        assert_eq!(fields, [("a", &Value::from("c")), ("payload", &Value::from("b"))]);
        assert_eq!(metadata.iter().len(), 1);
        metadata.clear();
        assert!(metadata.namespace("jwt").is_none());
    }
}
