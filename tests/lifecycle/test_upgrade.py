"""Binary upgrades that go wrong, and what is handed over when they go right."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.lifecycle import websocket
from tests.lifecycle.load import Origins, origins
from tests.lifecycle.replica import PATIENCE, Succession, clusters, config, ends, listener, terminate
from tests.proxy import bootstrap
from tests.proxy.running import eventually
from tests.tools import ads, resources
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import accepts

_ASK = b"GET / HTTP/1.1\r\nhost: load.test\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module", name="behind")
def _behind() -> Iterator[Origins]:
    with origins() as made:
        yield made


@pytest.fixture(name="family")
def _family(tmp_path: Path) -> Succession:
    return Succession(tmp_path)


def get(port: int) -> bytes:
    """One request on a connection of its own: the status line."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(_ASK)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer.partition(b"\r\n")[0]


OK = b"HTTP/1.1 200 OK"


def waiting_for(server: ads.Server, admin: int) -> bootstrap.Json:
    """A configuration that is complete when an ADS server is there."""
    return bootstrap.dynamic("DELTA_GRPC", bootstrap.cluster("ads", [server.port], http2=True), admin)


@pytest.fixture(name="absent")
def _absent() -> Iterator[ads.Server]:
    """A control plane that can be started later."""
    server = ads.Server("DELTA_GRPC")
    server.start()
    server.stop()
    yield server
    server.stop()


def test_a_new_process_that_dies_costs_nothing(behind: Origins, family: Succession, absent: ads.Server) -> None:
    port, admin = free_ports(2)
    made = config(behind, port, admin)
    with family.start(made) as old:
        assert family.serves(old)
        with family.start(waiting_for(absent, admin)) as never_ready:
            assert eventually(lambda: "trying again" in never_ready.output(), PATIENCE), never_ready.output()
            with family.start(made) as impatient:
                assert impatient.wait(PATIENCE) == 1
                assert "another upgrade" in impatient.output()
            never_ready.child.kill()
            never_ready.wait(PATIENCE)
        assert eventually(lambda: "did not take over" in old.output(), PATIENCE)
        assert family.pid() == old.pid and get(port) == OK
        with family.start(made) as new:
            assert family.serves(new), new.tail()
            ends(old)
            assert get(port) == OK
            terminate(new)


@pytest.mark.parametrize("fault", ["refused", "port taken"])
def test_a_bad_configuration_costs_nothing(fault: str, behind: Origins, family: Succession) -> None:
    port, admin = free_ports(2)
    made = config(behind, port, admin)
    with family.start(made) as old, socket.create_server(("127.0.0.1", free_port())) as foreign:
        assert family.serves(old)
        bad = config(behind, port, admin)
        if fault == "refused":
            bad["static_resources"]["listeners"][0]["no_such_field"] = 1
        else:
            bad["static_resources"]["listeners"].append(listener(foreign.getsockname()[1], "taken"))
        with family.start(bad) as new:
            assert new.wait(PATIENCE) == 1
            assert ("no_such_field" if fault == "refused" else "another process listens there") in new.output()
        assert family.pid() == old.pid and get(port) == OK
        with family.start(made) as good:
            assert family.serves(good), good.tail()
            ends(old)
            terminate(good)


def test_the_old_process_dies_while_the_new_one_waits(behind: Origins, family: Succession, absent: ads.Server) -> None:
    """Who connects meanwhile waits in the queues, which the new process holds already."""
    port, admin = free_ports(2)
    absent.put(
        resources.cluster("app"),
        resources.endpoints("app", behind.http),
        resources.listener("load", port, "table"),
        resources.routes("table", "app"),
    )
    with family.start(config(behind, port, admin)) as old:
        assert family.serves(old)
        with family.start(waiting_for(absent, admin)) as new:
            assert eventually(lambda: "trying again" in new.output(), PATIENCE), new.output()
            old.child.kill()
            old.wait(PATIENCE)
            with closing(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)) as early:
                early.sendall(_ASK)
                absent.start()
                assert family.serves(new), new.tail()
                assert early.recv(65536).startswith(OK)
            terminate(new)
    assert not family.socket.exists()


def test_another_set_of_listeners(behind: Origins, family: Succession) -> None:
    """One stays, one goes, one comes; the admin address moves along."""
    stays, goes, comes, admin = free_ports(4)
    before = bootstrap.bootstrap([listener(stays, "a"), listener(goes, "b")], clusters(behind), admin)
    after = bootstrap.bootstrap([listener(stays, "a"), listener(comes, "c")], clusters(behind), admin)
    with family.start(before, "--concurrency", "2") as old:
        assert family.serves(old)
        with closing(socket.create_connection(("127.0.0.1", goes), timeout=PATIENCE)) as idle:
            with family.start(after, "--concurrency", "1") as new:
                assert family.serves(new), new.tail()
                assert eventually(lambda: not accepts(goes), PATIENCE)
                assert (get(stays), get(comes)) == (OK, OK)
                idle.sendall(_ASK)
                assert idle.recv(65536).startswith(OK)
                ends(old)
                with urllib.request.urlopen(f"http://127.0.0.1:{admin}/listeners?format=json", timeout=30) as page:
                    names = {one["name"] for one in json.load(page)["listener_statuses"]}
                assert names == {"a", "c"}
                terminate(new)


def test_tunnels_of_the_old_process_go_on_until_its_deadline(behind: Origins, family: Succession) -> None:
    port, admin = free_ports(2)
    made = config(behind, port, admin)

    async def talk() -> None:
        client = websocket.Client(*await asyncio.open_connection("127.0.0.1", port))
        await client.open("/websocket")
        begun = time.monotonic()
        with family.start(made, "--parent-shutdown-time-s", "3") as new:
            assert await asyncio.to_thread(family.serves, new), new.tail()
            await client.echo(b"still the old one")
            assert old.alive()
            fresh = websocket.Client(*await asyncio.open_connection("127.0.0.1", port))
            await fresh.open("/websocket")
            assert await client.end() == b""
            assert time.monotonic() - begun >= 3
            await asyncio.to_thread(ends, old)
            await fresh.echo(b"the new one")
            await fresh.close()
            await asyncio.to_thread(terminate, new)

    with family.start(made) as old:
        assert family.serves(old)
        asyncio.run(asyncio.wait_for(talk(), 2 * PATIENCE))


def test_a_supervisor_learns_who_serves(
    behind: Origins, family: Succession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What sd_notify(3) says: the new main process, and the end."""
    port, admin = free_ports(2)
    made = config(behind, port, admin)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        path = tmp_path / "notify"
        supervisor.bind(str(path))
        supervisor.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        with family.start(made) as old:
            assert supervisor.recv(4096) == b"READY=1\nMAINPID=%d\n" % old.pid
            with family.start(made) as new:
                assert supervisor.recv(4096) == b"READY=1\nMAINPID=%d\n" % new.pid
                ends(old)
                new.signal(signal.SIGTERM)
                assert supervisor.recv(4096) == b"STOPPING=1\n"
                ends(new)
