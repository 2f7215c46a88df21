//! `HttpConnectionManager.Tracing`, a route's part of it, and the tracer `config.trace.v3.OpenTelemetryConfig`.

use std::sync::Arc;

use prost::Name as _;
use pymesh_model::otlp::{Exporter, Signal};
use pymesh_model::tracing::{Decorator, RouteTracing, Sampling, Tag, TagValue, Tracing};

use super::common::open;
use super::{matcher, otlp, Context};
use crate::diagnostic::At;
use crate::proto::envoy::config::route::v3 as route;
use crate::proto::envoy::config::trace::v3::{self as trace, OpenTelemetryConfig};
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as hcm;
use crate::proto::envoy::r#type::tracing::v3::{custom_tag, CustomTag};
use crate::proto::envoy::r#type::v3::{FractionalPercent, Percent};

/// Envoy's defaults.
const LONGEST_PATH: u32 = 256;
const QUEUE: u32 = 1024;
const SERVICE_NAME: &str = "unknown_service:envoy";
const EVERYTHING: u32 = 1_000_000;

pub(super) fn tracing(config: &hcm::Tracing, at: &At<'_>, cx: &mut Context<'_>) -> Option<Tracing> {
    let share = |percent: Option<&Percent>| percent.map_or(EVERYTHING, |percent| (percent.value * 10_000.0) as u32);
    let provider_at = at.field("provider");
    let Some(provider) = &config.provider else {
        provider_at.refuse_with_hint(
            "there is nobody to collect the spans",
            "name the tracer `envoy.tracers.opentelemetry`, with its `typed_config`",
        );
        return None;
    };
    Some(Tracing {
        exporter: Arc::new(exporter(provider, &provider_at, cx)?),
        sampling: Sampling {
            client: share(config.client_sampling.as_ref()),
            random: share(config.random_sampling.as_ref()),
            overall: share(config.overall_sampling.as_ref()),
        },
        attempts: config.spawn_upstream_span.unwrap_or(false),
        longest_path: usize::try_from(config.max_path_tag_length.unwrap_or(LONGEST_PATH)).unwrap_or(usize::MAX),
        tags: tags(&config.custom_tags, &at.field("custom_tags"), cx),
    })
}

pub(super) fn of_route(config: &route::Tracing, at: &At<'_>, cx: &Context<'_>) -> RouteTracing {
    let share = |fraction: Option<&FractionalPercent>, name: &str| {
        fraction.map_or(EVERYTHING, |fraction| matcher::millionths(fraction, &at.field(name)))
    };
    RouteTracing {
        sampling: Sampling {
            client: share(config.client_sampling.as_ref(), "client_sampling"),
            random: share(config.random_sampling.as_ref(), "random_sampling"),
            overall: share(config.overall_sampling.as_ref(), "overall_sampling"),
        },
        tags: tags(&config.custom_tags, &at.field("custom_tags"), cx),
    }
}

pub(super) fn decorator(config: &route::Decorator, at: &At<'_>) -> Decorator {
    if ::http::HeaderValue::from_str(&config.operation).is_err() {
        at.field("operation").refuse("this must not contain control characters: it is sent in a header");
    }
    Decorator { operation: config.operation.as_str().into(), propagate: config.propagate.unwrap_or(true) }
}

fn tags(config: &[CustomTag], at: &At<'_>, cx: &Context<'_>) -> Vec<Tag> {
    let tag = |(index, tag): (usize, &CustomTag)| {
        let at = at.index(index);
        let value = match tag.r#type.as_ref() {
            Some(custom_tag::Type::Literal(literal)) => TagValue::Literal(literal.value.as_str().into()),
            Some(custom_tag::Type::Environment(variable)) => {
                let value = cx.environment.sources.variable(&variable.name);
                let value = value.unwrap_or_else(|_not_set| variable.default_value.clone());
                // As in Envoy there is no tag without a value.
                Some(value).filter(|value| !value.is_empty()).map(|value| TagValue::Literal(value.into()))?
            }
            Some(custom_tag::Type::RequestHeader(header)) => TagValue::Header {
                name: header.name.to_ascii_lowercase().into(),
                default: header.default_value.as_str().into(),
            },
            None => {
                at.refuse("one of `literal`, `environment`, `request_header` must be set");
                return None;
            }
        };
        Some(Tag { name: tag.tag.as_str().into(), value })
    };
    config.iter().enumerate().filter_map(tag).collect()
}

