"""A proxy's `/config_dump`, ours or Envoy's, as tables with the columns of `istioctl proxy-config`.

Rows are plain tuples; everything here is a function of the page. What is written in Envoy's JSON in two ways (a name of
a field, or its camel case) is read in the first, which both proxies write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Json = Mapping[str, Any]
Row = tuple[str, ...]

_ADMIN = "type.googleapis.com/envoy.admin.v3."


class DumpError(Exception):
    """What was given is no config dump; for people."""


@dataclass(frozen=True, slots=True)
class Dump:
    """The messages of a dump by type, each with the version that it came with ("" for static ones)."""

    bootstrap: Json = field(default_factory=dict)
    listeners: Sequence[tuple[str, Json]] = ()
    routes: Sequence[tuple[str, Json]] = ()
    clusters: Sequence[tuple[str, Json]] = ()
    endpoints: Sequence[tuple[str, Json]] = ()
    secrets: Sequence[tuple[str, Json]] = ()


def parse(text: bytes) -> Dump:
    """Raises :class:`DumpError`."""
    try:
        page = json.loads(text)
        sections = {str(one["@type"]).removeprefix(_ADMIN): one for one in page["configs"]}
    except (ValueError, LookupError, TypeError) as error:
        raise DumpError(f"this is no config dump: {error!r}\nhint: save the page /config_dump of a proxy") from None
    of = sections.get
    clusters, listeners = of("ClustersConfigDump", {}), of("ListenersConfigDump", {})
    routes, endpoints = of("RoutesConfigDump", {}), of("EndpointsConfigDump", {})
    secrets = of("SecretsConfigDump", {})
    return Dump(
        of("BootstrapConfigDump", {}).get("bootstrap", {}),
        [*_static(listeners, "static_listeners", "listener"), *_dynamic_listeners(listeners)],
        [*_all(routes, ("static_route_configs", "dynamic_route_configs"), "route_config")],
        [*_all(clusters, ("static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"), "cluster")],
        [*_all(endpoints, ("static_endpoint_configs", "dynamic_endpoint_configs"), "endpoint_config")],
        [
            (one.get("version_info", ""), one)
            for part in ("static_secrets", "dynamic_active_secrets", "dynamic_warming_secrets")
            for one in secrets.get(part, ())
        ],
    )


def _all(section: Json, parts: Sequence[str], inner: str) -> Iterator[tuple[str, Json]]:
    for part in parts:
        yield from _static(section, part, inner)


def _static(section: Json, part: str, inner: str) -> Iterator[tuple[str, Json]]:
    for one in section.get(part, ()):
        if one.get(inner):
            yield one.get("version_info", ""), one[inner]


def _dynamic_listeners(section: Json) -> Iterator[tuple[str, Json]]:
    for one in section.get("dynamic_listeners", ()):
        state = one.get("active_state") or one.get("warming_state")
        if state and state.get("listener"):
            yield state.get("version_info", ""), state["listener"]


CLUSTER_COLUMNS = ("SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE")
LISTENER_COLUMNS = ("ADDRESSES", "PORT", "MATCH", "DESTINATION")
ROUTE_COLUMNS = ("NAME", "VHOST NAME", "DOMAINS", "MATCH", "ROUTE", "DESTINATION")
ENDPOINT_COLUMNS = ("ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER")
SECRET_COLUMNS = ("RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE")
LOG_COLUMNS = ("LISTENER", "PART", "LOGGER", "WHERE", "FORMAT")


def cluster_rows(cluster: Json) -> list[Row]:
    """Istio's parts of its name."""
    kind = cluster.get("type") or cluster.get("cluster_type", {}).get("name") or "STATIC"
    parts = str(cluster["name"]).split("|")
    if len(parts) == 4:
        direction, port, subset, host = parts
        return [(host or "-", port, subset or "-", direction, kind)]
    return [(str(cluster["name"]), "-", "-", "-", kind)]


