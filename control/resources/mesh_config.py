"""Istio's MeshConfig, in the ConfigMap `istio` of the root namespace: who else may be asked about a request, and who is
told of it.

Of it the extension providers and what proxies tell are read. What else it can say has an option of the control plane or
a resource here, and is refused with its name, so that there is one place for each setting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, ClassVar, Final, Literal

from pymesh.control.resources.decode import Located, Problem, Range, derived, exactly_one, model
from pymesh.control.resources.embedded import Text
from pymesh.control.resources.extension_providers import (
    FileAccessLog,
    OpenTelemetry,
    OtelAccessLog,
    Prometheus,
    ServiceProvider,
)
from pymesh.control.resources.header_values import CONTROL, HEADER_NAME, log_problems, value_problems
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.statuses import REFUSALS
from pymesh.control.resources.telemetry import CustomTag, tag_problems

#: The ConfigMap, and the entry of it that holds the document.
NAME: Final = "istio"
KEY: Final = "mesh"

_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._]*[A-Za-z0-9])?")


@model
class RequestBody(Located):
    """How much of a request's body an authorizer is sent."""

    max_request_bytes: Annotated[int, Range(1, 2**32 - 1)]
    #: Send the beginning of a longer body, in place of refusing the request with 413.
    allow_partial_message: bool = False
    #: As bytes, whatever they are; else as text in UTF-8.
    pack_as_bytes: bool = False


@model
class ExtAuthz(ServiceProvider):
    """An external authorizer, however it is spoken to."""

    timeout: timedelta = timedelta(seconds=600)
    #: Let through what it cannot be asked about.
    fail_open: bool = False
    #: What clients are told then.
    status_on_error: str = "403"
    #: Choose the route anew after it has changed the request.
    clear_route_cache: bool = False
    include_request_body_in_check: RequestBody | None = None

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.timeout < timedelta(milliseconds=1):
            yield Problem("timeout", "'timeout' leaves no time", "give it a millisecond at least, or remove it")
        if not self.status_on_error.isdecimal() or int(self.status_on_error) not in REFUSALS:
            hint = "a number from 400 on, as text; 403 is the usual one"
            yield Problem("statusOnError", f"{self.status_on_error!r} is no status of a refusal", hint)


@model
class ExtAuthzGrpc(ExtAuthz):
    """One that serves Envoy's ``envoy.service.auth.v3.Authorization``."""


@model
class ExtAuthzHttp(ExtAuthz):
    """One that answers a copy of the request's head: 200 allows, whatever else it says is what the client is told.

    Lists of headers hold names, ``text*`` and ``*text``.
    """

    REFUSED: ClassVar = {"includeHeadersInCheck": "it is called includeRequestHeadersInCheck now"}

    path_prefix: str = ""
    #: Of the client's request, beside Host, method, path, Content-Length and Authorization.
    include_request_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: Mapping[str, str] = field(default_factory=dict)
    #: Of the authorizer's answer.
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()
    #: Without it all of them.
    headers_to_downstream_on_deny: tuple[str, ...] = ()

    @property
    def is_grpc(self) -> bool:
        return False

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.path_prefix and not re.fullmatch(r"/[^?#\s]*", self.path_prefix):
            yield Problem("pathPrefix", f"{self.path_prefix!r} is no beginning of a path", "as in /check")
        for name, headers in (
            ("includeRequestHeadersInCheck", self.include_request_headers_in_check),
            ("headersToUpstreamOnAllow", self.headers_to_upstream_on_allow),
            ("headersToDownstreamOnAllow", self.headers_to_downstream_on_allow),
            ("headersToDownstreamOnDeny", self.headers_to_downstream_on_deny),
        ):
            for header in headers:
                # A star in the place of text would name every header.
                bare = header[1:] if header.startswith("*") else header.removesuffix("*")
                if not HEADER_NAME.fullmatch(bare) or "*" in bare:
                    yield Problem(name, f"{header!r} names no headers", "a name, 'text*' or '*text'")
        added = self.include_additional_headers_in_check
        for header in added:
            if not HEADER_NAME.fullmatch(header):
                yield Problem("includeAdditionalHeadersInCheck", f"{header!r} is not a header name")
        yield from value_problems("includeAdditionalHeadersInCheck", added)
        body = self.include_request_body_in_check
        if body is not None and body.pack_as_bytes:
            hint = "HTTP sends bytes anyway; remove it"
            yield Problem("", "'packAsBytes' is a matter of gRPC", hint, body.place("packAsBytes"))


