"""A random bootstrap: virtual hosts, routes, policies and clusters in every shape that both proxies take.

What chance decides on a request (a weight, a fraction) is certain here: all of it or nothing. Shares are compared in
tests of their own, by counting.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, virtual_host

#: Names of clusters with one endpoint each, which answers what it was asked.
CLUSTERS = ("a", "b", "c")
#: A cluster whose endpoint refuses connections, and one without endpoints.
DOWN, EMPTY = "down", "empty"

#: Clusters that choose one of `HASHED` endpoints by a hash of the request.
HASHING = ("ring", "maglev")
HASHED = 4

HEADERS = ("x-env", "x-user", "x-number", "x-tag")
VALUES = ("canary", "Canary", "a canary", "stable", "7", "42", "-3", "", "ann", "bob")
PARAMETERS = ("v", "size", "tag")
SEGMENTS = ("a", "b", "item", "Item", "42", "old", "new", "x.y", "%41", "a+b", "deep")
ORIGINS = ("https://shop.example", "https://evil.example", "http://localhost:3000", "null")
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")

_APPEND = ("APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS")
_FORMATS = (
    "plain",
    "100%%",
    "%REQ(x-user)%",
    "%REQ(x-none?x-env)%",
    "%PROTOCOL%",
    "%REQ(:METHOD)%-%REQ(:PATH)%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
)
# What is said of the answer itself is left out, since Envoy has it at hand for some answers of its own and not for
# others; and so is the path, which Envoy rewrites in a request that it answers with a redirect.
_RESPONSE_FORMATS = (*(one for one in _FORMATS if ":PATH" not in one), "%UPSTREAM_CLUSTER%")
_CONDITIONS = (
    *("5xx", "gateway-error", "reset", "connect-failure", "retriable-4xx", "retriable-status-codes", "refused-stream"),
    *("cancelled", "unavailable", "internal", "deadline-exceeded", "resource-exhausted"),
)
_REDIRECTS = ("MOVED_PERMANENTLY", "FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT")
_NOT_FOUND = ("SERVICE_UNAVAILABLE", "NOT_FOUND", "INTERNAL_SERVER_ERROR")

CORS, FAULT = "envoy.filters.http.cors", "envoy.filters.http.fault"

#: One line for each request.
LOG = (
    "%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %UPSTREAM_CLUSTER% %ROUTE_NAME% "
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT% %BYTES_RECEIVED%\n"
)


class Tables:
    """What one seed makes."""

    def __init__(self, seed: int, hosts: int) -> None:
        self.random = random.Random(seed)
        #: The route table, as in the bootstrap.
        self.virtual_hosts = [self._virtual_host(number) for number in range(hosts)]
        self._manager = self._connection_manager()

    def bootstrap(self, port: int, admin: int, log: Any, origins: Mapping[str, Sequence[int]], nobody: int) -> Json:
        """The same for both proxies but for ports and paths."""
        clusters = [cluster(name, ports) for name, ports in origins.items()]
        for one in clusters:
            if one["name"] in HASHING:
                one["lb_policy"] = {"ring": "RING_HASH", "maglev": "MAGLEV"}[one["name"]]
        clusters += [cluster(DOWN, [nobody]), cluster(EMPTY, [])]
        for one in clusters:
            # How many retries run at once is a matter of luck; no limit is met.
            one["circuit_breakers"] = {"thresholds": [{"max_retries": 1000}]}
        logs = [access_log(log, LOG)]
        listener = http_listener(port, self.virtual_hosts, name="random", access_log=logs, **self._manager)
        return bootstrap([listener], clusters, admin)

    # --- the shapes -----------------------------------------------------------------------------------------------

    def _connection_manager(self) -> Json:
        made: Json = {"http_filters": self._filters()}
        if self.chance(0.5):
            made["normalize_path"] = self.chance(0.7)
        if self.chance(0.5):
            made["merge_slashes"] = self.chance(0.7)
        if self.chance(0.3):
            made["strip_any_host_port"] = True
        elif self.chance(0.3):
            made["strip_matching_host_port"] = True
        if self.chance(0.3):
            made["use_remote_address"] = True
        if self.chance(0.3):
            made["via"] = "1.1 random"
        if self.chance(0.3):
            made["server_name"] = "random-proxy"
        if self.chance(0.3):
            made["server_header_transformation"] = self.one("OVERWRITE", "APPEND_IF_ABSENT", "PASS_THROUGH")
        return made

    def _filters(self) -> list[Json]:
        """The filters before the router, in an order of chance; routes say what most of them do."""
        fault = self._fault() if self.chance(0.2) else {}
        found = [(CORS, "cors.v3.Cors", {}), (FAULT, "fault.v3.HTTPFault", fault)]
        self.random.shuffle(found)
        router = ("envoy.filters.http.router", "router.v3.Router", {})
        return [{"name": name, "typed_config": _typed(kind, config)} for name, kind, config in (*found, router)]

    def _of_filters(self, share: float) -> Json:
        """What a level says of the filters."""
        said: Json = {}
        if self.chance(share):
            said[CORS] = _typed("cors.v3.CorsPolicy", self._cors())
        if self.chance(share):
            said[FAULT] = _typed("fault.v3.HTTPFault", self._fault())
        if self.chance(share / 4):
            switch = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
            said[self.one(CORS, FAULT)] = switch
        return {"typed_per_filter_config": said} if said else {}

    def _fault(self) -> Json:
        made: Json = {}
        if self.chance(0.7):
            status = self.one({"http_status": self.one(400, 418, 503)}, {"grpc_status": self.one(5, 14)})
            made["abort"] = self.one({"header_abort": {}}, status, status) | {"percentage": self._all_or_none()}
        if self.chance(0.4) or not made:
            delay = self.one({"fixed_delay": "0.002s"}, {"header_delay": {}})
            made["delay"] = delay | {"percentage": self._all_or_none()}
        if self.chance(0.4):
            made["headers"] = [self._header()]
        if self.chance(0.2):
            made["upstream_cluster"] = self.random.choice(CLUSTERS)
        return made

    def _all_or_none(self) -> Json:
        return {"numerator": self.one(0, 100, 100, 100), "denominator": "HUNDRED"}

    def _cors(self) -> Json:
        origins = self.random.sample(ORIGINS, 2)
        made: Json = {"allow_origin_string_match": [{"exact": origins[0]}, {"suffix": origins[1][-8:]}]}
        for name, values in (
            ("allow_methods", ("GET,PUT", "*")),
            ("allow_headers", ("x-user,x-tag", "*")),
            ("expose_headers", ("x-origin",)),
            ("max_age", ("600",)),
        ):
            if self.chance(0.6):
                made[name] = self.random.choice(values)
        if self.chance(0.5):
            made["allow_credentials"] = self.chance(0.7)
        if self.chance(0.3):
            made["forward_not_matching_preflights"] = self.chance(0.5)
        if self.chance(0.2):
            made["allow_private_network_access"] = True
        if self.chance(0.2):
            made["filter_enabled"] = {"default_value": self._all_or_none()}
        return made

    def _virtual_host(self, number: int) -> Json:
        routes = [self._route(f"{number}-{n}") for n in range(self.random.randint(1, 7))]
        made = virtual_host(f"host-{number}", routes, self._domains(number))
        made |= self._header_operations() | self._of_filters(0.15)
        if self.chance(0.05):
            made["require_tls"] = "ALL"
        if self.chance(0.2):
            made["retry_policy"] = self._retry_policy()
        if self.chance(0.3):
            made["include_request_attempt_count"] = True
        if self.chance(0.2):
            made["include_attempt_count_in_response"] = True
        return made

    def _domains(self, number: int) -> list[str]:
        name = f"h{number}.test"
        shapes = [[name], [f"*.{name}"], [f"h{number}.*"], [name, f"{name}:8080"], [f"*-h{number}.test", name]]
        return ["*"] if number == 0 else self.random.choice(shapes)

    def _route(self, name: str) -> Json:
        made: Json = {
            "name": f"route-{name}",
            "match": self._match(),
            **self._header_operations(),
            **self._of_filters(0.1),
        }
        kind = self.random.random()
        if kind < 0.12:
            made["redirect"] = self._redirect(made["match"])
        elif kind < 0.22:
            made["direct_response"] = self._direct_response()
        else:
            made["route"] = self._action(made["match"])
        return made

    def _match(self) -> Json:
        made: Json = self._path()
        if self.chance(0.15):
            made["case_sensitive"] = False
            if "safe_regex" in made:
                del made["case_sensitive"]
        if self.chance(0.45):
            made["headers"] = [self._header() for _ in range(self.random.randint(1, 2))]
        if self.chance(0.2):
            made["query_parameters"] = [self._parameter()]
        if self.chance(0.05):
            made["runtime_fraction"] = {"default_value": {"numerator": self.one(0, 100), "denominator": "HUNDRED"}}
        if self.chance(0.03):
            made["grpc"] = {}
        return made

    def _path(self) -> Json:
        path = self.path()
        return self.pick(
            (4, lambda: {"prefix": path}),
            (1, lambda: {"prefix": "/"}),
            (3, lambda: {"path": path}),
            (2, lambda: {"path_separated_prefix": path.rstrip("/") or "/a"}),
            (2, lambda: {"safe_regex": {"regex": self._path_pattern(path)}}),
        )

    def _path_pattern(self, path: str) -> str:
        escaped = path.replace(".", "\\.").replace("+", "\\+")
        return self.one(escaped, f"{escaped}.*", f"{escaped}/[0-9]+", "/[a-z]+(/[^/]+)?", ".*42")

    def _header(self) -> Json:
        pseudo = self.chance(0.2)
        name = self.one(":method", ":authority", ":path") if pseudo else self.random.choice(HEADERS)
        value = self.random.choice(METHODS) if name == ":method" else self.random.choice(VALUES)
        made: Json = {"name": name}
        if not pseudo and self.chance(0.2):
            made["present_match"] = self.chance(0.5)
        elif not pseudo and self.chance(0.15):
            made["range_match"] = {"start": "-10", "end": str(self.random.choice((0, 8, 50)))}
        else:
            made["string_match"] = self._string(value)
        if self.chance(0.2):
            made["invert_match"] = True
        if self.chance(0.1) and "present_match" not in made:
            made["treat_missing_header_as_empty"] = True
        return made

    def _parameter(self) -> Json:
        made: Json = {"name": self.random.choice(PARAMETERS)}
        if self.chance(0.3):
            return {**made, "present_match": self.chance(0.8)}
        return {**made, "string_match": self._string(self.random.choice(VALUES))}

    def _string(self, value: str) -> Json:
        part = value[: self.random.randint(1, 3)] or "x"
        made: Json = self.pick(
            (4, lambda: {"exact": value or "x"}),
            (2, lambda: {"prefix": part}),
            (2, lambda: {"suffix": value[-2:] or "x"}),
            (2, lambda: {"contains": part}),
            (2, lambda: {"safe_regex": {"regex": self.one("[a-z]+", ".*", "can.*", "[0-9]{1,2}", "|ann")}}),
        )
        if "safe_regex" not in made and self.chance(0.25):
            made["ignore_case"] = True
        return made

    def _redirect(self, match: Json) -> Json:
        made: Json = {}
        if self.chance(0.4):
            made |= self.one({"https_redirect": True}, {"scheme_redirect": self.one("https", "http")})
        if self.chance(0.4):
            made["host_redirect"] = "elsewhere.test"
        if self.chance(0.3):
            made["port_redirect"] = self.one(8443, 80, 443)
        if self.chance(0.6):
            made |= self.pick(
                (2, lambda: {"path_redirect": self.path() + self.one("", "?fixed=1")}),
                (2, lambda: {"prefix_rewrite": self.path()}),
                (1, lambda: {"regex_rewrite": self._substitution()}),
            )
            if "prefix_rewrite" in made and "safe_regex" in match:
                del made["prefix_rewrite"]
        if self.chance(0.5):
            made["response_code"] = self.random.choice(_REDIRECTS)
        if self.chance(0.3):
            made["strip_query"] = True
        return made or {"https_redirect": True}

    def _direct_response(self) -> Json:
        made: Json = {"status": self.one(200, 204, 404, 418, 503)}
        # Envoy would send a body with 204, which has none (RFC 9110, 15.3.5).
        if self.chance(0.6) and made["status"] != 204:
            made["body"] = {"inline_string": self.one("hello", "a longer text of the proxy's own\n")}
        return made

    def _substitution(self) -> Json:
        pattern, text = self.one(("^/([^/]+)/(.*)$", "/\\2/\\1"), ("[0-9]+", "n"), ("^/a", "/z"), ("e", "\\0\\0"))
        return {"pattern": {"regex": pattern}, "substitution": text}

    def _action(self, match: Json) -> Json:
        made: Json = {**self._choice()}
        if self.chance(0.3):
            if self.chance(0.6) and "safe_regex" not in match:
                made["prefix_rewrite"] = self.path()
            else:
                made["regex_rewrite"] = self._substitution()
        if self.chance(0.2):
            made |= self.one({"host_rewrite_literal": "inside.test"}, {"host_rewrite_header": "x-inside"})
            if self.chance(0.5):
                made["append_x_forwarded_host"] = True
        if self.chance(0.15):
            made["cluster_not_found_response_code"] = self.random.choice(_NOT_FOUND)
        if self.chance(0.25):
            made["retry_policy"] = self._retry_policy()
        if made.get("cluster") in HASHING:
            made["hash_policy"] = self._hash_policy()
        if self.chance(0.15):
            # Shorter than the origin's delay, longer than any answer without one.
            made["timeout"] = self.one("1.5s", "0s", "30s")
        return made

    def _choice(self) -> Json:
        name = self.random.choice(CLUSTERS)
        return self.pick(
            (10, lambda: {"cluster": name}),
            (4, lambda: {"cluster": self.random.choice(HASHING)}),
            (1, lambda: {"cluster": self.one(DOWN, EMPTY)}),
            (1, lambda: {"cluster_header": "x-tag"}),
            (4, lambda: {"weighted_clusters": {"clusters": self._weights(name)}}),
        )

    def _hash_policy(self) -> list[Json]:
        """What is hashed; at the end something that every request has, or chance would choose."""
        made: list[Json] = [
            self.pick(
                (3, lambda: {"header": {"header_name": self.random.choice(HEADERS)}}),
                (2, lambda: {"cookie": {"name": self.one("session", "user")}}),
                (2, lambda: {"query_parameter": {"name": self.random.choice(PARAMETERS)}}),
                (1, lambda: {"header": {"header_name": ":path"}}),
            )
            | ({"terminal": True} if self.chance(0.5) else {})
            for _ in range(self.random.randint(0, 3))
        ]
        return [*made, {"connection_properties": {"source_ip": True}}]

    def _weights(self, certain: str) -> list[Json]:
        shares = [{"name": name, "weight": 100 if name == certain else 0} for name in CLUSTERS]
        self.random.shuffle(shares)
        return [
            share | (self._header_operations() if self.chance(0.4) else {}) | self._of_filters(0.1) for share in shares
        ]

    def _retry_policy(self) -> Json:
        count = self.random.randint(1, 3)
        return {
            "retry_on": ",".join(self.random.sample(_CONDITIONS, count)),
            "num_retries": self.random.randint(0, 3),
            "retriable_status_codes": [418, 404],
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"},
        }

    def _header_operations(self) -> Json:
        made: Json = {}
        if self.chance(0.2):
            made["request_headers_to_add"] = [self._addition(_FORMATS) for _ in range(self.random.randint(1, 3))]
        if self.chance(0.15):
            made["request_headers_to_remove"] = [self.random.choice((*HEADERS, "user-agent"))]
        if self.chance(0.2):
            made["response_headers_to_add"] = [self._addition(_RESPONSE_FORMATS)]
        if self.chance(0.15):
            made["response_headers_to_remove"] = [self.random.choice(("x-origin-tag", "x-user", "x-other"))]
        return made

    def _addition(self, formats: Sequence[str]) -> Json:
        header = {"key": self.random.choice((*HEADERS, "x-added")), "value": self.random.choice(formats)}
        made: Json = {"header": header}
        if self.chance(0.6):
            made["append_action"] = self.random.choice(_APPEND)
        if self.chance(0.1):
            made["keep_empty_value"] = True
        return made

    # --- chance ---------------------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        """True for this share of calls."""
        return self.random.random() < share

    def one(self, *options: Any) -> Any:
        """Any of them."""
        return self.random.choice(options)

    def pick(self, *options: tuple[int, Callable[[], Any]]) -> Any:
        """What one of the functions makes, by weight."""
        weights = [weight for weight, _ in options]
        return self.random.choices([make for _, make in options], weights)[0]()

    def path(self) -> str:
        """A path of one to three segments."""
        return "/" + "/".join(self.random.choice(SEGMENTS) for _ in range(self.random.randint(1, 3)))


def _typed(kind: str, config: Json) -> Json:
    return {"@type": f"type.googleapis.com/envoy.extensions.filters.http.{kind}", **config}
