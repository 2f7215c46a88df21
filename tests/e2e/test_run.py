"""`pymesh run` as a person, a shell and a supervisor see it: exit codes, signals, crashes, a terminal, what is left.

The control plane and the proxies are real; the applications are a few lines of shell or Python each.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pymesh.control.identity import private_files
from tests.proxy.running import eventually
from tests.tools.marked import Mark
from tests.tools.peers import peer
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running

PYMESH = [sys.executable, "-m", "pymesh"]
PATIENCE_S = 60
SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: hello, namespace: shop}
spec: {selector: {app: hello}, ports: [{name: http, port: 80, targetPort: http}]}
"""
#: Says that it runs, and what it hears of.
LISTENER = """
import os, signal, sys, time
def heard(number, frame):
    print("heard", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM and "obedient" in sys.argv:
        sys.exit(5)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, heard)
print("runs", os.getpid(), flush=True)
while True:
    time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def _hang_up_counts() -> Iterator[None]:
    """Whoever runs the tests may ignore SIGHUP, as `nohup` does; what is started here is not to inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@dataclass(frozen=True)
class Control:
    """A control plane that knows one service."""

    folder: Path
    port: int

    def environment(self, name: str) -> dict[str, str]:
        """Who runs, for `pymesh run`."""
        return {
            "PYMESH_NAME": name,
            "PYMESH_NAMESPACE": "shop",
            "PYMESH_SERVICE_ACCOUNT": "hello",
            "PYMESH_CONTROL": f"127.0.0.1:{self.port}",
            "PYMESH_ROOT": str(self.folder / "state" / "ca" / "root-cert.pem"),
            "PYMESH_TOKEN": str(self.folder / "token"),
            "PYMESH_REGISTER": str(self.folder / "config"),
        }

    def argv(self) -> list[str]:
        words = [*PYMESH, "control", "--config", str(self.folder / "config"), "--state", str(self.folder / "state")]
        words += ["--tokens", str(self.folder / "tokens.json"), "--listen", f"127.0.0.1:{self.port}"]
        return [*words, "--admin", "127.0.0.1:0"]


def described(folder: Path) -> Control:
    """What a control plane needs; it does not run yet."""
    (folder / "config").mkdir()
    (folder / "config" / "services.yaml").write_text(SERVICES)
    hashed = hashlib.sha256(b"a-token").hexdigest()
    identity = {"namespace": "shop", "serviceAccount": "hello"}
    private_files.write(folder / "tokens.json", json.dumps({hashed: identity}).encode())
    private_files.write(folder / "token", b"a-token")
    return Control(folder, free_port())


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    made = described(tmp_path_factory.mktemp("control"))
    with running(made.argv(), ports=[made.port], timeout=PATIENCE_S):
        yield made


