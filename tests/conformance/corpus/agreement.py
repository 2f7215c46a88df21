"""Do the client, the proxy and the origin tell the same story?

For one vector at one origin there are four accounts: what the vector expects, what the client was told, what the proxy
has logged, and what the origin saw. `disagreements` compares them pairwise and says every difference in words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.conformance.corpus.origins import Seen
from tests.conformance.corpus.send import MARKER, Told
from tests.conformance.corpus.vectors import Canonical, Vector

#: What the proxy adds to every request, and what framing adds.
_OURS = {
    "x-request-id", "x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address",
    "x-envoy-expected-rq-timeout-ms", "host", "content-length", "transfer-encoding",
}  # fmt: skip
#: Servers that tell their applications of fields as environment variables (RFC 3875): names and repeats are folded.
_CGI = {"nginx", "nginx-h2", "apache"}
#: HTTP/2 servers that forget trailers which the head has not announced.
_FORGETFUL = {"go-h2"}
#: Servers that take trailers of a request for an error of the whole connection.
_NO_TRAILERS = {"nginx-h2"}
#: What servers keep from applications.
_KEPT_BACK = {"apache": {"authorization", "proxy-authorization"}}

LOG_FORMAT = {
    "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "id": "%REQ(X-REQUEST-ID)%",
    "status": "%RESPONSE_CODE%",
    "detail": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "received": "%BYTES_RECEIVED%",
    "upstream": "%UPSTREAM_LOCAL_ADDRESS%",
}


@dataclass(frozen=True)
class Logged:
    """One line of the proxy's access log; `upstream` is our port of the connection that carried the request."""

    source: str
    method: str
    path: str
    authority: str
    id: str
    status: int
    detail: str
    flags: str
    received: int
    upstream: int

    @property
    def sent_on(self) -> bool:
        """Whether any of it went to the origin."""
        return self.upstream != 0


@dataclass
class Account:
    """Everything that is known of one vector at one origin."""

    told: Told
    logged: list[Logged] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)


def read_log(text: str) -> list[Logged]:
    """The proxy's access log."""
    found = []
    for line in text.split("\n")[:-1]:
        entry = json.loads(line)
        found.append(
            Logged(
                source=entry["source"].rpartition(":")[0],
                method=entry["method"] or "",
                path=entry["path"] or "",
                authority=entry["authority"] or "",
                id=entry["id"] or "",
                status=entry["status"],
                detail=entry["detail"] or "",
                flags=entry["flags"],
                received=entry["received"],
                upstream=int((entry["upstream"] or ":0").rpartition(":")[2]),
            )
        )
    return found


def is_for(vector: Vector, origin: str) -> bool:
    """Whether the vector is played at this origin."""
    return not (origin in _NO_TRAILERS and any(request.trailers for request in vector.forwarded))


def disagreements(vector: Vector, origin: str, account: Account) -> list[str]:
    """Every difference between the four accounts."""
    refuses = origin in vector.origins
    return [
        *_log_and_origin(origin, account, refuses),
        *_expected_and_log(vector, account, refuses),
        *_expected_and_told(vector, account, refuses),
        *([] if refuses else _expected_and_seen(vector, origin, account)),
    ]


def _log_and_origin(origin: str, account: Account, refuses: bool) -> list[str]:
    """What was sent on is what was seen: as often, and the same."""
    said = []
    seen = {one.id: one for one in account.seen}
    if len(seen) != len(account.seen):
        said.append(f"the origin saw a request twice: {account.seen}")
    for line in account.logged:
        one = seen.pop(line.id, None) if line.sent_on else None
        if line.sent_on and one is None and line.detail == "via_upstream" and not refuses:
            said.append(f"sent on, never seen: {line}")
        if one is None:
            continue
        # Half a request it may refuse: the rest never came.
        if one.refused and not refuses and line.detail == "via_upstream":
            said.append(f"the origin refuses with {one.refused}: {line}")
        if one.refused:
            continue
        if (one.method, one.target, one.authority) != (line.method, line.path, line.authority):
            said.append(f"logged as {line}, seen as {one}")
        if one.complete != (line.detail == "via_upstream"):
            said.append(f"complete at one side only: {line}, {one}")
        if one.complete and one.length != line.received:
            said.append(f"a body of {line.received}, seen as {one.length}: {one}")
        if one.peer != line.upstream:
            said.append(f"sent over port {line.upstream}, seen on {one.peer}")
    said += [f"seen, never sent on: {one}" for one in seen.values()]
    return said


