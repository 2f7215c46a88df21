"""`pymesh pod`: the proxy of a pod."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path

import click

from pymesh import _bridge
from pymesh.cli.problem import give_up
from pymesh.pod import bootstrap, environment, probes
from pymesh.pod.bootstrap import ControlAddress
from pymesh.pod.environment import PROBE_PORT, PodError, Role

PATH = click.Path(path_type=Path)
#: By role. A gateway is told of its end while it is still sent connections; a sidecar's application is gone by then.
_DRAIN = {"sidecar": 5.0, "router": 30.0}
_DRAIN_ACCEPT = {"sidecar": 0.0, "router": 10.0}


@click.command("pod")
@click.argument("role", type=click.Choice(["sidecar", "router"]))
@click.option("--control", required=True, metavar="HOST:PORT", help="The control plane.")
@click.option("--trust-domain", default="cluster.local", show_default=True)
@click.option("--root", type=PATH, default="/var/run/secrets/istio/root-cert.pem", show_default=True, metavar="FILE",
              help="Roots that the control plane is trusted by at the start.")  # fmt: skip
@click.option("--token", type=PATH, default="/var/run/secrets/tokens/istio-token", show_default=True, metavar="FILE",
              help="The pod's service account token.")  # fmt: skip
@click.option("--labels", type=PATH, default="/etc/istio/pod/labels", show_default=True, metavar="FILE",
              help="The pod's labels, as the downward API writes them.")  # fmt: skip
@click.option("--scratch", type=PATH, default="/etc/istio/proxy", show_default=True, metavar="DIR",
              help="Where the bootstrap is written.")  # fmt: skip
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Worker threads.")
def command(
    role: Role,
    control: str,
    trust_domain: str,
    root: Path,
    token: Path,
    labels: Path,
    scratch: Path,
    concurrency: int | None,
) -> None:
    """Run the proxy of a pod, as its environment describes it.

    This is what the containers run that `pymesh inject` and `pymesh install` write: a sidecar, or a gateway (router).
    The pod is described by POD_NAME, POD_NAMESPACE, INSTANCE_IP, SERVICE_ACCOUNT and ISTIO_META_*; the probes that the
    sidecar answers in the application's place are in ISTIO_KUBE_APP_PROBERS."""
    host, colon, port = control.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        give_up(f"--control: {control!r} is not HOST:PORT; hint: pymesh-control.istio-system.svc:15012")
    try:
        pod = environment.read(role, os.environ, labels)
        written = bootstrap.for_pod(pod, ControlAddress(int(port), root, host, _server_name(host)), token, trust_domain)
        file = scratch / "bootstrap.json"
        file.write_text(json.dumps(written, indent=1), encoding="utf-8")
        if pod.probes:
            probes.serve(pod.probes, pod.address, PROBE_PORT)
        lifecycle = _bridge.Lifecycle(_DRAIN[role], _DRAIN_ACCEPT[role])
        _bridge.run(file, concurrency=concurrency, lifecycle=lifecycle)
    except PodError as error:
        give_up(str(error))
    except OSError as error:
        give_up(f"{error.filename or f'port {PROBE_PORT}'}: {error.strerror or error}")
    except _bridge.ProxyError as error:
        give_up(str(error))


def _server_name(host: str) -> str:
    """What the control plane's certificate has to be good for; by its address it is known as on its own machine."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return "localhost"
