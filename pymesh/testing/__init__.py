"""Tests of filters and of meshes, without a network and without waiting.

* :class:`FilterHarness`: one filter, and the test on both sides of it. Pure Python.
"""

from pymesh.simulated.messages import Answered, Asked, Fields
from pymesh.testing.calls import Call
from pymesh.testing.harness import Exchange, Failure, FilterHarness

__all__ = ["Answered", "Asked", "Call", "Exchange", "Failure", "Fields", "FilterHarness"]
