"""What has to be the same, and what may differ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

#: Values that no two proxies share; that they are there is compared.
_VOLATILE = ("date", "x-request-id", "x-envoy-upstream-service-time", "x-envoy-expected-rq-timeout-ms")


def settled(answer: dict[str, Any], log: str) -> dict[str, Any]:
    """An answer, and what the access log says of it, in the form in which two are compared."""
    # Envoy's details go on with what the system said of the connection.
    status, details, *others, received = re.sub(r"\|[^}]*}", "}", log).split()
    if details != "via_upstream":
        received = "*"  # as much of the request as came before the answer
    settled: dict[str, Any] = {"log": " ".join((status, details, *others, received))}
    if "aborted" in answer:
        return {**answer, **settled}
    body, headers = answer["body"], answer["headers"]
    if details != "via_upstream":
        # Whether an answer of the proxy's own comes before the end of the request, which `connection` tells, is a
        # matter of luck; and to HEAD Envoy announces chunks that never come.
        headers = [field for field in headers if field[0] not in ("connection", "transfer-encoding")]
    reported = isinstance(body, dict)
    settled |= {"status": answer["status"], "headers": sorted(_settled(headers, reported=reported or body == ""))}
    if not reported:
        return {**settled, "body": body}
    pairs = [tuple(line.partition(": ")[::2]) for line in body.pop("headers")]
    return {**settled, **body, "sent": sorted(_settled(pairs, reported=False))}


def _settled(fields: Iterable[tuple[str, str]], *, reported: bool) -> Iterable[tuple[str, str]]:
    for name, value in fields:
        if name in _VOLATILE or (name == "content-length" and reported):
            # An origin's report is as long as what it tells of.
            yield name, "*"
        elif name == "x-forwarded-for":
            # For a client on loopback Envoy appends an address of its own machine; ours says where it came from.
            yield name, value.rpartition(",")[0]
        else:
            yield name, value


def without_closest(logged: str) -> str:
    """Ours of a request that no policy has allowed goes on with the policy that came closest; Envoy's ends there."""
    return re.sub(r"(rbac_access_denied_matched_policy\[none\])\{\S+\}", r"\1", logged)


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """For people: what differs, one line each."""
    lines = []
    for name in sorted({*ours, *theirs}):
        mine, other = ours.get(name), theirs.get(name)
        if mine == other:
            continue
        if isinstance(mine, list) and isinstance(other, list):
            lines += [f"  {name}: only ours   {entry}" for entry in mine if entry not in other]
            lines += [f"  {name}: only Envoy's {entry}" for entry in other if entry not in mine]
            continue
        lines.append(f"  {name}: ours {mine!r}, Envoy's {other!r}")
    return "\n".join(lines)
