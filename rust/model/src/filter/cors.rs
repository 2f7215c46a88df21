//! Cross-origin resource sharing (`envoy.extensions.filters.http.cors.v3.CorsPolicy`).

use crate::matcher::StringMatch;

/// Which scripts of other origins may see answers. What is empty or `None` has been said at no level.
#[derive(Clone, Debug)]
pub struct CorsPolicy {
    /// One of these must match the request's `origin`.
    pub allow_origins: Vec<StringMatch>,
    /// `access-control-allow-methods`; `*` allows what is asked for.
    pub allow_methods: Box<str>,
    /// `access-control-allow-headers`; `*` allows what is asked for.
    pub allow_headers: Box<str>,
    /// `access-control-expose-headers`.
    pub expose_headers: Box<str>,
    /// `access-control-max-age`, in seconds.
    pub max_age: Box<str>,
    /// `access-control-allow-credentials`.
    pub allow_credentials: Option<bool>,
    /// `access-control-allow-private-network`.
    pub allow_private_network_access: Option<bool>,
    /// Pass preflights on whose origin does not match (the default), or answer them with nothing allowed.
    pub forward_not_matching_preflights: Option<bool>,
    /// Share of requests that it acts on, in millionths.
    pub enabled: u32,
    /// Share of requests whose origin is counted only.
    pub shadow: u32,
}

impl Default for CorsPolicy {
    fn default() -> Self {
        CorsPolicy {
            allow_origins: vec![],
            allow_methods: "".into(),
            allow_headers: "".into(),
            expose_headers: "".into(),
            max_age: "".into(),
            allow_credentials: None,
            allow_private_network_access: None,
            forward_not_matching_preflights: None,
            enabled: 1_000_000,
            shadow: 0,
        }
    }
}

impl CorsPolicy {
    /// This policy, and where it says nothing the one around it. Whether it is enabled is its own alone.
    pub(super) fn within(&self, outer: &CorsPolicy) -> CorsPolicy {
        let text = |own: &str, outer: &str| if own.is_empty() { outer } else { own }.into();
        CorsPolicy {
            allow_origins: if self.allow_origins.is_empty() { &outer.allow_origins } else { &self.allow_origins }
                .clone(),
            allow_methods: text(&self.allow_methods, &outer.allow_methods),
            allow_headers: text(&self.allow_headers, &outer.allow_headers),
            expose_headers: text(&self.expose_headers, &outer.expose_headers),
            max_age: text(&self.max_age, &outer.max_age),
            allow_credentials: self.allow_credentials.or(outer.allow_credentials),
            allow_private_network_access: self.allow_private_network_access.or(outer.allow_private_network_access),
            forward_not_matching_preflights: self
                .forward_not_matching_preflights
                .or(outer.forward_not_matching_preflights),
            enabled: self.enabled,
            shadow: self.shadow,
        }
    }
}
