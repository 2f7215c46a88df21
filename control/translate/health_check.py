"""Active health checks of a cluster."""

from __future__ import annotations

from typing import Any

from pymesh.control.resources.health_check import GrpcProbe, HealthCheckPolicy, HttpProbe, TcpProbe
from pymesh.control.translate.wire import seconds, wrapped
from pymesh.control.xds import pb


def set_health_check(cluster: Any, policy: HealthCheckPolicy | None, host: str, http2: bool) -> None:
    """What a policy asks for, in the version of HTTP that the application speaks; ``host`` is the service's."""
    if policy is None:
        return
    spec = policy.spec
    made: dict[str, Any] = {
        "timeout": seconds(spec.timeout),
        "interval": seconds(spec.interval),
        "unhealthy_threshold": wrapped(spec.unhealthy_threshold),
        "healthy_threshold": wrapped(spec.healthy_threshold),
        "interval_jitter_percent": spec.interval_jitter_percent,
    }
    for name, time in (
        ("initial_jitter", spec.initial_jitter),
        ("interval_jitter", spec.interval_jitter),
        ("no_traffic_interval", spec.no_traffic_interval),
    ):
        if time is not None:
            made[name] = seconds(time)
    if not spec.reuse_connection:
        made["reuse_connection"] = wrapped(False)
    if spec.http:
        made["http_health_check"] = _http(spec.http, host, http2)
    elif spec.tcp:
        made["tcp_health_check"] = _tcp(spec.tcp)
    elif spec.grpc:
        made["grpc_health_check"] = _grpc(spec.grpc, host)
    cluster.health_checks.append(pb.message("envoy.config.core.v3.HealthCheck")(**made))


def _http(probe: HttpProbe, host: str, http2: bool) -> dict[str, Any]:
    overwrite = "OVERWRITE_IF_EXISTS_OR_ADD"
    return {
        "path": probe.path,
        "host": probe.host or host,
        "method": probe.method,
        "codec_client_type": "HTTP2" if http2 else "HTTP1",
        "request_headers_to_add": [
            {"header": {"key": name, "value": value.replace("%", "%%")}, "append_action": overwrite}
            for name, value in probe.headers.items()
        ],
        "expected_statuses": [{"start": status, "end": status + 1} for status in probe.expected_statuses],
        "retriable_statuses": [{"start": status, "end": status + 1} for status in probe.retriable_statuses],
        "receive": [_octets(probe.receive)] if probe.receive else [],
    }


def _tcp(probe: TcpProbe) -> dict[str, Any]:
    made: dict[str, Any] = {"receive": [_octets(text) for text in probe.receive]}
    if probe.send:
        made["send"] = _octets(probe.send)
    return made


def _grpc(probe: GrpcProbe, host: str) -> dict[str, Any]:
    return {"service_name": probe.service_name, "authority": probe.authority or host}


def _octets(text: str) -> dict[str, Any]:
    """A ``Payload``: Envoy sends those in hexadecimal digits only."""
    return {"text": text.encode().hex()}
