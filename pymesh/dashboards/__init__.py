"""Grafana's dashboards and Prometheus's alert rules, as data beside this file.

Dashboards are Grafana's own JSON, each with a variable for its data source; alert rules are a file for `rule_files`.
What they ask for is what proxies and control planes of ours have: `tests/observability/` has a real Prometheus answer
each query.
"""

from __future__ import annotations

from importlib.resources import files

#: The file of the alert rules; all others are dashboards.
ALERTS = "alerts.yaml"


def names() -> list[str]:
    """Every file."""
    found = (one.name for one in files(__name__).iterdir())
    return sorted(name for name in found if name.endswith((".json", ".yaml")))


def text(name: str) -> str:
    """What a file says. Raises :class:`FileNotFoundError`."""
    if name not in names():
        raise FileNotFoundError(name)
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
