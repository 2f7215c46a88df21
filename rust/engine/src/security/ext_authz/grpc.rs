//! A service of gRPC: how it is asked, and a `CheckResponse` as a [`Decision`].
//!
//! What Envoy 1.40 makes of `HeaderValueOption` is not the same everywhere, and is kept: of a request's headers only the
//! old `append` counts, of a denial's those that are not to be appended; `append_action` counts for the response of a
//! request that may pass.
//!
//! Stricter than Envoy, which lets all of these pass: an answer without a status and without an `ok_response` is none, and
//! one with a `denied_response` or an `error_response` is what that says, also where its status is OK or left out.

use pymesh_http::{has_control_octets, RequestHead};
use pymesh_model::filter::GrpcAuthz;
use pymesh_model::metadata::{Struct, Value};
use pymesh_model::route::AppendAction;

use super::{final_status, is_name, is_of_connection, is_query, Changes, Decision, Denial, Field, Verdict};
use crate::base::protobuf::{Fields, Malformed, Value as Wire};
use crate::exchange::Told;
use crate::route::grpc;

const PATH: &[u8] = b"/envoy.service.auth.v3.Authorization/Check";
const FORBIDDEN: u16 = 403;
/// Values within values of what filters behind are told.
const DEEPEST: usize = 32;

/// The head of the question, but for what the configuration adds.
pub(crate) fn write_head(head: &mut RequestHead, service: &GrpcAuthz) {
    grpc::write_head(head, &service.authority, PATH, service.timeout);
}

/// What an answer means.
pub(crate) fn decision(told: &Told) -> Decision {
    let message = crate::base::grpc::message(&told.head, &told.body, &told.trailers).filter(|_| !told.is_cut);
    message.and_then(|message| read(message).ok()).unwrap_or_else(Decision::failed)
}

/// A `CheckResponse`.
fn read(message: &[u8]) -> Result<Decision, Malformed> {
    let mut code = None;
    let mut metadata = None;
    let mut part = None;
    for field in Fields(message) {
        match field? {
            (1, status) => code = Some(read_code(octets(status)?)?),
            (4, fields) => metadata = Some(read_struct(octets(fields)?, DEEPEST)?),
            (number @ (2 | 3 | 5), said) => part = Some((number, octets(said)?)),
            _ => {}
        }
    }
    let mut sound = true;
    let (verdict, own) = match (code, part) {
        (None | Some(0), Some((3, ok))) => {
            let (changes, own) = read_ok(ok, &mut sound)?;
            (Verdict::Allowed(changes), own)
        }
        (Some(0), None) => (Verdict::Allowed(Changes::default()), None),
        // It says nothing at all.
        (None, None) => (Verdict::Failed(Denial::default()), None),
        (_, Some((5, error))) => (Verdict::Failed(read_denial(error, &mut sound)?), None),
        (_, Some((2, denied))) => {
            let mut denial = read_denial(denied, &mut sound)?;
            denial.status = denial.status.or(Some(FORBIDDEN));
            (Verdict::Denied(denial), None)
        }
        (_, _) => (Verdict::Denied(Denial { status: Some(FORBIDDEN), ..Denial::default() }), None),
    };
    // Where the old place says something, that counts.
    let metadata = own.or(metadata).unwrap_or_default();
    Ok(Decision { verdict, is_sound: sound, metadata })
}

/// The code of a `google.rpc.Status`, or of an `HttpStatus`.
fn read_code(message: &[u8]) -> Result<u64, Malformed> {
    let mut code = 0;
    for field in Fields(message) {
        if let (1, value) = field? {
            code = value.number().ok_or(Malformed)?;
        }
    }
    Ok(code)
}

/// An `OkHttpResponse`.
fn read_ok(message: &[u8], sound: &mut bool) -> Result<(Changes, Option<Struct>), Malformed> {
    let mut changes = Changes::default();
    let mut metadata = None;
    for field in Fields(message) {
        let (number, value) = field?;
        match number {
            2 => {
                let option = read_option(octets(value)?, sound)?;
                // Without a word it replaces.
                match option.append {
                    Some(true) => keep(&mut changes.join, option.field),
                    _ => keep(&mut changes.set, option.field),
                }
            }
            3 => metadata = Some(read_struct(octets(value)?, DEEPEST)?),
            5 => changes.remove.push(octets(value)?.to_ascii_lowercase()),
            6 => {
                let option = read_option(octets(value)?, sound)?;
                let action = match option.append {
                    Some(true) => AppendAction::AppendIfExistsOrAdd,
                    Some(false) => AppendAction::OverwriteIfExistsOrAdd,
                    None => option.action,
                };
                if let Some(field) = option.field {
                    changes.response.push((action, field));
                }
            }
            7 => {
                let (key, value) = read_pair(octets(value)?)?;
                *sound &= is_query(&key) && is_query(&value);
                changes.set_query.push((key, value));
            }
            8 => changes.remove_query.push(octets(value)?.to_vec()),
            _ => {}
        }
    }
    // In Envoy's order, whatever the service's.
    changes.response.sort_by_key(|(action, _)| match action {
        AppendAction::AppendIfExistsOrAdd => 0,
        AppendAction::OverwriteIfExistsOrAdd => 1,
        AppendAction::AddIfAbsent => 2,
        AppendAction::OverwriteIfExists => 3,
    });
    Ok((changes, metadata))
}

