"""Random access policies: one for each virtual host of a table, and requests that meet them or nearly do."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.differential.asking import Ask
from tests.differential.tables import HEADERS, METHODS, VALUES
from tests.proxy.bootstrap import (
    Json,
    access_log,
    bootstrap,
    cluster,
    downstream_tls,
    http_listener,
    to_cluster,
    virtual_host,
)
from tests.tools.certificates import KeyPair

_TYPE = "type.googleapis.com/envoy.extensions.filters.http"
_FILTER = "envoy.filters.http.rbac"

#: Who may ask: nobody in particular, and two workloads.
IDENTITIES = {"web": "spiffe://mesh.test/ns/shop/sa/web", "api": "spiffe://mesh.test/ns/back/sa/api"}
NAMES = ("ns[shop]-policy[a]-rule[0]", "b", "with space", "z")
PATHS = ("/", "/admin", "/admin/", "/admin/x", "/Admin", "/api/v1/items/42", "/api/v2", "/static/a.css", "/a;b")
#: What a filter in front finds out, for policies that ask for metadata.
_FOUND = ("seen_shadow_engine_result", "seen_shadow_effective_policy_id", "shadow_engine_result", "nothing")
LOG = (
    "%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %DYNAMIC_METADATA(envoy.common)% "
    + " ".join(f"%DYNAMIC_METADATA({_FILTER}:{key}):40%" for key in _FOUND)
    + "\n"
)


class Policies:
    """What one seed makes."""

    def __init__(self, seed: int, hosts: int) -> None:
        self.random = random.Random(seed)
        self.front = {"shadow_rules": self._rules(), "shadow_rules_stat_prefix": "seen_"}
        self.general = {"rules": self._rules()} if self._chance(0.7) else {"shadow_rules": self._rules()}
        #: By virtual host; None: the general one counts.
        self.own = [None if self._chance(0.1) else self._own() for _ in range(hosts)]
        self.hops = self.random.choice((0, 0, 1))
        self.use_remote_address = self._chance(0.5)

    def bootstrap(
        self, ports: Sequence[int], admin: int, log: Path, origin: Sequence[int], pair: KeyPair, root: Path
    ) -> Json:
        """Two listeners, plain and with mutual TLS, with the same policies."""
        hosts = []
        for number, own in enumerate(self.own):
            host = virtual_host(f"host-{number}", [to_cluster("a")], [f"h{number}.test"])
            if own is not None:
                host["typed_per_filter_config"] = {_FILTER: {"@type": f"{_TYPE}.rbac.v3.RBACPerRoute", **own}}
            hosts.append(host)
        filters = [
            {"name": "front", "typed_config": {"@type": f"{_TYPE}.rbac.v3.RBAC", **self.front}},
            {"name": _FILTER, "typed_config": {"@type": f"{_TYPE}.rbac.v3.RBAC", **self.general}},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.router.v3.Router"}},
        ]
        shared: Json = {
            "http_filters": filters,
            "access_log": [access_log(log, LOG)],
            "xff_num_trusted_hops": self.hops,
            "use_remote_address": self.use_remote_address,
            "normalize_path": True,
        }
        tls = downstream_tls(pair, client_root=str(root), alpn=("http/1.1",))
        listeners = [
            http_listener(ports[0], hosts, name="plain", **shared),
            http_listener(ports[1], hosts, name="mutual", tls=tls, **shared),
        ]
        # Envoy knows a server name by its listener filter only.
        inspector = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
        listeners[1]["listener_filters"] = [
            {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": inspector}}
        ]
        return bootstrap(listeners, [cluster("a", origin)], admin)

    def ask(self) -> tuple[str, Ask]:
        """The next request, and who sends it."""
        who = self.random.choice(("", "", *IDENTITIES))
        host = f"h{self.random.randrange(len(self.own))}.test"
        path = self.random.choice(PATHS) + self.random.choice(("", "", "?q=/admin", "/../admin"))
        made = Ask(self.random.choice(METHODS), host, path)
        for _ in range(self.random.randint(0, 3)):
            made.headers.append((self.random.choice(HEADERS), self.random.choice(VALUES)))
        if self._chance(0.3):
            made.headers.append(
                ("x-forwarded-for", self.random.choice(("10.1.2.3", "10.1.2.3, 192.0.2.7", "nonsense")))
            )
        return who, made

    # --- the shapes -----------------------------------------------------------------------------------------------

    def _own(self) -> Json:
        kind = self.random.random()
        if kind < 0.1:
            return {}
        made: Json = {}
        if kind < 0.9:
            made["rules"] = self._rules()
        if kind > 0.7:
            made["shadow_rules"] = self._rules()
        return {"rbac": made}

    def _rules(self) -> Json:
        chosen = self.random.sample(NAMES, self.random.randint(1, 3))
        action = self.random.choice(("ALLOW", "ALLOW", "DENY", "DENY", "LOG"))
        return {"action": action, "policies": {name: self._policy() for name in chosen}}

    def _policy(self) -> Json:
        return {
            "permissions": [self._permission(2) for _ in range(self.random.randint(1, 2))],
            "principals": [self._principal(2) for _ in range(self.random.randint(1, 2))],
        }

    def _permission(self, depth: int) -> Json:
        return self._pick(
            (2, lambda: {"any": True}),
            (4, lambda: {"header": self._header()}),
            (6, lambda: {"url_path": {"path": self._string(PATHS)}}),
            (1, lambda: {"destination_ip": self._network()}),
            (1, lambda: {"destination_port_range": {"start": 1, "end": self.random.choice((1024, 65536))}}),
            (1, lambda: {"requested_server_name": self._string(("", "mesh.test"))}),
            (1, self._metadata),
            (depth and 2, lambda: {"not_rule": self._permission(depth - 1)}),
            (depth and 2, lambda: {"and_rules": {"rules": [self._permission(depth - 1) for _ in range(2)]}}),
            (depth and 2, lambda: {"or_rules": {"rules": [self._permission(depth - 1) for _ in range(2)]}}),
        )

    def _principal(self, depth: int) -> Json:
        names = (*IDENTITIES.values(), "spiffe://mesh.test/ns/shop/sa/other", "CN=web")
        return self._pick(
            (3, lambda: {"any": True}),
            (6, lambda: {"authenticated": {"principal_name": self._string(names)}}),
            (1, lambda: {"direct_remote_ip": self._network()}),
            (2, lambda: {"remote_ip": self._network()}),
            (1, lambda: {"source_ip": self._network()}),
            (3, lambda: {"header": self._header()}),
            (1, lambda: {"url_path": {"path": self._string(PATHS)}}),
            (2, self._metadata),
            (depth and 2, lambda: {"not_id": self._principal(depth - 1)}),
            (depth and 2, lambda: {"and_ids": {"ids": [self._principal(depth - 1) for _ in range(2)]}}),
            (depth and 2, lambda: {"or_ids": {"ids": [self._principal(depth - 1) for _ in range(2)]}}),
        )

    def _metadata(self) -> Json:
        denied = {"string_match": {"exact": "denied"}}
        value: Json = self._pick(
            (4, lambda: {"string_match": self._string(("allowed", "denied", *NAMES))}),
            (1, lambda: {"present_match": self._chance(0.8)}),
            (1, lambda: {"null_match": {}}),
            (1, lambda: {"list_match": {"one_of": {"present_match": True}}}),
            (1, lambda: {"or_match": {"value_matchers": [{"bool_match": True}, denied]}}),
        )
        matcher: Json = {"filter": _FILTER, "path": [{"key": self.random.choice(_FOUND)}], "value": value}
        if self._chance(0.2):
            matcher["invert"] = True
        return {"metadata": matcher} if self._chance(0.5) else {"sourced_metadata": {"metadata_matcher": matcher}}

    def _network(self) -> Json:
        address, bits = self.random.choice(
            (("127.0.0.0", 8), ("127.0.0.1", 32), ("10.0.0.0", 8), ("10.1.2.3", 32), ("192.0.2.0", 24), ("::", 0))
        )
        return {"address_prefix": address, "prefix_len": bits}

    def _header(self) -> Json:
        name = self.random.choice((*HEADERS, ":method", ":authority"))
        values = METHODS if name == ":method" else (f"h{self.random.randrange(80)}.test",) if name[0] == ":" else VALUES
        made: Json = {"name": name, "string_match": self._string(values)}
        if name[0] != ":" and self._chance(0.2):
            made = {"name": name, "present_match": self._chance(0.7)}
        if self._chance(0.15):
            made["invert_match"] = True
        return made

    def _string(self, values: Sequence[str]) -> Json:
        value = self.random.choice(values) or "x"
        made: Json = self._pick(
            (4, lambda: {"exact": value}),
            (2, lambda: {"prefix": value[: self.random.randint(1, len(value))]}),
            (2, lambda: {"suffix": value[-self.random.randint(1, len(value)) :]}),
            (1, lambda: {"contains": value[len(value) // 2 :]}),
            (1, lambda: {"safe_regex": {"regex": self.random.choice((".*", "/admin.*", ".*/ns/shop/.*", "[a-z]+"))}}),
        )
        if "safe_regex" not in made and self._chance(0.2):
            made["ignore_case"] = True
        return made

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _pick(self, *options: tuple[int, Callable[[], Json]]) -> Json:
        return self.random.choices([make for _, make in options], [weight for weight, _ in options])[0]()


def by_client(asked: Sequence[tuple[str, Ask]]) -> Mapping[str, list[int]]:
    """The numbers of the requests of each client."""
    found: dict[str, list[int]] = {}
    for number, (who, _) in enumerate(asked):
        found.setdefault(who, []).append(number)
    return found
