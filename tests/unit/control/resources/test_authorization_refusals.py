"""Wrong AuthorizationPolicies: the exact text, with place and remedy."""

from __future__ import annotations

import pytest

from tests.tools.told import told_of_one


def document(spec: str) -> str:
    return (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\n"
        f"spec: {{{spec}}}\n"
    )


def source(text: str) -> str:
    return document(f"rules: [{{from: [{{source: {{{text}}}}}]}}]")


def operation(text: str) -> str:
    return document(f"rules: [{{to: [{{operation: {{{text}}}}}]}}]")


def when(text: str) -> str:
    return document(f"rules: [{{when: [{{{text}}}]}}]")


PATTERN = "  hint: write a whole text, 'text*', '*text', or '*'"

CLAIM = "  hint: write it as in request.auth.claims[groups] or request.auth.claims[user][name]"
EARLY = (
    "  hint: an authorizer is asked before tokens are checked: let it look at the token, or say this with DENY or ALLOW"
)

CASES = {
    "an action that there is not": (
        document("action: PERMIT"),
        "f:4:16: error: action: 'PERMIT' is not supported\n  hint: known: ALLOW, AUDIT, CUSTOM, DENY",
    ),
    "an authorizer that is not asked": (
        document("action: ALLOW, provider: {name: opa}"),
        "f:4:33: error: spec: action ALLOW asks no provider\n  hint: use action: CUSTOM",
    ),
    "nobody to ask": (
        document("action: CUSTOM, rules: [{}]"),
        "f:4:7: error: spec: action CUSTOM needs a 'provider'\n"
        "  hint: provider: {name: NAME}, of an extension provider of the mesh's configuration",
    ),
    "asking about nothing": (
        document("action: CUSTOM, provider: {name: opa}"),
        "f:4:7: error: spec: a policy with action CUSTOM and without rules does nothing\n"
        "  hint: for everything: rules: [{}]",
    ),
    "asking about a token's owner": (
        document("action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]"),
        f"f:4:90: error: spec: action CUSTOM knows no 'requestPrincipals'\n{EARLY}",
    ),
    "asking about a claim": (
        document(
            "action: CUSTOM, provider: {name: a}, rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]"
        ),
        f"f:4:67: error: spec: action CUSTOM knows no 'request.auth.claims[a]'\n{EARLY}",
    ),
    "asking only to count": (
        document("action: CUSTOM, provider: {name: a}, rules: [{}]").replace(
            "namespace: shop", "namespace: shop, annotations: {istio.io/dry-run: 'true'}"
        ),
        "f:3:51: error: AuthorizationPolicy: istio.io/dry-run: an external authorizer cannot be asked only to count\n"
        "  hint: whoever is asked can let everything through; remove the annotation",
    ),
    "the older way to name a target": (
        document("targetRef: {kind: Service, name: a}"),
        "f:4:8: error: spec: 'targetRef' is not supported yet\n  hint: write it as an entry of 'targetRefs'",
    ),
    "denying nothing": (
        document("action: DENY"),
        "f:4:7: error: spec: a policy with action DENY and without rules does nothing\n"
        "  hint: for everything: rules: [{}]",
    ),
    "two ways to select": (
        document("selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]"),
        "f:4:53: error: spec: 'selector' and 'targetRefs' exclude each other\n  hint: keep one of them",
    ),
    "a gateway of no group": (
        document("targetRefs: [{kind: Gateway, name: a}]"),
        "f:4:21: error: targetRefs[0]: a Gateway is not in group ''\n  hint: group: \"gateway.networking.k8s.io\"",
    ),
    "a source of nobody": (
        source(""),
        "f:4:33: error: source: a source that says nothing\n  hint: remove it, or name who is meant",
    ),
    "an empty list of sources": (
        document("rules: [{from: []}]"),
        "f:4:23: error: rules[0]: 'from' is empty: nothing would ever match\n  hint: remove it",
    ),
    "a token's owner without an issuer": (
        source("requestPrincipals: [alice]"),
        "f:4:53: error: source: 'alice' is not ISSUER/SUBJECT\n"
        "  hint: write it as in https://issuer.example/alice, ISSUER/* or '*'",
    ),
    "a token's owner with a star in the middle": (
        source("notRequestPrincipals: ['https://*.example/alice']"),
        f"f:4:56: error: source: 'https://*.example/alice' is no pattern\n{PATTERN}",
    ),
    "a pattern with a star in the middle": (
        source("principals: ['a*b']"),
        f"f:4:46: error: source: 'a*b' is no pattern\n{PATTERN}",
    ),
    "a service account with a wildcard": (
        source("serviceAccounts: ['shop/*']"),
        "f:4:51: error: source: 'shop/*' is no service account\n"
        "  hint: SERVICEACCOUNT, or NAMESPACE/SERVICEACCOUNT; there are no wildcards",
    ),
    "an address that is none": (
        source("ipBlocks: [10.0.0.0/33]"),
        "f:4:44: error: source: '10.0.0.0/33' is no address and no network\n"
        "  hint: write it as in 10.0.0.0/8 or 10.1.2.3",
    ),
    "a port as a number": (
        operation("ports: [8080]"),
        "f:4:43: error: ports[0]: expected a string, found an integer (8080)\n  hint: quote it",
    ),
    "a port that is none": (
        operation("ports: ['http']"),
        "f:4:42: error: operation: 'http' is not a port\n  hint: write its number as text, as in \"8080\"",
    ),
    "a path with a query": (
        operation("paths: ['/a?b=c']"),
        "f:4:42: error: operation: '/a?b=c' is compared to the path without its query\n  hint: leave out '?' and '#'",
    ),
    "a template that goes on": (
        operation("paths: ['/a/{**}/b']"),
        "f:4:42: error: operation: '/a/{**}/b': '{**}' stands for the rest of the path\n  hint: put it at the end",
    ),
    "a template with a star": (
        operation("paths: ['/a/{*}/*']"),
        "f:4:42: error: operation: '/a/{*}/*' is no path template\n  hint: as in /users/{*}/items or /files/{**}",
    ),
    "a condition of nothing": (
        when("key: source.ip"),
        "f:4:24: error: when[0]: a condition needs 'values' or 'notValues'",
    ),
    "a condition that there is not": (
        when("key: source.color, values: [red]"),
        "f:4:30: error: when[0]: 'source.color' is no condition\n"
        "  hint: known: source.ip, remote.ip, source.namespace, source.principal, source.serviceAccount,"
        " destination.ip, destination.port, connection.sni, request.headers[NAME], request.auth.principal,"
        " request.auth.audiences, request.auth.presenter, request.auth.claims[NAME]",
    ),
    "a header without a name": (
        when("key: request.headers, values: [a]"),
        "f:4:30: error: when[0]: 'request.headers' names no header\n  hint: write it as in request.headers[x-user]",
    ),
    "a claim without a name": (
        when("key: request.auth.claims, values: [a]"),
        f"f:4:30: error: when[0]: 'request.auth.claims' names no claim\n{CLAIM}",
    ),
    "a claim that is not closed": (
        when("key: 'request.auth.claims[a][b', values: [a]"),
        f"f:4:30: error: when[0]: 'request.auth.claims[a][b' names no claim\n{CLAIM}",
    ),
    "a claim's value that is no pattern": (
        when("key: 'request.auth.claims[a]', values: ['a*b']"),
        f"f:4:64: error: when[0]: 'a*b' is no pattern\n{PATTERN}",
    ),
    "a condition on a token's owner without an issuer": (
        when("key: request.auth.principal, values: [alice]"),
        "f:4:62: error: when[0]: 'alice' is not ISSUER/SUBJECT\n"
        "  hint: write it as in https://issuer.example/alice, ISSUER/* or '*'",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_with_its_place_and_remedy(name: str) -> None:
    text, message = CASES[name]
    assert message in told_of_one(text, document("rules: [{}]").replace("name: a", "name: good"))