fn exporter(provider: &trace::tracing::Http, at: &At<'_>, cx: &mut Context<'_>) -> Option<Exporter> {
    let at = &at.field("typed_config");
    let trace::tracing::http::ConfigType::TypedConfig(any) = provider.config_type.as_ref().or_else(|| {
        at.refuse("this must be set");
        None
    })?;
    let opened = open(Some(any), at)?;
    if !opened.is::<OpenTelemetryConfig>() {
        opened.refuse(&[OpenTelemetryConfig::full_name()], at);
        return None;
    }
    let config: OpenTelemetryConfig = opened.decode(at)?;
    let collector = match (&config.grpc_service, &config.http_service) {
        (Some(service), None) => otlp::over_grpc(service, &at.field("grpc_service")),
        (None, Some(service)) => otlp::over_http(service, &at.field("http_service")),
        (None, None) => {
            at.refuse_with_hint("spans have nowhere to go", "set `grpc_service` or `http_service`");
            None
        }
        (Some(_), Some(_)) => {
            at.field("http_service").refuse("`grpc_service` is set as well; set only one of them");
            None
        }
    }?;
    cx.needs.clusters.push((at.path(), collector.cluster.clone()));
    let service_name = if config.service_name.is_empty() { SERVICE_NAME } else { &config.service_name };
    let queue = config.max_cache_size.unwrap_or(QUEUE);
    if queue == 0 {
        at.field("max_cache_size").refuse_with_hint("no span could wait for its export", "leave it out");
    }
    let queue = usize::try_from(queue).unwrap_or(usize::MAX);
    let resource = vec![("service.name".into(), service_name.into())];
    Some(Exporter { signal: Signal::Traces, collector, resource, queue })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pymesh_model::listener::NetworkFilter;
    use pymesh_model::tracing::{Sampling, TagValue, Tracing};

    const HCM: &str =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

    const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

    fn yaml(tracing: &str, route: &str) -> String {
        format!(
            "
static_resources:
  clusters:
  - {{name: a, load_assignment: {{cluster_name: a}}}}
  - {{name: collector, load_assignment: {{cluster_name: collector}}}}
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: 8080}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          '@type': {HCM}
          stat_prefix: in
          tracing: {tracing}
          http_filters: [{{name: router, typed_config: {{'@type': {ROUTER}}}}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes: [{{match: {{prefix: /}}, route: {{cluster: a}}{route}}}]
"
        )
    }

    /// The tracer of OpenTelemetry with these fields, and more fields of `tracing`.
    fn tracer(config: &str, more: &str) -> String {
        let name = "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig";
        format!("{{provider: {{name: otel, typed_config: {{'@type': {name}, {config}}}}}{more}}}")
    }

    fn tracing(text: &str) -> Tracing {
        let bootstrap = crate::load_bootstrap("b.yaml", text).map_err(|found| format!("{found:?}")).unwrap();
        let listener = bootstrap.statics.listeners[0].value.clone();
        match &listener.filter_chains.iter().next().unwrap().network {
            NetworkFilter::Http(manager) => manager.tracing.clone().unwrap(),
            NetworkFilter::Tcp(_) => panic!("it speaks HTTP"),
        }
    }

    fn problems(tracing: &str, route: &str) -> String {
        match crate::load_bootstrap("b.yaml", &yaml(tracing, route)) {
            Ok(_) => "none".to_owned(),
            Err(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        }
    }

    #[test]
    fn a_tracer_is_read_with_envoys_defaults() {
        let grpc = "grpc_service: {envoy_grpc: {cluster_name: collector}}";
        let all = tracing(&yaml(&tracer(grpc, ""), ""));
        assert_eq!((all.sampling, all.attempts, all.longest_path), (Sampling::default(), false, 256));
        let collector = &all.exporter.collector;
        assert_eq!((&*collector.cluster, &*collector.authority, &collector.path), ("collector", "collector", &None));
        assert_eq!((all.exporter.queue, collector.timeout), (1024, Duration::from_secs(10)));

        let http = "http_service: {http_uri: {uri: 'http://otel:4318/v1/traces', cluster: collector, timeout: 2s},
            request_headers_to_add: [{header: {key: X-Key, value: secret}}]}, service_name: shop, max_cache_size: 9";
        let more = ", random_sampling: {value: 1.5}, overall_sampling: {value: 50}, spawn_upstream_span: true,
            max_path_tag_length: 10, custom_tags: [{tag: a, literal: {value: b}},
            {tag: gone, environment: {name: PYMESH_NOT_SET}}, {tag: h, request_header: {name: X-User}}]";
        let some = tracing(&yaml(&tracer(http, more), ""));
        assert_eq!(some.sampling, Sampling { client: 1_000_000, random: 15_000, overall: 500_000 });
        let names: Vec<&str> = some.tags.iter().map(|tag| &*tag.name).collect();
        assert_eq!(names, ["a", "h"], "there is no tag without a value");
        assert_eq!(some.tags[1].value, TagValue::Header { name: "x-user".into(), default: "".into() });
        let collector = &some.exporter.collector;
        assert_eq!((&*collector.authority, collector.path.as_deref()), ("otel:4318", Some("/v1/traces")));
        assert_eq!(
            (&collector.headers[..], collector.timeout),
            (&[("x-key".into(), "secret".into())][..], Duration::from_secs(2))
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_place() {
        let grpc = "grpc_service: {envoy_grpc: {cluster_name: collector}}";
        let good = tracer(grpc, "");
        for (tracing, route, wanted) in [
            ("{}".to_owned(), "", "there is nobody to collect the spans"),
            (tracer("", ""), "", "spans have nowhere to go"),
            (
                tracer(
                    &format!(
                        "{grpc}, http_service: {{http_uri: {{uri: 'http://a/', cluster: collector, timeout: 1s}}}}"
                    ),
                    "",
                ),
                "",
                "set only one of them",
            ),
            (tracer(grpc, ", verbose: true"), "", "spans have no events"),
            (tracer(&format!("{grpc}, sampler: {{name: a}}"), ""), "", "whoever begins a trace decides"),
            (tracer(&format!("{grpc}, max_cache_size: 0"), ""), "", "no span could wait"),
            (
                tracer("http_service: {http_uri: {uri: /v1, cluster: collector, timeout: 1s}}", ""),
                "",
                "is not a URI with a host",
            ),
            (
                tracer(grpc, ", custom_tags: [{tag: a, metadata: {}}]"),
                "",
                "use `literal`, `environment` or `request_header`",
            ),
            (tracer("grpc_service: {envoy_grpc: {cluster_name: nobody}}", ""), "", "nobody"),
            (good.clone(), ", decorator: {operation: \"a\\nb\"}", "control characters"),
            (good.clone(), ", tracing: {random_sampling: {numerator: 200}}", "more than the whole"),
            (good, ", decorator: {operation: a}", "none"),
        ] {
            let found = problems(&tracing, route);
            assert!(found.contains(wanted), "{tracing} {route}: {found}");
            assert!(wanted == "none" || found.contains("b.yaml:"), "without a place: {found}");
        }
    }
}
