//! `extensions.filters.http.local_ratelimit.v3.LocalRateLimit`, and the policies that make descriptors for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Name as _;
use pymesh_model::filter::{LimitAction, LimitDescriptor, LocalRateLimit, RateLimit, TokenBucket, VirtualHostLimits};
use pymesh_model::route::HeaderEdit;

use crate::diagnostic::At;
use crate::proto::envoy::config::route::v3 as route;
use crate::proto::envoy::extensions::common::ratelimit::v3 as common;
use crate::proto::envoy::extensions::filters::http::local_ratelimit::v3 as limit;
use crate::proto::envoy::r#type::v3 as kind;
use crate::proto::pymesh::filters::v1::ClientIdentity;
use crate::translate::common::{duration_or, enumerator, open};
use crate::translate::{header, matcher};

/// Envoy's least interval.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);
/// Envoy's default for `max_dynamic_descriptors`.
const DYNAMIC_DESCRIPTORS: u32 = 20;
const TOO_MANY_REQUESTS: u16 = 429;

/// `is_own`: a route's, which must not leave its bucket out.
pub(super) fn limit(config: &limit::LocalRateLimit, is_own: bool, at: &At<'_>) -> LocalRateLimit {
    let bucket_at = at.field("token_bucket");
    if is_own && config.token_bucket.is_none() {
        bucket_at
            .refuse_with_hint("this must be set for a route", "to limit nothing, write `FilterConfig` with `disabled`");
    }
    let descriptors_at = at.field("descriptors");
    let descriptors = config.descriptors.iter().enumerate();
    let descriptors: Vec<LimitDescriptor> =
        descriptors.filter_map(|(i, one)| descriptor(one, &descriptors_at.index(i))).collect();
    let mut known = HashSet::new();
    for (index, descriptor) in descriptors.iter().enumerate() {
        if !known.insert(&descriptor.entries) {
            descriptors_at.index(index).refuse("this descriptor stands here twice");
        }
    }
    let edit = |add: &[_], request, name| HeaderEdit {
        remove: Vec::new(),
        add: header::additions(add, request, &at.field(name)),
    };
    LocalRateLimit {
        stat_prefix: config.stat_prefix.as_str().into(),
        // As in Envoy: below 400 it would be no refusal.
        status: config
            .status
            .and_then(|status| u16::try_from(status.code).ok())
            .filter(|code| *code >= 400)
            .unwrap_or(TOO_MANY_REQUESTS),
        resource_exhausted: config.rate_limited_as_resource_exhausted,
        bucket: config.token_bucket.as_ref().map(|size| bucket(size, &bucket_at)),
        descriptors,
        always_consume_default: config.always_consume_default_token_bucket.unwrap_or(true),
        max_dynamic_descriptors: usize::try_from(config.max_dynamic_descriptors.unwrap_or(DYNAMIC_DESCRIPTORS))
            .unwrap_or(usize::MAX),
        per_connection: config.local_rate_limit_per_downstream_connection,
        enabled: matcher::share(config.filter_enabled.as_ref(), 0, &at.field("filter_enabled")),
        enforced: matcher::share(config.filter_enforced.as_ref(), 0, &at.field("filter_enforced")),
        request_headers: edit(
            &config.request_headers_to_add_when_not_enforced,
            true,
            "request_headers_to_add_when_not_enforced",
        ),
        response_headers: edit(&config.response_headers_to_add, false, "response_headers_to_add"),
        tells_clients: match enumerator(config.enable_x_ratelimit_headers) {
            common::XRateLimitHeadersRfcVersion::Off => false,
            common::XRateLimitHeadersRfcVersion::DraftVersion03 => true,
        },
        stage: config.stage,
        virtual_host: match enumerator(config.vh_rate_limits) {
            common::VhRateLimitsOptions::Override => VirtualHostLimits::Override,
            common::VhRateLimitsOptions::Include => VirtualHostLimits::Include,
            common::VhRateLimitsOptions::Ignore => VirtualHostLimits::Ignore,
        },
        policies: own_policies(&config.rate_limits, &at.field("rate_limits")),
    }
}

fn bucket(size: &kind::TokenBucket, at: &At<'_>) -> TokenBucket {
    let interval_at = at.field("fill_interval");
    let fill_interval = duration_or(size.fill_interval.as_ref(), Duration::ZERO, &interval_at);
    if fill_interval < LEAST_INTERVAL {
        interval_at.refuse_with_hint(
            format!("this must be at least 50 ms, not {fill_interval:?}"),
            "for the same rate multiply `tokens_per_fill` as well",
        );
    }
    TokenBucket { max_tokens: size.max_tokens, tokens_per_fill: size.tokens_per_fill.unwrap_or(1), fill_interval }
}

