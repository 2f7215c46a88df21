//! Where tokens stand in a request: headers, the query, cookies.
//!
//! As in Envoy: by name within each kind; a header's token begins behind the prefix, wherever that stands in the value; of
//! a query parameter and a cookie the first counts. Each location is known with the issuers whose providers look there.

use std::collections::BTreeMap;

use pymesh_model::filter::JwtProvider;

use super::changes::Changes;
use crate::route::hash_policy::cookie_value;
use crate::route::matcher::{name_and_value, path_of, query_parameters};

/// The locations of some providers.
pub(super) struct Locations {
    headers: Vec<(Box<str>, Box<str>, Issuers)>,
    params: Vec<(Box<str>, Issuers)>,
    cookies: Vec<(Box<str>, Issuers)>,
    promised: Vec<Box<str>>,
}

/// Whose tokens may stand in a place.
#[derive(Default)]
pub(super) struct Issuers {
    any: bool,
    named: Vec<Box<str>>,
}

/// A token where it was found.
pub(super) struct Located<'l> {
    pub text: Vec<u8>,
    issuers: &'l Issuers,
    place: Place<'l>,
}

enum Place<'l> {
    Header(&'l str),
    Param(&'l str),
    Cookie,
}

impl Locations {
    pub fn of<'p>(providers: impl Iterator<Item = &'p JwtProvider>) -> Locations {
        let (mut headers, mut params, mut cookies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut promised: Vec<Box<str>> = Vec::new();
        for provider in providers {
            for header in &provider.from_headers {
                // Envoy's order: by name and prefix as one text.
                let place = (format!("{}{}", header.name, header.prefix), header.name.clone(), header.prefix.clone());
                headers.entry(place).or_insert_with(Issuers::default).add(&provider.issuer);
            }
            for param in &provider.from_params {
                params.entry(param.clone()).or_insert_with(Issuers::default).add(&provider.issuer);
            }
            for cookie in &provider.from_cookies {
                cookies.entry(cookie.clone()).or_insert_with(Issuers::default).add(&provider.issuer);
            }
            let claims = provider.claims_to_headers.iter().map(|(header, _)| header);
            promised.extend(claims.chain([&provider.payload_header]).filter(|name| !name.is_empty()).cloned());
        }
        Locations {
            headers: headers.into_iter().map(|((_, name, prefix), issuers)| (name, prefix, issuers)).collect(),
            params: params.into_iter().collect(),
            cookies: cookies.into_iter().collect(),
            promised,
        }
    }

    /// The headers that the providers may set.
    pub fn promised(&self) -> impl Iterator<Item = &str> {
        self.promised.iter().map(|name| &**name)
    }

    /// Every token that there is.
    pub fn find(&self, changes: &Changes<'_>) -> Vec<Located<'_>> {
        let mut found = Vec::new();
        for (name, prefix, issuers) in &self.headers {
            let mut find = |value: &[u8]| {
                if let Some(text) = behind(value, prefix.as_bytes()) {
                    found.push(Located { text: text.to_vec(), issuers, place: Place::Header(name) });
                }
            };
            let values = changes.values(name.as_bytes());
            match &**name {
                // There must not be several (RFC 9110 section 11.6.2): together they are no token.
                "authorization" if values.len() > 1 => find(&values.join(&b","[..])),
                _ => values.into_iter().for_each(find),
            }
        }
        for (name, issuers) in &self.params {
            if let Some(text) = param(changes.path(), name.as_bytes()) {
                found.push(Located { text, issuers, place: Place::Param(name) });
            }
        }
        for (name, issuers) in &self.cookies {
            if let Some(text) = cookie_value(changes.request(), name.as_bytes()) {
                found.push(Located { text: text.to_vec(), issuers, place: Place::Cookie });
            }
        }
        found
    }
}

impl Issuers {
    fn add(&mut self, issuer: &str) {
        match issuer.is_empty() {
            true => self.any = true,
            false => self.named.push(issuer.into()),
        }
    }
}

impl Located<'_> {
    pub fn allows(&self, issuer: &str) -> bool {
        self.issuers.any || self.issuers.named.iter().any(|named| **named == *issuer)
    }

    /// The service is not to see it. Cookies are left alone, as in Envoy.
    pub fn take(&self, changes: &mut Changes<'_>) {
        match self.place {
            Place::Header(name) => changes.remove(name.as_bytes()),
            Place::Param(name) => {
                let path = without_param(changes.path(), name.as_bytes());
                changes.set_path(path);
            }
            Place::Cookie => {}
        }
    }
}

fn behind<'v>(value: &'v [u8], prefix: &[u8]) -> Option<&'v [u8]> {
    if prefix.is_empty() {
        return Some(value);
    }
    let at = value.windows(prefix.len()).position(|window| window == prefix)?;
    let rest = value.get(at + prefix.len()..).unwrap_or_default();
    let begins = rest.iter().position(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'));
    Some(begins.and_then(|begins| rest.get(begins..)).unwrap_or(value))
}

/// The first value of a query parameter, decoded.
fn param(path: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut parameters = query_parameters(path).map(name_and_value);
    parameters.find(|(found, _)| decoded(found) == name).map(|(_, value)| decoded(value))
}

/// The rest stays as it is.
fn without_param(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut kept = path_of(path).to_vec();
    let mut separator = b'?';
    for parameter in query_parameters(path).filter(|parameter| decoded(name_and_value(parameter).0) != name) {
        kept.push(separator);
        kept.extend_from_slice(parameter);
        separator = b'&';
    }
    kept
}

/// Without `%XX`.
fn decoded(text: &[u8]) -> Vec<u8> {
    let hex =
        |octet: Option<&u8>| octet.and_then(|octet| char::from(*octet).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(octet) = text.get(at) {
        match (octet, hex(text.get(at + 1)), hex(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            _ => {
                out.push(*octet);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_begins_behind_its_prefix() {
        for (value, expected) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer a.b.c", None),
            ("x Bearer  \"a.b.c", Some("a.b.c")),
            ("Bearer ", Some("Bearer ")),
            ("a.b.c", None),
        ] {
            assert_eq!(behind(value.as_bytes(), b"Bearer "), expected.map(str::as_bytes), "{value}");
        }
        assert_eq!(behind(b"a.b.c", b""), Some(&b"a.b.c"[..]));
    }

    #[test]
    fn a_parameter_is_found_and_taken() {
        for (path, value, rest) in [
            ("/a?t=x", Some("x"), "/a"),
            ("/a?b=1&t=x%2e&c=%20&t=y", Some("x."), "/a?b=1&c=%20"),
            ("/a?%74=x&tt=1", Some("x"), "/a?tt=1"),
            ("/a?t", Some(""), "/a"),
            ("/t=x", None, "/t=x"),
            ("/a?", None, "/a?"),
        ] {
            assert_eq!(param(path.as_bytes(), b"t").as_deref(), value.map(str::as_bytes), "{path}");
            assert_eq!(without_param(path.as_bytes(), b"t"), rest.as_bytes(), "{path}");
        }
    }
}