/// A `DeniedHttpResponse`.
fn read_denial(message: &[u8], sound: &mut bool) -> Result<Denial, Malformed> {
    let mut denial = Denial::default();
    for field in Fields(message) {
        match field? {
            (1, status) => denial.status = final_status(read_code(octets(status)?)?),
            (2, option) => {
                let option = read_option(octets(option)?, sound)?;
                if option.append != Some(true) {
                    keep(&mut denial.headers, option.field.filter(|(name, _)| !name.starts_with(b":")));
                }
            }
            (3, body) => denial.body = octets(body)?.to_vec(),
            _ => {}
        }
    }
    Ok(denial)
}

/// A `HeaderValueOption`.
struct HeaderOption {
    /// `None`: it is not the service's to say.
    field: Option<Field>,
    append: Option<bool>,
    action: AppendAction,
}

fn read_option(message: &[u8], sound: &mut bool) -> Result<HeaderOption, Malformed> {
    let mut field = (Vec::new(), Vec::new());
    let mut append = None;
    let mut action = 0;
    for part in Fields(message) {
        match part? {
            (1, header) => field = read_header(octets(header)?)?,
            (2, flag) => append = Some(read_code(octets(flag)?)? != 0),
            (3, number) => action = number.number().ok_or(Malformed)?,
            _ => {}
        }
    }
    let action = match action {
        0 => AppendAction::AppendIfExistsOrAdd,
        1 => AppendAction::AddIfAbsent,
        2 => AppendAction::OverwriteIfExistsOrAdd,
        3 => AppendAction::OverwriteIfExists,
        _ => {
            *sound = false;
            AppendAction::OverwriteIfExistsOrAdd
        }
    };
    *sound &= is_name(&field.0) && !has_control_octets(&field.1);
    Ok(HeaderOption { field: Some(field).filter(|(name, _)| !is_of_connection(name)), append, action })
}

/// A `HeaderValue`.
fn read_header(message: &[u8]) -> Result<Field, Malformed> {
    let (mut name, mut value) = (Vec::new(), Vec::new());
    for field in Fields(message) {
        match field? {
            (1, key) => name = octets(key)?.to_ascii_lowercase(),
            (2 | 3, text) => value = octets(text)?.to_vec(),
            _ => {}
        }
    }
    Ok((name, value))
}

/// Key and value of a `QueryParameter`, or of a map.
fn read_pair(message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for field in Fields(message) {
        match field? {
            (1, text) => key = octets(text)?.to_vec(),
            (2, text) => value = octets(text)?.to_vec(),
            _ => {}
        }
    }
    Ok((key, value))
}

fn keep(into: &mut Vec<Field>, field: Option<Field>) {
    into.extend(field);
}

fn octets(value: Wire<'_>) -> Result<&[u8], Malformed> {
    value.octets().ok_or(Malformed)
}

fn text(octets: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(octets).map_err(|_| Malformed)
}

fn read_struct(message: &[u8], depth: usize) -> Result<Struct, Malformed> {
    let mut fields = Vec::new();
    for field in Fields(message) {
        if let (1, entry) = field? {
            let (key, value) = read_pair(octets(entry)?)?;
            fields.push((text(&key)?.into(), read_value(&value, depth.checked_sub(1).ok_or(Malformed)?)?));
        }
    }
    Ok(fields.into_iter().collect())
}

fn read_value(message: &[u8], depth: usize) -> Result<Value, Malformed> {
    let mut value = Value::Null;
    for field in Fields(message) {
        value = match field? {
            (1, _) => Value::Null,
            (2, Wire::Double(number)) => Value::Number(number),
            (3, said) => Value::from(text(octets(said)?)?),
            (4, truth) => Value::Bool(truth.number().ok_or(Malformed)? != 0),
            (5, fields) => Value::Struct(read_struct(octets(fields)?, depth)?),
            (6, list) => Value::List(read_list(octets(list)?, depth)?.into()),
            (2, _) => return Err(Malformed),
            _ => value,
        };
    }
    Ok(value)
}

fn read_list(message: &[u8], depth: usize) -> Result<Vec<Value>, Malformed> {
    let mut values = Vec::new();
    for field in Fields(message) {
        if let (1, value) = field? {
            values.push(read_value(octets(value)?, depth.checked_sub(1).ok_or(Malformed)?)?);
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