class Run:
    """A started `pymesh run` and everything below it."""

    def __init__(self, control: Control, temporary: Path, *words: str, name: str = "hello") -> None:
        self.mark = Mark()
        self.temporary = temporary
        self.files = [temporary / "out", temporary / "err"]
        environment = self.mark.environment(TMPDIR=str(temporary), **control.environment(name))
        with self.files[0].open("wb") as out, self.files[1].open("wb") as err:
            self.child = subprocess.Popen(
                [*PYMESH, "run", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=temporary,
                env=environment,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def out(self) -> str:
        return self.files[0].read_text()

    @property
    def err(self) -> str:
        return self.files[1].read_text()

    def says(self, text: str) -> None:
        assert eventually(lambda: text in self.out + self.err or self.child.poll() is not None, PATIENCE_S)
        assert text in self.out + self.err, (self.out, self.err)

    def proxy(self) -> int:
        """The sidecar's process."""
        assert eventually(lambda: any(" proxy -c " in one for one in self.mark.processes().values()), PATIENCE_S)
        return next(pid for pid, words in self.mark.processes().items() if " proxy -c " in words)

    def ends(self, code: int) -> None:
        """With this code, and nothing is left."""
        assert self.child.wait(PATIENCE_S) == code, (self.out, self.err)
        assert self.mark.all_gone(), self.mark.processes()
        assert list(self.temporary.glob("pymesh-run-*")) == []
        assert "Traceback" not in self.err


@contextmanager
def run(control: Control, temporary: Path, *words: str, name: str = "hello") -> Iterator[Run]:
    started = Run(control, temporary, *words, name=name)
    try:
        yield started
    finally:
        for pid in started.mark.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.child.wait()
        # One that was killed leaves its registration, as it must.
        (control.folder / "config" / f"workload-{name}.yaml").unlink(missing_ok=True)


def app(*words: str) -> list[str]:
    return ["--", sys.executable, "-c", LISTENER, *words]


def registered(control: Control) -> list[str]:
    return sorted(one.name for one in (control.folder / "config").glob("workload-*"))


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("sleep 600 & kill -TERM $$", 143),
    ],
)
def test_the_exit_code_is_the_commands(control: Control, tmp_path: Path, script: str, code: int) -> None:
    with run(control, tmp_path, "--", "sh", "-c", script) as job:
        job.ends(code)
        assert registered(control) == []
        assert job.err == ""


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [
        (lambda path: None, 127, "there is no program './it'"),
        (lambda path: path.write_text("#!/bin/sh\n"), 126, "cannot be run: Permission denied"),
        (lambda path: path.mkdir(), 126, "cannot be run: Permission denied"),
        (lambda path: (path.write_text("#!/no/such/shell\n"), path.chmod(0o755)), 127, "there is no program './it'"),
        (lambda path: (path.write_bytes(b"\x7fELF!"), path.chmod(0o755)), 126, "cannot be run: Exec format error"),
    ],
    ids=["missing", "no right", "folder", "no interpreter", "no format"],
)
def test_what_cannot_be_started(control: Control, tmp_path: Path, make, code: int, told: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "it")
    with run(control, tmp_path, "--", "./it") as job:
        job.ends(code)
        assert told in job.err


@pytest.mark.parametrize(
    ("words", "numbers", "code", "heard", "told"),
    [
        ([], [signal.SIGINT], 137, ["SIGINT"], "did not end within 1 s and is killed"),
        (["obedient"], [signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM], 5, ["SIGHUP", "SIGUSR1", "SIGTERM"], ""),
    ],
    ids=["deaf to SIGINT", "passed on"],
)
def test_signals(
    control: Control, tmp_path: Path, words: list[str], numbers: list[signal.Signals], code: int, heard: list[str],
    told: str,
) -> None:  # fmt: skip
    with run(control, tmp_path, "--grace", "1s", "--notice", "200ms", *app(*words)) as job:
        job.says("runs")
        for number in numbers:
            job.child.send_signal(number)
            time.sleep(0.3)  # two that come together have no order
        job.ends(code)
        assert re.findall("heard (.*)", job.out) == heard
        assert told in job.err


def test_a_second_sigint_is_immediate(control: Control, tmp_path: Path) -> None:
    with run(control, tmp_path, "--grace", "600s", "--notice", "0s", *app()) as job:
        job.says("runs")
        job.child.send_signal(signal.SIGTERM)
        job.says("heard SIGTERM")
        job.child.send_signal(signal.SIGINT)
        job.ends(130)
        assert "ended at once, as told" in job.err


