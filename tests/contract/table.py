"""The table. Each part of the contract has its file; a new one is added here."""

from tests.contract import cases_bodies, cases_headers

CASES = [*cases_headers.CASES, *cases_bodies.CASES]
