"""Every way into the control plane, tried by those who should not get in: streams, certificates, secrets.

A real control plane on real files, asked by grpcio. Whoever is refused is told why, without what he showed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import generate_latest

from pymesh.control.app import ControlPlane
from pymesh.control.identity import private_files
from pymesh.control.identity.service import PATH
from pymesh.control.sources.mesh import FileMesh
from pymesh.control.xds import pb, server
from pymesh.control.xds.server import SERVICE
from pymesh.local.certificates import Authority
from tests.proxy.running import eventually
from tests.tools.control import control_plane

CART = "sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local"
EDGE = "router~10.0.0.9~edge.shop~shop.svc.cluster.local"
GATEWAY_LABELS = {"istio": "ingressgateway"}
#: Token -> entry of the token file.
TOKENS: dict[str, dict[str, Any]] = {
    "of-the-cart": {"namespace": "shop", "serviceAccount": "cart"},
    "of-the-edge": {"namespace": "shop", "serviceAccount": "edge", "gateway": True},
    "of-another-edge": {"namespace": "bank", "serviceAccount": "edge", "gateway": True},
    "of-yesterday": {"namespace": "shop", "serviceAccount": "cart", "expires": "2026-01-01T00:00:00Z"},
    "of-a-moment": {
        "namespace": "shop",
        "serviceAccount": "cart",
        "expires": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
    },
}


def resource(kind: str, name: str, spec: dict[str, Any], namespace: str = "shop") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def mesh(folder: Path) -> FileMesh:
    """A gateway with a certificate, in whose namespace two workloads are."""
    tls = {"mode": "SIMPLE", "credentialName": "edge-cert"}
    servers = [{"port": {"number": 8443, "name": "https", "protocol": "HTTPS"}, "hosts": ["a.example"], "tls": tls}]
    secret = Authority(folder / "authority.pem").secret("edge-cert", ["a.example"])
    secret["metadata"]["namespace"] = "shop"
    written = [
        secret,
        resource("Gateway", "edge", {"selector": GATEWAY_LABELS, "servers": servers}),
        resource("WorkloadEntry", "cart", {"address": "10.0.0.1", "serviceAccount": "cart"}),
        resource("WorkloadEntry", "reviews", {"address": "10.0.0.2", "serviceAccount": "reviews"}),
    ]
    files = folder / "mesh"
    files.mkdir()
    (files / "mesh.yaml").write_text(yaml.safe_dump_all(written))
    return FileMesh([files])


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_tokens(folder: Path, tokens: dict[str, dict[str, Any]]) -> Path:
    path = folder / "tokens.json"
    private_files.write(path, json.dumps({hashed(token): entry for token, entry in tokens.items()}).encode())
    return path


@pytest.fixture(scope="module", name="plane")
def _plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    folder = tmp_path_factory.mktemp("doors")
    with control_plane(folder, mesh(folder), tokens=write_tokens(folder, TOKENS)) as plane:  # type: ignore[arg-type]
        yield plane


@contextmanager
def channel(plane: ControlPlane) -> Iterator[grpc.Channel]:
    trust = grpc.ssl_channel_credentials(plane.rotation.trust.bundle.encode())
    with grpc.secure_channel(str(plane.xds_address), trust) as made:
        yield made


def bearer(token: str | None) -> list[tuple[str, str]]:
    return [] if token is None else [("authorization", f"Bearer {token}")]


@contextmanager
def stream(plane: ControlPlane, token: str | None, request: Any) -> Iterator[Any]:
    """The answers of an ADS stream that begins with this request; more can be put into its `requests`."""
    is_delta = isinstance(request, pb.DeltaDiscoveryRequest)
    requests: queue.Queue[Any] = queue.Queue()
    requests.put(request)
    with channel(plane) as made:
        call = made.stream_stream(
            f"{SERVICE}{'Delta' if is_delta else 'Stream'}AggregatedResources",
            request_serializer=pb.encode,
            response_deserializer=(pb.DeltaDiscoveryResponse if is_delta else pb.DiscoveryResponse).FromString,
        )
        answers = call(iter(requests.get, None), metadata=bearer(token), timeout=20)
        answers.requests = requests
        try:
            yield answers
        finally:
            requests.put(None)
            answers.cancel()


def secrets(names: list[str], node: str, labels: dict[str, str] | None = None, **metadata: Any) -> Any:
    """A request for secrets, by delta."""
    request = pb.DeltaDiscoveryRequest(type_url=pb.SECRET, resource_names_subscribe=names)
    request.node.id = node
    request.node.metadata.update({**metadata, "LABELS": labels or {}})
    return request


def refusal(plane: ControlPlane, token: str | None, request: Any) -> tuple[grpc.StatusCode, str]:
    with stream(plane, token, request) as answers, pytest.raises(grpc.RpcError) as caught:
        next(answers)
    return caught.value.code(), caught.value.details()


@dataclass(frozen=True)
class Door:
    """Somebody at the door of a stream, and what he is told."""

    title: str
    token: str | None
    node: str
    code: grpc.StatusCode
    told: str
    metadata: tuple[tuple[str, Any], ...] = ()


NOBODY, NOT_HE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
DOORS = [
    Door("no token", None, CART, NOBODY, "send the workload's token: authorization: Bearer ..."),
    Door("an empty token", "", CART, NOBODY, "the token is not known"),
    Door("a token that nobody has", "guessed", CART, NOBODY, "the token is not known"),
    Door("what the token file says", hashed("of-the-cart"), CART, NOBODY, "the token is not known"),
    Door("an expired token", "of-yesterday", CART, NOBODY, "the token is not known"),
    Door(
        "another namespace, in metadata", "of-the-cart", CART, NOT_HE,
        "node.metadata NAMESPACE is 'bank', the token is of 'shop'", (("NAMESPACE", "bank"),),
    ),
    Door(
        "another account, in metadata", "of-the-cart", CART, NOT_HE,
        "node.metadata SERVICE_ACCOUNT is 'edge', the token is of 'cart'", (("SERVICE_ACCOUNT", "edge"),),
    ),
    Door(
        "no namespace at all", "of-the-cart", CART, NOT_HE,
        "node.metadata NAMESPACE is None, the token is of 'shop'", (("NAMESPACE", None),),
    ),
    Door(
        "another namespace, in the id alone", "of-the-cart", "sidecar~10.0.0.1~cart.bank~bank.svc.cluster.local",
        NOT_HE, "node.id is of namespace 'bank', the token is of 'shop'",
    ),
    Door(
        "another workload of the namespace", "of-the-cart", "sidecar~10.0.0.2~reviews.shop~shop.svc.cluster.local",
        NOT_HE, "workload shop/reviews has service account 'reviews', the token is of 'cart'",
    ),
    Door(
        "a workload as a gateway", "of-the-cart", EDGE, NOT_HE,
        "node.id is a gateway's, 'spiffe://cluster.local/ns/shop/sa/cart' is none; "
        'hint: a gateway\'s token has "gateway": true in the token file; '
        "in a cluster its service account may list the Secrets of its namespace",
    ),
    Door(
        "another namespace's gateway", "of-another-edge", EDGE, NOT_HE,
        "node.id is of namespace 'shop', the token is of 'bank'",
    ),
    Door("nobody", "of-the-cart", "", NOT_HE, "the first request must name the proxy: node.id is empty"),
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS, ids=[door.title for door in DOORS])
def test_a_stream_is_opened_for_its_proxy_alone(
    plane: ControlPlane, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    request = secrets(["kubernetes://shop/edge-cert"], door.node, GATEWAY_LABELS, **dict(door.metadata))
    assert refusal(plane, door.token, request) == (door.code, door.told)
    said = caplog.text + str([record.__dict__ for record in caplog.records])
    assert "xDS stream refused" in said
    assert door.token in (None, "") or door.token not in said


@pytest.mark.parametrize("token", [None, "", "guessed", "of-yesterday"])
def test_certificates_are_for_those_with_a_token(plane: ControlPlane, token: str | None) -> None:
    with channel(plane) as made, pytest.raises(grpc.RpcError) as caught:
        made.unary_unary(PATH)(b"", metadata=bearer(token), timeout=10)
    assert caught.value.code() is NOBODY


def signed(plane: ControlPlane, token: str, csr: str) -> x509.Certificate:
    with channel(plane) as made:
        method = made.unary_unary(
            PATH, request_serializer=pb.encode, response_deserializer=pb.IstioCertificateResponse.FromString
        )
        answer = method(pb.IstioCertificateRequest(csr=csr), metadata=bearer(token), timeout=10)
    return x509.load_pem_x509_certificate(answer.cert_chain[0].encode())


def test_a_request_that_was_overheard_is_worth_nothing(plane: ControlPlane) -> None:
    """Who sends another's request again gets his own name over a key that he does not have."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    names = []
    for token in ("of-the-cart", "of-another-edge"):
        leaf = signed(plane, token, pem)
        assert leaf.public_key() == key.public_key()
        names += leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [
        "spiffe://cluster.local/ns/shop/sa/cart",
        "spiffe://cluster.local/ns/bank/sa/edge",
    ]