def _expected_and_log(vector: Vector, account: Account, refuses: bool) -> list[str]:
    """The log has a line for every request of the vector, then one for the marked one unless the vector closes."""
    marked = len([line for line in account.logged if line.path == MARKER])
    left = vector.outcome == "forwarded" and not vector.eof  # a client that resets a stream is not asked about it
    lines = [line for line in account.logged if line.path != MARKER and (line.status or not left)]
    said = []
    if marked != (0 if vector.closes or vector.eof else 1):
        said.append(f"the marked request is logged {marked} times")
    if vector.outcome == "forwarded":
        got = [(line.method, line.path, line.authority, line.received, line.detail) for line in lines]
        wanted = [(c.method, c.target, c.host, len(c.body), "via_upstream") for c in vector.forwarded]
        if vector.status:
            wanted.append(("GET", "", "", 0, vector.detail))
        if got != wanted and not refuses:
            said.append(f"logged {lines}")
    elif vector.outcome == "dropped":
        if [(line.status, line.detail) for line in lines] != [(0, "downstream_remote_disconnect")]:
            said.append(f"logged {lines}")
    elif vector.outcome in ("refused", "answered", "broken"):
        if [(line.status, line.detail) for line in lines] != [(vector.status, vector.detail)]:
            said.append(f"logged {lines}")
        if vector.outcome != "broken" and any(line.sent_on for line in lines):
            said.append(f"sent on: {lines}")
    return said


def _expected_and_told(vector: Vector, account: Account, refuses: bool) -> list[str]:
    told = account.told
    statuses = [200] * len(vector.forwarded) + ([vector.status] if vector.status else [])
    behind = [] if vector.closes or vector.eof else [200]
    said = []
    got = [200 if refuses and at < len(statuses) else status for at, status in enumerate(told.statuses)]
    if got != [*statuses, *behind]:
        said.append(f"the client was told {told}")
    elif behind and told.origin_said(-1)["target"] != MARKER:
        said.append(f"the marked request got another one's answer: {told}")
    if told.end not in ("closed", "open"):
        said.append(f"the connection: {told.end}")
    # RFC 9113, section 8.1: whoever has answered may ask the client to stop.
    resets = [vector.detail] if vector.outcome == "reset" else ["", "NO_ERROR"]
    if told.reset not in resets and not vector.closes:
        said.append(f"the stream was reset with {told.reset or 'nothing'}")
    wanted = vector.detail if vector.outcome == "goaway" else ""
    if wanted and told.goaway != wanted:
        said.append(f"the connection was ended with {told.goaway or 'nothing'}")
    return said


def _expected_and_seen(vector: Vector, origin: str, account: Account) -> list[str]:
    """The requests that were seen whole are those that the vector expects, in its order, then the marked one."""
    by_id = {one.id: one for one in account.seen}
    seen = [by_id[line.id] for line in account.logged if line.id in by_id and line.path != MARKER]
    whole = [one for one in seen if one.complete]
    if len(whole) != len(vector.forwarded):
        return [f"the origin saw {len(whole)} requests: {whole}"]
    return [
        difference
        for one, wanted in zip(whole, vector.forwarded, strict=True)
        for difference in _same(one, wanted, origin)
    ]


def _same(one: Seen, wanted: Canonical, origin: str) -> list[str]:
    said = []
    if (one.method, one.target, one.authority) != (wanted.method, wanted.target, wanted.host):
        said.append(f"expected {wanted}, seen as {one}")
    if one.sha256 != hashlib.sha256(wanted.body).hexdigest():
        said.append(f"another body than {wanted.body!r}: {one}")
    fields = {name: values for name, values in one.fields.items() if name not in _OURS}
    trailers = one.trailers
    if origin in _CGI:
        hidden = _KEPT_BACK.get(origin, set())
        fields = {name: values for name, values in fields.items() if name.replace("-", "").isalnum()}
        expected = _folded([pair for pair in wanted.fields if pair[0] not in hidden], origin != "apache")
        trailers = {}
    else:
        expected = _listed(wanted.fields)
        if trailers != _listed(wanted.trailers) and origin not in _FORGETFUL:
            said.append(f"expected trailers {wanted.trailers}, seen {trailers}")
    if fields != expected:
        said.append(f"expected fields {expected}, seen {fields}")
    return said


def _listed(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name.lower(), []).append(value)
    return grouped


def _folded(pairs: Sequence[tuple[str, str]], last: bool) -> dict[str, list[str]]:
    """As RFC 3875, section 4.1.18 has it; names that are more than letters, digits and dashes are left out.

    Of several fields with a name nginx tells the last, others join them.
    """
    plain = [(name, value) for name, value in pairs if name.replace("-", "").isalnum()]
    return {name: values[-1:] if last else [", ".join(values)] for name, values in _listed(plain).items()}
