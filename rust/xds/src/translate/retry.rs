//! `RetryPolicy`.

use std::time::Duration;

use pymesh_model::matcher::HeaderMatch;
use pymesh_model::retry::{RateLimitedBackOff, ResetHeader, RetryOn, RetryPolicy};

use super::common::{duration, duration_or, enumerator, open};
use super::matcher;
use crate::diagnostic::At;
use crate::proto::envoy::config::route::v3 as route;
use crate::proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use crate::suggest;

/// Envoy's `upstream.base_retry_backoff_ms`.
const BASE_INTERVAL: Duration = Duration::from_millis(25);
/// Envoy's for `rate_limited_retry_back_off.max_interval`.
const MAX_RESET_INTERVAL: Duration = Duration::from_secs(300);

pub(super) fn policy(policy: &route::RetryPolicy, at: &At<'_>) -> RetryPolicy {
    let back_off = policy.retry_back_off.as_ref();
    let back_off_at = at.field("retry_back_off");
    let base_interval = duration_or(
        back_off.and_then(|b| b.base_interval.as_ref()),
        BASE_INTERVAL,
        &back_off_at.field("base_interval"),
    )
    .max(Duration::from_millis(1));
    let max_interval = duration_or(
        back_off.and_then(|b| b.max_interval.as_ref()),
        base_interval.saturating_mul(10),
        &back_off_at.field("max_interval"),
    );
    if max_interval < base_interval {
        back_off_at.field("max_interval").refuse("this must not be below `base_interval`");
    }
    let headers = |rules: &[route::HeaderMatcher], field: &str| -> Vec<HeaderMatch> {
        let at = at.field(field);
        rules.iter().enumerate().filter_map(|(index, rule)| matcher::header(rule, &at.index(index))).collect()
    };
    let limited_at = at.field("rate_limited_retry_back_off");
    RetryPolicy {
        on: conditions(&policy.retry_on, &at.field("retry_on")),
        statuses: statuses(&policy.retriable_status_codes, &at.field("retriable_status_codes")),
        num_retries: policy.num_retries.unwrap_or(1),
        headers: headers(&policy.retriable_headers, "retriable_headers"),
        request_headers: headers(&policy.retriable_request_headers, "retriable_request_headers"),
        per_try_timeout: duration(policy.per_try_timeout.as_ref(), &at.field("per_try_timeout")).unwrap_or_default(),
        per_try_idle_timeout: duration(policy.per_try_idle_timeout.as_ref(), &at.field("per_try_idle_timeout"))
            .unwrap_or_default(),
        rate_limited: policy.rate_limited_retry_back_off.as_ref().map(|config| rate_limited(config, &limited_at)),
        base_interval,
        max_interval,
        avoid_previous_hosts: previous_hosts(&policy.retry_host_predicate, &at.field("retry_host_predicate")),
        host_selection_attempts: host_selection_attempts(policy, at),
    }
}

/// The names of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
fn conditions(text: &str, at: &At<'_>) -> RetryOn {
    let mut on = RetryOn::default();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if on.add(name) {
            continue;
        }
        let hint = match suggest::nearest(name, RetryOn::names()) {
            _ if name == "http3-post-connect-failure" => "leave it out: HTTP/3 is not spoken".to_owned(),
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("supported are {}", RetryOn::names().collect::<Vec<_>>().join(", ")),
        };
        at.refuse_with_hint(format!("retry condition `{name}` is not supported"), hint);
    }
    on
}

fn rate_limited(config: &route::retry_policy::RateLimitedRetryBackOff, at: &At<'_>) -> RateLimitedBackOff {
    use route::retry_policy::ResetHeaderFormat;
    let reset_headers = config.reset_headers.iter().map(|header| ResetHeader {
        name: header.name.to_ascii_lowercase().into(),
        is_unix_timestamp: match enumerator(header.format) {
            ResetHeaderFormat::Seconds => false,
            ResetHeaderFormat::UnixTimestamp => true,
        },
    });
    let max_interval = duration_or(config.max_interval.as_ref(), MAX_RESET_INTERVAL, &at.field("max_interval"));
    RateLimitedBackOff { reset_headers: reset_headers.collect(), max_interval }
}

fn statuses(codes: &[u32], at: &At<'_>) -> Vec<u16> {
    let mut statuses = Vec::with_capacity(codes.len());
    for (index, code) in codes.iter().enumerate() {
        match u16::try_from(*code).ok().filter(|code| (100..600).contains(code)) {
            Some(status) => statuses.push(status),
            None => at.index(index).refuse(format!("{code} is not an HTTP status")),
        }
    }
    statuses
}

