"""Manifests with sidecars: the pods in the documents of a YAML file, injected; everything else as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from pymesh.control.injection.inject import Owner, inject, shape
from pymesh.control.injection.manifest_yaml import Loader
from pymesh.control.injection.policy import skipped
from pymesh.control.injection.problems import Fault, InjectionError
from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.resources.diagnostics import ConfigError, Diagnostic, Position

Json = dict[str, Any]

#: Kind -> where the pod, or the template of pods, is in it.
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "PodTemplate": ("template",),
    **dict.fromkeys(
        ("Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "ReplicationController", "Job"), ("spec", "template")
    ),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
#: API groups whose kinds these are; another's Job is another thing.
_GROUPS = ("", "apps", "batch")


@dataclass(slots=True)
class Injected:
    """The documents, and what was left as it was with the reason."""

    documents: list[Json] = field(default_factory=list)
    #: "kind namespace/name: reason"
    skipped: list[str] = field(default_factory=list)


def inject_all(file: str, text: str, settings: InjectionSettings, namespace: str = "default") -> Injected:
    """Every document of ``text``. Raises :class:`ConfigError` with all that is wrong, and where."""
    made = Injected()
    wrong: list[Diagnostic] = []
    for line, document in _documents(file, text):
        one = document
        try:
            for one in _members(document):
                made.documents.append(_injected(one, settings, namespace, made.skipped))
        except InjectionError as error:
            title, at = _title(one, namespace), Position(file, line, 1)
            wrong += [Diagnostic(at, f"{title}: {fault.path}: {fault.message}", fault.hint) for fault in error.faults]
    if wrong:
        raise ConfigError(wrong)
    return made


def _injected(document: Json, settings: InjectionSettings, namespace: str, left: list[str]) -> Json:
    kind = document.get("kind")
    group = str(document.get("apiVersion", "")).rpartition("/")[0]
    way = _TEMPLATES.get(str(kind)) if group in _GROUPS else None
    if way is None:
        return document
    metadata = document.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InjectionError([Fault("metadata", "expected a mapping")])
    pod = _at(document, way)
    prefix = "".join(f"{step}." for step in way)
    faults = shape(pod)
    if faults:
        raise InjectionError(replace(one, path=prefix + one.path) for one in faults)
    where = str((metadata or {}).get("namespace") or namespace)
    reason = skipped(pod, where)
    if reason:
        left.append(f"{_title(document, namespace)}: {reason}")
        return document
    owner = Owner.of_pod(document) if kind == "Pod" else Owner(_workload(document))
    try:
        return _with(document, way, inject(pod, settings, owner))
    except InjectionError as error:
        raise InjectionError(replace(one, path=prefix + one.path) for one in error.faults) from error


def _workload(document: Json) -> str:
    """The name that its pods are told to be of; a ReplicaSet may be a Deployment's."""
    metadata = document.get("metadata") or {}
    name = str(metadata.get("name") or str(metadata.get("generateName", "")).rstrip("-"))
    return Owner.of_pod(document).name if metadata.get("ownerReferences") else name


def _at(document: Json, way: tuple[str, ...]) -> Any:
    found: Any = document
    for number, step in enumerate(way):
        found = found.get(step)
        if not isinstance(found, Mapping):
            raise InjectionError([Fault(".".join(way[: number + 1]), "expected a mapping")])
    return found


def _with(document: Json, way: tuple[str, ...], pod: Json) -> Json:
    if not way:
        return pod
    return {**document, way[0]: _with(document[way[0]], way[1:], pod)}


def _members(document: Json) -> Iterator[Json]:
    """The document, or what is in it if it is a list."""
    items, kind = document.get("items"), str(document.get("kind"))
    if kind in ("List", *(f"{one}List" for one in _TEMPLATES)) and isinstance(items, list):
        # In a DeploymentList, as the API server answers it, none says what it is.
        what = {"apiVersion": document.get("apiVersion"), "kind": kind.removesuffix("List")} if kind != "List" else {}
        for number, one in enumerate(items):
            if not isinstance(one, dict):
                raise InjectionError([Fault(f"items[{number}]", "expected a mapping")])
            yield {**what, **one}
    else:
        yield document


def _documents(file: str, text: str) -> Iterator[tuple[int, Json]]:
    """Each document with the line that it begins in."""
    loader = Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            line = node.start_mark.line + 1
            value = loader.construct_document(node)
            if value is None:
                continue
            if not isinstance(value, dict):
                wrong = Diagnostic(
                    Position(file, line, 1), "a document must be a mapping", "apiVersion: and kind: first"
                )
                raise ConfigError([wrong])
            yield line, value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Position(file, mark.line + 1, mark.column + 1) if mark else Position(file)
        raise ConfigError([Diagnostic(at, f"not YAML: {error.problem or error.context}")]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError([Diagnostic(Position(file), f"not YAML: {error}")]) from error
    finally:
        loader.dispose()


def _title(document: Json, namespace: str) -> str:
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = metadata.get("name") or metadata.get("generateName") or "(no name)"
    return f"{document.get('kind', '(no kind)')} {metadata.get('namespace') or namespace}/{name}"
