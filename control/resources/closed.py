"""What takes the place of a resource that decides who gets in, or who may listen, and cannot be read: it closes what
that was for.

It says nothing that it would not have to: so nothing is wrong with it, and it refers to nothing that could be missing.

=====================  ================================================================================================
AuthorizationPolicy    allows nothing
PeerAuthentication     STRICT
RequestAuthentication  no token is good where it would have looked for one, as with Istio, which puts a key that nobody
                       has in place of one that cannot be read. Who brings none is asked for one by an
                       AuthorizationPolicy, or by nobody: so it was, too
PythonFilter           each request that it would see fails, unless it is `failurePolicy: OPEN`
DestinationRule        one that asks for TLS asks for that and for nothing else; if what it says of TLS is what cannot
                       be read, nobody is who is asked for. Left out, its clients would speak in plain text
Sidecar                one that says what its workloads reach lets them reach what can be read of that, and nothing if
                       nothing can; what becomes of the rest is REGISTRY_ONLY, unless that can be read. It is for the
                       workloads that it selects, and for nobody if these cannot be read
=====================  ================================================================================================
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import Object, load_object

Spec = dict[str, Any]

#: Fails each request, which is answered as any failure of a filter that is `CLOSED`.
_REFUSING: Final = """\
from pymesh.filters import Context, HttpFilter, Request


class Refusing(HttpFilter):
    def on_request_headers(self, request: Request, ctx: Context) -> None:
        raise RuntimeError("this PythonFilter cannot be used; its status says why")
"""
#: Of a filter: which requests it sees, and when.
_PLACE: Final = ("phase", "priority", "match")
#: Of a rule about tokens: where they stand.
_TOKENS: Final = ("fromHeaders", "fromParams", "fromCookies")
#: What says for whom a resource is.
_SELECTING: Final = ("selector", "targetRefs", "workloadSelector")
#: Of a Sidecar: it reaches no service.
_NOTHING: Final = [{"hosts": ["~/*"]}]
#: A name that no certificate is for.
_NO_ONE: Final = "cannot-be-used.invalid"
#: A public key that is the hash of a sentence: it has a private key, which nobody knows.
_X: Final = base64.urlsafe_b64encode(hashlib.sha256(b"no one signs with this key").digest()).decode().rstrip("=")
_NOBODY: Final[Mapping[str, str]] = {
    "issuer": f"https://{_NO_ONE}",
    "jwks": json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": _X}]}),
}


def closed(one: Object) -> Resource | None:
    """What stands in for an object; None: it is nothing that closes."""
    spec = one.get("spec")
    written: Mapping[str, Any] = spec if isinstance(spec, Mapping) else {}
    annotations = (one.get("metadata") or {}).get("annotations") or {}
    ways = list(_WAYS[one["kind"]](written, annotations)) if one.get("kind") in _WAYS else []
    # Whom it selects, if that is not what is wrong; else everybody in its namespace.
    chosen: list[Spec] = [{name: written[name]} for name in _SELECTING if written.get(name) is not None]
    if written.get("targetRef") is not None:
        chosen.append({"targetRefs": [written["targetRef"]]})  # Istio's older name for one
    everybody: Spec = {"selector": {"matchLabels": {}}} if one.get("kind") == "PythonFilter" else {}
    if one.get("kind") != "Sidecar" or not chosen:
        chosen.append(everybody)
    for selecting in chosen:
        for closing in ways:
            made = load_object({**one, "spec": {**closing, **selecting}}, Report())
            if made is not None:
                return made
    return None


def _policy(written: Mapping[str, Any], annotations: Mapping[str, Any]) -> Iterator[Spec]:
    if written.get("action") != "AUDIT" and annotations.get("istio.io/dry-run") != "true":
        yield {}  # no rules: it allows nothing


def _mutual_tls(_: Mapping[str, Any], __: Mapping[str, Any]) -> Iterator[Spec]:
    yield {"mtls": {"mode": "STRICT"}}


def _tokens(written: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Spec]:
    rules = written.get("jwtRules")
    if not rules:
        return  # no token was to be looked at
    places = [
        {name: rule[name] for name in _TOKENS if name in rule} if isinstance(rule, Mapping) else {}
        for rule in (rules if isinstance(rules, list) else ())
    ]
    yield {"jwtRules": [{**_NOBODY, **one} for one in places]}
    yield {"jwtRules": [dict(_NOBODY)]}


def _filter(written: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Spec]:
    if written.get("failurePolicy") != "OPEN":
        refusing = {"class": "refusing:Refusing", "source": _REFUSING}
        yield {**refusing, **{name: written[name] for name in _PLACE if name in written}}
        yield refusing


def _client_tls(written: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Spec]:
    subsets = [one for one in _listed(written.get("subsets")) if isinstance(one, Mapping)]
    policies = [one for one in (written, *subsets) if isinstance(one.get("trafficPolicy"), Mapping)]
    if not any(_asks_for_tls(one["trafficPolicy"]) for one in policies):
        return
    kept = {name: written[name] for name in ("host", "exportTo") if name in written}
    named = [{name: one[name] for name in ("name", "labels") if name in one} | _tls_alone(one) for one in subsets]
    yield {**kept, **_tls_alone(written), **({"subsets": named} if named else {})}
    yield {"host": written.get("host"), "trafficPolicy": {"tls": {"mode": "SIMPLE", "subjectAltNames": [_NO_ONE]}}}


def _asks_for_tls(policy: Mapping[str, Any]) -> bool:
    """Whether a policy, or one of its ports', has TLS in it that is not turned off."""
    found = [one.get("tls") for one in (policy, *_listed(policy.get("portLevelSettings"))) if isinstance(one, Mapping)]
    return any(tls is not None and not (isinstance(tls, Mapping) and tls.get("mode") == "DISABLE") for tls in found)


