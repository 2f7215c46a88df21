"""Every vector through the proxy to every origin: client, proxy and origin tell the same story, the expected one.

All vectors are played before the first test, many at a time; each test then reads what became of its vector, and the
last ones close the books: no origin saw a request that the proxy does not know of.
"""

from __future__ import annotations

import pytest

from tests.conformance.corpus.agreement import disagreements, is_for
from tests.conformance.corpus.origins import NAMES
from tests.conformance.corpus.run import Books, run
from tests.conformance.corpus.vectors import FILES, Vector, load

VECTORS = load(*FILES)


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Books:
    """What became of everything."""
    return run(VECTORS, tmp_path_factory.mktemp("vectors"))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_vector(vector: Vector, books: Books) -> None:
    accounts = {name: books.accounts[name, vector.id] for name in NAMES if is_for(vector, name)}
    said = [f"{name}: {line}" for name, one in accounts.items() for line in disagreements(vector, name, one)]
    assert not said, "\n".join([vector.why, *said])


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_over(name: str, books: Books) -> None:
    assert books.strays[name] == []
