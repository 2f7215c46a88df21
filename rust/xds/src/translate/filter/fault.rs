//! `extensions.filters.http.fault.v3.HTTPFault`.

use pymesh_model::filter::{AbortStatus, Fault, FaultAbort, FaultDelay, FaultDuration, Percentage};

use crate::diagnostic::At;
use crate::proto::envoy::extensions::filters::common::fault::v3 as common;
use crate::proto::envoy::extensions::filters::http::fault::v3 as fault;
use crate::proto::envoy::r#type::v3::FractionalPercent;
use crate::translate::common::duration_or;
use crate::translate::matcher;

/// `disable_downstream_cluster_stats` says nothing new: clients name themselves, so there are no counters for each.
pub(super) fn fault(config: &fault::HttpFault, at: &At<'_>) -> Fault {
    let headers_at = at.field("headers");
    let headers = config.headers.iter().enumerate();
    Fault {
        delay: config.delay.as_ref().and_then(|config| delay(config, &at.field("delay"))),
        abort: config.abort.as_ref().and_then(|config| abort(config, &at.field("abort"))),
        upstream_cluster: (!config.upstream_cluster.is_empty()).then(|| config.upstream_cluster.as_str().into()),
        downstream_nodes: config.downstream_nodes.iter().map(|node| node.as_str().into()).collect(),
        headers: headers.filter_map(|(i, header)| matcher::header(header, &headers_at.index(i))).collect(),
        max_active: config.max_active_faults,
    }
}

fn delay(config: &common::FaultDelay, at: &At<'_>) -> Option<FaultDelay> {
    use common::fault_delay::FaultDelaySecifier as Specifier;
    let duration = match config.fault_delay_secifier.as_ref()? {
        Specifier::FixedDelay(fixed) => {
            FaultDuration::Fixed(duration_or(Some(fixed), Default::default(), &at.field("fixed_delay")))
        }
        Specifier::HeaderDelay(_) => FaultDuration::Header,
    };
    Some(FaultDelay { duration, percentage: percentage(config.percentage.as_ref(), at) })
}

fn abort(config: &fault::FaultAbort, at: &At<'_>) -> Option<FaultAbort> {
    use fault::fault_abort::ErrorType;
    let status = match config.error_type.as_ref()? {
        ErrorType::HttpStatus(status) => AbortStatus::Http(u16::try_from(*status).ok()?),
        ErrorType::GrpcStatus(status) => AbortStatus::Grpc(*status),
        ErrorType::HeaderAbort(_) => AbortStatus::Header,
    };
    Some(FaultAbort { status, percentage: percentage(config.percentage.as_ref(), at) })
}

/// What is left out is no request.
fn percentage(config: Option<&FractionalPercent>, at: &At<'_>) -> Percentage {
    let Some(config) = config else { return Percentage::default() };
    matcher::millionths(config, &at.field("percentage"));
    Percentage { numerator: config.numerator, denominator: 1_000_000 / matcher::millionths_per_part(config) }
}
