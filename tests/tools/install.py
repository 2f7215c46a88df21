"""Install the foreign programs that tests and benchmarks need: `python tests/tools/install.py [NAME ...]`.

Idempotent: what is there already stays, but a program of ours whose source has changed is built again. Go programs and
Envoy go to `.tools/` at the top of the repository; Debian packages go to the system, which needs root. The three kinds
install side by side, and progress is printed as it comes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.tools.peers import ON_DEMAND, PEERS, TOOLS, Debian, Go, GoFolder, Wheel, location

START = time.monotonic()
POLICY = Path("/usr/sbin/policy-rc.d")  # what Debian asks before it starts a service
_printing = threading.Lock()


class Failed(RuntimeError):
    """An installation that did not work, said for the person who has to mend it."""


def say(text: str) -> None:
    """One line of progress; the three lanes print at the same time."""
    with _printing:
        print(f"[{time.monotonic() - START:6.1f}s] {text}", flush=True)


def run(title: str, argv: list[str], env: dict[str, str] | None = None) -> None:
    """Run one installer, echoing its output line by line under `title`."""
    say(f"{title}: {' '.join(argv)}")
    try:
        process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(env or {})},
        )
    except FileNotFoundError:
        raise Failed(f"{title}: {argv[0]} is not installed") from None
    tail: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        tail = [*tail[-14:], line.rstrip()]
        say(f"{title}: {line.rstrip()}")
    if process.wait() != 0:
        raise Failed(f"{title}: {argv[0]} ended with {process.returncode}:\n  " + "\n  ".join(tail))


def install_debian(packages: list[str]) -> None:
    """Debian packages by apt-get; refuses with the command to type when it may not."""
    command = f"apt-get update && apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0:
        raise Failed(f"Debian packages are missing and this is not root\nhint: run as root: {command}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt", ["apt-get", "update", "-q"], quiet)
    # Without a policy, installing nginx or haproxy would start it as a service on this machine.
    created = not POLICY.exists()
    if created:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        run("apt", ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], quiet)
    finally:
        if created:
            POLICY.unlink()


def install_go(modules: list[Go | GoFolder]) -> None:
    """Go programs, one after another: each build already uses every core."""
    binaries = TOOLS / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    for module in modules:
        with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
            source = Path(__file__).parent / module.folder if isinstance(module, GoFolder) else Path(folder)
            package = "." if isinstance(module, GoFolder) else module.module
            run(module.binary, ["go", "install", "-C", str(source), "-v", package], {"GOBIN": folder})
            (built,) = Path(folder).iterdir()
            built.rename(binaries / module.binary)
        if isinstance(module, GoFolder):
            _record(module).parent.mkdir(exist_ok=True)
            _record(module).write_text(_sources(module))


def _record(module: GoFolder) -> Path:
    """Of what the program that is there was built."""
    return TOOLS / "sources" / module.binary


def _sources(module: GoFolder) -> str:
    digest = hashlib.sha256()
    for source in sorted((Path(__file__).parent / module.folder).glob("*")):
        digest.update(f"{source.name} {source.stat().st_size}\n".encode() + source.read_bytes())
    return digest.hexdigest()


def is_wanted(name: str) -> bool:
    """Not there, or built of what has changed since."""
    source = PEERS[name]
    if isinstance(source, GoFolder) and location(name) is not None:
        record = _record(source)
        return not record.exists() or record.read_text() != _sources(source)
    return location(name) is None


def install_wheel(name: str, wheel: Wheel) -> None:
    """A program from a wheel, in a virtual environment of its own."""
    venv = TOOLS / name
    run(name, [sys.executable, "-m", "venv", str(venv)])
    run(name, [str(venv / "bin" / "pip"), "install", "--disable-pip-version-check", wheel.requirement])


def install(names: list[str]) -> list[str]:
    """Install what is missing of `names`; the answer is the list of failures."""
    missing = [name for name in names if is_wanted(name)]
    for name in names:
        if name not in missing:
            say(f"{name}: {location(name)}")
    debian = sorted({s.package for n in missing if isinstance(s := PEERS[n], Debian)})
    go = [s for n in missing if isinstance(s := PEERS[n], Go | GoFolder)]
    wheels = [(n, s) for n in missing if isinstance(s := PEERS[n], Wheel)]
    failures = []
    with ThreadPoolExecutor() as lanes:
        jobs = [lanes.submit(install_wheel, name, wheel) for name, wheel in wheels]
        jobs += [lanes.submit(install_debian, debian)] if debian else []
        jobs += [lanes.submit(install_go, go)] if go else []
        for job in jobs:
            try:
                job.result()
            except Failed as failure:
                failures.append(str(failure))
    absent = [name for name in missing if location(name) is None]
    if absent and not failures:
        failures.append(f"installed without an error, yet not found: {', '.join(absent)}")
    return failures


def main(arguments: list[str]) -> int:
    """Install what every run needs, or the named peers."""
    unknown = [name for name in arguments if name not in PEERS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}\nhint: known names are {', '.join(PEERS)}", file=sys.stderr)
        return 2
    failures = install(arguments or [name for name in PEERS if name not in ON_DEMAND])
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    say("failed" if failures else "everything is there")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
