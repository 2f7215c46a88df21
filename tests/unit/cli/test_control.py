"""`pymesh control`: options that cannot work are one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from pymesh.cli.main import main


@pytest.mark.parametrize(
    ("lifetime", "said"),
    [
        ("soon", "error: --certificate-lifetime 'soon' is not a duration; hint: write 24h or 90m\n"),
        ("9s", "error: certificates must live for at least 10s; hint: --certificate-lifetime 1h\n"),
        ("2161h", "error: the certificate lifetime is above the longest allowed one\n"),
    ],
)
def test_a_lifetime_that_cannot_work_is_refused(tmp_path: Path, lifetime: str, said: str) -> None:
    words = ["control", "--config", str(tmp_path), "--state", str(tmp_path), "--tokens", str(tmp_path / "tokens")]
    done = CliRunner().invoke(main, [*words, "--certificate-lifetime", lifetime])
    assert (done.exit_code, done.stderr) == (1, said)
