"""Secrets that gateways and DestinationRules name: what is wrong with them is told, and the mesh keeps what it had."""

import json
from pathlib import Path

import pytest

from pymesh.control.resources.diagnostics import ConfigError, Report
from pymesh.control.resources.load import load_text
from pymesh.control.sources.mesh import FileMesh
from pymesh.control.store.store import build
from tests.tools.certificates import Authority

GATEWAY = (
    "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n"
    "spec: {servers: [{port: {number: 443, protocol: HTTPS}, hosts: [a.example], "
    "tls: {mode: MODE, credentialName: c}}]}\n"
)
RULE = (
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, namespace: shop}\n"
    "spec: {hosts: [a.example], resolution: DNS, ports: [{number: 80, protocol: HTTP}]}\n---\n"
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a, namespace: shop}\n"
    "spec: {host: a.example, trafficPolicy: {tls: {mode: MODE, credentialName: c}}}\n"
)


def secret(name: str, **entries: str) -> str:
    lines = "".join(f"  {key.replace('_', '.')}: {json.dumps(value)}\n" for key, value in entries.items())
    return f"---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\nstringData:\n{lines}"


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    authority = Authority(tmp_path_factory.mktemp("pki"))
    one, other = authority.issue("one"), authority.issue("other")
    return {
        "CA": authority.root.read_text(),
        "CHAIN": one.chain.read_text(),
        "KEY": one.key.read_text(),
        "OTHER": other.key.read_text(),
    }


CASES = {
    "none": (
        GATEWAY,
        "SIMPLE",
        {},
        "there is no Secret shop/c\n  hint: put a Secret of type kubernetes.io/tls into namespace 'shop'",
    ),
    "no key": (
        GATEWAY,
        "SIMPLE",
        {"tls_crt": "CHAIN"},
        "Secret shop/c has no 'tls.key'\n  hint: a Secret of type kubernetes.io/tls has tls.crt and tls.key",
    ),
    "no certificate": (
        GATEWAY,
        "SIMPLE",
        {"tls_crt": "CRT", "tls_key": "KEY"},
        "Secret shop/c has a 'tls.crt' that is not a certificate in PEM\n"
        "  hint: it begins with -----BEGIN CERTIFICATE-----",
    ),
    "a key that is none": (
        GATEWAY,
        "SIMPLE",
        {"tls_crt": "CHAIN", "tls_key": "CHAIN"},
        "Secret shop/c has a 'tls.key' that is not an unencrypted private key in PEM\n"
        "  hint: it begins with -----BEGIN PRIVATE KEY-----",
    ),
    "somebody else's key": (
        GATEWAY,
        "SIMPLE",
        {"tls_crt": "CHAIN", "tls_key": "OTHER"},
        "Secret shop/c has a 'tls.key' that is not the key of 'tls.crt'\n"
        "  hint: the certificate that the key belongs to comes first",
    ),
    "no authority": (
        GATEWAY,
        "MUTUAL",
        {"tls_crt": "CHAIN", "tls_key": "KEY"},
        "Secret shop/c has no 'ca.crt'\n  hint: it holds the certificates of those who sign for the other side",
    ),
    "an authority that is none": (
        GATEWAY,
        "OPTIONAL_MUTUAL",
        {"tls_crt": "CHAIN", "tls_key": "KEY", "ca_crt": "ROOT"},
        "Secret shop/c has a 'ca.crt' that is not a certificate in PEM",
    ),
    "nobody to trust": (
        RULE,
        "SIMPLE",
        {"tls_crt": "CHAIN", "tls_key": "KEY"},
        "Secret shop/c has no 'ca.crt'\n  hint: it holds the certificates of those who sign for the other side",
    ),
    "nothing to show": (
        RULE,
        "MUTUAL",
        {"ca_crt": "CA"},
        "Secret shop/c has no 'tls.crt'\n  hint: a Secret of type kubernetes.io/tls has tls.crt and tls.key",
    ),
    "no Secret at all": (
        RULE,
        "MUTUAL",
        {},
        "there is no Secret shop/c\n  hint: put a Secret of type kubernetes.io/tls into namespace 'shop'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, pems: dict[str, str]) -> None:
    text, mode, entries, message = CASES[case]
    text = text.replace("MODE", mode)
    written = {key: pems.get(value, value) for key, value in entries.items()}
    report = Report()
    resources = load_text("f.yaml", text + (secret("c", **written) if written else ""), report)
    assert not report.failed, report.diagnostics
    with pytest.raises(ConfigError) as refused:
        build(resources)
    line = text.splitlines().index(next(one for one in text.splitlines() if "credentialName: c" in one)) + 1
    column = text.splitlines()[line - 1].index("credentialName: c") + len("credentialName: ") + 1
    assert f"f.yaml:{line}:{column}: error: {message}" in [str(one) for one in refused.value.diagnostics]


def test_the_authority_may_stand_beside(pems: dict[str, str]) -> None:
    good = secret("c", cert=pems["CHAIN"], key=pems["KEY"]) + secret("c-cacert", cacert=pems["CA"])
    for text, mode in ((GATEWAY, "MUTUAL"), (RULE, "MUTUAL")):
        build(load_text("f.yaml", text.replace("MODE", mode) + good, Report()))
    alone = secret("c-cacert", ca_crt=pems["CA"])
    build(load_text("f.yaml", RULE.replace("MODE", "SIMPLE") + alone, Report()))


def test_a_bad_renewal_keeps_the_certificate_and_the_rest_of_the_mesh(tmp_path: Path, pems: dict[str, str]) -> None:
    (tmp_path / "edge.yaml").write_text(GATEWAY.replace("MODE", "SIMPLE"))
    (tmp_path / "secret.yaml").write_text(secret("c", tls_crt=pems["CHAIN"], tls_key=pems["KEY"]))
    mesh = FileMesh([tmp_path])
    assert mesh.load() == []
    before = mesh.store
    (tmp_path / "secret.yaml").write_text(secret("c", tls_crt=pems["CHAIN"], tls_key=pems["OTHER"]))
    (error,) = mesh.load()
    assert "has a 'tls.key' that is not the key of 'tls.crt'" in error
    assert "PRIVATE" not in error
    assert mesh.store is before


def test_what_is_wrong_with_a_secret_of_another_namespace_is_not_the_rules_fault() -> None:
    """Proxies there are told that they cannot reach the host; whose rule it is has nothing to mend."""
    elsewhere = secret("c", ca_crt="no PEM").replace("namespace: shop", "namespace: other")
    assert "namespace: other" in elsewhere
    build(load_text("f.yaml", RULE.replace("MODE", "SIMPLE") + elsewhere, Report()))
