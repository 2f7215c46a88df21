"""What Grafana does with a dashboard before it asks Prometheus: variables from queries, and their values in queries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.observability.prometheus import WINDOW, Labels, Prometheus

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """One query of a panel."""

    title: str
    expression: str
    legend: str

    def __str__(self) -> str:
        return f"{self.title}: {self.expression}"


def panels(dashboard: Json) -> Iterator[Panel]:
    """Every query, also those in rows that are folded."""
    for panel in dashboard["panels"]:
        # A panel of text asks nothing.
        for target in (one for one in panel.get("targets", ()) if "expr" in one):
            yield Panel(panel.get("title") or "", target["expr"], target.get("legendFormat") or "")
        yield from panels({"panels": panel.get("panels", ())})


def values(dashboard: Json, prometheus: Prometheus, chosen: Mapping[str, str]) -> dict[str, str]:
    """A value for every variable: the one that was chosen, which has to be among those found, or all of them."""
    known: dict[str, str] = {}
    for variable in dashboard["templating"]["list"]:
        name = variable["name"]
        if variable["type"] == "datasource":
            continue
        found = _options(variable, known, prometheus)
        assert found, f"variable {name} has no value"
        if name in chosen:
            assert set(chosen[name].split("|")) <= set(found), f"variable {name}: {found}"
            known[name] = chosen[name]
        else:
            known[name] = variable.get("allValue") or "|".join(found)
    return known


def _options(variable: Json, known: Mapping[str, str], prometheus: Prometheus) -> list[str]:
    query = variable["query"] if isinstance(variable["query"], str) else variable["query"]["query"]
    if variable["type"] == "custom":
        return [one.strip() for one in query.split(",")]
    query = filled(query, known)
    if one := re.fullmatch(r"label_values\((.*), *(\w+)\)", query):
        return sorted({labels[one[2]] for labels, _ in prometheus.query(one[1]) if one[2] in labels})
    one = re.fullmatch(r"query_result\((.*)\)", query, re.DOTALL)
    assert one is not None, query
    shown = [_text(labels) for labels, _ in prometheus.query(one[1])]
    pattern = re.compile(variable["regex"].strip("/"))
    return sorted({match[1] for text in shown if (match := pattern.search(text))})


def _text(labels: Labels) -> str:
    """A series as Grafana shows it to a variable's regular expression."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items() if name != "__name__") + "} 1 0"


def filled(expression: str, known: Mapping[str, str]) -> str:
    """A query without variables."""
    text = expression.replace("$__rate_interval", WINDOW).replace("$__interval", WINDOW)
    for name in sorted(known, key=len, reverse=True):
        text = text.replace("${" + name + "}", known[name]).replace(f"${name}", known[name])
    return text


def labels_of(legend: str) -> set[str]:
    """The labels that a legend names, but for one that is empty unless it is about gRPC: that is none to Prometheus."""
    return set(re.findall(r"{{\s*(\w+)\s*}}", legend)) - {"grpc_response_status"}