def listener_rows(listener: Json) -> list[Row]:
    """One row for each filter chain."""
    address = listener.get("address", {}).get("socket_address", {})
    where = (str(address.get("address", "?")), str(address.get("port_value", 0)))
    chains = [*listener.get("filter_chains", ())]
    if listener.get("default_filter_chain"):
        chains.append({**listener["default_filter_chain"], "is_default": True})
    return [(*where, _match(chain), _destination(chain)) for chain in chains] or [(*where, "ALL", "-")]


def _match(chain: Json) -> str:
    match = chain.get("filter_chain_match", {})
    found = []
    if match.get("destination_port"):
        found.append(f"Dst port: {match['destination_port']}")
    if match.get("transport_protocol"):
        found.append(f"Trans: {match['transport_protocol']}")
    if match.get("application_protocols"):
        found.append(f"App: {','.join(match['application_protocols'])}")
    if match.get("server_names"):
        found.append(f"SNI: {','.join(match['server_names'])}")
    if match.get("prefix_ranges"):
        ranges = [f"{one['address_prefix']}/{one.get('prefix_len', 0)}" for one in match["prefix_ranges"]]
        found.append(f"Addr: {','.join(ranges)}")
    return "; ".join(found) or ("default" if chain.get("is_default") else "ALL")


def _destination(chain: Json) -> str:
    for one in chain.get("filters", ()):
        config = one.get("typed_config", {})
        kind = str(config.get("@type", ""))
        if kind.endswith(".HttpConnectionManager"):
            if config.get("rds"):
                return f"Route: {config['rds'].get('route_config_name', '?')}"
            return f"Inline Route: {', '.join(_targets(config.get('route_config', {}))) or '-'}"
        if kind.endswith(".TcpProxy"):
            shares = config.get("weighted_clusters", {}).get("clusters", ())
            named = [config["cluster"]] if config.get("cluster") else [one["name"] for one in shares]
            return f"Cluster: {', '.join(named) or '-'}"
    return "-"


def _targets(table: Json) -> list[str]:
    found = [
        f"{_path(route.get('match', {}))} -> {target(route)}"
        for host in table.get("virtual_hosts", ())
        for route in host.get("routes", ())
    ]
    return list(dict.fromkeys(found))


def route_rows(table: Json) -> list[Row]:
    """One row for each route, in the order in which they are tried."""
    return [
        (
            str(table.get("name", "")),
            str(host.get("name", "")),
            _domains(host.get("domains", ())),
            _path(route.get("match", {})),
            str(route.get("name", "")) or "-",
            target(route),
        )
        for host in table.get("virtual_hosts", ())
        for route in host.get("routes", ())
    ]


def _domains(domains: Sequence[str]) -> str:
    more = f" + {len(domains) - 1} more" if len(domains) > 1 else ""
    return f"{domains[0]}{more}" if domains else "-"


def _path(match: Json) -> str:
    found = "-"
    if "path" in match:
        found = match["path"]
    elif "prefix" in match:
        found = f"{match['prefix']}*"
    elif "path_separated_prefix" in match:
        found = f"PathPrefix:{match['path_separated_prefix']}"
    elif "safe_regex" in match:
        found = f"regex {match['safe_regex'].get('regex', '')}"
    conditions = len(match.get("headers", ())) + len(match.get("query_parameters", ()))
    return f"{found} +{conditions}" if conditions else str(found)


def target(route: Json) -> str:
    """Where a route leads."""
    if "direct_response" in route:
        return f"response {route['direct_response'].get('status', 200)}"
    if "redirect" in route:
        return "redirect"
    action = route.get("route", {})
    if "weighted_clusters" in action:
        shares = action["weighted_clusters"].get("clusters", ())
        return ", ".join(f"{one.get('name', '?')} ({one.get('weight', 0)})" for one in shares)
    return str(action.get("cluster") or action.get("cluster_header") or "-")


def endpoint_rows(assignment: Json) -> list[Row]:
    """What the control plane has sent, without what the proxy found out."""
    cluster = str(assignment.get("cluster_name", ""))
    return [
        (_address(one.get("endpoint", {}).get("address", {})), one.get("health_status", "HEALTHY"), "-", cluster)
        for group in assignment.get("endpoints", ())
        for one in group.get("lb_endpoints", ())
    ]


