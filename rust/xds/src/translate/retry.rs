//! `RetryPolicy`.

use std::time::Duration;

use pymesh_model::route::{RetryOn, RetryPolicy};

use super::common::{duration, duration_or, open};
use crate::diagnostic::At;
use crate::proto::envoy::config::route::v3 as route;
use crate::proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use crate::suggest;

/// Envoy's `upstream.base_retry_backoff_ms`.
const BASE_INTERVAL: Duration = Duration::from_millis(25);

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
    RetryPolicy {
        on: conditions(&policy.retry_on, &at.field("retry_on")),
        statuses: statuses(&policy.retriable_status_codes, &at.field("retriable_status_codes")),
        num_retries: policy.num_retries.unwrap_or(1),
        per_try_timeout: duration(policy.per_try_timeout.as_ref(), &at.field("per_try_timeout")).unwrap_or_default(),
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
        match CONDITIONS.iter().find(|(known, _)| *known == name) {
            Some((_, set)) => *set(&mut on) = true,
            None => {
                let names = || CONDITIONS.iter().map(|(known, _)| *known);
                let hint = match suggest::nearest(name, names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("supported are {}", names().collect::<Vec<_>>().join(", ")),
                };
                at.refuse_with_hint(format!("retry condition `{name}` is not supported"), hint);
            }
        }
    }
    on
}

type Flag = fn(&mut RetryOn) -> &mut bool;

const CONDITIONS: &[(&str, Flag)] = &[
    ("5xx", |on| &mut on.server_error),
    ("gateway-error", |on| &mut on.gateway_error),
    ("reset", |on| &mut on.reset),
    ("reset-before-request", |on| &mut on.reset_before_request),
    ("connect-failure", |on| &mut on.connect_failure),
    ("retriable-4xx", |on| &mut on.retriable_4xx),
    ("refused-stream", |on| &mut on.refused_stream),
    ("retriable-status-codes", |on| &mut on.statuses),
    ("cancelled", |on| &mut on.grpc_cancelled),
    ("deadline-exceeded", |on| &mut on.grpc_deadline_exceeded),
    ("internal", |on| &mut on.grpc_internal),
    ("resource-exhausted", |on| &mut on.grpc_resource_exhausted),
    ("unavailable", |on| &mut on.grpc_unavailable),
];

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
