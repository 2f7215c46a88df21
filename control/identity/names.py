"""The two secrets of every proxy of the mesh, by Istio's names."""

from __future__ import annotations

from typing import Final

#: Its own certificate and key.
CERTIFICATE: Final = "default"
#: The trust bundle, by which it judges others.
ROOTS: Final = "ROOTCA"
