"""A proxy's private key stays in the proxy: no message, file, page or log of a run holds it in any form."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.proxy import bootstrap
from tests.proxy.running import ours
from tests.tools.control import control_plane, tokens
from tests.tools.identity import TOKEN, config, mesh, shown
from tests.tools.memory import find_key, holds
from tests.tools.ports import free_ports
from tests.tools.recorder import recorder
from tests.tools.traffic import get
from tests.tools.wire.origin import origin


def test_the_key_is_nowhere_but_in_the_proxy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its bytes are taken from the proxy's memory and looked for in all that was said, written and shown."""
    caplog.set_level(logging.DEBUG)
    outbound, inbound, admin = free_ports(3)
    settings = {"tokens": tokens(tmp_path, TOKEN), "insecure_xds": True}
    with origin() as app, control_plane(tmp_path, mesh(outbound, inbound, app.port), **settings) as plane:
        with recorder(plane.xds_address.port) as wire:
            cleartext = bootstrap.cluster("control", [wire.port], http2=True)
            with ours(config(cleartext, tmp_path, admin)) as proxy:
                assert get(outbound)[0] == 200
                public = shown(inbound).public_key()
                assert isinstance(public, ec.EllipticCurvePublicKey)
                key = find_key(proxy.process.pid, public)
                pages = [proxy.admin(page) for page in ("/config_dump", "/certs", "/stats", "/clusters")]
                said = bytes(wire.seen)
                printed = proxy.process.output()
    assert b"CERTIFICATE REQUEST" in said, "the recorder saw no signing request"
    files = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {**files, "wire": said, "output": printed.encode(), "log": caplog.text.encode()}
    places |= {f"page {number}": page.encode() for number, page in enumerate(pages)}
    assert [name for name, content in places.items() if holds(content, key)] == []
    assert [name for name, content in files.items() if b"PRIVATE KEY" in content] == [
        str(tmp_path / "state" / "ca" / "authority.json")
    ]
    assert b"PRIVATE KEY" not in said + printed.encode() + caplog.text.encode() + "".join(pages).encode()


def test_the_search_finds_what_it_looks_for() -> None:
    key = bytes(range(100, 132))
    for shift in range(3):
        wrapped = base64.encodebytes(bytes(range(60 + shift)) + key + b"tail")
        assert holds(b"x" + wrapped, key)
    assert holds(b"key=" + key.hex().upper().encode(), key)
    assert not holds(base64.b64encode(bytes(200)), key)
