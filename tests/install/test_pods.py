"""The pods of an installation have what they need, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from pymesh.control.install.objects import CONTROL, GATEWAY, objects
from pymesh.control.install.values import Values

TEMPLATES = {
    one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in objects(Values()) if one["kind"] == "Deployment"
}


def test_only_the_control_plane_has_a_token_for_the_api_server() -> None:
    """Strangers speak to a gateway."""
    assert {name: one.get("automountServiceAccountToken", True) for name, one in TEMPLATES.items()} == {
        CONTROL: True,
        GATEWAY: False,
    }


@pytest.mark.parametrize("pod", TEMPLATES.values(), ids=TEMPLATES)
def test_it_is_restricted_as_the_pod_security_standards_have_it(pod: dict[str, Any]) -> None:
    whole = pod["securityContext"]
    assert whole["runAsNonRoot"]
    assert whole["runAsUser"] != 0
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {one["name"] for one in whole.get("sysctls", ())} <= {"net.ipv4.ip_unprivileged_port_start"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for volume in pod["volumes"]:
        assert volume.keys() - {"name"} <= {
            "configMap",
            "emptyDir",
            "projected",
            "downwardAPI",
            "persistentVolumeClaim",
        }
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPort" in port for port in container.get("ports", ()))
