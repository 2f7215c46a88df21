"""YAML as `kubectl` reads it (sigs.k8s.io/yaml): what a plain word is.

PyYAML differs in both directions. It takes `12:30` for 750 and `=` for nothing that it knows, and it writes the texts
"y" and "1e3" without quotes, which are true and 1000 for `kubectl`. A manifest that goes through here has to come out
as it would have been without.
"""

from __future__ import annotations

import math
import re
from typing import Final

import yaml

_TAG: Final = "tag:yaml.org,2002:"
_TRUE: Final = ("y", "yes", "true", "on")
_FALSE: Final = ("n", "no", "false", "off")
#: All in lower case, in upper case, or capitalized.
_BOOL: Final = re.compile(
    "|".join(dict.fromkeys(each for one in (*_TRUE, *_FALSE) for each in (one, one.upper(), one.capitalize())))
)
_INT: Final = re.compile(
    r"[-+]?(?:0[bB]_*[01][01_]*|0[xX]_*[0-9a-fA-F][0-9a-fA-F_]*|0[oO]_*[0-7][0-7_]*|0[0-7_]*|[1-9][0-9_]*)"
)
_FLOAT: Final = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_DIGITS: Final = "-+.0123456789"


class Loader(yaml.SafeLoader):
    """JSON's types only: what looks like a date is a text, as for Kubernetes."""

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        """A plain word."""
        return str(self.construct_scalar(node)).lower() in _TRUE

    def construct_int(self, node: yaml.ScalarNode) -> int:
        """In Go's notation: 017 and 0o17 are 15."""
        text = str(self.construct_scalar(node)).replace("_", "").lower()
        sign, digits = (text[0], text[1:]) if text[0] in "-+" else ("", text)
        if digits.isdecimal():
            digits = f"0o{digits}" if digits.startswith("0") else digits
        return int(sign + digits, 0)

    def construct_float(self, node: yaml.ScalarNode) -> float | str:
        """One that is too large for Go, such as the beginning of a commit's hash, is a text."""
        text = str(self.construct_scalar(node))
        value = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        return text if math.isinf(value) and "inf" not in text.lower() else value


class Dumper(yaml.SafeDumper):
    """Quotes what either reading could take for something else than a text."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    kept = {"null", "merge"}
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {
        first: [(tag, pattern) for tag, pattern in known if tag.removeprefix(_TAG) in kept]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for name, pattern, beginnings in (
        ("bool", _BOOL, "yYnNtTfFoO"),
        ("int", _INT, _DIGITS),
        ("float", _FLOAT, _DIGITS),
    ):
        for first in beginnings:
            found.setdefault(first, []).append((_TAG + name, re.compile(f"(?:{pattern.pattern})$")))
    return found


Loader.yaml_implicit_resolvers = _resolvers()
Loader.add_constructor(f"{_TAG}bool", Loader.construct_bool)
Loader.add_constructor(f"{_TAG}int", Loader.construct_int)
Loader.add_constructor(f"{_TAG}float", Loader.construct_float)
Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *Loader.yaml_implicit_resolvers.get(first, ())]
    for first in {**yaml.SafeDumper.yaml_implicit_resolvers, **Loader.yaml_implicit_resolvers}
}