_NO_TRACER = "describe a collector of OpenTelemetry with 'opentelemetry'"
_NO_LOG_SERVICE = "describe a collector of OpenTelemetry with 'envoyOtelAls', or a file with 'envoyFileAccessLog'"

#: The kinds of providers, by what they are for.
_AUTHORIZERS = ("envoyExtAuthzGrpc", "envoyExtAuthzHttp")
_TOLD = ("opentelemetry", "envoyFileAccessLog", "envoyOtelAls", "prometheus")


@model
class ExtensionProvider(Located):
    """Somebody whom policies and Telemetry resources name."""

    REFUSED: ClassVar = {
        **dict.fromkeys(("zipkin", "lightstep", "datadog", "stackdriver", "opencensus", "skywalking"), _NO_TRACER),
        **dict.fromkeys(("envoyHttpAls", "envoyTcpAls"), _NO_LOG_SERVICE),
        "sds": "keys are in Secrets; remove it",
    }

    name: str
    envoy_ext_authz_grpc: ExtAuthzGrpc | None = None
    envoy_ext_authz_http: ExtAuthzHttp | None = None
    opentelemetry: OpenTelemetry | None = None
    envoy_file_access_log: FileAccessLog | None = None
    envoy_otel_als: OtelAccessLog | None = None
    prometheus: Prometheus | None = None

    @property
    def authorizer(self) -> ExtAuthzGrpc | ExtAuthzHttp | None:
        """Who is asked, if that is what it is for."""
        return self.envoy_ext_authz_grpc or self.envoy_ext_authz_http

    @property
    def service(self) -> ServiceProvider | None:
        """What it is, if it is a service."""
        return self.authorizer or self.opentelemetry or self.envoy_otel_als

    def problems(self) -> Iterator[Problem]:
        if not _NAME.fullmatch(self.name):
            yield Problem("name", f"{self.name!r} is not a valid name", "letters, digits, '-', '.' and '_'")
        yield from exactly_one(self, *_AUTHORIZERS, *_TOLD)


#: What is there unless it is described otherwise, as with Istio.
BUILT_IN: Final = (
    ExtensionProvider(name="prometheus", prometheus=Prometheus()),
    ExtensionProvider(name="envoy", envoy_file_access_log=FileAccessLog(path="/dev/stdout")),
)


@model
class DefaultProviders(Located):
    """Who is told unless a Telemetry says otherwise, by name."""

    tracing: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    access_logging: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if len(self.tracing) > 1:
            yield Problem("tracing", "spans go to one provider", "keep one of them")


_PROXYS_OWN = "set the options of each proxy"


@model
class ProxyTracing(Located):
    """What holds for traces where no Telemetry says otherwise."""

    REFUSED: ClassVar = {
        **dict.fromkeys(
            ("zipkin", "lightstep", "datadog", "stackdriver", "openCensusAgent"),
            "describe a collector under extensionProviders, with 'opentelemetry', for defaultProviders.tracing",
        ),
        "tlsSettings": "write a DestinationRule for the collector",
    }

    #: Percent of requests; 0: 1.
    sampling: float = 0.0
    custom_tags: Mapping[str, CustomTag] = field(default_factory=dict)
    #: Octets of a path that are told; 0: 256.
    max_path_tag_length: Annotated[int, Range(0, 65536)] = 0
    enable_istio_tags: bool = True

    def problems(self) -> Iterator[Problem]:
        if not 0 <= self.sampling <= 100:
            yield Problem("sampling", f"{self.sampling} is no share", "0 to 100")
        yield from tag_problems(self.custom_tags)


