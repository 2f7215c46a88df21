//! A service of plain HTTP: it is sent a request like the client's, and says by its status whether that may pass.

use std::sync::Arc;

use pymesh_http::{Known, RequestHead, Version};
use pymesh_model::filter::{HeaderNames, HttpAuthz};
use pymesh_model::metadata::{Struct, Value};
use pymesh_model::route::AppendAction;

use super::check::Request;
use super::{final_status, is_of_connection, Changes, Decision, Denial, Field, Verdict};
use crate::exchange::Told;

/// Shown whatever the configuration says.
const ALWAYS: &[u8] = b"authorization";
/// Names of headers that the upstream is not to see, in an answer that allows.
const REMOVE: &[u8] = b"x-envoy-auth-headers-to-remove";
/// Go to the client beside those that are named.
const TO_CLIENT: [&[u8]; 2] = [b"www-authenticate", b"location"];

/// The head of the question, but for what the configuration adds.
pub(crate) fn write_head(head: &mut RequestHead, service: &HttpAuthz, request: &Request<'_>) {
    head.set_method(request.head.method_bytes());
    head.version = Version::Http11;
    head.set_authority(request.head.authority());
    let path = [service.path_prefix.as_bytes(), request.head.path()].concat();
    head.set_path(if path.is_empty() { b"/" } else { &path });
    let length = request.body.map_or(0, |body| body.octets.len());
    head.headers.append_known(Known::ContentLength, length.to_string().as_bytes());
    for (name, value) in request.headers() {
        if !name.starts_with(b":") && !is_of_connection(&name) {
            head.headers.append(&name, &value);
        }
    }
    // All of them: whoever is asked must not judge another one than the upstream takes.
    let credentials: Vec<&[u8]> = request.head.headers.get_all(ALWAYS).collect();
    if !credentials.is_empty() && !request.hidden.matches(ALWAYS) {
        head.headers.set(ALWAYS, &credentials.join(&b","[..]));
    }
}

/// What an answer means: 200 allows, 5xx is none, anything else denies.
pub(crate) fn decision(told: &Told, service: &HttpAuthz) -> Decision {
    let Some(status) = final_status(told.head.status.into()).filter(|status| *status < 500 && !told.is_cut) else {
        return Decision::failed();
    };
    let fields = || told.head.headers.iter().filter(|field| field.name != REMOVE);
    let named = |names: &HeaderNames| -> Vec<Field> {
        let named = fields().filter(|field| names.matches(field.name) && !is_of_connection(field.name));
        named.map(|field| (field.name.to_vec(), field.value.to_vec())).collect()
    };
    let metadata: Struct = fields()
        .filter(|field| service.to_metadata.matches(field.name))
        .map(|field| (lossy(field.name).as_str().into(), Value::String(Arc::from(lossy(field.value)))))
        .collect();
    let verdict = match status {
        200 => {
            let response = named(&service.to_client_on_success).into_iter();
            Verdict::Allowed(Changes {
                set: named(&service.to_upstream),
                add: named(&service.to_upstream_too),
                remove: told.head.headers.get_all(REMOVE).flat_map(names_in).collect(),
                response: response.map(|field| (AppendAction::AppendIfExistsOrAdd, field)).collect(),
                ..Changes::default()
            })
        }
        _ => {
            let to_client = |name: &[u8]| {
                service.to_client.0.is_empty() || service.to_client.matches(name) || TO_CLIENT.contains(&name)
            };
            let headers = fields().filter(|field| to_client(field.name) && !is_of_connection(field.name));
            Verdict::Denied(Denial {
                status: Some(status),
                headers: headers.map(|field| (field.name.to_vec(), field.value.to_vec())).collect(),
                body: told.body.clone(),
            })
        }
    };
    Decision { verdict, is_sound: true, metadata }
}

fn names_in(list: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    list.split(|octet| *octet == b',')
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
}

fn lossy(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_headers_to_remove() {
        let names: Vec<_> = names_in(b"x-a, X-B ,,  ").collect();
        assert_eq!(names, [b"x-a".to_vec(), b"x-b".to_vec()]);
    }
}
