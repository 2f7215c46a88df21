"""`pytest tests/explain --regen-explained` writes what `pymesh explain` says anew; read the difference."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen-explained", action="store_true", help="write tests/explain/expected/*.txt anew")
