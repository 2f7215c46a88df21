//! Scalars of the JSON mapping: numbers, strings, enums, durations.

use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use base64::Engine as _;
use prost_reflect::{EnumDescriptor, Kind, Value as Field};

use crate::document::Scalar;
use crate::suggest;

/// Why a scalar cannot be what its field wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

fn refusal(message: impl Into<String>) -> Refusal {
    Refusal { message: message.into(), hint: None }
}

/// What belongs into a field of this kind, for messages.
pub(super) fn name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Double | Kind::Float => "a number",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "an integer",
        Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64 => "an integer that is not negative",
        Kind::Bool => "`true` or `false`",
        Kind::String => "a string",
        Kind::Bytes => "a base64 string",
        Kind::Enum(_) => "the name of an enum value",
        Kind::Message(_) => "a mapping",
    }
}

/// Reads a scalar as a value of this kind.
pub(super) fn read(scalar: &Scalar, kind: &Kind) -> Result<Field, Refusal> {
    let text = scalar.text.as_str();
    let wrong = || refusal(format!("{} belongs here, not `{text}`", name(kind)));
    match kind {
        Kind::Double => number(text).map(Field::F64).ok_or_else(wrong),
        #[allow(clippy::cast_possible_truncation)]
        Kind::Float => number(text).map(|number| Field::F32(number as f32)).ok_or_else(wrong),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(text).map(Field::I32).ok_or_else(wrong),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(text).map(Field::I64).ok_or_else(wrong),
        Kind::Uint32 | Kind::Fixed32 => integer(text).map(Field::U32).ok_or_else(wrong),
        Kind::Uint64 | Kind::Fixed64 => integer(text).map(Field::U64).ok_or_else(wrong),
        Kind::Bool => scalar.as_bool().map(Field::Bool).ok_or_else(wrong),
        Kind::String if scalar.plain && (scalar.as_bool().is_some() || scalar.as_number().is_some()) => Err(Refusal {
            message: format!("a string belongs here, not `{text}`"),
            hint: Some(format!("write \"{text}\"")),
        }),
        Kind::String => Ok(Field::String(text.to_owned())),
        Kind::Bytes => {
            let decoded = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
            decoded
                .map(|octets| Field::Bytes(octets.into()))
                .map_err(|error| refusal(format!("this is not base64: {error}")))
        }
        Kind::Enum(descriptor) => enumerator(scalar, descriptor),
        Kind::Message(_) => Err(wrong()),
    }
}

fn number(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ if text.bytes().any(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// Integers may be written as strings and with an exponent, as long as they are whole.
fn integer<T: TryFrom<i128>>(text: &str) -> Option<T> {
    let whole = text.parse::<i128>().ok().or_else(|| {
        let number = number(text)?;
        #[allow(clippy::cast_possible_truncation)]
        (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i128)
    })?;
    T::try_from(whole).ok()
}

fn enumerator(scalar: &Scalar, descriptor: &EnumDescriptor) -> Result<Field, Refusal> {
    let text = scalar.text.as_str();
    if let Some(value) = descriptor.get_value_by_name(text) {
        return Ok(Field::EnumNumber(value.number()));
    }
    if let Some(value) = integer(text).and_then(|number| descriptor.get_value(number)) {
        return Ok(Field::EnumNumber(value.number()));
    }
    let names: Vec<String> = descriptor.values().map(|value| value.name().to_owned()).collect();
    let hint = match suggest::nearest(&text.to_ascii_uppercase(), names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("its values are {}", names.join(", ")),
    };
    Err(Refusal { message: format!("{} has no value `{text}`", descriptor.full_name()), hint: Some(hint) })
}

/// `1.5s` as seconds and nanoseconds.
pub(super) fn duration(scalar: &Scalar) -> Result<(i64, i32), Refusal> {
    let text = scalar.text.as_str();
    let wrong = |hint: Option<String>| Refusal {
        message: format!("a duration such as `1.5s` belongs here, not `{text}`"),
        hint,
    };
    if let Some(milliseconds) = text.strip_suffix("ms").and_then(|n| n.parse::<f64>().ok()) {
        return Err(wrong(Some(format!("write `{}s`", milliseconds / 1000.0))));
    }
    for (suffix, seconds) in [("m", 60.0), ("h", 3600.0)] {
        if let Some(count) = text.strip_suffix(suffix).and_then(|n| n.parse::<f64>().ok()) {
            return Err(wrong(Some(format!("write `{}s`", count * seconds))));
        }
    }
    if scalar.as_number().is_some() {
        return Err(wrong(Some(format!("write `{text}s`"))));
    }
    let parse = || {
        let digits = text.strip_suffix('s')?;
        let (sign, digits) = digits.strip_prefix('-').map_or((1, digits), |rest| (-1, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let only_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !only_digits(whole) || !only_digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let seconds: i64 = whole.parse().ok().filter(|seconds| *seconds <= 315_576_000_000)?;
        let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
        Some((seconds * sign, nanos * i32::try_from(sign).ok()?))
    };
    parse().ok_or_else(|| wrong(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar {
        Scalar { text: text.into(), plain: true }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0s", (0, 0)),
            ("1.5s", (1, 500_000_000)),
            ("-1.000000001s", (-1, -1)),
            ("3600s", (3600, 0)),
            ("0.25s", (0, 250_000_000)),
        ] {
            assert_eq!(duration(&plain(text)), Ok(expected), "{text}");
        }
        for (text, hint) in [
            ("5", Some("write `5s`")),
            ("500ms", Some("write `0.5s`")),
            ("2m", Some("write `120s`")),
            ("1.s", None),
            ("s", None),
            ("1e3s", None),
            ("1.0000000001s", None),
        ] {
            assert_eq!(duration(&plain(text)).unwrap_err().hint.as_deref(), hint, "{text}");
        }
    }

    #[test]
    fn integers() {
        assert_eq!(read(&plain("80"), &Kind::Uint32), Ok(Field::U32(80)));
        assert_eq!(read(&plain("1e3"), &Kind::Uint32), Ok(Field::U32(1000)));
        assert_eq!(
            read(&Scalar { text: "9223372036854775807".into(), plain: false }, &Kind::Int64),
            Ok(Field::I64(i64::MAX))
        );
        for text in ["-1", "4294967296", "1.5", "x", "", "0x10"] {
            let error = read(&plain(text), &Kind::Uint32).unwrap_err();
            assert_eq!(error.message, format!("an integer that is not negative belongs here, not `{text}`"));
        }
    }

    #[test]
    fn strings_that_look_like_something_else_need_quotes() {
        assert_eq!(read(&plain("a b"), &Kind::String), Ok(Field::String("a b".into())));
        assert_eq!(read(&plain("127.0.0.1"), &Kind::String), Ok(Field::String("127.0.0.1".into())));
        assert_eq!(read(&plain("true"), &Kind::String).unwrap_err().hint.as_deref(), Some("write \"true\""));
        assert_eq!(read(&plain("8080"), &Kind::String).unwrap_err().hint.as_deref(), Some("write \"8080\""));
        assert_eq!(
            read(&Scalar { text: "true".into(), plain: false }, &Kind::Bool).unwrap_err().message,
            "`true` or `false` belongs here, not `true`"
        );
    }
}
