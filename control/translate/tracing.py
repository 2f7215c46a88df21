"""Traces of a connection manager's requests, as Telemetry resources and the mesh's configuration say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pymesh.control.resources.extension_providers import ExportHeader, HttpExport
from pymesh.control.resources.telemetry import CustomTag
from pymesh.control.store.providers import Collector
from pymesh.control.translate import telemetry
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.telemetry import ListenerSide
from pymesh.control.translate.wire import grpc_service, seconds, wrapped
from pymesh.control.xds import pb

_CANONICAL_NAME: Final = "service.istio.io/canonical-name"
_CANONICAL_REVISION: Final = "service.istio.io/canonical-revision"

Json = dict[str, Any]


def made(scope: Scope, listener: ListenerSide) -> Json:
    """The field ``tracing`` of a connection manager, if it traces."""
    traced = telemetry.tracing(scope, telemetry.side_of(listener))
    collector = scope.store.providers.collectors.get(traced.provider) if traced is not None else None
    if traced is None or collector is None:
        return {}
    tags = [*(_own_tags(scope) if traced.istio_tags else ()), *_custom_tags(traced.tags)]
    found: Json = {
        "client_sampling": wrapped(100.0),
        "random_sampling": wrapped(traced.sampling),
        "overall_sampling": wrapped(100.0),
        # Each attempt is seen, a retry as what it is.
        "spawn_upstream_span": wrapped(True),
        "custom_tags": sorted(tags, key=lambda tag: str(tag["tag"])),
        "provider": {"name": "envoy.tracers.opentelemetry", "typed_config": pb.pack(_tracer(scope, collector))},
    }
    length = collector.written.max_tag_length or scope.store.mesh.default_config.tracing.max_path_tag_length
    return {"tracing": {**found, **({"max_path_tag_length": wrapped(length)} if length else {})}}


def _tracer(scope: Scope, collector: Collector) -> Any:
    cluster = scope.use(collector.service, collector.port)
    tracer = pb.message("envoy.config.trace.v3.OpenTelemetryConfig")(service_name=_service_name(scope))
    http, grpc = collector.written.http, collector.written.grpc
    if http is not None:
        tracer.http_service.CopyFrom(_http(collector, cluster, http))
        return tracer
    tracer.grpc_service.CopyFrom(pb.message("envoy.config.core.v3.GrpcService")(**grpc_service(cluster)))
    if grpc is not None:
        tracer.grpc_service.timeout.CopyFrom(pb.message("google.protobuf.Duration")(**seconds(grpc.timeout)))
        tracer.grpc_service.initial_metadata.extend(map(_header, grpc.initial_metadata))
    return tracer


def _http(collector: Collector, cluster: str, http: HttpExport) -> Any:
    return pb.message("envoy.config.core.v3.HttpService")(
        http_uri={
            "uri": f"http://{collector.service.host}:{collector.port.number}{http.path}",
            "cluster": cluster,
            "timeout": seconds(http.timeout),
        },
        request_headers_to_add=[
            {"header": _header(one), "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for one in http.headers
        ],
    )


def _header(one: ExportHeader) -> Any:
    return pb.message("envoy.config.core.v3.HeaderValue")(key=one.name, value=one.value)


def _service_name(scope: Scope) -> str:
    """Istio's: SERVICE.NAMESPACE of the workload."""
    return f"{_service(scope)}.{scope.proxy.namespace}"


def _service(scope: Scope) -> str:
    proxy = scope.proxy
    # A sidecar shares what it sends out with others of these labels, whatever they are called.
    return proxy.labels.get(_CANONICAL_NAME) or proxy.labels.get("app") or _without_labels(proxy)


def _without_labels(proxy: Proxy) -> str:
    return proxy.name if proxy.kind == "router" else "unknown"


def _own_tags(scope: Scope) -> Iterator[Json]:
    """Istio's tags about the proxy."""
    proxy = scope.proxy
    for name, value in (
        ("istio.canonical_revision", proxy.labels.get(_CANONICAL_REVISION) or proxy.labels.get("version") or "latest"),
        ("istio.canonical_service", _service(scope)),
        ("istio.cluster_id", proxy.cluster_id),
        ("istio.mesh_id", scope.store.options.trust_domain),
        ("istio.namespace", proxy.namespace),
    ):
        yield {"tag": name, "literal": {"value": value}}


def _custom_tags(tags: Mapping[str, CustomTag]) -> Iterator[Json]:
    for name, tag in tags.items():
        if tag.literal is not None:
            yield {"tag": name, "literal": {"value": tag.literal.value}}
        elif tag.environment is not None:
            variable = {"name": tag.environment.name, "default_value": tag.environment.default_value}
            yield {"tag": name, "environment": variable}
        elif tag.header is not None:
            yield {"tag": name, "request_header": {"name": tag.header.name, "default_value": tag.header.default_value}}
