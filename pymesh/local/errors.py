"""Failures that a person has to read: what, where, and how to mend it. They never carry a traceback."""

from __future__ import annotations


class LocalMeshError(Exception):
    """The mesh cannot start or go on; the text is for the user."""
