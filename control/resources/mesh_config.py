"""Istio's MeshConfig, in the ConfigMap `istio` of the root namespace: who else may be asked about a request.

Of it the extension providers that authorize are read. What else it can say has an option of the control plane or a
resource here, and is refused with its name, so that there is one place for each setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, ClassVar, Final

from pymesh.control.resources.decode import Located, PortNumber, Problem, Range, derived, exactly_one, model
from pymesh.control.resources.embedded import Text
from pymesh.control.resources.header_values import HEADER_NAME, value_problems
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.statuses import REFUSALS

#: The ConfigMap, and the entry of it that holds the document.
NAME: Final = "istio"
KEY: Final = "mesh"

_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._]*[A-Za-z0-9])?")
_SERVICE = re.compile(r"(?:([a-z0-9][-a-z0-9]*)/)?([A-Za-z0-9_][-A-Za-z0-9_.]*)")


@model
class RequestBody(Located):
    """How much of a request's body an authorizer is sent."""

    max_request_bytes: Annotated[int, Range(1, 2**32 - 1)]
    #: Send the beginning of a longer body, in place of refusing the request with 413.
    allow_partial_message: bool = False
    #: As bytes, whatever they are; else as text in UTF-8.
    pack_as_bytes: bool = False


@model
class ExtAuthz(Located):
    """An external authorizer, however it is spoken to."""

    #: HOST or NAMESPACE/HOST of a service.
    service: str
    port: PortNumber
    timeout: timedelta = timedelta(seconds=600)
    #: Let through what it cannot be asked about.
    fail_open: bool = False
    #: What clients are told then.
    status_on_error: str = "403"
    #: Choose the route anew after it has changed the request.
    clear_route_cache: bool = False
    include_request_body_in_check: RequestBody | None = None

    @property
    def namespace(self) -> str:
        """The namespace that the service must be in, if one is written."""
        return self.service.rpartition("/")[0]

    @property
    def host(self) -> str:
        """The service's host."""
        return self.service.rpartition("/")[2]

    def problems(self) -> Iterator[Problem]:
        if not _SERVICE.fullmatch(self.service):
            hint = "write it as in opa.authz.svc.cluster.local or authz/opa.example"
            yield Problem("service", f"{self.service!r} is not [NAMESPACE/]HOST", hint)
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


_ACCESS_LOG = "set the control plane's option --access-log"
_NO_TRACING = "traces are not sent yet; remove it"


@model
class ExtensionProvider(Located):
    """Somebody whom policies name."""

    REFUSED: ClassVar = {
        **dict.fromkeys(
            ("zipkin", "lightstep", "datadog", "stackdriver", "opencensus", "skywalking", "opentelemetry"), _NO_TRACING
        ),
        **dict.fromkeys(("envoyFileAccessLog", "envoyHttpAls", "envoyTcpAls", "envoyOtelAls"), _ACCESS_LOG),
        "prometheus": "every proxy serves its metrics on /stats/prometheus; remove it",
        "sds": "keys are in Secrets; remove it",
    }

    name: str
    envoy_ext_authz_grpc: ExtAuthzGrpc | None = None
    envoy_ext_authz_http: ExtAuthzHttp | None = None

    @property
    def authorizer(self) -> ExtAuthzGrpc | ExtAuthzHttp:
        """The one of the two that there is."""
        found = self.envoy_ext_authz_grpc or self.envoy_ext_authz_http
        assert found is not None, "decoding refuses a provider without one"
        return found

    def problems(self) -> Iterator[Problem]:
        if not _NAME.fullmatch(self.name):
            yield Problem("name", f"{self.name!r} is not a valid name", "letters, digits, '-', '.' and '_'")
        yield from exactly_one(self, "envoyExtAuthzGrpc", "envoyExtAuthzHttp")


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
        "enableTracing": _NO_TRACING,
        "accessLogFile": "the log goes to the proxy's output; " + _ACCESS_LOG,
        "accessLogFormat": _ACCESS_LOG,
        "accessLogEncoding": _ACCESS_LOG,
        "enableEnvoyAccessLogService": _ACCESS_LOG,
        "disableEnvoyListenerLog": _ACCESS_LOG,
        "defaultConfig": "set the options of each proxy",
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
        "rootNamespace": "it is istio-system; remove it",
        "localityLbSetting": "set loadBalancer.localityLbSetting in a DestinationRule",
        "dnsRefreshRate": "nothing replaces it yet; remove it",
        "h2UpgradePolicy": "set connectionPool.http.h2UpgradePolicy in a DestinationRule",
        **dict.fromkeys(("inboundClusterStatName", "outboundClusterStatName"), _STATS),
        "serviceSettings": _NO_KUBERNETES,
        "enablePrometheusMerge": "the application's metrics are its own; remove it",
        "verifyCertificateAtClient": "servers are always verified; see insecureSkipVerify of a DestinationRule",
        "defaultProviders": "set the control plane's options",
        "discoverySelectors": _NO_KUBERNETES,
        "pathNormalization": "paths are always normalized, at least as with MERGE_SLASHES; remove it",
        "defaultHttpRetryPolicy": "set retries in VirtualServices",
        "meshMTLS": "inside the mesh it is always TLS 1.3; remove it",
        "tlsDefaults": "set the versions and suites of each server of a Gateway",
        "compliancePolicy": "nothing replaces it yet; remove it",
    }

    extension_providers: tuple[ExtensionProvider, ...] = ()

    def problems(self) -> Iterator[Problem]:
        seen: dict[str, ExtensionProvider] = {}
        for one in self.extension_providers:
            first = seen.setdefault(one.name, one)
            if first is not one:
                hint = f"the first is in line {first.place('name').line}"
                yield Problem("", f"provider {one.name!r} is here twice", hint, one.place("name"))


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
