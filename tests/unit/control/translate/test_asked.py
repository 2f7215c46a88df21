"""What was made for one proxy is found for those that answer the same, and for nobody else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pymesh.control.translate.asked import Alike, Asked
from pymesh.control.translate.proxy import Proxy


class Made(str):
    """Of which it can be told whether somebody holds it."""


FOUND, PART, WHOLE = Made("found"), Made("part"), Made("whole")
WEB = Proxy("sidecar", "10.1.0.1", "web-1", "shop", {"app": "web", "version": "v1"})


def test_only_what_was_asked_tells_proxies_apart() -> None:
    made: Alike[Made] = Alike()
    asked = Asked.of(WEB)
    assert (asked.namespace, asked.labels.get("version"), asked.labels.get("rack")) == ("shop", "v1", None)
    made.add(asked, FOUND)
    assert made.find(replace(WEB, name="web-2", labels={"version": "v1"})) == "found"
    assert made.find(replace(WEB, namespace="other")) is None
    assert made.find(replace(WEB, labels={"version": "v2"})) is None
    assert made.find(replace(WEB, labels={"version": "v1", "rack": ""})) is None, "no label is not an empty one"


def test_properties_are_answers_themselves() -> None:
    made: Alike[Made] = Alike()
    asked = Asked.of(WEB)
    assert not asked.is_captured
    made.add(asked, FOUND)
    assert made.find(replace(WEB, kind="router", interception="TPROXY")) == "found"
    assert made.find(replace(WEB, interception="TPROXY")) is None


def test_who_uses_a_part_depends_on_what_that_depends_on() -> None:
    part: Alike[Made] = Alike()
    first = Asked.of(WEB)
    assert first.labels["app"] == "web"
    part.add(first, PART)
    whole: Alike[Made] = Alike()
    second = Asked.of(WEB)
    assert part.find(second) == "part"
    whole.add(second, WHOLE)
    assert whole.find(replace(WEB, labels={"app": "cart"})) is None
    third = Asked.of(replace(WEB, labels={"app": "cart"}))
    assert part.find(third) is None
    assert Alike[Made]().add(third, FOUND) is FOUND, "which depends on nothing"


def test_what_nobody_holds_is_gone() -> None:
    made: Alike[Made] = Alike()
    asked = Asked.of(WEB)
    assert asked.namespace == "shop"
    held = made.add(asked, Made("found"))
    assert made.find(WEB) is held
    assert made.add(asked, Made("found anew")) is held
    assert len(made) == 1
    del held
    assert made.find(WEB) is None
    assert len(made) == 0


def test_all_labels_are_nobodys_business() -> None:
    labels = Asked.of(WEB).labels
    with pytest.raises(TypeError):
        list(labels)
    assert {"app": "web"}.items() <= labels.items()
    assert not {"app": "cart"}.items() <= labels.items()
