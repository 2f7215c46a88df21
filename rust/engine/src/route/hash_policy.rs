//! The hash of a request, by which consistent hashing and sticky shares go: equal requests, equal hashes.
//!
//! What is hashed, and how several hashes become one, is as in Envoy, so that both send the same user to the same
//! place. A client without the cookie that a policy goes by is given one; its value follows from the two ends of the
//! client's connection, so that requests that overtake each other on it are given the same.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use pymesh_http::{Known, RequestHead};
use pymesh_model::route::{HashCookie, HashOf, HashPolicy};
use regex::bytes::Regex;

use super::matcher::{query_value, request_values};
use super::rewrite::substitute;
use crate::base::hash::{xx_hash64, xx_hash64_seeded};

/// What a request's hash is made of.
pub(crate) struct Hashed<'a, Client> {
    pub request: &'a RequestHead,
    /// Who sent it. Asked for only by policies that hash it; nobody for what the proxy itself began.
    pub client: Client,
    /// Remote and local end of the client's connection.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// Values of `set-cookie` that the client is to be given; each is added once.
    pub set_cookies: &'a mut Vec<Vec<u8>>,
    /// Scratch space.
    pub text: &'a mut Vec<u8>,
}

impl<Client: Fn() -> Option<IpAddr>> Hashed<'_, Client> {
    /// `None` if no policy finds what it hashes.
    pub fn by(&mut self, policies: &[HashPolicy]) -> Option<u64> {
        let mut hash: Option<u64> = None;
        for policy in policies {
            if let Some(new) = self.one(&policy.of) {
                // Rotated, so that two equal policies do not cancel each other out.
                hash = Some(hash.map_or(0, |old| old.rotate_left(1)) ^ new);
            }
            if policy.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }

    fn one(&mut self, of: &HashOf) -> Option<u64> {
        match of {
            HashOf::Header(name, rewrite) => header(self.request, name, rewrite.as_ref()),
            HashOf::Cookie(cookie) => match cookie_value(self.request, cookie.name.as_bytes()) {
                Some(value) if !value.is_empty() => Some(xx_hash64(value)),
                _ => self.give(cookie),
            },
            HashOf::SourceIp => (self.client)().map(|ip| source_ip(ip, self.text)),
            HashOf::QueryParameter(name) => query_value(self.request.path(), name.as_bytes()).map(xx_hash64),
        }
    }

    /// Gives the client a cookie.
    fn give(&mut self, cookie: &HashCookie) -> Option<u64> {
        let ttl = cookie.ttl?;
        let (remote, local) = self.ends?;
        self.text.clear();
        let _infallible = write!(self.text, "{remote}{local}");
        let value = format!("{:016x}", xx_hash64(self.text));
        let set = set_cookie(cookie, &value, ttl.as_secs());
        if !self.set_cookies.contains(&set) {
            self.set_cookies.push(set);
        }
        Some(xx_hash64(value.as_bytes()))
    }
}

/// The hash of a client's address alone: all that a connection that is no request has.
pub(crate) fn source_ip(ip: IpAddr, text: &mut Vec<u8>) -> u64 {
    text.clear();
    let _infallible = write!(text, "{}", ip.to_canonical());
    xx_hash64(text)
}

fn header(request: &RequestHead, name: &str, rewrite: Option<&(Regex, Box<str>)>) -> Option<u64> {
    let mut values = request_values(name, request);
    let first = values.next()?;
    let second = values.next();
    if let (None, None) = (second, rewrite) {
        return Some(xx_hash64(first));
    }
    let all = std::iter::once(first).chain(second).chain(values);
    let mut all: Vec<Vec<u8>> = match rewrite {
        Some((pattern, with)) => all.map(|value| substitute(pattern, value, with)).collect(),
        None => all.map(<[u8]>::to_vec).collect(),
    };
    // Whichever order they came in.
    all.sort_unstable();
    Some(all.iter().fold(0, |seed, value| xx_hash64_seeded(value, seed)))
}

/// The first cookie of this name. Envoy's way: blanks in front of a name are none of it, quotes around a value neither.
pub(crate) fn cookie_value<'a>(request: &'a RequestHead, name: &[u8]) -> Option<&'a [u8]> {
    let fields = request.headers.get_all_known(Known::Cookie);
    let mut pairs = fields.flat_map(|field| field.split(|octet| *octet == b';'));
    pairs.find_map(|pair| {
        let at = pair.iter().position(|octet| *octet == b'=')?;
        let (found, value) = pair.split_at(at);
        let start = found.iter().position(|octet| *octet != b' ').unwrap_or(found.len());
        let value = value.get(1..)?;
        let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        (found.get(start..) == Some(name)).then(|| unquoted.unwrap_or(value))
    })
}

fn set_cookie(cookie: &HashCookie, value: &str, seconds: u64) -> Vec<u8> {
    let mut text = format!("{}=\"{value}\"", cookie.name);
    if seconds > 0 {
        text.push_str(&format!("; Max-Age={seconds}"));
    }
    if !cookie.path.is_empty() {
        text.push_str(&format!("; Path={}", cookie.path));
    }
    for (name, value) in &cookie.attributes {
        let equals = if value.is_empty() { "" } else { "=" };
        text.push_str(&format!("; {name}{equals}{value}"));
    }
    text.push_str("; HttpOnly");
    text.into_bytes()
}

#[cfg(test)]
mod tests;
