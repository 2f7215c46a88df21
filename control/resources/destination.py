"""Istio's DestinationRule: how the proxies speak to a service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pymesh.control.resources import visibility
from pymesh.control.resources.consistent_hash import ConsistentHash
from pymesh.control.resources.decode import Located, Problem, Range, model
from pymesh.control.resources.locality import LocalityLbSetting, Warmup
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.outlier import OutlierDetection
from pymesh.control.resources.traffic import PortSelector

Count = Annotated[int, Range(1, 2**31 - 1)]
CountOrNone = Annotated[int, Range(0, 2**31 - 1)]


@model
class LoadBalancer(Located):
    """How an endpoint is picked."""

    DEFAULT: ClassVar = "LEAST_REQUEST"

    simple: Literal["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"] | None = None
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalityLbSetting | None = None
    warmup: Warmup | None = None
    #: What `warmup` was before it had more to say.
    warmup_duration_secs: timedelta | None = None

    @property
    def slow_start(self) -> Warmup | None:
        """How new endpoints begin."""
        if self.warmup is None and self.warmup_duration_secs is not None:
            return Warmup(duration=self.warmup_duration_secs)
        return self.warmup

    def problems(self) -> Iterator[Problem]:
        warm = self.present("warmup", "warmupDurationSecs")
        if len(warm) > 1:
            yield Problem(warm[1], "'warmup' and 'warmupDurationSecs' exclude each other", "keep 'warmup'")
        if warm and (self.simple == "RANDOM" or self.consistent_hash is not None):
            policy = "RANDOM" if self.simple == "RANDOM" else "consistentHash"
            yield Problem(warm[0], f"{policy} knows no warm-up", "use simple: ROUND_ROBIN or LEAST_REQUEST")
        if self.present("simple") and self.present("consistentHash"):
            yield Problem("consistentHash", "'simple' and 'consistentHash' exclude each other", "keep one of them")


@model
class TcpKeepalive(Located):
    """Probes on connections that are silent; what is left out is the system's."""

    probes: CountOrNone | None = None
    time: timedelta | None = None
    interval: timedelta | None = None

    def problems(self) -> Iterator[Problem]:
        for name, value in (("time", self.time), ("interval", self.interval)):
            if value is not None and (value < timedelta(seconds=1) or value.microseconds):
                yield Problem(name, "the system counts these in whole seconds", "write at least 1s")


@model
class TcpPool(Located):
    """Limits on connections."""

    max_connections: Count | None = None
    connect_timeout: timedelta | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: timedelta | None = None
    idle_timeout: timedelta | None = None

    def problems(self) -> Iterator[Problem]:
        for name, value in (
            ("connectTimeout", self.connect_timeout),
            ("maxConnectionDuration", self.max_connection_duration),
        ):
            if value is not None and value < timedelta(milliseconds=1):
                yield Problem(name, f"{name!r} leaves no time", "give it a millisecond at least, or remove it")


@model
class HttpPool(Located):
    """Limits on requests."""

    http1_max_pending_requests: Count | None = None
    http2_max_requests: Count | None = None
    max_requests_per_connection: CountOrNone | None = None
    max_retries: Count | None = None
    max_concurrent_streams: Count | None = None
    idle_timeout: timedelta | None = None
    h2_upgrade_policy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = "DEFAULT"
    use_client_protocol: bool = False

    def problems(self) -> Iterator[Problem]:
        if self.use_client_protocol and self.h2_upgrade_policy == "UPGRADE":
            yield Problem("h2UpgradePolicy", "'useClientProtocol' leaves nothing to upgrade", "keep one of them")


@model
class ConnectionPool(Located):
    """Limits, per cluster and proxy."""

    tcp: TcpPool = TcpPool()
    http: HttpPool = HttpPool()


@model
class ClientTls(Located):
    """TLS towards the service."""

    REFUSED: ClassVar = {
        "caCrl": "let certificates live for a short time, or name an authority of its own with caCertificates",
    }

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    #: A Secret in the namespace of the proxy, in place of the files.
    credential_name: str = ""
    #: The other side is not judged: whoever answers is taken for it.
    insecure_skip_verify: bool = False
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""

    def problems(self) -> Iterator[Problem]:
        files = self.present("clientCertificate", "privateKey", "caCertificates")
        if self.credential_name and files:
            yield Problem(files[0], f"'credentialName' and {files[0]!r} exclude each other", "keep one of them")
        if self.mode == "MUTUAL" and not self.credential_name and not (self.client_certificate and self.private_key):
            yield Problem("mode", "MUTUAL needs clientCertificate and privateKey", "or credentialName, with a Secret")
        if self.mode != "MUTUAL" and self.present("clientCertificate", "privateKey"):
            yield Problem("mode", f"{self.mode} presents no certificate of yours", "use mode: MUTUAL")
        if self.mode in ("DISABLE", "ISTIO_MUTUAL"):
            for name in self.present("caCertificates", "credentialName", "insecureSkipVerify"):
                yield Problem(name, f"{name!r} has no meaning with mode {self.mode}", "use mode: SIMPLE or MUTUAL")
        if self.insecure_skip_verify:
            for name in self.present("caCertificates", "subjectAltNames"):
                yield Problem(name, f"insecureSkipVerify judges nothing, not even by {name!r}", "keep one of them")


@model
class PortPolicy(Located):
    """A policy for one port: in place of, not on top of, the general one."""

    REFUSED: ClassVar = {"retryBudget": "set trafficPolicy.retryBudget: it holds for each port by itself"}

    port: PortSelector
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None


@model
class RetryBudget(Located):
    """How many of a service's requests may be retries, in place of a fixed number."""

    REFUSED: ClassVar = {"budgetInterval": "remove it: the share is one of the requests that are under way"}

    percent: Annotated[float, Range(0, 100)] = 20.0
    min_retry_concurrency: CountOrNone = 3


@model
class TrafficPolicy(Located):
    """How connections and requests are made."""

    REFUSED: ClassVar = {
        "tunnel": "remove it",
        "proxyProtocol": "remove it",
    }

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPool | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    retry_budget: RetryBudget | None = None
    port_level_settings: tuple[PortPolicy, ...] = ()


@model
class Subset(Located):
    """The endpoints of a service that have these labels."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


@model
class DestinationRuleSpec(Located):
    """A policy for one service."""

    REFUSED: ClassVar = {
        "workloadSelector": "the rule applies to every client; remove it",
    }

    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from visibility.problems(self.export_to)
        seen: set[str] = set()
        for subset in self.subsets:
            if subset.name in seen:
                yield Problem("subsets", f"subset {subset.name!r} is here twice")
            seen.add(subset.name)


@model
class DestinationRule(Resource):
    """``networking.istio.io`` DestinationRule."""

    spec: DestinationRuleSpec
    status: Any = None
