"""SPIFFE names as Istio writes them: ``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Identity:
    """A workload's identity inside one trust domain. Invalid names cannot be constructed."""

    trust_domain: str
    namespace: str
    service_account: str

    def __post_init__(self) -> None:
        if not _SUBDOMAIN.fullmatch(self.trust_domain):
            raise ValueError(f"trust domain {self.trust_domain!r} is not a DNS name in lower case")
        if not _LABEL.fullmatch(self.namespace):
            raise ValueError(f"namespace {self.namespace!r} is not a DNS label")
        if not _SUBDOMAIN.fullmatch(self.service_account):
            raise ValueError(f"service account {self.service_account!r} is not a DNS name in lower case")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"
