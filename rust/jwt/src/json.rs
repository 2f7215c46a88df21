//! JSON objects, as strictly as their security asks: one value for each name (RFC 7519 section 4), and bounded depth.

use std::fmt;
use std::sync::Arc;

use pymesh_model::metadata::{Struct, Value};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

/// Lists and objects within each other, as many as protobuf's reader takes.
const DEEPEST: u32 = 100;

/// An object, and nothing behind it.
pub(crate) fn object(octets: &[u8]) -> Option<Struct> {
    let mut reader = serde_json::Deserializer::from_slice(octets);
    let read = Depth(DEEPEST).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    match read {
        Value::Struct(fields) => Some(fields),
        _ => None,
    }
}

/// How much deeper it may go.
#[derive(Clone, Copy)]
struct Depth(u32);

impl Depth {
    fn deeper<E: Error>(self) -> Result<Depth, E> {
        self.0.checked_sub(1).map(Depth).ok_or_else(|| E::custom("too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    // All numbers of `google.protobuf.Value` are doubles.
    #[allow(clippy::cast_precision_loss)]
    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    #[allow(clippy::cast_precision_loss)]
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let deeper = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(deeper)? {
            list.push(item);
        }
        Ok(Value::List(Arc::from(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let deeper = self.deeper()?;
        let mut fields: Vec<(Box<str>, Value)> = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            fields.push((name.into(), members.next_value_seed(deeper)?));
        }
        let count = fields.len();
        let fields: Struct = fields.into_iter().collect();
        if fields.iter().len() != count {
            return Err(A::Error::custom("a name stands twice"));
        }
        Ok(Value::Struct(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_only_with_each_name_once() {
        let fields = object(br#" {"a": [1, -2.5, null, {"b": "c"}], "b": true} "#).unwrap();
        let Some(Value::List(list)) = fields.get("a") else { panic!("{fields:?}") };
        assert_eq!(list[..3], [Value::Number(1.0), Value::Number(-2.5), Value::Null]);
        for wrong in [
            "",
            "[]",
            "1",
            "{",
            "{} x",
            "{}{}",
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":1,}"#,
            "{'a':1}",
            "{a:1}",
            r#"{"a":01}"#,
            r#"{"a":NaN}"#,
            r#"{"a":1e999}"#,
            "\u{feff}{}",
            r#"{"a":"\ud800"}"#,
        ] {
            assert!(object(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_none(), "no UTF-8");
        let nested = |depth| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(object(nested(99).as_bytes()).is_some());
        assert!(object(nested(100).as_bytes()).is_none() && object(nested(100_000).as_bytes()).is_none());
    }
}
