//! JSON, as access logs write it, and headers that tell claims.

use std::io::Write as _;

use pymesh_model::metadata::Value;

/// Appends a value in the way of protobuf's JSON.
pub(crate) fn value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(truth) => out.extend(if *truth { &b"true"[..] } else { b"false" }),
        Value::Number(value) => number(*value, out),
        Value::String(text) => string(text.as_bytes(), out),
        Value::List(values) => {
            out.push(b'[');
            for (index, one) in values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                self::value(one, out);
            }
            out.push(b']');
        }
        Value::Struct(fields) => {
            out.push(b'{');
            for (index, (key, one)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                string(key.as_bytes(), out);
                out.push(b':');
                self::value(one, out);
            }
            out.push(b'}');
        }
    }
}

/// As C's `%g` with as many digits as are needed; JSON has no word for what is no number.
fn number(number: f64, out: &mut Vec<u8>) {
    let magnitude = number.abs();
    let _infallible = match number {
        _ if !number.is_finite() => write!(out, "null"),
        _ if magnitude == 0.0 || (1e-4..1e15).contains(&magnitude) => write!(out, "{number}"),
        _ => {
            let text = format!("{number:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            match exponent.strip_prefix('-') {
                Some(small) => write!(out, "{digits}e-{small:0>2}"),
                None => write!(out, "{digits}e+{exponent:0>2}"),
            }
        }
    };
}

/// Appends text in quotes; what is no UTF-8 is replaced.
pub(crate) fn string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' => out.extend(b"\\\""),
            '\\' => out.extend(b"\\\\"),
            '\u{0}'..='\u{1f}' => out.extend(format!("\\u{:04x}", c as u32).bytes()),
            _ => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_protobuf_does() {
        let fields = [
            ("z".into(), Value::List([Value::Null, Value::Bool(true), Value::from("a\"\n")].into())),
            ("a".into(), Value::Struct([("é".into(), Value::Number(-1.5))].into_iter().collect())),
        ];
        let mut out = Vec::new();
        value(&Value::Struct(fields.into_iter().collect()), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":{"é":-1.5},"z":[null,true,"a\"\u000a"]}"#);
        for (of, expected) in [
            (0.0, "0"),
            (1_700_000_000.0, "1700000000"),
            (999_999_999_999_999.0, "999999999999999"),
            (1e15, "1e+15"),
            (1.25e300, "1.25e+300"),
            (2.5e-7, "2.5e-07"),
            (0.0001, "0.0001"),
            (f64::NAN, "null"),
        ] {
            let mut out = Vec::new();
            number(of, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
