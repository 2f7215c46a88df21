"""A real Chromium, and pages in it that may speak with nobody but the control plane."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, sync_playwright

from pymesh.local import check
from tests.proxy.running import eventually
from tests.tools.peers import peer

ROOT = Path(__file__).resolve().parents[2]
#: Kept, for people to look at.
SCREENSHOTS = ROOT / "target" / "screenshots"
#: For whatever is waited for; how long it takes decides nothing.
PATIENCE = 60.0

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for the tests of a file: Playwright's event loop is on this thread, and other tests begin their own there."""
    with sync_playwright() as playwright:
        # Without its sandbox, which root cannot have.
        started = playwright.chromium.launch(executable_path=peer("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a page of the control plane at an address. A foreign request or an error in the page fails the test, other
    than errors that have the text `tolerated`."""
    wrong: list[str] = []
    with _pages(browser, wrong) as make:
        yield make
    assert wrong == []


@contextmanager
def _pages(browser: Browser, wrong: list[str]) -> Iterator[Open]:
    contexts = []

    def make(base: str, path: str = "/ui/", tolerated: str = "", **options: Any) -> Page:
        def judged(route: Route) -> None:
            if route.request.url.startswith((base + "/", "data:")):
                route.continue_()
                return
            wrong.append(f"request to {route.request.url}")
            route.abort()

        def said(message: ConsoleMessage) -> None:
            is_tolerated = bool(tolerated) and tolerated in message.text
            if message.type in ("error", "warning") and not is_tolerated:
                wrong.append(f"console: {message.text}")

        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        context.route("**/*", judged)
        page = context.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.goto(base + path)
        return page

    try:
        yield make
    finally:
        for context in contexts:
            context.close()


@pytest.fixture
def keep() -> Callable[[Page, str], None]:
    """Keep a screenshot under a name."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=SCREENSHOTS / f"{name}.png") and None


@dataclass(frozen=True)
class Shop:
    """The shop, running under its demo traffic."""

    base: str
    #: Its resources, to be edited.
    config: Path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    output = folder / "output"
    pymesh = shutil.which("pymesh")
    words = [*([pymesh] if pymesh else [sys.executable, "-m", "pymesh"]), "up", str(ROOT / "examples" / "shop")]
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [*words, "--port", "0", "--keep", str(folder / "run")],
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**os.environ, "COLUMNS": "400"},
        )
    try:

        def base() -> str:
            lines = output.read_text().splitlines()
            return next((line.split()[-1] for line in lines if line.startswith("web UI: ")), "")

        assert eventually(lambda: bool(base()) and "logs: " in output.read_text(), 120), output.read_text()
        (config,) = {path.parent for path in (folder / "run" / "config").rglob("gateway.yaml")}
        yield Shop(base().removesuffix("/ui/"), config)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert check.leftovers(folder / "run") == []
