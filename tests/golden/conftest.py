"""`pytest tests/golden --regen-golden` writes the outputs anew; read the difference."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen-golden", action="store_true", help="write tests/golden/*/out.yaml anew")
