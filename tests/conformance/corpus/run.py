"""Play vectors through one proxy to every origin, and put together what all of them have to say.

Everything stays up for the whole run: surviving all vectors is part of the test, and an origin that is left in doubt by
one of them shows it with another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.corpus.agreement import LOG_FORMAT, Account, Logged, is_for, read_log
from tests.conformance.corpus.origins import NAMES, Origins, Seen, run_origins
from tests.conformance.corpus.send import Told, play, source
from tests.conformance.corpus.vectors import Vector
from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy, eventually, ours
from tests.tools.ports import free_port

_FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"

#: One canonical path and one authority, and no version of HTTP/1 left out.
HARDENED: Json = {
    "use_remote_address": True,
    "normalize_path": True,
    "merge_slashes": True,
    "path_with_escaped_slashes_action": "REJECT_REQUEST",
    "strip_any_host_port": True,
    "strip_trailing_host_dot": True,
    "http_protocol_options": {"accept_http_10": True},
}


@dataclass(frozen=True)
class Books:
    """An account of each vector at each origin, by both names, and what origins saw that belongs to no vector."""

    accounts: dict[tuple[str, str], Account]
    strays: dict[str, list[Seen]]


def run(vectors: Sequence[Vector], folder: Path) -> Books:
    """Play everything; logs are kept in `folder`."""
    folder.chmod(0o755)  # a server that is started by root writes as somebody else
    ports = {name: free_port() for name in NAMES}
    logs = {name: folder / f"proxy-{name}.log" for name in NAMES}
    with run_origins(folder) as origins:
        config = bootstrap(
            [listener(ports[name], name, logs[name]) for name in NAMES],
            [cluster(name, [origins.ports[name]], http2=name.endswith("-h2")) for name in NAMES],
            free_port(),
        )
        with ours(config) as proxy:
            told = play(vectors, ports, is_for)
            logged = {name: _whole_log(proxy, name, log) for name, log in logs.items()}
        seen = {name: _whole_view(origins, name, logged[name]) for name in NAMES}
    accounts, strays = {}, {}
    for lane, name in enumerate(NAMES):
        own = _accounts(vectors, lane, name, told, logged[name], seen[name])
        accounts.update({(name, id_): account for id_, account in own.items()})
        strays[name] = _strays(vectors, name, own, logged[name], seen[name])
    return Books(accounts, strays)


def listener(port: int, name: str, log: Path) -> Json:
    """A hardened listener to one origin, with a log of its own."""
    hosts = [virtual_host("all", [to_cluster(name)])]
    return http_listener(port, hosts, name=name, access_log=[file_log(log, LOG_FORMAT)], **HARDENED)


def file_log(path: Path, fields: Json) -> Json:
    """An access log of JSON lines."""
    file = {"@type": _FILE_LOG, "path": str(path), "log_format": {"json_format": fields}}
    return {"name": "envoy.access_loggers.file", "typed_config": file}


def _whole_log(proxy: Proxy, name: str, log: Path) -> list[Logged]:
    """The access log, once it has a line for every request that the proxy counts."""
    wanted = proxy.stats().get(f"http.{name}.downstream_rq_total", 0)
    complete = eventually(lambda: log.read_bytes().count(b"\n") == wanted)
    assert complete, f"{name}: {wanted} requests, {log.read_bytes().count(bytes([10]))} lines in the log"
    return read_log(log.read_text())


def _whole_view(origins: Origins, name: str, logged: Sequence[Logged]) -> list[Seen]:
    """What the origin saw, once it has told of every request that it has answered; what it refuses it may not name."""
    ids = {line.id for line in logged if line.sent_on and line.status == 200}
    complete = eventually(lambda: ids <= {one.id for one in origins.seen(name)})
    assert complete, f"{name} answered what it does not know of: {ids - {one.id for one in origins.seen(name)}}"
    return origins.seen(name)


def _accounts(
    vectors: Sequence[Vector],
    lane: int,
    name: str,
    told: dict[tuple[str, str], Told],
    logged: Sequence[Logged],
    seen: Sequence[Seen],
) -> dict[str, Account]:
    lines, requests, by_id = defaultdict(list), defaultdict(list), {}
    for line in logged:
        lines[line.source].append(line)
        if line.sent_on:
            by_id[line.id] = line.source
    for one in seen:
        requests[by_id.get(one.id)].append(one)
    return {
        vector.id: Account(told[name, vector.id], lines[source(lane, number)], requests[source(lane, number)])
        for number, vector in enumerate(vectors)
        if is_for(vector, name)
    }


def _strays(
    vectors: Sequence[Vector], name: str, accounts: dict[str, Account], logged: Sequence[Logged], seen: Sequence[Seen]
) -> list[Seen]:
    """Requests that the proxy does not know of.

    What an origin could not read has no id. It is accounted for if it came over a connection that carried a vector
    which this origin is known to refuse.
    """
    known = {line.id for line in logged if line.sent_on}
    refused_on = {
        line.upstream
        for vector in vectors
        if name in vector.origins and vector.id in accounts
        for line in accounts[vector.id].logged
    }
    return [
        one
        for one in seen
        if one.id not in known and not (one.refused and not one.id.strip("-") and one.peer in refused_on)
    ]
