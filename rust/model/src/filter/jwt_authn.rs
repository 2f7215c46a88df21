//! JSON Web Tokens that requests must bring (`envoy.extensions.filters.http.jwt_authn.v3`).
//!
//! A provider says what a good token is: who has issued it, for whom, by which keys, and where in a request it stands. A
//! requirement says which providers' tokens a request must have. The first rule that matches a request says what is
//! required of it, unless its route does.

use std::sync::Arc;
use std::time::Duration;

use crate::matcher::StringMatch;
use crate::route::RouteMatch;

/// `JwtAuthentication`.
#[derive(Clone, Debug, Default)]
pub struct JwtAuthn {
    /// `stat_prefix`, before the names of its counters.
    pub stat_prefix: Arc<str>,
    /// In order of their names.
    pub providers: Vec<Arc<JwtProvider>>,
    /// The first that matches counts; without one nothing is required.
    pub rules: Vec<JwtRule>,
    /// `requirement_map`, in order of their names, for routes.
    pub requirements: Vec<(Box<str>, JwtRequirement)>,
    /// Preflights of CORS pass: browsers send them without a token.
    pub bypass_cors_preflight: bool,
    /// A refusal says nothing of its reason.
    pub strip_failure_response: bool,
}

/// `RequirementRule`.
#[derive(Clone, Debug)]
pub struct JwtRule {
    /// Which requests.
    pub matches: RouteMatch,
    /// What; `None`: nothing.
    pub requirement: Option<JwtRequirement>,
}

/// `JwtRequirement`. Providers are meant by their place.
#[derive(Clone, Debug)]
pub enum JwtRequirement {
    /// Nothing.
    Nothing,
    /// A token of this provider, for one of these audiences, or the provider's own if there are none.
    Provider(usize, Audiences),
    /// One of these.
    Any(Vec<JwtRequirement>),
    /// All of these.
    All(Vec<JwtRequirement>),
    /// A token of any provider, or none.
    AllowMissing,
    /// Whatever there is: what good tokens say is told.
    AllowMissingOrFailed,
}

/// `JwtProvider`.
#[derive(Clone, Debug)]
pub struct JwtProvider {
    /// Its key in the map of providers.
    pub name: Arc<str>,
    /// `iss` of its tokens; empty: any.
    pub issuer: Box<str>,
    /// Of which a token must have one.
    pub audiences: Audiences,
    /// What `sub` must be.
    pub subjects: Option<StringMatch>,
    /// A token must expire.
    pub require_expiration: bool,
    /// And no later than so long from now.
    pub max_lifetime: Option<Duration>,
    /// How much clocks may differ, in seconds.
    pub clock_skew: u64,
    /// Who has signed its tokens.
    pub keys: JwtKeys,
    /// The service is sent the token as well.
    pub forward: bool,
    /// Where tokens stand.
    pub from_headers: Vec<JwtHeader>,
    /// Likewise, in the query.
    pub from_params: Vec<Box<str>>,
    /// Likewise, in cookies.
    pub from_cookies: Vec<Box<str>>,
    /// The service is told the payload in this header (lower case); empty: it is not.
    pub payload_header: Box<str>,
    /// With padding.
    pub pads_payload: bool,
    /// Filters behind are told the payload under this name; empty: they are not.
    pub payload_in_metadata: Box<str>,
    /// These claims are told as lists of their words.
    pub space_delimited: Vec<Box<str>>,
    /// Likewise the token's header.
    pub header_in_metadata: Box<str>,
    /// Likewise why a token was refused.
    pub failure_in_metadata: Box<str>,
    /// Headers (lower case) by which the service is told claims (names within each other parted by dots).
    pub claims_to_headers: Vec<(Box<str>, Box<str>)>,
    /// Those may change the route.
    pub clear_route_cache: bool,
    /// Tokens that were good are known again.
    pub cache: Option<JwtCache>,
}

/// `JwtHeader`.
#[derive(Clone, Debug)]
pub struct JwtHeader {
    /// Lower case.
    pub name: Box<str>,
    /// The token begins behind it.
    pub prefix: Box<str>,
}

/// `JwtCacheConfig`.
#[derive(Clone, Copy, Debug)]
pub struct JwtCache {
    /// Tokens, for each worker.
    pub tokens: usize,
    /// Octets of the longest token.
    pub longest: usize,
}

/// Where a provider's keys are.
#[derive(Clone, Debug)]
pub enum JwtKeys {
    /// `local_jwks`: a key set of RFC 7517, which is good.
    Local(Arc<[u8]>),
    /// `remote_jwks`.
    Remote(Arc<RemoteJwks>),
}

/// `RemoteJwks`. Equal ones are asked for once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteJwks {
    /// Which cluster is asked.
    pub cluster: Box<str>,
    /// Of the URI.
    pub authority: Box<str>,
    /// Of the URI, with its query.
    pub path: Box<str>,
    /// Until the answer is complete, with all retries.
    pub timeout: Duration,
    /// How long keys are good.
    pub cache_duration: Duration,
    /// Keys are fetched before anybody needs them, and again before they get old; after a failure so much later.
    /// Meanwhile the old ones are good.
    pub in_background: Option<Duration>,
    /// Attempts after the first.
    pub retries: u32,
    /// Before the first retry at most; doubled for each.
    pub base_interval: Duration,
    /// See `base_interval`.
    pub max_interval: Duration,
}

/// What a route says.
#[derive(Clone, Debug)]
pub enum RouteJwt {
    /// Nothing is required.
    Disabled,
    /// `requirement_name`, of the filter's map.
    Requires(Box<str>),
}

/// Whom tokens are for; empty: anybody.
#[derive(Clone, Debug, Default)]
pub struct Audiences(Vec<Box<str>>);

impl Audiences {
    /// As they are configured.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Audiences {
        Audiences(names.into_iter().map(|name| bare(name).into()).collect())
    }

    /// Anybody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of a token's is among them.
    pub fn allow<'a>(&self, mut named: impl Iterator<Item = &'a str>) -> bool {
        self.is_empty() || named.any(|name| self.0.iter().any(|own| **own == *bare(name)))
    }
}

/// As in Envoy, the scheme of a URL and a slash at its end do not count.
fn bare(name: &str) -> &str {
    let rest = name.strip_prefix("http://").or_else(|| name.strip_prefix("https://")).unwrap_or(name);
    rest.strip_suffix('/').unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_compared_without_scheme_and_slash() {
        let audiences = Audiences::new(["https://shop.example/", "api"]);
        for (name, expected) in [
            ("shop.example", true),
            ("http://shop.example", true),
            ("https://shop.example//", false),
            ("api", true),
            ("API", false),
            ("", false),
        ] {
            assert_eq!(audiences.allow([name].into_iter()), expected, "{name}");
        }
        assert!(audiences.allow(["x", "api/"].into_iter()) && !audiences.allow([].into_iter()));
        assert!(Audiences::default().allow([].into_iter()));
    }
}
