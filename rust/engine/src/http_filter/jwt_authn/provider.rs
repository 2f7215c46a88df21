//! A provider: what it makes of a token.

use std::sync::Arc;

use base64::engine::general_purpose::STANDARD;
use base64::Engine as _;
use pymesh_jwt::{Failure, Jwks, Token};
use pymesh_model::filter::{JwtKeys, JwtProvider};
use pymesh_model::metadata::{Struct, Value};

use super::cache::Cache;
use super::changes::Changes;
use super::locations::Locations;
use crate::base::time::Time;
use crate::engine::Options;
use crate::jwks::RemoteKeys;
use crate::telemetry::json;

/// A provider as one worker keeps it.
pub(super) struct Provider {
    pub config: Arc<JwtProvider>,
    pub locations: Locations,
    pub cache: Option<Cache>,
    keys: Keys,
}

enum Keys {
    /// There are none if they could not be read, which translation makes sure of.
    Local(Option<Arc<Jwks>>),
    Remote(Arc<RemoteKeys>),
}

impl Provider {
    pub fn new(config: &Arc<JwtProvider>, options: &Options) -> Provider {
        Provider {
            locations: Locations::of([&**config].into_iter()),
            cache: config.cache.map(Cache::new),
            keys: match &config.keys {
                JwtKeys::Local(text) => Keys::Local(Jwks::parse(text).ok().map(Arc::new)),
                JwtKeys::Remote(remote) => Keys::Remote(options.commons.keys.get(remote, || RemoteKeys::new(remote))),
            },
            config: config.clone(),
        }
    }

    pub fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.keys {
            Keys::Local(_) => None,
            Keys::Remote(keys) => Some(keys),
        }
    }

    /// The keys that are good now.
    pub fn keys(&self, now: Time) -> Option<Arc<Jwks>> {
        match &self.keys {
            Keys::Local(keys) => keys.clone(),
            Keys::Remote(keys) => keys.current(now),
        }
    }

    /// Who it is about, and until when; `now` in seconds since 1970.
    pub fn check_claims(&self, token: &Token, now: u64) -> Result<(), Failure> {
        if self.config.subjects.as_ref().is_some_and(|wanted| !wanted.matches(token.subject().as_bytes())) {
            return Err(Failure::VerificationFails);
        }
        let Some(expires) = token.expires() else {
            let must = self.config.require_expiration || self.config.max_lifetime.is_some();
            return if must { Err(Failure::VerificationFails) } else { Ok(()) };
        };
        let left = expires.saturating_sub(now);
        match self.config.max_lifetime {
            Some(most) if left >= most.as_secs() + u64::from(most.subsec_nanos() > 0) => {
                Err(Failure::VerificationFails)
            }
            _ => Ok(()),
        }
    }

    /// What the service, and filters behind, are told of a good token.
    pub fn tell(&self, token: &Token, changes: &mut Changes<'_>, found: &mut Vec<(Box<str>, Struct)>) {
        let config = &self.config;
        if !config.payload_header.is_empty() {
            let mut payload = token.encoded_payload().trim_end_matches('=').to_owned();
            while config.pads_payload && !payload.len().is_multiple_of(4) {
                payload.push('=');
            }
            changes.add(config.payload_header.as_bytes(), payload.into());
        }
        for (header, claim) in &config.claims_to_headers {
            if let Some(value) = header_value(token.payload(), claim) {
                changes.add(header.as_bytes(), value);
                changes.reroutes |= config.clear_route_cache;
            }
        }
        if !config.header_in_metadata.is_empty() {
            found.push((config.header_in_metadata.clone(), token.header().clone()));
        }
        if !config.payload_in_metadata.is_empty() {
            found.push((config.payload_in_metadata.clone(), self.normalized(token.payload())));
            changes.reroutes |= config.clear_route_cache;
        }
    }

    /// Claims that are words in one text become lists.
    fn normalized(&self, payload: &Struct) -> Struct {
        if self.config.space_delimited.is_empty() {
            return payload.clone();
        }
        let field = |(name, value): (&str, &Value)| {
            let value = match value {
                Value::String(text) if self.config.space_delimited.iter().any(|one| **one == *name) => {
                    let words = text.split(' ').filter(|word| !word.is_empty());
                    Value::List(words.map(Value::from).collect())
                }
                value => value.clone(),
            };
            (name.into(), value)
        };
        payload.iter().map(field).collect()
    }
}

/// A claim as the value of a header: objects and lists are JSON in base64, as in Envoy.
fn header_value(payload: &Struct, claim: &str) -> Option<Vec<u8>> {
    let (parents, name) = claim.rsplit_once('.').map_or((None, claim), |(parents, name)| (Some(parents), name));
    let mut fields = payload;
    for parent in parents.into_iter().flat_map(|parents| parents.split('.')) {
        let Some(Value::Struct(inner)) = fields.get(parent) else { return None };
        fields = inner;
    }
    let text = match fields.get(name)? {
        Value::String(text) => text.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) if number.fract() == 0.0 && (0.0..1.8e19).contains(number) => format!("{number:.0}"),
        Value::Number(number) => format!("{number:.6}"),
        Value::List(_) | Value::Struct(_) => {
            let mut text = Vec::new();
            json::value(fields.get(name)?, &mut text);
            STANDARD.encode(text)
        }
        Value::Null => return None,
    };
    // What a field cannot hold would end it, or the head.
    let fits = !text.is_empty() && !text.bytes().any(|octet| matches!(octet, b'\r' | b'\n' | 0));
    fits.then(|| text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_as_headers() {
        let object = |fields: Vec<(&str, Value)>| -> Struct {
            fields.into_iter().map(|(name, value)| (name.into(), value)).collect()
        };
        let payload = object(vec![
            ("sub", Value::from("ann")),
            ("line", Value::from("a\r\nb")),
            ("empty", Value::from("")),
            ("age", Value::Number(42.0)),
            ("debt", Value::Number(-1.5)),
            ("ok", Value::Bool(true)),
            ("groups", Value::List([Value::from("a")].into())),
            ("realm", Value::Struct(object(vec![("role", Value::from("admin"))]))),
        ]);
        for (claim, expected) in [
            ("sub", Some("ann")),
            ("line", None),
            ("empty", None),
            ("age", Some("42")),
            ("debt", Some("-1.500000")),
            ("ok", Some("true")),
            ("groups", Some("WyJhIl0=")),
            ("realm", Some("eyJyb2xlIjoiYWRtaW4ifQ==")),
            ("realm.role", Some("admin")),
            ("sub.role", None),
            ("none", None),
        ] {
            assert_eq!(header_value(&payload, claim).as_deref(), expected.map(str::as_bytes), "{claim}");
        }
    }
}
