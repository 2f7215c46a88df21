"""Wrong RequestAuthentications: the exact text, with place and remedy."""

from __future__ import annotations

import json

import pytest

from tests.tools.told import told_of_one

KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}
JWKS = json.dumps({"keys": [KEY]})


def document(spec: str) -> str:
    return (
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a, namespace: shop}\n"
        f"spec: {{{spec}}}\n"
    )


def rule(text: str) -> str:
    return document(f"jwtRules: [{{issuer: a, {text}}}]")


def uri(text: str) -> str:
    return rule(f"jwksUri: '{text}'")


def keys(text: str) -> str:
    return rule(f"jwks: '{text}'")


def good(text: str) -> str:
    return rule(f"jwksUri: 'https://a.example/keys', {text}")


URI = "  hint: write it as in https://issuer.example/keys.json"
SHAPE = '  hint: write it as in {"keys": [{"kty": "EC", "crv": "P-256", "x": "...", "y": "..."}]}'
USABLE = "  hint: known: RSA of 2048 to 8192 bits, EC on P-256, P-384 or P-521, OKP with Ed25519"

CASES = {
    "no rules": (
        document("selector: {matchLabels: {app: a}}"),
        "f:4:7: error: spec: without 'jwtRules' no token is looked at\n  hint: name an issuer and its keys",
    ),
    "two ways to select": (
        document("selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}], jwtRules: []"),
        "f:4:53: error: spec: 'selector' and 'targetRefs' exclude each other\n  hint: keep one of them",
    ),
    "the older way to name a target": (
        document("targetRef: {kind: Service, name: a}, jwtRules: []"),
        "f:4:8: error: spec: 'targetRef' is not supported yet\n  hint: write it as an entry of 'targetRefs'",
    ),
    "no issuer": (
        document("jwtRules: [{jwksUri: 'https://a.example'}]"),
        "f:4:19: error: jwtRules[0]: 'issuer' is missing",
    ),
    "an issuer without a name": (
        document("jwtRules: [{issuer: '', jwksUri: 'https://a.example'}]"),
        "f:4:28: error: jwtRules[0]: 'issuer' is empty\n  hint: write what tokens have in their claim 'iss'",
    ),
    "a field that there is not": (
        good("audience: [a]"),
        "f:4:66: error: jwtRules[0]: unknown field 'audience'\n  hint: did you mean 'audiences'?",
    ),
    "no keys": (
        document("jwtRules: [{issuer: a}]"),
        "f:4:19: error: jwtRules[0]: one of 'jwksUri', 'jwks' is needed\n"
        "  hint: keys are not looked for at the issuer: its /.well-known/openid-configuration says its 'jwks_uri'",
    ),
    "two kinds of keys": (
        good(f"jwks: '{JWKS}'"),
        "f:4:72: error: jwtRules[0]: 'jwksUri' and 'jwks' exclude each other\n  hint: keep one of them",
    ),
    "keys over another protocol": (
        uri("ftp://a.example/keys"),
        f"f:4:40: error: jwtRules[0]: 'ftp://a.example/keys' is no place to fetch from\n{URI}",
    ),
    "keys at an address": (
        uri("https://10.0.0.1/keys"),
        f"f:4:40: error: jwtRules[0]: 'https://10.0.0.1/keys' is no place to fetch from\n{URI}",
    ),
    "keys at no port": (
        uri("https://a.example:70000/keys"),
        f"f:4:40: error: jwtRules[0]: 'https://a.example:70000/keys' is not a URI\n{URI}",
    ),
    "keys behind a password": (
        uri("https://me:secret@a.example/keys"),
        "f:4:40: error: jwtRules[0]: a URI of keys has a host, a path and a query, and nothing else\n" + URI,
    ),
    "keys that are no JSON": (
        keys("{"),
        "f:4:37: error: jwtRules[0]: the keys are not JSON: Expecting property name enclosed in double quotes:"
        f" line 1 column 2 (char 1)\n{SHAPE}",
    ),
    "keys that are no set": (
        keys(json.dumps([KEY])),
        f"f:4:37: error: jwtRules[0]: there are no keys\n{SHAPE}",
    ),
    "a set without keys": (
        keys('{"keys": []}'),
        f"f:4:37: error: jwtRules[0]: there are no keys\n{SHAPE}",
    ),
    "a key of no kind": (
        keys('{"keys": [{"kid": "1"}]}'),
        "f:4:37: error: jwtRules[0]: keys[0] is of kind None\n  hint: known: RSA, EC, OKP",
    ),
    "a shared secret": (
        keys(json.dumps({"keys": [KEY, {"kty": "oct", "k": "AAAA"}]})),
        "f:4:37: error: jwtRules[0]: keys[1] is a shared secret\n"
        "  hint: who can check with it can sign with it; use RSA, EC or OKP",
    ),
    "a private key": (
        keys(json.dumps({"keys": [{**KEY, "d": "AAAA"}]})),
        "f:4:37: error: jwtRules[0]: keys[0] is a private key: it has 'd'\n  hint: publish the public part only",
    ),
    "a key that is no point of its curve": (
        keys(json.dumps({"keys": [{**KEY, "y": "4Et"}]})),
        f"f:4:37: error: jwtRules[0]: no proxy can use any of the keys\n{USABLE}",
    ),
    "keys of strange forms": (
        keys('{"keys": [{"kty": "RSA", "n": [], "e": "AQAB"}, {"kty": "OKP", "crv": {}, "x": 1}, {"kty": "EC"}]}'),
        f"f:4:37: error: jwtRules[0]: no proxy can use any of the keys\n{USABLE}",
    ),
    "a short key": (
        keys(json.dumps({"keys": [{"kty": "RSA", "n": "wA" * 85, "e": "AQAB"}]})),
        f"f:4:37: error: jwtRules[0]: no proxy can use any of the keys\n{USABLE}",
    ),
    "a member twice": (
        keys('{"keys": [{"kty": "EC", "kty": "RSA"}]}'),
        f"f:4:37: error: jwtRules[0]: the keys are not JSON: 'kty' is here twice\n{SHAPE}",
    ),
    "keys nested without end": (
        keys("[" * 100_000),
        f"f:4:37: error: jwtRules[0]: the keys are nested too deeply\n{SHAPE}",
    ),
    "a header that is none": (
        good("fromHeaders: [{name: 'x y'}]"),
        "f:4:87: error: fromHeaders[0]: 'x y' is not a header name",
    ),
    "a header of a connection": (
        good("outputPayloadToHeader: Connection"),
        "f:4:89: error: jwtRules[0]: 'Connection' says where the request goes and ends\n"
        "  hint: take a name of its own, as x-jwt-sub",
    ),
    "a claim that says where to go": (
        good("outputClaimToHeaders: [{header: host, claim: sub}]"),
        "f:4:98: error: outputClaimToHeaders[0]: 'host' says where the request goes and ends\n"
        "  hint: take a name of its own, as x-jwt-sub",
    ),
    "a claim of no name": (
        good("outputClaimToHeaders: [{header: x-a, claim: a..b}]"),
        "f:4:110: error: outputClaimToHeaders[0]: 'a..b' names no claim\n  hint: as in email or user.email",
    ),
    "a parameter of no name": (
        good("fromParams: ['']"),
        "f:4:78: error: jwtRules[0]: a parameter has a name",
    ),
    "a cookie that is none": (
        good("fromCookies: ['a=b']"),
        "f:4:79: error: jwtRules[0]: 'a=b' is not the name of a cookie",
    ),
    "a list of no claim": (
        good("spaceDelimitedClaims: ['']"),
        "f:4:88: error: jwtRules[0]: a claim has a name",
    ),
    "no time": (
        good("timeout: 0s"),
        "f:4:75: error: jwtRules[0]: 'timeout' leaves no time\n  hint: give it a millisecond at least, or remove it",
    ),
    "time for what is here": (
        rule(f"jwks: '{JWKS}', timeout: 3s"),
        "f:4:195: error: jwtRules[0]: 'timeout' is about fetching keys, which are here\n  hint: remove it",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_told_with_its_place_and_remedy(name: str) -> None:
    text, message = CASES[name]
    assert message in told_of_one(text, good("audiences: [a]").replace("name: a", "name: good"))
