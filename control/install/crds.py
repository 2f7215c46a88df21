"""CustomResourceDefinitions of our kinds, made from the classes that decode them: one schema for files and clusters.

What types say becomes OpenAPI; what a class's ``problems`` say becomes CEL where one object tells it
(:data:`_RULES`). The API server then refuses at once what the control plane could only refuse later, in the same
words. What needs more than the object, as whether a filter's source is Python, is left to the validating webhook.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pymesh.control.resources.decode import Located, Range, schema
from pymesh.control.resources.embedded import Text
from pymesh.control.resources.health_check import (
    HealthCheckPolicy,
    HealthCheckPolicySpec,
    HealthCheckTarget,
    HttpProbe,
    TcpProbe,
)
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.python_filter import LARGEST_SOURCE, PythonFilter, PythonFilterSpec
from pymesh.control.resources.rate_limit import Limit, LimitRule, LocalRateLimit, LocalRateLimitSpec
from pymesh.control.resources.statuses import REFUSALS
from pymesh.control.resources.traffic import HeaderMatch

GROUP: Final = "extensions.pymesh.dev"
VERSION: Final = "v1alpha1"

Json = dict[str, Any]

#: Go's durations, as `decode.duration` reads them.
_DURATION: Final = r"^(0|([0-9]+(\.[0-9]+)?(h|ms|us|µs|ns|m|s))+)$"
_MOST_ITEMS, _MOST_TEXT, _MOST_NAMES = 128, 4096, 64

#: Class -> CEL, what is wrong where it does not hold, and the field that it is about ("" for the whole).
_RULES: Final[Mapping[type[Located], tuple[tuple[str, str, str], ...]]] = {
    PythonFilterSpec: (
        ("has(self.selector) != has(self.targetRefs)", "exactly one of 'selector' and 'targetRefs' is needed", ""),
        ("!has(self.file)", "files cannot be read here; hint: put the text under 'source'", ".file"),
    ),
    HealthCheckPolicySpec: (
        (
            "[has(self.http), has(self.tcp), has(self.grpc)].exists_one(one, one)",
            "exactly one of 'http', 'tcp' and 'grpc' is needed",
            "",
        ),
        *(
            (
                f"!has(self.{name}) || duration(self.{name}) >= duration('1ms')",
                f"'{name}' must be at least 1ms",
                f".{name}",
            )
            for name in ("interval", "timeout", "noTrafficInterval")
        ),
    ),
    HealthCheckTarget: (
        (
            "(has(self.group) ? self.group : '') == (self.kind == 'Hostname' ? 'networking.istio.io' : '')",
            "a Service is in group '', a Hostname in group 'networking.istio.io'",
            "",
        ),
    ),
    TcpProbe: (
        (
            "!has(self.send) || self.send == '' || (has(self.receive) && size(self.receive) > 0)",
            "nothing is sent where no answer is wanted; hint: add 'receive', or remove it",
            ".send",
        ),
    ),
    LocalRateLimitSpec: (
        ("has(self.selector) != has(self.targetRefs)", "exactly one of 'selector' and 'targetRefs' is needed", ""),
        (
            "has(self.total) || (has(self.rules) && size(self.rules) > 0)",
            "a rate limit needs 'total' or 'rules'",
            "",
        ),
    ),
    LimitRule: (
        (
            "(has(self.each) && self.each == 'Header') == (has(self.header) && self.header != '')",
            "'header' names the header of 'each: Header'; hint: set both or none",
            "",
        ),
        (
            "has(self.each) || (has(self.headers) && size(self.headers) > 0)",
            "a rule for all requests together is the total; hint: write it as 'total'",
            "",
        ),
    ),
    Limit: (
        (
            "!has(self.per) || duration(self.per) >= duration('50ms')",
            "an interval is at least 50ms; hint: for the same rate raise 'requests' as well",
            ".per",
        ),
    ),
    HeaderMatch: (
        (
            "[has(self.exact), has(self.prefix), has(self.regex)].filter(one, one).size() <= 1",
            "'exact', 'prefix' and 'regex' exclude each other",
            "",
        ),
    ),
}
#: What a field's type does not say.
_MORE: Final[Mapping[tuple[type[Located], str], Json]] = {
    (PythonFilterSpec, "class"): {"pattern": r"^[A-Za-z_][0-9A-Za-z_.]*:[A-Za-z_][0-9A-Za-z_]*$"},
    (PythonFilterSpec, "source"): {"maxLength": LARGEST_SOURCE},
    (HealthCheckPolicySpec, "targetRefs"): {"minItems": 1},
    (HttpProbe, "path"): {"pattern": "^/"},
    (LocalRateLimitSpec, "status"): {"enum": list(REFUSALS)},
    (HeaderMatch, "exact"): {"minLength": 1},
    (HeaderMatch, "prefix"): {"minLength": 1},
    (HeaderMatch, "regex"): {"minLength": 1},
}
#: Plural, short name and the columns of `kubectl get`.
_SHOWN: Final[Mapping[type[Resource], tuple[str, str, tuple[tuple[str, str], ...]]]] = {
    PythonFilter: ("pythonfilters", "pyf", (("Class", ".spec.class"), ("Phase", ".spec.phase"))),
    HealthCheckPolicy: ("healthcheckpolicies", "hcp", (("Target", ".spec.targetRefs[0].name"),)),
    LocalRateLimit: ("localratelimits", "lrl", (("Enforced", ".spec.enforce"),)),
}


def definitions() -> list[Json]:
    """All of them."""
    return [_definition(cls) for cls in _SHOWN]


def _definition(cls: type[Resource]) -> Json:
    plural, short, columns = _SHOWN[cls]
    kind = cls.__name__
    accepted = {
        "name": "Accepted",
        "type": "string",
        "jsonPath": '.status.conditions[?(@.type=="Accepted")].status',
    }
    age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    spec = _of(schema(cls)["spec"].type)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["pymesh"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        *({"name": name, "type": "string", "jsonPath": path} for name, path in columns),
                        accepted,
                        age,
                    ],
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "description": _text(cls),
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": _STATUS,
                            },
                        }
                    },
                }
            ],
        },
    }


_STATUS: Final[Json] = {
    "type": "object",
    "properties": {
        "observedGeneration": {"type": "integer", "format": "int64"},
        "conditions": {
            "type": "array",
            "maxItems": 16,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": {
                    "type": {"type": "string", "maxLength": 316},
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "reason": {"type": "string", "maxLength": 1024},
                    "message": {"type": "string", "maxLength": 32768},
                    "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                },
            },
        },
    },
}


def _of(wanted: Any) -> Json:
    """The schema of a type, as `decode` reads it."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return {"x-kubernetes-preserve-unknown-fields": True}
    if origin is Annotated:
        bounds = arguments[1]
        assert isinstance(bounds, Range)
        return {**_of(arguments[0]), "minimum": bounds.low, "maximum": bounds.high}
    if origin in (types.UnionType, typing.Union):
        options = [one for one in arguments if one is not type(None)]
        if len(options) == 1:
            return _of(options[0])
        assert set(options) == {int, str}, f"no schema for {wanted}"
        return {"x-kubernetes-int-or-string": True}
    if origin is Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "maxItems": _MOST_ITEMS, "items": _of(arguments[0])}
    if origin is not None and issubclass(origin, Mapping):
        if arguments[1] is Any:
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return {"type": "object", "maxProperties": _MOST_NAMES, "additionalProperties": _of(arguments[1])}
    if isinstance(wanted, type) and issubclass(wanted, Located):
        return _struct(wanted)
    return dict(_SCALARS[wanted])


_SCALARS: Final[Mapping[Any, Json]] = {
    str: {"type": "string", "maxLength": _MOST_TEXT},
    Text: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number"},
    timedelta: {"type": "string", "maxLength": 64, "pattern": _DURATION},
}


def _struct(cls: type[Located]) -> Json:
    fields = schema(cls)
    made: Json = {"type": "object", "description": _text(cls), "properties": {}}
    required = sorted(name for name, field in fields.items() if field.required)
    if required:
        made["required"] = required
    for name, field in fields.items():
        made["properties"][name] = {**_of(field.type), **_MORE.get((cls, name), {})}
    rules = [
        {"rule": rule, "message": message, **({"fieldPath": path} if path else {})}
        for rule, message, path in _RULES.get(cls, ())
    ]
    if rules:
        made["x-kubernetes-validations"] = rules
    return made


def _text(cls: type) -> str:
    """What the class's author says of it, without marks of code."""
    return " ".join((cls.__doc__ or "").replace("``", "").split())