@model
class ProxyConfig(Located):
    """What holds for every proxy."""

    REFUSED: ClassVar = dict.fromkeys(
        (
            "configPath", "binaryPath", "serviceCluster", "drainDuration", "discoveryAddress", "zipkinAddress",
            "statsdUdpAddress", "proxyAdminPort", "controlPlaneAuthPolicy", "customConfigFile", "statNameLength",
            "concurrency", "proxyBootstrapTemplatePath", "interceptionMode", "sds", "envoyAccessLogService",
            "envoyMetricsService", "proxyMetadata", "runtimeValues", "statusPort", "extraStatTags", "gatewayTopology",
            "terminationDrainDuration", "meshId", "readinessProbe", "proxyStatsMatcher", "caCertificatesPem",
            "holdApplicationUntilProxyStarts", "image", "privateKeyProvider", "proxyHeaders", "tracingServiceName",
            "fileFlushInterval", "fileFlushMinSizeKb",
        ),
        _PROXYS_OWN,
    )  # fmt: skip

    tracing: ProxyTracing = ProxyTracing()


_AT_PORT = "the sidecars' ports are fixed as Istio's defaults; remove it"
_NO_INGRESS = "Ingress resources are not read; write a Gateway"
_PER_RESOURCE = "set exportTo in each resource"
_NO_KUBERNETES = "the mesh is what the files in --config say; remove it"
_STATS = "clusters are counted under their own names; remove it"


