"""Admin pages have Envoy's shapes: whoever reads Envoy's (istioctl, dashboards, scripts) reads ours.

The same bootstrap runs in both proxies. Ours may leave things out, and must not add or rename any.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.bootstrap import bootstrap, cluster, downstream_tls, http_listener, tcp_listener, to_cluster
from tests.proxy.bootstrap import virtual_host as host
from tests.proxy.running import Proxy, proxy
from tests.tools.certificates import Authority
from tests.tools.ports import free_ports

pytestmark = pytest.mark.usefixtures("pair")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxy]]:
    """Envoy and pymesh, one after the other on the same ports would need two runs: each has ports of its own."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    identity = authority.issue("admin", dns=["localhost"], uris=["spiffe://cluster.local/ns/a/sa/b"])
    with proxy("envoy", _config(identity)) as envoy, proxy("pymesh", _config(identity)) as ours:
        yield {"envoy": envoy, "pymesh": ours}


def _config(identity: Any) -> dict[str, Any]:
    http, tcp, admin = free_ports(3)
    hosts = [host("all", [to_cluster("origin")])]
    listeners = [http_listener(http, hosts, tls=downstream_tls(identity)), tcp_listener(tcp, "origin")]
    return bootstrap(listeners, [cluster("origin", [9])], admin)


def shapes(value: Any, at: str = "") -> set[str]:
    """Every path of a JSON value with the type that stands there; elements of a list share one path."""
    if isinstance(value, dict):
        return {path for key, one in value.items() for path in shapes(one, f"{at}.{key}")}
    if isinstance(value, list):
        return {path for one in value for path in shapes(one, f"{at}[]")}
    if value == "":
        # A message's JSON may leave it out.
        return set()
    return {f"{at}: {type(value).__name__}"}


@pytest.mark.parametrize("page", ["/listeners?format=json", "/clusters?format=json", "/certs", "/server_info"])
def test_json_pages_have_no_shape_that_envoy_has_not(page: str, pair: dict[str, Proxy]) -> None:
    ours, envoys = (shapes(json.loads(pair[kind].admin(page))) for kind in ("pymesh", "envoy"))
    assert ours
    assert ours - envoys == set()


def test_certificates_are_shown_as_envoy_shows_them(pair: dict[str, Proxy]) -> None:
    def shown(kind: str) -> list[Any]:
        (entry,) = json.loads(pair[kind].admin("/certs"))["certificates"]
        return [{key: value for key, value in one.items() if key != "path"} for one in entry["cert_chain"]]

    assert shown("pymesh") == shown("envoy")


@pytest.mark.parametrize("page", ["/clusters", "/listeners"])
def test_text_pages_have_no_line_that_envoy_has_not(page: str, pair: dict[str, Proxy]) -> None:
    def keys(kind: str) -> set[str]:
        lines = pair[kind].admin(page).splitlines()
        return {re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", line.rpartition("::")[0]) for line in lines}

    assert keys("pymesh")
    assert keys("pymesh") - keys("envoy") == set()


def test_the_configuration_is_dumped_in_envoys_sections(pair: dict[str, Proxy]) -> None:
    def names(kind: str) -> dict[str, set[str]]:
        sections = {
            one["@type"].rpartition(".")[2]: one for one in json.loads(pair[kind].admin("/config_dump"))["configs"]
        }
        return {
            "clusters": {one["cluster"]["name"] for one in sections["ClustersConfigDump"]["static_clusters"]},
            "listeners": {one["listener"]["name"] for one in sections["ListenersConfigDump"]["static_listeners"]},
        }

    assert names("pymesh") == names("envoy")


def test_nothing_shows_a_private_key(pair: dict[str, Proxy], tmp_path: Path) -> None:
    for page in ("/config_dump", "/certs", "/clusters", "/listeners", "/stats"):
        assert "PRIVATE KEY" not in pair["pymesh"].admin(page)


def test_ready_says_what_envoy_says(pair: dict[str, Proxy]) -> None:
    assert pair["pymesh"].admin("/ready") == pair["envoy"].admin("/ready") == "LIVE\n"


def test_counters_have_the_names_that_envoy_gives_them(pair: dict[str, Proxy]) -> None:
    """Some exist in Envoy only when they count, or with TLS, HTTP/2 or an overload manager; some are our own.

    A certificate without a name has a hash in its place, which is our own, too.
    """

    def names(kind: str) -> set[str]:
        ports = {str(port): f"PORT{at}" for at, port in enumerate(pair[kind].ports)}
        found = {line.partition(":")[0] for line in pair[kind].admin("/stats").splitlines()}
        return {re.sub(r"(?<=127\.0\.0\.1_)\d+", lambda port: ports[port[0]], name) for name in found}

    own = r".*\.ssl\.certificate\.unnamed_cert_|http\..*\.python_filter_"
    own += r"|filters\.(blocked|incidents)$|access_logs\.file\."
    own += r"|tcp\..*\.downstream_cx_active$|cluster\..*\.original_dst_loop$"
    others = re.compile(rf"server\.|overload\.|(cluster\..*\.)?http2\.|.*(_[1-5]xx|\.ssl_\w+)$|{own}")
    ours = {name for name in names("pymesh") if not others.match(name)}
    assert ours
    assert ours - names("envoy") == set()
