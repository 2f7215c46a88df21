//! `jwt_authn.v3.JwtAuthentication`, and a route's part of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pymesh_jwt::Jwks;
use pymesh_model::filter::{
    Audiences, JwtAuthn, JwtCache, JwtHeader, JwtKeys, JwtProvider, JwtRequirement, JwtRule, RemoteJwks, RouteJwt,
};

use crate::diagnostic::At;
use crate::proto::envoy::extensions::filters::http::jwt_authn::v3 as jwt;
use crate::translate::common::{data_source, duration, duration_or, http_uri};
use crate::translate::{header, matcher, route, Context};

/// Envoy's defaults.
const CLOCK_SKEW: u64 = 60;
const CACHE_DURATION: Duration = Duration::from_secs(600);
const FAILED_REFETCH: Duration = Duration::from_secs(1);
const BASE_INTERVAL: Duration = Duration::from_secs(1);
const CACHED_TOKENS: usize = 100;
const LONGEST_CACHED: usize = 4096;

pub(super) fn filter(config: &jwt::JwtAuthentication, at: &At<'_>, cx: &Context<'_>) -> JwtAuthn {
    let providers_at = at.field("providers");
    let names = sorted(&config.providers);
    let reader = Reader { names: &names };
    let providers = names.iter().filter_map(|name| {
        let written = config.providers.get(*name)?;
        provider(name, written, &providers_at.key(name), cx).map(Arc::new)
    });
    let providers: Vec<Arc<JwtProvider>> = providers.collect();
    let map_at = at.field("requirement_map");
    let requirements: Vec<(Box<str>, JwtRequirement)> = sorted(&config.requirement_map)
        .into_iter()
        .filter_map(|name| {
            let written = config.requirement_map.get(name)?;
            Some((name.into(), reader.requirement(written, &map_at.key(name))?))
        })
        .collect();
    let rules_at = at.field("rules");
    let rules = config.rules.iter().enumerate();
    let rules = rules.filter_map(|(index, rule)| reader.rule(rule, &requirements, &rules_at.index(index))).collect();
    JwtAuthn {
        stat_prefix: config.stat_prefix.as_str().into(),
        providers,
        rules,
        requirements,
        bypass_cors_preflight: config.bypass_cors_preflight,
        strip_failure_response: config.strip_failure_response,
    }
}

pub(super) fn of_route(config: &jwt::PerRouteConfig, at: &At<'_>) -> Option<RouteJwt> {
    use jwt::per_route_config::RequirementSpecifier;
    match &config.requirement_specifier {
        Some(RequirementSpecifier::Disabled(_)) => Some(RouteJwt::Disabled),
        Some(RequirementSpecifier::RequirementName(name)) => Some(RouteJwt::Requires(name.as_str().into())),
        None => {
            at.refuse("one of `disabled`, `requirement_name` must be set");
            None
        }
    }
}

fn sorted<T>(map: &HashMap<String, T>) -> Vec<&str> {
    let mut names: Vec<&str> = map.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Requirements, which name providers.
struct Reader<'a> {
    names: &'a [&'a str],
}