@model
class MeshConfig(Located):
    """What holds for the whole mesh."""

    REFUSED: ClassVar = {
        **dict.fromkeys(("proxyListenPort", "proxyInboundListenPort", "proxyHttpPort"), _AT_PORT),
        "connectTimeout": "set connectionPool.tcp.connectTimeout in a DestinationRule",
        "protocolDetectionTimeout": "protocols are told by the ports' names or appProtocol; remove it",
        "tcpKeepalive": "set connectionPool.tcp.tcpKeepalive in a DestinationRule",
        **dict.fromkeys(("ingressClass", "ingressService", "ingressControllerMode", "ingressSelector"), _NO_INGRESS),
        "enableEnvoyAccessLogService": "a proxy writes its log itself; set accessLogFile",
        "disableEnvoyListenerLog": "listeners log nothing; remove it",
        "outboundTrafficPolicy": "set the control plane's option --outbound-traffic-policy, or a Sidecar's",
        "inboundTrafficPolicy": "set defaultEndpoint of a Sidecar's ingress",
        "configSources": "name folders with the control plane's option --config",
        "enableAutoMtls": "it is always so, for endpoints that can; set tls.mode: DISABLE in a DestinationRule",
        "trustDomain": "set the control plane's option --trust-domain",
        "trustDomainAliases": "name each trust domain in the policies",
        "caCertificates": "bring an authority with the control plane's option --authority",
        "certificates": "write Secrets",
        "ca": "bring an authority with the control plane's option --authority",
        **dict.fromkeys(
            ("defaultServiceExportTo", "defaultVirtualServiceExportTo", "defaultDestinationRuleExportTo"),
            _PER_RESOURCE,
        ),
        "rootNamespace": "it is that of the installation; remove it",
        "localityLbSetting": "set loadBalancer.localityLbSetting in a DestinationRule",
        "dnsRefreshRate": "nothing replaces it yet; remove it",
        "h2UpgradePolicy": "set connectionPool.http.h2UpgradePolicy in a DestinationRule",
        **dict.fromkeys(("inboundClusterStatName", "outboundClusterStatName"), _STATS),
        "serviceSettings": _NO_KUBERNETES,
        "enablePrometheusMerge": "the application's metrics are its own; remove it",
        "verifyCertificateAtClient": "servers are always verified; see insecureSkipVerify of a DestinationRule",
        "discoverySelectors": _NO_KUBERNETES,
        "pathNormalization": "paths are always normalized, at least as with MERGE_SLASHES; remove it",
        "defaultHttpRetryPolicy": "set retries in VirtualServices",
        "meshMTLS": "inside the mesh it is always TLS 1.3; remove it",
        "tlsDefaults": "set the versions and suites of each server of a Gateway",
        "compliancePolicy": "nothing replaces it yet; remove it",
    }

    extension_providers: tuple[ExtensionProvider, ...] = ()
    default_providers: DefaultProviders = DefaultProviders()
    default_config: ProxyConfig = ProxyConfig()
    #: Says nothing that its provider does not say; kept for those who have it.
    enable_tracing: bool = False
    #: Where requests are logged that no Telemetry speaks of, in place of what the option --access-log says.
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: Literal["TEXT", "JSON"] = "TEXT"

    @property
    def providers(self) -> Mapping[str, ExtensionProvider]:
        """The extension providers by name, with those that are built in."""
        return {one.name: one for one in (*BUILT_IN, *self.extension_providers)}

    def problems(self) -> Iterator[Problem]:
        if self.access_log_file and (not self.access_log_file.startswith("/") or CONTROL.search(self.access_log_file)):
            yield Problem("accessLogFile", f"{self.access_log_file!r} is no path of a file", "as in /dev/stdout")
        if self.access_log_format and self.access_log_encoding == "JSON":
            yield from self._json_problems()
        else:
            yield from log_problems("accessLogFormat", self.access_log_format)
        seen: dict[str, ExtensionProvider] = {}
        for one in self.extension_providers:
            first = seen.setdefault(one.name, one)
            if first is not one:
                hint = f"the first is in line {first.place('name').line}"
                yield Problem("", f"provider {one.name!r} is here twice", hint, one.place("name"))

    def _json_problems(self) -> Iterator[Problem]:
        try:
            labels = json.loads(self.access_log_format)
        except RecursionError:
            yield Problem("accessLogFormat", "the JSON is nested too deeply", 'as in {"status": "%RESPONSE_CODE%"}')
            return
        except ValueError as error:
            yield Problem("accessLogFormat", f"it is not JSON: {error}", 'as in {"status": "%RESPONSE_CODE%"}')
            return
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            yield Problem("accessLogFormat", "an object of texts is wanted", 'as in {"status": "%RESPONSE_CODE%"}')
            return
        for name, value in labels.items():
            yield from log_problems("accessLogFormat", value, f"{name}: ")


@model
class ConfigMap(Resource):
    """``v1`` ConfigMap. There is one that means something to the mesh."""

    REFUSED: ClassVar = {"binaryData": "write text under 'data'"}

    data: Mapping[str, Text] = field(default_factory=dict)
    immutable: bool = False
    #: What the entry ``mesh`` says.
    mesh: MeshConfig = derived(MeshConfig())

    def problems(self) -> Iterator[Problem]:
        if self.name != NAME:
            hint = f"the mesh's configuration is ConfigMap {NAME!r}; keep others out of the mesh's folders"
            yield Problem("", f"ConfigMap {self.name!r} means nothing to the mesh", hint, self.metadata.place("name"))
            return
        for name, text in self.data.items():
            if name == "meshNetworks" and text.value.strip() not in ("", "networks: {}"):
                yield Problem("", "networks of several clusters are not supported yet", "remove them", text.at)
            elif name not in (KEY, "meshNetworks"):
                yield Problem("", f"entry {name!r} means nothing to the mesh", f"the entry is {KEY!r}", text.at)
        if KEY not in self.data:
            yield Problem("data", f"there is no entry {KEY!r}", "data: {mesh: |-, and below it the MeshConfig}")
