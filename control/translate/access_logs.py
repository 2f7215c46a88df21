"""Where and how requests and connections are logged.

What Telemetry resources and default providers say goes first, then the file of the mesh's configuration, then the
control plane's option.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pymesh.control.resources import expression
from pymesh.control.resources.expression import Code, Condition, Every, Flagged, GrpcStatus, Header, Lasted, Some
from pymesh.control.resources.extension_providers import FileAccessLog
from pymesh.control.store.providers import LogCollector
from pymesh.control.translate import telemetry
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.telemetry import ListenerSide
from pymesh.control.translate.wire import extension, grpc_service, struct
from pymesh.control.xds import pb

#: Istio's default line.
TEXT: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% '
    "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
    '"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% '
    '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% '
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% "
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)

#: Istio's default keys.
JSON: Final = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
}

#: Istio's, of an access log that a collector is told.
LOG_NAME: Final = "otel_envoy_accesslog"

#: Envoy wants a name for what it would look up at run time; it finds nothing there.
_RUNTIME_KEY: Final = "access_log.filter"
_GRPC: Final = (
    *("OK", "CANCELED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)

Json = dict[str, Any]


def made(scope: Scope, listener: ListenerSide) -> list[Json]:
    """The logs of what a listener serves."""
    told = telemetry.logs(scope, telemetry.side_of(listener))
    if told is None:
        return _by_default(scope)
    found = []
    for name, wanted in told.items():
        provider = telemetry.provider(scope, name, "accessLogging")
        collector = scope.store.providers.log_collectors.get(name)
        if provider is not None and provider.envoy_file_access_log is not None:
            log = extension("envoy.access_loggers.file", _file(provider.envoy_file_access_log))
        elif provider is not None and collector is not None:
            log = extension("envoy.access_loggers.open_telemetry", _records(scope, collector))
        else:
            continue
        condition = {"filter": filter_of(expression.condition(wanted.expression))} if wanted is not None else {}
        found.append({**log, **condition})
    return found


def _by_default(scope: Scope) -> list[Json]:
    """What is logged where no Telemetry speaks of it."""
    mesh = scope.store.mesh
    if mesh.access_log_file:
        is_json = mesh.access_log_encoding == "JSON"
        labels = (json.loads(mesh.access_log_format) if mesh.access_log_format else JSON) if is_json else None
        return [
            extension("envoy.access_loggers.file", _formatted(mesh.access_log_file, mesh.access_log_format, labels))
        ]
    wanted = scope.store.options.access_log
    if wanted == "OFF":
        return []
    log = pb.message("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog")()
    _set_format(log, "", JSON if wanted == "JSON" else None)
    return [extension("envoy.access_loggers.stdout", log)]


def _file(log: FileAccessLog) -> Any:
    written = log.log_format
    labels = written.labels if written is not None and "labels" in written.where else None
    return _formatted(log.path, written.text if written is not None else "", labels)


def _records(scope: Scope, collector: LogCollector) -> Any:
    """As with Istio the resource has none of Envoy's labels."""
    written, cluster = collector.written, scope.use(collector.service, collector.port)
    text = written.log_format.text if written.log_format is not None else ""
    labels = written.log_format.labels if written.log_format is not None else {}
    attributes = [{"key": name, "value": {"string_value": value}} for name, value in labels.items()]
    return pb.message("envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig")(
        common_config={
            "log_name": written.log_name or LOG_NAME,
            "grpc_service": grpc_service(cluster),
            "transport_api_version": "V3",
        },
        disable_builtin_labels=True,
        body={"string_value": text or TEXT.rstrip("\n")},
        attributes={"values": attributes} if attributes else None,
    )


def _formatted(path: str, text: str, labels: Mapping[str, str] | None) -> Any:
    log = pb.message("envoy.extensions.access_loggers.file.v3.FileAccessLog")(path=path)
    _set_format(log, text, labels)
    return log


def _set_format(log: Any, text: str, labels: Mapping[str, str] | None) -> None:
    if labels is not None:
        log.log_format.json_format.CopyFrom(struct(labels))
    else:
        line = text or TEXT
        log.log_format.text_format_source.inline_string = line if line.endswith("\n") else line + "\n"


def filter_of(condition: Condition) -> Json:
    """The condition as Envoy's filters say it."""
    match condition:
        case Every(parts):
            return {"and_filter": {"filters": list(map(filter_of, parts))}}
        case Some(parts):
            return {"or_filter": {"filters": list(map(filter_of, parts))}}
        case Code("LE", status):
            # Without an answer there is no status; Envoy takes that for 0.
            both = [_compared("status_code_filter", "LE", status), _compared("status_code_filter", "GE", 1)]
            return {"and_filter": {"filters": both}}
        case Code(order, status):
            return _compared("status_code_filter", order, status)
        case Lasted(order, milliseconds):
            return _compared("duration_filter", order, milliseconds)
        case GrpcStatus(number, inverted):
            return {"grpc_status_filter": {"statuses": [_GRPC[number]], "exclude": inverted}}
        case Flagged():
            return {"response_flag_filter": {}}
        case Header():
            return {"header_filter": {"header": _header(condition)}}


def _compared(name: str, order: str, value: int) -> Json:
    return {name: {"comparison": {"op": order, "value": {"default_value": value, "runtime_key": _RUNTIME_KEY}}}}


def _header(header: Header) -> Json:
    found: Json = {"name": header.name, "invert_match": header.inverted}
    if header.how == "present":
        return {**found, "present_match": True}
    text = {"regex": header.text} if header.how == "regex" else header.text
    return {**found, "string_match": {"safe_regex" if header.how == "regex" else header.how: text}}
