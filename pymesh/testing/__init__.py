"""Tests of filters and of meshes, without a network and without waiting.

* :class:`FilterHarness`: one filter, and the test on both sides of it. Pure Python.
* :class:`Mesh`: a whole mesh, its proxies' engines on a network that is not there; :func:`seeds` runs many.
"""

from typing import TYPE_CHECKING, Any

from pymesh.simulated.messages import Answered, Asked, Fields
from pymesh.testing.calls import Call
from pymesh.testing.errors import MeshError, NoAnswerError
from pymesh.testing.harness import Exchange, Failure, FilterHarness

if TYPE_CHECKING:
    from pymesh.testing.mesh import Mesh, Record, Sent
    from pymesh.testing.scenarios import seeds
    from pymesh.testing.services import HangUpError, Incoming, Received
    from pymesh.testing.tasks import Pending

__all__ = [
    "Answered",
    "Asked",
    "Call",
    "Exchange",
    "Failure",
    "Fields",
    "FilterHarness",
    "HangUpError",
    "Incoming",
    "Mesh",
    "MeshError",
    "NoAnswerError",
    "Pending",
    "Received",
    "Record",
    "Sent",
    "seeds",
]

#: Who tests one filter does not wait for a control plane to be imported.
_LATER = {
    "Mesh": "mesh",
    "Record": "mesh",
    "Sent": "mesh",
    "HangUpError": "services",
    "Incoming": "services",
    "Received": "services",
    "Pending": "tasks",
    "seeds": "scenarios",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(f"pymesh.testing.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