/// The one predicate that is supported: true if it is there.
fn previous_hosts(predicates: &[route::retry_policy::RetryHostPredicate], at: &At<'_>) -> bool {
    for (index, predicate) in predicates.iter().enumerate() {
        let at = at.index(index);
        let at = &at.field("typed_config");
        let config = predicate.config_type.as_ref();
        let any = config.map(|route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any)| any);
        if let Some(opened) = open(any, at) {
            if !opened.is::<PreviousHostsPredicate>() {
                opened.refuse(&[<PreviousHostsPredicate as prost::Name>::full_name()], at);
            }
        }
    }
    !predicates.is_empty()
}

fn host_selection_attempts(policy: &route::RetryPolicy, at: &At<'_>) -> u32 {
    match policy.host_selection_retry_max_attempts {
        0 => 1,
        attempts => u32::try_from(attempts).unwrap_or_else(|_| {
            at.field("host_selection_retry_max_attempts").refuse(format!("{attempts} is not a number of attempts"));
            1
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Problems;
    use crate::kind::ResourceKind;
    use crate::testing::packed;

    fn with(fields: &str) -> (RetryPolicy, Vec<String>) {
        let raw = packed(
            ResourceKind::Routes,
            &format!("{{name: any, virtual_hosts: [{{name: any, domains: ['*'], retry_policy: {{{fields}}}}}]}}"),
        );
        let table: route::RouteConfiguration = prost::Message::decode(raw.value.as_slice()).unwrap();
        let problems = Problems::default();
        let made = policy(table.virtual_hosts[0].retry_policy.as_ref().unwrap(), &At::root("", &problems));
        let said = problems
            .into_vec()
            .into_iter()
            .map(|one| format!("{}: {} ({})", one.path, one.message, one.hint.as_deref().unwrap_or_default()));
        (made, said.collect())
    }

    #[test]
    fn every_field_is_read() {
        let (made, problems) = with(
            "retry_on: '5xx, retriable-headers,envoy-ratelimited,unavailable', num_retries: 0, per_try_timeout: 1s, \
             per_try_idle_timeout: 2s, retriable_status_codes: [418], retriable_headers: [{name: X-Again}], \
             retriable_request_headers: [{name: ':method', string_match: {exact: GET}}], \
             retry_back_off: {base_interval: 0.0001s}, host_selection_retry_max_attempts: 7, \
             rate_limited_retry_back_off: {reset_headers: [{name: Retry-After}, {name: x-at, format: UNIX_TIMESTAMP}]}",
        );
        assert_eq!(problems, Vec::<String>::new());
        let on = RetryOn {
            server_error: true,
            headers: true,
            envoy_ratelimited: true,
            grpc_unavailable: true,
            ..RetryOn::default()
        };
        assert_eq!((made.on, made.num_retries, made.statuses), (on, 0, vec![418]));
        assert_eq!([made.per_try_timeout, made.per_try_idle_timeout].map(|limit| limit.as_secs()), [1, 2]);
        assert_eq!((&*made.headers[0].name, &*made.request_headers[0].name), ("x-again", ":method"));
        // Envoy counts in milliseconds, and knows none below one.
        assert_eq!([made.base_interval, made.max_interval].map(|wait| wait.as_millis()), [1, 10]);
        assert_eq!((made.host_selection_attempts, made.avoid_previous_hosts), (7, false));
        let limited = made.rate_limited.unwrap();
        assert_eq!(limited.max_interval, MAX_RESET_INTERVAL);
        let reset: Vec<_> = limited.reset_headers.iter().map(|one| (&*one.name, one.is_unix_timestamp)).collect();
        assert_eq!(reset, [("retry-after", false), ("x-at", true)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (fields, expected) in [
            ("retry_on: rest", "retry_on: retry condition `rest` is not supported (did you mean `reset`?)"),
            (
                "retry_on: http3-post-connect-failure",
                "retry_on: retry condition `http3-post-connect-failure` is not supported \
                 (leave it out: HTTP/3 is not spoken)",
            ),
            (
                "retry_on: 5xx, retriable_status_codes: [503, 99]",
                "retriable_status_codes[1]: 99 is not an HTTP status ()",
            ),
            (
                "retry_back_off: {base_interval: 2s, max_interval: 1s}",
                "retry_back_off.max_interval: this must not be below `base_interval` ()",
            ),
            ("per_try_idle_timeout: -1s", "per_try_idle_timeout: a duration here must not be negative, as -1s is ()"),
        ] {
            assert_eq!(with(fields).1, [expected], "{fields}");
        }
    }
}
