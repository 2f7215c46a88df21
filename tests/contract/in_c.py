"""The filters of cases as one compiled module: what stands in each case's source, as a class of its own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from pymesh.authoring import build, file
from tests.contract.case import Case

_NAME = "cases_in_c"


def compiled(cases: Sequence[Case], folder: Path) -> tuple[dict[str, Case], build.Built]:
    """The same cases for the compiled classes, by name; the module is in `folder`."""
    future = "from __future__ import annotations\n"
    sources = [
        re.sub(r"\bclass Probe\b", f"class Probe{at}", case.source("inline")).removeprefix(future)
        for at, case in enumerate(cases)
    ]
    source = folder / "source" / f"{_NAME}.py"
    source.parent.mkdir()
    source.write_text(future + "\n".join(sources))
    built = build.build(file.read(source), folder)
    made = (dataclasses.replace(case, compiled=f"{_NAME}:Probe{at}") for at, case in enumerate(cases))
    return {case.name: case for case in made}, built
