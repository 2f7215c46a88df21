//! `AccessLogFilter`.

use pymesh_model::log_filter::{Comparison, LogFilter, Order};

use super::common::enumerator;
use super::matcher;
use crate::diagnostic::At;
use crate::proto::envoy::config::accesslog::v3 as accesslog;
use accesslog::access_log_filter::FilterSpecifier;

/// Every request.
const ALL: u32 = 1_000_000;

pub(super) fn filter(filter: &accesslog::AccessLogFilter, at: &At<'_>) -> Option<LogFilter> {
    let several = |filters: &[accesslog::AccessLogFilter], name: &str| -> Vec<LogFilter> {
        let at = at.field(name);
        let at = at.field("filters");
        filters.iter().enumerate().filter_map(|(index, one)| self::filter(one, &at.index(index))).collect()
    };
    Some(match filter.filter_specifier.as_ref()? {
        FilterSpecifier::RuntimeFilter(filter) => sample(filter, &at.field("runtime_filter")),
        FilterSpecifier::StatusCodeFilter(filter) => {
            LogFilter::Status(comparison(filter.comparison.as_ref(), &at.field("status_code_filter"))?)
        }
        FilterSpecifier::DurationFilter(filter) => {
            LogFilter::Duration(comparison(filter.comparison.as_ref(), &at.field("duration_filter"))?)
        }
        FilterSpecifier::HeaderFilter(filter) => {
            let at = at.field("header_filter");
            LogFilter::Header(matcher::header(filter.header.as_ref()?, &at.field("header"))?)
        }
        FilterSpecifier::ResponseFlagFilter(filter) => {
            LogFilter::Flags(filter.flags.iter().map(|flag| flag.as_str().into()).collect())
        }
        FilterSpecifier::GrpcStatusFilter(filter) => LogFilter::GrpcStatus {
            statuses: filter.statuses.iter().filter_map(|status| u8::try_from(*status).ok()).collect(),
            exclude: filter.exclude,
        },
        FilterSpecifier::AndFilter(and) => LogFilter::And(several(&and.filters, "and_filter")),
        FilterSpecifier::OrFilter(or) => LogFilter::Or(several(&or.filters, "or_filter")),
    })
}

/// There are no runtime values here, so `percent_sampled` always decides.
fn sample(filter: &accesslog::RuntimeFilter, at: &At<'_>) -> LogFilter {
    let at = at.field("percent_sampled");
    LogFilter::Sample(match &filter.percent_sampled {
        Some(percent) => matcher::millionths(percent, &at),
        None => {
            at.refuse("this must be set");
            ALL
        }
    })
}

/// Nor here: `default_value` counts.
fn comparison(filter: Option<&accesslog::ComparisonFilter>, at: &At<'_>) -> Option<Comparison> {
    use accesslog::comparison_filter::Op;
    let at = at.field("comparison");
    let Some(filter) = filter else {
        at.refuse("this must be set");
        return None;
    };
    let Some(value) = &filter.value else {
        at.field("value").refuse("this must be set");
        return None;
    };
    let order = match enumerator(filter.op) {
        Op::Eq => Order::Equal,
        Op::Ge => Order::AtLeast,
        Op::Le => Order::AtMost,
        Op::Ne => Order::NotEqual,
    };
    Some(Comparison { order, value: value.default_value.into() })
}

#[cfg(test)]
mod tests {
    use pymesh_model::listener::NetworkFilter;
    use pymesh_model::log_filter::{Comparison, LogFilter, Order};

    fn load(filter: &str) -> Result<LogFilter, String> {
        let log = "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
        let proxy = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
        let text = format!(
            "
static_resources:
  clusters: [{{name: a, load_assignment: {{cluster_name: a}}}}]
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: 8080}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          '@type': {proxy}
          stat_prefix: in
          cluster: a
          access_log: [{{name: out, filter: {filter}, typed_config: {{'@type': {log}}}}}]
"
        );
        let found = crate::load_bootstrap("b.yaml", &text)
            .map_err(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
        let listener = found.statics.listeners[0].value.clone();
        let proxy = match &listener.filter_chains.iter().next().unwrap().network {
            NetworkFilter::Tcp(proxy) => proxy.clone(),
            NetworkFilter::Http(_) => panic!("it speaks TCP"),
        };
        Ok(proxy.access_logs[0].filter.clone().unwrap())
    }

    #[test]
    fn filters_are_read_with_what_is_in_them() {
        let status = "{status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: a}}}}";
        let is_at_least = |filter: &LogFilter, least| {
            matches!(filter, LogFilter::Status(comparison)
                if *comparison == Comparison { order: Order::AtLeast, value: least })
        };
        assert!(is_at_least(&load(status).unwrap(), 400));
        let flags = "{response_flag_filter: {flags: [UO, UF]}}";
        let grpc = "{grpc_status_filter: {statuses: [UNAVAILABLE], exclude: true}}";
        let header = "{header_filter: {header: {name: X-A, string_match: {exact: b}}}}";
        let all = load(&format!("{{or_filter: {{filters: [{status}, {flags}, {grpc}, {header}]}}}}")).unwrap();
        let LogFilter::Or(filters) = all else { panic!("{all:?}") };
        let [status, LogFilter::Flags(flags), LogFilter::GrpcStatus { statuses, exclude }, LogFilter::Header(header)] =
            &filters[..]
        else {
            panic!("{filters:?}")
        };
        assert!(is_at_least(status, 400));
        assert_eq!(flags[..], ["UO".into(), "UF".into()]);
        assert_eq!((&statuses[..], *exclude, &*header.name), (&[14][..], true, "x-a"));
    }

    #[test]
    fn what_cannot_be_decided_is_refused_with_its_place() {
        for (filter, wanted) in [
            ("{extension_filter: {name: cel}}", "use `status_code_filter`"),
            ("{status_code_filter: {}}", "comparison"),
            ("{status_code_filter: {comparison: {op: GE}}}", "this must be set"),
            ("{and_filter: {filters: []}}", "at least 2"),
            ("{header_filter: {header: {name: a, string_match: {safe_regex: {regex: '('}}}}}", "regex"),
            ("{runtime_filter: {runtime_key: a, percent_sampled: {numerator: 200}}}", "more than the whole"),
        ] {
            let found = load(filter).unwrap_err();
            assert!(found.contains(wanted) && found.contains("b.yaml:"), "{filter}: {found}");
        }
    }
}