def _tls_alone(owner: Mapping[str, Any]) -> Spec:
    """What a rule, or a subset of it, says of TLS. Ports stay without it, too: each stands for the whole policy."""
    policy = owner.get("trafficPolicy")
    if not isinstance(policy, Mapping):
        return {}
    ports = [one for one in _listed(policy.get("portLevelSettings")) if isinstance(one, Mapping)]
    ported = [{name: one[name] for name in ("port", "tls") if name in one} for one in ports]
    own = {"tls": policy["tls"]} if "tls" in policy else {}
    return {"trafficPolicy": {**own, **({"portLevelSettings": ported} if ported else {})}}


def _reached(written: Mapping[str, Any], _: Mapping[str, Any]) -> Iterator[Spec]:
    kept: Spec = {}
    if written.get("outboundTrafficPolicy") is not None:
        policy = {"outboundTrafficPolicy": written["outboundTrafficPolicy"]}
        kept = policy if _is_sidecar(policy) else {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}
    narrows = written.get("egress") not in (None, [])
    if not narrows and not kept:
        return
    if "ingress" in written and _is_sidecar({"ingress": written["ingress"]}):
        kept["ingress"] = written["ingress"]
    if not narrows:
        yield kept
        return
    yield {**kept, "egress": [one for one in _listed(written["egress"]) if _is_sidecar({"egress": [one]})] or _NOTHING}
    yield {**kept, "egress": _NOTHING}


def _is_sidecar(spec: Spec) -> bool:
    head = {"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "x", "namespace": "x"}}
    return load_object({**head, "spec": spec}, Report()) is not None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


#: Kind -> what closes, the most exact first, from the spec as it is written and the annotations.
_WAYS: Final = {
    "AuthorizationPolicy": _policy,
    "DestinationRule": _client_tls,
    "PeerAuthentication": _mutual_tls,
    "RequestAuthentication": _tokens,
    "PythonFilter": _filter,
    "Sidecar": _reached,
}
