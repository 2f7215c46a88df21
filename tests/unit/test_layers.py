"""The directions of docs/architecture.md for the Rust crates; import-linter holds the Python packages to theirs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Crate -> crates of ours that it may use.
ALLOWED = {
    "pymesh-http": set(),
    "pymesh-model": set(),
    "pymesh-tls": {"pymesh-model"},
    "pymesh-jwt": {"pymesh-model"},
    "pymesh-engine": {"pymesh-http", "pymesh-jwt", "pymesh-model", "pymesh-tls"},
    "pymesh-net": {"pymesh-engine", "pymesh-model"},
    "pymesh-xds": {"pymesh-jwt", "pymesh-model", "pymesh-tls"},
    "pymesh-app": {"pymesh-engine", "pymesh-model", "pymesh-net", "pymesh-tls", "pymesh-xds"},
    "pymesh-load": {"pymesh-engine", "pymesh-http", "pymesh-model", "pymesh-tls"},
    "pymesh-python": {"pymesh-app", "pymesh-engine", "pymesh-http", "pymesh-load", "pymesh-model", "pymesh-net"},
    "pymesh-fuzz": {"pymesh-engine", "pymesh-http", "pymesh-jwt", "pymesh-model", "pymesh-tls", "pymesh-xds"},
}

#: What the engine must never see: sockets, runtimes, protobuf, Python, clocks of others.
BARRED_FROM_THE_ENGINE = {"tokio", "mio", "socket2", "prost", "tonic", "pyo3", "hyper", "serde_json", "libc"}


def packages() -> dict[str, set[str]]:
    done = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1", "--locked"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        package["name"]: {one["name"] for one in package["dependencies"] if one["kind"] is None}
        for package in json.loads(done.stdout)["packages"]
    }


def test_crates_use_only_what_they_may() -> None:
    found = packages()
    assert set(found) == set(ALLOWED)
    for name, uses in found.items():
        ours = {use for use in uses if use.startswith("pymesh-")}
        assert ours <= ALLOWED[name], f"{name} may not use {sorted(ours - ALLOWED[name])}"


def test_the_core_sees_no_sockets_and_no_protobuf() -> None:
    found = packages()
    for name in ("pymesh-http", "pymesh-model", "pymesh-tls", "pymesh-engine"):
        assert found[name] & BARRED_FROM_THE_ENGINE == set(), name
    assert "pyo3" not in found["pymesh-app"]


def test_unsafe_code_is_forbidden_outside_two_rooms() -> None:
    for crate in ("http", "model", "tls", "jwt", "engine", "xds", "app", "load", "fuzz"):
        text = (ROOT / "rust" / crate / "src" / "lib.rs").read_text()
        assert "#![forbid(unsafe_code)]" in text, crate


def test_the_top_level_holds_what_it_should() -> None:
    folders = {"rust", "pymesh", "control", "tests", "bench", "docs", "examples", "ui", "deploy", ".ci"}
    files = {"README.md", "CONTRIBUTING.md", "Makefile", "Cargo.toml", "Cargo.lock", "pyproject.toml"}
    files |= {"requirements.lock", "clippy.toml", "rustfmt.toml", ".gitignore"}
    git = ["git", "-c", f"safe.directory={ROOT}", "ls-files"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/", 1)[0] for line in listed.splitlines()} <= folders | files
