//! Which requests an access log tells, as Envoy's filters decide it.

use pymesh_http::Known;
use pymesh_model::log_filter::LogFilter;

use super::view::View;
use super::Flags;
use crate::base::rng::Rng;
use crate::route::matcher::header_matches;

/// True if the log is to be told.
pub(crate) fn admits(filter: &LogFilter, view: &View<'_>, rng: &mut Rng) -> bool {
    match filter {
        LogFilter::Sample(millionths) => *millionths >= 1_000_000 || rng.below(1_000_000) < u64::from(*millionths),
        LogFilter::Status(comparison) => {
            comparison.holds(view.response.map_or(0, |response| u64::from(response.status)))
        }
        LogFilter::Duration(comparison) => {
            comparison.holds(u64::try_from(view.now.since(view.started).as_millis()).unwrap_or(u64::MAX))
        }
        LogFilter::Header(rule) => view.request.is_some_and(|request| header_matches(rule, request)),
        LogFilter::Flags(wanted) => match wanted.is_empty() {
            true => !view.flags.is_empty(),
            false => wanted.iter().any(|name| Flags::named(name).is_some_and(|flag| view.flags.contains(flag))),
        },
        LogFilter::GrpcStatus { statuses, exclude } => {
            u8::try_from(said_grpc_status(view)).is_ok_and(|status| statuses.contains(&status)) != *exclude
        }
        LogFilter::And(filters) => filters.iter().all(|filter| admits(filter, view, rng)),
        LogFilter::Or(filters) => filters.iter().any(|filter| admits(filter, view, rng)),
    }
}

/// What the trailers or the headers say, else what an answer that is not gRPC's stands for (gRPC, "HTTP to gRPC Status
/// Code Mapping").
pub(crate) fn said_grpc_status(view: &View<'_>) -> u64 {
    const UNKNOWN: u64 = 2;
    let said = view.trailers.and_then(|trailers| trailers.get_known(Known::GrpcStatus));
    let said = said.or_else(|| view.response?.headers.get_known(Known::GrpcStatus));
    let said = said.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    said.unwrap_or_else(|| match view.response.map_or(0, |response| response.status) {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => UNKNOWN,
    })
}