def test_the_sidecar_serves_until_the_command_has_ended(control: Control, tmp_path: Path) -> None:
    port = free_port()
    last_words = (
        "import signal, sys, urllib.request, http.client, time, os\n"
        "def end(*_):\n"
        "    link = http.client.HTTPConnection('127.0.0.1', int(os.environ['HELLO_SERVICE_PORT']), timeout=20)\n"
        "    link.request('GET', '/'); answer = link.getresponse()\n"
        "    print('answer', answer.status, answer.headers['server'], answer.headers['connection'], flush=True)\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('runs', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    with run(control, tmp_path, "--call", f"hello={port}", "--", sys.executable, "-c", last_words, name="last") as job:
        job.says("runs")
        assert registered(control) == ["workload-last.yaml"]
        job.child.send_signal(signal.SIGTERM)
        job.ends(0)
        # Nobody serves it, which the sidecar says; and that the connection ends, for it drains.
        assert "answer 503 istio-envoy close" in job.out, job.out
        assert registered(control) == []


def test_a_sidecar_that_crashes_is_started_again(control: Control, tmp_path: Path) -> None:
    with run(control, tmp_path, *app("obedient")) as job:
        job.says("runs")
        first = job.proxy()
        os.kill(first, signal.SIGKILL)
        job.says("the application goes on; the sidecar is started again in 0.5 s")
        assert eventually(lambda: job.proxy() != first, PATIENCE_S)
        job.child.send_signal(signal.SIGTERM)
        job.ends(5)
        assert "was ended by SIGKILL" in job.err


def test_a_sidecar_that_crashes_may_end_the_command(control: Control, tmp_path: Path) -> None:
    with run(control, tmp_path, "--on-crash", "end", *app("obedient")) as job:
        job.says("runs")
        os.kill(job.proxy(), signal.SIGKILL)
        job.ends(125)
        assert "the application ends with it" in job.err
        assert "heard SIGTERM" in job.out


def test_without_a_control_plane_the_command_does_not_run(tmp_path: Path) -> None:
    nowhere = described(tmp_path)
    with run(nowhere, tmp_path, "--ready-timeout", "2s", "--", "touch", "ran") as job:
        # It may have no root yet either.
        job.ends(125)
        assert "--root: there is no file" in job.err
    (tmp_path / "state" / "ca").mkdir(parents=True)
    (tmp_path / "state" / "ca" / "root-cert.pem").write_bytes(b"")
    with run(nowhere, tmp_path, "--ready-timeout", "2s", "--", "touch", "ran") as job:
        job.ends(125)
    assert not (tmp_path / "ran").exists()


def test_a_control_plane_that_comes_late_is_waited_for(control: Control, tmp_path: Path) -> None:
    late = Control(control.folder, free_port())
    with run(late, tmp_path, "--ready-timeout", "2s", "--", "touch", "ran") as job:
        job.ends(125)
        where = f"127.0.0.1:{late.port}"
        assert f"not ready after 2 s: it waits for the control plane at {where}: Connection refused" in job.err
        assert not (tmp_path / "ran").exists()
    with run(late, tmp_path, "--", "touch", "ran") as job:
        job.says(f"waiting for the control plane at {where}")
        state = tmp_path / "state"
        words = [*late.argv(), "--state", str(state)]
        (state / "ca").parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-a", str(control.folder / "state" / "ca"), str(state)], check=True)
        with running(words, ports=[late.port], timeout=PATIENCE_S):
            job.ends(0)
    assert (tmp_path / "ran").exists()


def test_who_is_told_to_end_while_it_waits_has_run_nothing(control: Control, tmp_path: Path) -> None:
    nobody = Control(control.folder, free_port())
    with run(nobody, tmp_path, "--", "touch", "ran") as job:
        job.says("waiting for")
        job.child.send_signal(signal.SIGTERM)
        job.ends(143)
    assert not (tmp_path / "ran").exists()


def test_a_token_that_is_not_good_is_told(control: Control, tmp_path: Path) -> None:
    private_files.write(tmp_path / "bad", b"another")
    with run(control, tmp_path, "--token", str(tmp_path / "bad"), "--ready-timeout", "2s", "--", "true") as job:
        job.ends(125)
        assert "it waits for a certificate for spiffe://cluster.local/ns/shop/sa/hello" in job.err
        assert "the token is not known" in job.err


def test_who_is_killed_takes_all_with_him(control: Control, tmp_path: Path) -> None:
    with run(control, tmp_path, *app()) as job:
        job.says("runs")
        job.child.kill()
        job.child.wait()
        assert job.mark.all_gone(), job.mark.processes()
    # And what he has left is in nobody's way.
    with run(control, tmp_path, "--", "true") as job:
        job.child.wait(PATIENCE_S)
        assert job.child.returncode == 0, job.err


def test_the_same_name_twice(control: Control, tmp_path: Path) -> None:
    with run(control, tmp_path, *app("obedient")) as job:
        job.says("runs")
        (tmp_path / "other").mkdir()
        other = Run(control, tmp_path / "other", "--", "true")
        other.ends(125)
        assert f"hello runs already, as process {job.child.pid}" in other.err
        assert registered(control) == ["workload-hello.yaml"]
        job.child.send_signal(signal.SIGTERM)
        job.ends(5)


def test_one_calls_another_through_both_sidecars(control: Control, tmp_path: Path) -> None:
    served, called = free_ports(2)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "page").write_text("hello from a file")
    server = ["--", sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(served)]
    file = tmp_path / "client.yaml"
    file.write_text(
        "apiVersion: local.pymesh.dev/v1alpha1\nkind: LocalWorkload\nmetadata: {name: of-the-file}\n"
        f"spec: {{service: client, serviceAccount: hello, calls: {{hello: {called}}}}}\n"
    )
    with run(control, tmp_path / "a", "--port", f"http={served}", *server):
        script = (
            'for n in $(seq 100); do curl -sf -m 20 "http://$HELLO_SERVICE_HOST:$HELLO_SERVICE_PORT/page" && exit 0; '
            "sleep 0.1; done; exit 1"
        )
        with run(control, tmp_path / "b", "-f", str(file), "--", "sh", "-c", script, name="client") as job:
            job.ends(0)
            assert job.out == "hello from a file"


