"""What holds for every sidecar of a mesh: a document that `pymesh install` writes and the webhook reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import yaml

from pymesh.control.config import DEFAULT_TRUST_DOMAIN
from pymesh.control.resources.decode import BAD, Decoder, Located, Problem, Range, model
from pymesh.control.resources.diagnostics import ConfigError, Position, Report
from pymesh.control.resources.metadata import Metadata

API_VERSION = "install.pymesh.dev/v1alpha1"
KIND = "InjectionSettings"

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_UNITS = {
    "": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "T": Fraction(10**12), "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
}  # fmt: skip


def is_quantity(text: str) -> bool:
    """Whether this is an amount of CPU or memory, as Kubernetes writes it."""
    return bool(_QUANTITY.fullmatch(text))


def amount(text: str) -> Fraction | None:
    """How much a quantity is; None: it is none."""
    found = _QUANTITY.fullmatch(text)
    return Fraction(found[1]) * _UNITS[found[2] or ""] if found is not None else None


@model
class Resources(Located):
    """What a container asks for, and what it gets at most."""

    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "10m", "memory": "40Mi"})
    limits: Mapping[str, str] = field(default_factory=lambda: {"cpu": "2", "memory": "1Gi"})

    def problems(self) -> Iterator[Problem]:
        for name in ("requests", "limits"):
            for what, amount in getattr(self, name).items():
                if not is_quantity(amount):
                    yield Problem(name, f"{what}: {amount!r} is not a quantity", "as in 500m, 2, 128Mi or 1Gi")


@model
class InjectionSettings(Located):
    """See the module."""

    #: Of the sidecar and of the container that leads connections through it.
    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    #: HOST:PORT of the control plane; its certificate is good for HOST.
    control: str = "pymesh-control.istio-system.svc:15012"
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    cluster_id: str = "Kubernetes"
    interception_mode: Literal["REDIRECT", "TPROXY", "NONE"] = "REDIRECT"
    rewrite_probes: bool = True
    #: How long an application without a `preStop` hook of its own goes on while others hear that it ends.
    pre_stop_sleep_seconds: Annotated[int, Range(0, 300)] = 5
    resources: Resources = field(default_factory=Resources)

    def problems(self) -> Iterator[Problem]:
        host, colon, port = self.control.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            hint = "as in pymesh-control.istio-system.svc:15012"
            yield Problem("control", f"{self.control!r} is not HOST:PORT", hint)
        if not self.image or any(one.isspace() for one in self.image):
            yield Problem("image", f"{self.image!r} is not the name of an image", "as in registry.example/pymesh:1.0")


@model
class Document(Located):
    """The document in the file."""

    REFUSED: ClassVar = {"status": "remove it"}

    api_version: Literal["install.pymesh.dev/v1alpha1"]
    kind: Literal["InjectionSettings"]
    metadata: Metadata
    spec: InjectionSettings


def read(file: Path) -> InjectionSettings:
    """The settings in a file. Raises :class:`ConfigError` with all that is wrong."""
    report = Report()
    whole = Position(str(file))
    root = None
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        report.error(whole, f"cannot be read: {error.strerror}", "`pymesh install --dry-run` shows such a document")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Position(str(file), mark.line + 1, mark.column + 1) if mark else whole
        report.error(at, f"is not YAML: {error.problem or error.context}")
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        report.error(whole, f"is not YAML: {error}")
    if root is None and not report.failed:
        report.error(whole, "is empty")
    if root is not None:
        made = Decoder(str(file), report).decode(Document, root, KIND)
        if made is not BAD and not report.failed:
            assert isinstance(made, Document)
            return made.spec
    raise ConfigError(report.diagnostics)