def _address(address: Json) -> str:
    socket = address.get("socket_address")
    if socket:
        host = str(socket.get("address", "?"))
        return f"[{host}]:{socket.get('port_value', 0)}" if ":" in host else f"{host}:{socket.get('port_value', 0)}"
    return str(address.get("pipe", {}).get("path", "-"))


def live_endpoint_rows(text: str) -> list[Row]:
    """From a proxy's page `/clusters`: each endpoint, and what the proxy thinks of it."""
    found: list[Row] = []
    for line in text.splitlines():
        cluster, _, rest = line.partition("::")
        address, _, flag = rest.partition("::health_flags::")
        if flag:
            is_out = "/failed_outlier_check" in flag
            others = flag.replace("/failed_outlier_check", "")
            status = "HEALTHY" if others in ("healthy", "") else "DRAINING" if "drain" in others else "UNHEALTHY"
            found.append((address, status, "FAILED" if is_out else "OK", cluster))
    return found


def secret_rows(entry: Json) -> list[Row]:
    """A secret of the dump, of which keys and certificates are left out."""
    return [(str(entry.get("name", "")), "-", "ACTIVE", "-", "-", "-", "-")]


def certificate_rows(page: Json, now: datetime) -> list[Row]:
    """From a proxy's page `/certs`."""
    found: list[Row] = []
    for one in page.get("certificates", ()):
        for kind, title in (("cert_chain", "Cert Chain"), ("ca_cert", "CA")):
            for certificate in one.get(kind, ()):
                begins, ends = str(certificate.get("valid_from", "")), str(certificate.get("expiration_time", ""))
                found.append(
                    (
                        str(certificate.get("path", "")),
                        title,
                        "ACTIVE",
                        # Both in the same form, whose order is that of time.
                        "true" if begins <= now.strftime("%Y-%m-%dT%H:%M:%SZ") < ends else "false",
                        str(certificate.get("serial_number", "")),
                        ends,
                        begins,
                    )
                )
    return found


def log_rows(listener: Json) -> list[Row]:
    """Where a listener's access logs go: the listener's own, its connection managers' and TCP proxies'."""
    found = [_log(listener, "listener", one) for one in listener.get("access_log", ())]
    chains = [*listener.get("filter_chains", ()), listener.get("default_filter_chain", {})]
    for chain in chains:
        for one in chain.get("filters", ()):
            found += [
                _log(listener, str(one.get("name", "")), log)
                for log in one.get("typed_config", {}).get("access_log", ())
            ]
    return list(dict.fromkeys(found))


def _log(listener: Json, part: str, log: Json) -> Row:
    config = log.get("typed_config", {})
    kind = str(config.get("@type", "")).rpartition(".")[2]
    where = config.get("path") or {"StdoutAccessLog": "stdout", "StderrAccessLog": "stderr"}.get(kind, "-")
    chosen = config.get("log_format", {})
    form = "JSON" if "json_format" in chosen else "TEXT" if chosen else "default"
    return str(listener.get("name", "")), part, kind or str(log.get("name", "")), where, form


@dataclass(frozen=True, slots=True)
class Kind:
    """One subcommand: which messages, and how each of them is shown."""

    columns: Row
    pick: Callable[[Dump], Sequence[tuple[str, Json]]]
    rows: Callable[[Json], list[Row]]
    name: Callable[[Json], str]


def _named(message: Json) -> str:
    return str(message.get("name", ""))


KINDS: Mapping[str, Kind] = {
    "listeners": Kind(LISTENER_COLUMNS, lambda dump: dump.listeners, listener_rows, _named),
    "routes": Kind(ROUTE_COLUMNS, lambda dump: dump.routes, route_rows, _named),
    "clusters": Kind(CLUSTER_COLUMNS, lambda dump: dump.clusters, cluster_rows, _named),
    "endpoints": Kind(
        ENDPOINT_COLUMNS, lambda dump: dump.endpoints, endpoint_rows, lambda one: str(one.get("cluster_name", ""))
    ),
    "secrets": Kind(SECRET_COLUMNS, lambda dump: dump.secrets, secret_rows, _named),
    "log": Kind(LOG_COLUMNS, lambda dump: dump.listeners, log_rows, _named),
}