#: Asks until it is told that it is enough, and a hundred times more.
CLIENT = """
import http.client, os, time
failed, answered, left = [], 0, 100
while left:
    left -= os.path.exists("enough")
    try:
        link = http.client.HTTPConnection("127.0.0.1", int(os.environ["HELLO_SERVICE_PORT"]), timeout=20)
        link.request("GET", "/page")
        answer = link.getresponse()
        answer.read()
        answered += answer.status == 200
        failed += [answer.status] if answer.status != 200 and answered else []
        link.close()
    except OSError as error:
        failed.append(repr(error))
    if answered == 50:
        print("flows", flush=True)
    time.sleep(0.01)
print("failed", failed, "of", answered, flush=True)
"""


def test_who_is_told_to_end_loses_no_request(control: Control, tmp_path: Path) -> None:
    ports = free_ports(3)
    with ExitStack() as stack:
        servers = []
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "page").write_text("a page")
            words = ["--service", "hello", "--port", f"http={ports[number]}", "--", sys.executable, "-m", "http.server"]
            words += ["--bind", "127.0.0.1", str(ports[number])]
            servers.append(stack.enter_context(run(control, folder, *words, name=f"hello-{number}")))
        for server in servers:
            assert eventually(lambda: "Serving HTTP" in server.out + server.err, PATIENCE_S)  # noqa: B023
        (tmp_path / "client").mkdir()
        words = ["--call", f"hello={ports[2]}", "--", sys.executable, "-u", "-c", CLIENT]
        client = stack.enter_context(run(control, tmp_path / "client", *words, name="client"))
        client.says("flows")
        log = tmp_path / "0" / "err"
        assert '"GET /page' in log.read_text()
        servers[0].child.send_signal(signal.SIGTERM)
        assert servers[0].child.wait(PATIENCE_S) == 143
        (client.temporary / "enough").touch()
        client.ends(0)
        assert "failed [] of " in client.out, client.out


TERMINAL = """
import os, signal, sys, time
count = 0
def heard(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, heard)
print("runs", os.isatty(0), os.tcgetpgrp(0) == os.getpgrp(), flush=True)
print("read", input(), flush=True)
deadline = time.monotonic() + 60
while not count and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.5)
print("interrupted", count, flush=True)
os.kill(os.getpid(), signal.SIGTSTP)
print("continued", os.tcgetpgrp(0) == os.getpgrp(), flush=True)
sys.exit(9)
"""


def test_the_terminal_is_the_commands(control: Control, tmp_path: Path) -> None:
    mark = Mark()
    environment = mark.environment(TMPDIR=str(tmp_path), **control.environment("hello"))
    # A shell with job control between us, as a person has it: it sees us stop, and continues us.
    script = '"$@"; echo "stopped $?"; fg >/dev/null; echo "code $?"'
    command = [*PYMESH, "run", "--", sys.executable, "-c", TERMINAL]
    child, terminal = pty.fork()
    if child == 0:
        os.execve(peer("bash"), ["bash", "--norc", "-m", "-c", script, "bash", *command], environment)
    seen = b""

    def says(text: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + PATIENCE_S
        while text not in seen:
            ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
            assert ready, seen
            try:
                seen += os.read(terminal, 4096)
            except OSError:  # the other end is closed
                raise AssertionError(seen) from None

    try:
        says(b"runs True True")
        os.write(terminal, b"a line\n")
        says(b"read a line")
        os.write(terminal, b"\x03")
        says(b"interrupted 1")
        says(b"stopped 148")
        says(b"continued True")
        says(b"code 9")
        os.waitpid(child, 0)
        assert mark.all_gone(), mark.processes()
    finally:
        for pid in mark.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(terminal)