fn descriptor(config: &common::LocalRateLimitDescriptor, at: &At<'_>) -> Option<LimitDescriptor> {
    let entries = config.entries.iter().map(|entry| (entry.key.as_str().into(), entry.value.as_str().into())).collect();
    let size = bucket(config.token_bucket.as_ref()?, &at.field("token_bucket"));
    Some(LimitDescriptor { entries, bucket: size })
}

/// `rate_limits` of a route, a virtual host or a filter.
pub(in crate::translate) fn policies(config: &[route::RateLimit], at: &At<'_>) -> Vec<RateLimit> {
    let policy = |(index, policy): (usize, &route::RateLimit)| {
        let actions_at = at.index(index);
        let actions_at = actions_at.field("actions");
        let actions = policy.actions.iter().enumerate();
        let actions = actions.filter_map(|(i, one)| action(one, &actions_at.index(i))).collect();
        RateLimit { stage: policy.stage.unwrap_or(0), actions }
    };
    config.iter().enumerate().map(policy).collect()
}

/// Those of a filter are all its own.
fn own_policies(config: &[route::RateLimit], at: &At<'_>) -> Vec<RateLimit> {
    for (index, _) in config.iter().enumerate().filter(|(_, policy)| policy.stage.is_some()) {
        at.index(index).field("stage").refuse_with_hint("a policy of a filter has no stage", "leave it out");
    }
    policies(config, at)
}

fn action(config: &route::rate_limit::Action, at: &At<'_>) -> Option<LimitAction> {
    use route::rate_limit::action::ActionSpecifier as Specifier;
    let key = |key: &str, default: &str| if key.is_empty() { default } else { key }.into();
    Some(match config.action_specifier.as_ref()? {
        Specifier::SourceCluster(_) => LimitAction::SourceCluster,
        Specifier::DestinationCluster(_) => LimitAction::DestinationCluster,
        Specifier::RemoteAddress(_) => LimitAction::RemoteAddress,
        Specifier::MaskedRemoteAddress(masked) => LimitAction::MaskedRemoteAddress {
            v4: bits(masked.v4_prefix_mask_len, 32),
            v6: bits(masked.v6_prefix_mask_len, 128),
        },
        Specifier::Extension(extension) => {
            let at = at.field("extension");
            let at = at.field("typed_config");
            let opened = open(extension.typed_config.as_ref(), &at)?;
            if !opened.is::<ClientIdentity>() {
                opened.refuse(&[ClientIdentity::full_name()], &at);
                return None;
            }
            let identity: ClientIdentity = opened.decode(&at)?;
            LimitAction::ClientIdentity { key: key(&identity.descriptor_key, "client_identity") }
        }
        Specifier::RequestHeaders(header) => LimitAction::RequestHeader {
            name: header.header_name.to_ascii_lowercase().into(),
            key: header.descriptor_key.as_str().into(),
            skip_if_absent: header.skip_if_absent,
        },
        Specifier::QueryParameters(query) => LimitAction::QueryParameter {
            name: query.query_parameter_name.as_str().into(),
            key: query.descriptor_key.as_str().into(),
            skip_if_absent: query.skip_if_absent,
        },
        Specifier::GenericKey(generic) => LimitAction::GenericKey {
            key: key(&generic.descriptor_key, "generic_key"),
            value: generic.descriptor_value.as_str().into(),
        },
        Specifier::HeaderValueMatch(matched) => {
            let headers_at = at.field("header_value_match");
            let headers_at = headers_at.field("headers");
            let headers = matched.headers.iter().enumerate();
            LimitAction::HeaderValueMatch {
                key: key(&matched.descriptor_key, "header_match"),
                value: matched.descriptor_value.as_str().into(),
                expect: matched.expect_match.unwrap_or(true),
                headers: headers.filter_map(|(i, header)| matcher::header(header, &headers_at.index(i))).collect(),
            }
        }
        Specifier::QueryParameterValueMatch(matched) => {
            let query_at = at.field("query_parameter_value_match");
            let query_at = query_at.field("query_parameters");
            let query = matched.query_parameters.iter().enumerate();
            LimitAction::QueryValueMatch {
                key: key(&matched.descriptor_key, "query_match"),
                value: matched.descriptor_value.as_str().into(),
                expect: matched.expect_match.unwrap_or(true),
                query: query.filter_map(|(i, query)| matcher::query(query, &query_at.index(i))).collect(),
            }
        }
    })
}

fn bits(length: Option<u32>, all: u8) -> u8 {
    length.and_then(|length| u8::try_from(length).ok()).unwrap_or(all).min(all)
}

/// For a chain.
pub(super) fn general(config: &limit::LocalRateLimit, at: &At<'_>) -> Arc<LocalRateLimit> {
    Arc::new(limit(config, false, at))
}