impl Reader<'_> {
    fn rule(&self, rule: &jwt::RequirementRule, map: &[(Box<str>, JwtRequirement)], at: &At<'_>) -> Option<JwtRule> {
        use jwt::requirement_rule::RequirementType;
        let match_at = at.field("match");
        let written = rule.r#match.as_ref()?;
        if written.runtime_fraction.is_some() {
            match_at.field("runtime_fraction").refuse_with_hint("a rule counts for all requests", "leave it out");
        }
        if written.grpc.is_some() {
            match_at.field("grpc").refuse_with_hint(
                "a rule does not look at what kind of request it is",
                "match the header `content-type`",
            );
        }
        if !written.dynamic_metadata.is_empty() {
            match_at.field("dynamic_metadata").refuse_with_hint(
                "a rule does not look at what other filters have found out",
                "give the route a requirement of its own (`typed_per_filter_config`)",
            );
        }
        let matches = route::matches(written, &match_at)?;
        let requirement = match &rule.requirement_type {
            None => None,
            Some(RequirementType::Requires(requirement)) => Some(self.requirement(requirement, &at.field("requires"))?),
            Some(RequirementType::RequirementName(name)) => {
                let found = map.iter().find(|(known, _)| **known == **name);
                if found.is_none() {
                    let known: Vec<&str> = map.iter().map(|(known, _)| &**known).collect();
                    at.field("requirement_name").refuse_with_hint(
                        format!("there is no requirement `{name}` in `requirement_map`"),
                        format!("known: {}", known.join(", ")),
                    );
                }
                Some(found?.1.clone())
            }
        };
        Some(JwtRule { matches, requirement })
    }

    fn requirement(&self, written: &jwt::JwtRequirement, at: &At<'_>) -> Option<JwtRequirement> {
        use jwt::jwt_requirement::RequiresType;
        Some(match &written.requires_type {
            None => JwtRequirement::Nothing,
            Some(RequiresType::ProviderName(name)) => {
                JwtRequirement::Provider(self.provider(name, &at.field("provider_name"))?, Audiences::default())
            }
            Some(RequiresType::ProviderAndAudiences(both)) => {
                let at = at.field("provider_and_audiences");
                let provider = self.provider(&both.provider_name, &at.field("provider_name"))?;
                JwtRequirement::Provider(provider, Audiences::new(both.audiences.iter().map(String::as_str)))
            }
            Some(RequiresType::RequiresAny(list)) => {
                JwtRequirement::Any(self.each(&list.requirements, &at.field("requires_any"))?)
            }
            Some(RequiresType::RequiresAll(list)) => {
                JwtRequirement::All(self.each(&list.requirements, &at.field("requires_all"))?)
            }
            Some(RequiresType::AllowMissing(())) => JwtRequirement::AllowMissing,
            Some(RequiresType::AllowMissingOrFailed(())) => JwtRequirement::AllowMissingOrFailed,
        })
    }

    /// All of them, or none: what cannot be understood must not be left out.
    fn each(&self, written: &[jwt::JwtRequirement], at: &At<'_>) -> Option<Vec<JwtRequirement>> {
        let at = at.field("requirements");
        let read: Vec<_> =
            written.iter().enumerate().map(|(index, one)| self.requirement(one, &at.index(index))).collect();
        read.into_iter().collect()
    }

    fn provider(&self, name: &str, at: &At<'_>) -> Option<usize> {
        let found = self.names.iter().position(|known| *known == name);
        if found.is_none() {
            let known = format!("known: {}", self.names.join(", "));
            at.refuse_with_hint(format!("there is no provider `{name}`"), known);
        }
        found
    }
}

fn provider(name: &str, config: &jwt::JwtProvider, at: &At<'_>, cx: &Context<'_>) -> Option<JwtProvider> {
    let headers_at = at.field("from_headers");
    let mut from_headers: Vec<JwtHeader> = config
        .from_headers
        .iter()
        .enumerate()
        .filter_map(|(index, written)| {
            let at = headers_at.index(index);
            let name = header::settable(&written.name, &at.field("name"))?;
            Some(JwtHeader { name, prefix: written.value_prefix.as_str().into() })
        })
        .collect();
    let boxed = |names: &[String]| -> Vec<Box<str>> { names.iter().map(|name| name.as_str().into()).collect() };
    let (mut from_params, from_cookies) = (boxed(&config.from_params), boxed(&config.from_cookies));
    if from_headers.is_empty() && from_params.is_empty() && from_cookies.is_empty() {
        from_headers.push(JwtHeader { name: "authorization".into(), prefix: "Bearer ".into() });
        from_params.push("access_token".into());
    }
    let claims_at = at.field("claim_to_headers");
    let claims = config.claim_to_headers.iter().enumerate().filter_map(|(index, written)| {
        let at = claims_at.index(index);
        let name = header::settable(&written.header_name, &at.field("header_name"))?;
        Some((name, written.claim_name.as_str().into()))
    });
    let payload_header = match config.forward_payload_header.as_str() {
        "" => "".into(),
        name => header::settable(name, &at.field("forward_payload_header"))?,
    };
    let words = config.normalize_payload_in_metadata.as_ref();
    Some(JwtProvider {
        name: name.into(),
        issuer: config.issuer.as_str().into(),
        audiences: Audiences::new(config.audiences.iter().map(String::as_str)),
        subjects: match &config.subjects {
            None => None,
            Some(subjects) => Some(matcher::string(subjects, &at.field("subjects"))?),
        },
        require_expiration: config.require_expiration,
        max_lifetime: duration(config.max_lifetime.as_ref(), &at.field("max_lifetime")),
        clock_skew: match config.clock_skew_seconds {
            0 => CLOCK_SKEW,
            seconds => seconds.into(),
        },
        keys: keys(config, at, cx)?,
        forward: config.forward,
        from_headers,
        from_params,
        from_cookies,
        payload_header,
        pads_payload: config.pad_forward_payload_header,
        payload_in_metadata: config.payload_in_metadata.as_str().into(),
        space_delimited: words.map(|words| boxed(&words.space_delimited_claims)).unwrap_or_default(),
        header_in_metadata: config.header_in_metadata.as_str().into(),
        failure_in_metadata: config.failed_status_in_metadata.as_str().into(),
        claims_to_headers: claims.collect(),
        clear_route_cache: config.clear_route_cache,
        cache: config.jwt_cache_config.as_ref().map(|cache| JwtCache {
            tokens: or_default(cache.jwt_cache_size, CACHED_TOKENS),
            longest: or_default(cache.jwt_max_token_size, LONGEST_CACHED),
        }),
    })
}

