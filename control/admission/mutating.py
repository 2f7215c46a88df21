"""A pod gets its sidecar on its way into the cluster."""

from __future__ import annotations

from pymesh.control.admission.review import Answer, Asked
from pymesh.control.injection.inject import inject
from pymesh.control.injection.patch import difference
from pymesh.control.injection.policy import skipped
from pymesh.control.injection.problems import InjectionError
from pymesh.control.injection.settings import InjectionSettings


def answer(asked: Asked, settings: InjectionSettings) -> Answer:
    """What becomes of the pod. Which pods are asked about, the webhook configuration's selectors have decided."""
    if (asked.group, asked.kind) != ("", "Pod") or asked.operation != "CREATE":
        return Answer()
    reason = skipped(asked.object, asked.namespace)
    if reason:
        return Answer(audit={"injection": f"none: {reason}"})
    try:
        made = inject(asked.object, settings)
    except InjectionError as error:
        return Answer(refusal="\n".join(f"{asked.title}: {fault}" for fault in error.faults))
    return Answer(patch=difference(asked.object, made), audit={"injection": "injected"})
