"""Join tokens: what a proxy shows the control plane to prove which workload it is.

Each run makes new ones. The control plane gets hashes, the proxy gets the token; both files are private.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from pathlib import Path

from pymesh.control.identity import private_files
from pymesh.local.plan import Workload


def issue(workloads: Iterable[Workload], hashes: Path, folder: Path) -> dict[str, str]:
    """Write a token per workload to `folder` and all hashes to `hashes`; workload name -> token."""
    workloads = tuple(workloads)
    tokens = {workload.name: secrets.token_urlsafe(32) for workload in workloads}
    entries = {
        hashlib.sha256(tokens[workload.name].encode()).hexdigest(): {
            "namespace": workload.namespace,
            "serviceAccount": workload.service_account,
            **({"gateway": True} if workload.gateway else {}),
        }
        for workload in workloads
    }
    private_files.write(hashes, json.dumps(entries, indent=1).encode())
    for name, token in tokens.items():
        private_files.write(folder / name, token.encode())
    return tokens
