"""A pod gets its sidecar on its way into the cluster."""

from __future__ import annotations

from pymesh.control.admission.review import Answer, Asked
from pymesh.control.injection.again import complete
from pymesh.control.injection.inject import inject
from pymesh.control.injection.patch import difference
from pymesh.control.injection.policy import is_injected, skipped
from pymesh.control.injection.problems import InjectionError
from pymesh.control.injection.settings import InjectionSettings


def answer(asked: Asked, settings: InjectionSettings) -> Answer:
    """What becomes of the pod. Which pods are asked about, the webhook configuration's selectors have decided."""
    if (asked.group, asked.kind) != ("", "Pod") or asked.operation != "CREATE":
        return Answer()
    reason, again = skipped(asked.object, asked.namespace), is_injected(asked.object)
    if reason and not again:
        return Answer(audit={"injection": f"none: {reason}"})
    try:
        made = complete(asked.object, settings) if again else inject(asked.object, settings)
    except InjectionError as error:
        return Answer(refusal="\n".join(f"{asked.title}: {fault}" for fault in error.faults))
    done = "injected" if not again else "completed" if made != asked.object else f"none: {reason}"
    return Answer(patch=difference(asked.object, made), audit={"injection": done})
