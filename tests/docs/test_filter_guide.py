"""The guide to a first filter, done as it says: its files are written, its commands run, in its order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "first-filter.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.(?:py|yaml))\n")


def blocks() -> Iterator[tuple[str, str, str]]:
    """Each fenced block: its language, the file that it is (or nothing), and its text."""
    for language, text in _BLOCK.findall(GUIDE.read_text()):
        named = _FILE.match(text)
        yield language, named.group(1) if named else "", text


def test_every_file_and_every_command(tmp_path: Path) -> None:
    # As in an environment where pymesh is installed: `python` and `pymesh` are that one's.
    here = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}", "COLUMNS": "400"}
    ran = []
    for language, name, text in blocks():
        if name:
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            continue
        assert language == "sh", f"neither a file nor commands: {text}"
        done = subprocess.run(
            ["bash", "-euc", text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=560,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ran.append(done.stdout)
    tested, played, changed, built, compiled = ran
    assert "2 passed" in tested
    assert (played.count("  held "), changed.count("  held "), compiled.count("  held ")) == (2, 3, 2)
    assert built.count("in C, called without the interpreter") == 1, built
