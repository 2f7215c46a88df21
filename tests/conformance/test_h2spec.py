"""h2spec, strict, against our server side: every case passes, in cleartext and over TLS."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, downstream_tls, http_listener, to_cluster, virtual_host
from tests.proxy.running import Proxy
from tests.tools.certificates import Authority
from tests.tools.peers import peer
from tests.tools.ports import free_ports
from tests.tools.wire.origin import origin

_CASES = 146


@pytest.mark.parametrize("tls", [False, True], ids=["cleartext", "tls"])
def test_every_case_passes(
    tls: bool,
    run_proxy: Callable[[Json], AbstractContextManager[Proxy]],
    authority: Authority,
    tmp_path: Path,
) -> None:
    port, admin_port = free_ports(2)
    # In cleartext AUTO has to take what is no preface for HTTP/1, and answers it in HTTP/1.
    transport = downstream_tls(authority.issue("h2spec", dns=["localhost"])) if tls else None
    hosts = [virtual_host("all", [to_cluster("origin")])]
    report = tmp_path / "h2spec.xml"
    argv = [peer("h2spec"), "-h", "127.0.0.1", "-p", str(port), "-S", "-j", str(report)]
    # It answers when it has the whole request: an earlier answer ends the stream before the frames that are wrong.
    with origin() as behind:
        config = bootstrap(
            [http_listener(port, hosts, tls=transport, codec_type="AUTO" if tls else "HTTP2")],
            [cluster("origin", [behind.port])],
            admin_port,
        )
        with run_proxy(config) as proxy:
            suite = subprocess.run([*argv, "-t", "-k"] if tls else argv, capture_output=True, text=True, timeout=300)
            assert proxy.process.alive(), proxy.process.tail()
    # h2spec copies the octets that it received into its report, also those that XML does not allow.
    text = re.sub(r"[^\t\n\r -\ud7ff]", "?", report.read_text(errors="replace"))
    cases = ElementTree.fromstring(text.encode()).findall(".//testcase")
    failed = [
        f"{case.get('package')} {case.get('classname')}: {_reason(case)}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None or case.find("skipped") is not None
    ]
    assert not failed, f"{len(failed)} of {len(cases)}:\n" + "\n".join(failed)
    assert len(cases) == _CASES, suite.stdout


def _reason(case: ElementTree.Element) -> str:
    texts = [" ".join((child.text or child.tag).split()) for child in case]
    return " | ".join(texts)
