"""Hints to the closest name, where there are thousands of names or of mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import pytest

from pymesh.control.resources.diagnostics import MOST_SEARCHES, Report, did_you_mean
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, assemble

NAMES = [f"service-number-{n}.n{n % 20}.svc.cluster.local" for n in range(5000)]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("checkuot.shop.svc.cluster.local", "checkout.shop.svc.cluster.local"),
        ("vheckout.shop.svc.cluster.local", "checkout.shop.svc.cluster.local"),
        ("checkout.shop.svc.cluster.locall", "checkout.shop.svc.cluster.local"),
        ("checkout.shop.svc.clutser.local", "checkout.shop.svc.cluster.local"),
        ("CHECKOUT.shop.svc", "checkout.shop.svc"),
    ],
)
def test_one_name_of_thousands_is_found(wrong: str, meant: str) -> None:
    known = [*NAMES, "checkout.shop.svc.cluster.local", "checkout.shop.svc", "check-in.shop.svc.cluster.local"]
    assert did_you_mean(wrong, known) == f"did you mean {meant!r}?"


def test_few_names_are_compared_and_few_mistakes_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    close = difflib.get_close_matches

    def counted(word: str, names: Iterable[str], *args: Any, **kwargs: Any) -> list[str]:
        found = list(names)
        compared.append(len(found))
        return close(word, found, *args, **kwargs)

    text = "".join(
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: service-{n}}}\nspec: {{ports: [{{port: 80}}]}}\n"
        for n in range(300)
    )
    wrong = ", ".join(f"{{destination: {{host: servcie-{n}}}, weight: 1}}" for n in range(50))
    text += (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n"
        f"spec: {{hosts: [service-1], http: [{{route: [{wrong}]}}]}}\n"
    )
    report = Report()
    resources = load_text("f.yaml", text, report)
    assert not report.diagnostics
    monkeypatch.setattr(difflib, "get_close_matches", counted)
    assemble(resources, MeshOptions(), report)
    found = [one for one in report.diagnostics if one.message.startswith("there is no service")]
    assert len(found) == 50
    hinted = [one for one in found if one.hint]
    assert len(hinted) == len(compared) == MOST_SEARCHES
    assert all("did you mean 'service-" in one.hint for one in hinted)
    assert max(compared) <= 50