def count(plane: ControlPlane) -> float:
    lines = generate_latest(plane.registry).decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("pymesh_xds_refused_secrets "))


def given(plane: ControlPlane, token: str, request: Any) -> tuple[set[str], set[str]]:
    """The names that are given, and those that are said not to exist."""
    with stream(plane, token, request) as answers:
        answer = next(answers)
    return {one.name for one in answer.resources}, set(answer.removed_resources)


def test_a_gateway_has_its_keys(plane: ControlPlane) -> None:
    names = ["kubernetes://shop/edge-cert", "ROOTCA"]
    before = count(plane)
    assert given(plane, "of-the-edge", secrets(names, EDGE, GATEWAY_LABELS)) == (set(names), set())
    assert count(plane) == before


@pytest.mark.parametrize(
    ("token", "node"),
    [
        ("of-the-cart", CART),
        # A gateway elsewhere with the very labels that the Gateway selects.
        ("of-another-edge", "router~10.0.0.9~edge.bank~bank.svc.cluster.local"),
        ("of-another-edge", "router~10.0.0.9~edge.~"),
        # A gateway that the Gateway does not select.
        ("of-the-edge", "sidecar~10.0.0.9~edge.shop~shop.svc.cluster.local"),
    ],
)
def test_nobody_else_has_them(plane: ControlPlane, token: str, node: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    names = ["kubernetes://shop/edge-cert", "kubernetes://shop/nothing", "default"]
    before = count(plane)
    assert given(plane, token, secrets([*names, "ROOTCA"], node, GATEWAY_LABELS)) == ({"ROOTCA"}, set(names))
    assert count(plane) == before + 3
    (told,) = [r for r in caplog.records if r.message == "a proxy asks for secrets that are not its own"]
    assert told.__dict__["names"] == sorted(names) and told.__dict__["node"] == node
    assert "PRIVATE KEY" not in caplog.text + str([record.__dict__ for record in caplog.records])


def test_the_wildcard_gives_no_secret(plane: ControlPlane) -> None:
    """Neither variant's word for everything reaches beyond what the proxy has anyway."""
    found, _ = given(plane, "of-the-cart", secrets(["*"], CART, GATEWAY_LABELS))
    assert found == {"ROOTCA"}
    request = pb.DiscoveryRequest(type_url=pb.SECRET, resource_names=["kubernetes://shop/edge-cert"])
    request.node.id = CART
    before = count(plane)
    with stream(plane, "of-the-cart", request) as answers:
        assert list(next(answers).resources) == []
        # Each acknowledgement repeats the names: told once.
        request.response_nonce = "1"
        answers.requests.put(request)
        assert eventually(lambda: count(plane) == before + 1)


@pytest.mark.parametrize("left", [{}, {"of-a-moment": TOKENS["of-the-edge"]}], ids=["withdrawn", "another's"])
def test_a_token_that_is_withdrawn_ends_its_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: dict[str, Any]
) -> None:
    monkeypatch.setattr(server, "REAUTHENTICATE_SECONDS", 0.05)
    tokens = write_tokens(tmp_path, TOKENS)
    with control_plane(tmp_path, mesh(tmp_path), tokens=tokens) as plane:  # type: ignore[arg-type]
        with stream(plane, "of-a-moment", secrets(["ROOTCA"], CART)) as answers:
            assert next(answers).resources
            write_tokens(tmp_path, left)
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            assert caught.value.code() is NOBODY
