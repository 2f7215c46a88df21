"""The ruleset's text for typical options, and that `nft` takes it."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from click.testing import CliRunner

from pymesh.capture import system
from pymesh.capture.rules import Options, OptionsError, removal, ruleset
from pymesh.cli.main import main
from tests.capture.world import namespaces
from tests.tools.peers import peer

GOLDEN = Path(__file__).with_name("golden")

CASES = {
    "redirect": Options(),
    "tproxy": Options(mode="TPROXY"),
    "excluded": Options(
        exclude_inbound_ports=(9090, 8081),
        exclude_outbound_ports=(443,),
        exclude_outbound_cidrs=[ip_network(one) for one in ("10.0.0.0/8", "10.1.0.0/16", "fd00::/8")],
    ),
    "included": Options(
        include_inbound_ports=(8080,),
        include_outbound_ports=(5432,),
        include_outbound_cidrs=[ip_network("10.96.0.0/12")],
        ipv6=False,
    ),
    "nothing-outbound": Options(mode="TPROXY", include_inbound_ports=(80, 443), include_outbound_cidrs=()),
    "other-proxy": Options(outbound_port=9001, inbound_port=9006, proxy_uids=(101, 102), proxy_gids=()),
    "by-mark": Options(proxy_uids=(), proxy_gids=(), proxy_marks=(1338,), ipv6=False),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    assert ruleset(CASES[name]) == (GOLDEN / f"{name}.nft").read_text()


def test_nft_takes_each(tmp_path: Path) -> None:
    with namespaces("rules") as made:
        for name, options in CASES.items():
            file = tmp_path / name
            file.write_text(ruleset(options))
            made.pod.run(peer("nft"), "-f", str(file))
        file.write_text(removal())
        made.pod.run(peer("nft"), "-f", str(file))
        assert made.pod.run(peer("nft"), "list", "ruleset").stdout == ""


def test_the_command_line_says_the_same() -> None:
    def dry_run(*arguments: str) -> str:
        done = CliRunner().invoke(main, ["capture", "on", "--dry-run", *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    assert dry_run() == ruleset(CASES["redirect"])
    excluded = ("--exclude-outbound-cidrs", "10.0.0.0/8, 10.1.0.0/16,fd00::/8", "--exclude-inbound-ports", "9090,8081")
    assert dry_run(*excluded, "--exclude-outbound-ports", "443") == ruleset(CASES["excluded"])
    included = ("--include-inbound-ports", "8080", "--include-outbound-cidrs", "10.96.0.0/12", "--no-ipv6")
    assert dry_run(*included, "--include-outbound-ports", "5432") == ruleset(CASES["included"])
    nothing = ("--mode", "TPROXY", "--include-inbound-ports", "80,443", "--include-outbound-cidrs", "")
    assert dry_run(*nothing) == ruleset(CASES["nothing-outbound"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--exclude-inbound-ports", "http"], "'http': not PORT,PORT..."),
        (["--exclude-inbound-ports", "70000"], "'70000': not PORT,PORT..."),
        (
            ["--exclude-outbound-cidrs", "10.0.0.0/40"],
            "'10.0.0.0/40' does not appear to be an IPv4 or IPv6 network: not CIDR,CIDR...",
        ),
        (["--exclude-outbound-ports", "*"], "--exclude-outbound-ports cannot be *"),
        (["--proxy-uid", "*"], "--proxy-uid cannot be *"),
        (["--proxy-uid", "", "--proxy-gid", ""], "its own connections would come back to it"),
        (["--inbound-port", "15001"], "cannot both be 15001"),
    ],
)
def test_mistakes(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["capture", "on", "--dry-run", *arguments])
    assert done.exit_code != 0
    assert said in done.output


def test_without_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(system.CaptureError, match="nft is not installed\nhint: apt-get install nftables"):
        system.turn_on(Options())


def test_options_that_cannot_be_meant() -> None:
    with pytest.raises(OptionsError):
        Options(proxy_uids=(), proxy_gids=())
