"""The files of `docs/guide/testing.md`, written down and run as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "testing.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"# ([\w.]+)\n")


def test_the_files_of_the_guide(tmp_path: Path) -> None:
    blocks = _BLOCK.findall(GUIDE.read_text())
    for language, text in blocks:
        name = _NAME.match(text)
        assert name is not None, f"a block of {language} has no name:\n{text}"
        (tmp_path / name[1]).write_text(text)
    wanted = sum(text.count("\ndef test_") for _, text in blocks)
    assert wanted > 8
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{wanted} passed" in done.stdout