fn or_default(number: u32, default: usize) -> usize {
    match number {
        0 => default,
        number => usize::try_from(number).unwrap_or(usize::MAX),
    }
}

fn keys(config: &jwt::JwtProvider, at: &At<'_>, cx: &Context<'_>) -> Option<JwtKeys> {
    use jwt::jwt_provider::JwksSourceSpecifier;
    match &config.jwks_source_specifier {
        None => {
            at.refuse_with_hint(
                "one of `remote_jwks`, `local_jwks` must be set",
                "without keys no token can be good: say where they are",
            );
            None
        }
        Some(JwksSourceSpecifier::LocalJwks(source)) => {
            let at = at.field("local_jwks");
            let octets = data_source(Some(source), &at, cx)?;
            if let Err(failure) = Jwks::parse(&octets) {
                at.refuse_with_hint(
                    failure.text(),
                    "write a key set of RFC 7517, `{\"keys\": [...]}`, with one key at least that can be used: RSA of \
                     2048 to 8192 bits, EC with P-256, P-384 or P-521, OKP with Ed25519, or oct",
                );
                return None;
            }
            Some(JwtKeys::Local(octets.into()))
        }
        Some(JwksSourceSpecifier::RemoteJwks(remote)) => {
            remote_keys(remote, &at.field("remote_jwks")).map(|remote| JwtKeys::Remote(Arc::new(remote)))
        }
    }
}

fn remote_keys(config: &jwt::RemoteJwks, at: &At<'_>) -> Option<RemoteJwks> {
    let uri_at = at.field("http_uri");
    let uri = config.http_uri.as_ref()?;
    let (cluster, authority, path) = http_uri(uri, &uri_at)?;
    let timeout_at = uri_at.field("timeout");
    let timeout = duration_or(uri.timeout.as_ref(), Duration::ZERO, &timeout_at);
    if timeout.is_zero() {
        timeout_at.refuse_with_hint(
            "requests must not wait for keys without end",
            "say how long they may wait, as in `timeout: 5s`",
        );
    }
    let policy = config.retry_policy.as_ref();
    let back_off = policy.and_then(|policy| policy.retry_back_off.as_ref());
    let back_off_at = at.field("retry_policy");
    let back_off_at = back_off_at.field("retry_back_off");
    let base = back_off.and_then(|back_off| back_off.base_interval.as_ref());
    let base_interval = duration_or(base, BASE_INTERVAL, &back_off_at.field("base_interval"));
    let max = back_off.and_then(|back_off| back_off.max_interval.as_ref());
    let max_interval = duration_or(max, base_interval.saturating_mul(10), &back_off_at.field("max_interval"));
    if max_interval < base_interval {
        back_off_at.field("max_interval").refuse("this must not be below `base_interval`");
    }
    let in_background = config.async_fetch.as_ref().map(|background| {
        let at = at.field("async_fetch");
        let wait = background.failed_refetch_duration.as_ref();
        duration_or(wait, FAILED_REFETCH, &at.field("failed_refetch_duration")).max(Duration::from_millis(1))
    });
    Some(RemoteJwks {
        cluster,
        authority,
        path,
        timeout,
        // Envoy counts whole seconds.
        cache_duration: Duration::from_secs(
            duration_or(config.cache_duration.as_ref(), CACHE_DURATION, &at.field("cache_duration")).as_secs(),
        ),
        in_background,
        retries: policy.map_or(0, |policy| policy.num_retries.unwrap_or(1)),
        base_interval,
        max_interval,
    })
}
