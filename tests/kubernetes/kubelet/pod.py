"""One pod on the node, from its first init container to its end.

```text
Pending --init containers done, native sidecars started--> Running --deleted--> terminating --> gone
   |                                                          |
   +---- an init container fails: again, with back-off        +---- a container ends: again (restartPolicy)
```
Native sidecars (init containers with `restartPolicy: Always`) start in their order, each when the one before it has
started by its startup probe, and end after the application, in reverse order, as Kubernetes has it since 1.29.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymesh.capture import dns
from tests.kubernetes.api import Api, ApiRefused, Object
from tests.kubernetes.kubelet.network import ADDRESS, Network
from tests.kubernetes.kubelet.probes import Probe
from tests.kubernetes.kubelet.volumes import Missing, Volumes, expanded, only
from tests.tools.peers import peer

_RUNTIME = Path(__file__).with_name("container.py")
_TURN_S = 0.05
#: What of a pod's spec somebody else acts on, or nobody has to here.
_POD = {
    "volumes", "initContainers", "containers", "restartPolicy", "terminationGracePeriodSeconds", "dnsPolicy",
    "serviceAccountName", "serviceAccount", "nodeName", "securityContext", "schedulerName", "tolerations", "priority",
    "enableServiceLinks", "preemptionPolicy", "affinity", "topologySpreadConstraints", "priorityClassName",
    "nodeSelector", "automountServiceAccountToken",
}  # fmt: skip
_CONTAINER = {
    "name", "image", "imagePullPolicy", "command", "args", "env", "envFrom", "ports", "volumeMounts", "resources",
    "securityContext", "startupProbe", "readinessProbe", "livenessProbe", "restartPolicy", "lifecycle", "workingDir",
    "terminationMessagePath", "terminationMessagePolicy",
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    """What stands for an image: what it runs if a container says no command, and files at places of theirs."""

    entrypoint: tuple[str, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Container:
    """A container: the process of now, and how often there was another before."""

    spec: Object
    folder: Path
    is_sidecar: bool = False
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    exit_code: int | None = None
    started_at: float = 0.0
    probes: dict[str, Probe] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In its pod."""
        return str(self.spec["name"])

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """End it at once, as a crash does; it is started again."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()

    @property
    def is_started(self) -> bool:
        """By its startup probe, if it has one."""
        probe = self.probes.get("startupProbe")
        return self.is_running and (probe is None or probe.is_good is True)

    @property
    def is_ready(self) -> bool:
        """By its readiness probe, if it has one."""
        probe = self.probes.get("readinessProbe")
        return self.is_started and (probe is None or probe.is_good is True)

    @property
    def log(self) -> Path:
        """Everything that all its processes have printed."""
        return self.folder / "log"


class Pod:
    """See the module."""

    def __init__(
        self,
        api: Api,
        document: Object,
        network: Network,
        images: Mapping[str, Image],
        services: Callable[[], list[Object]],
        claims: Path,
    ) -> None:
        self.document = document
        meta = document["metadata"]
        self.name, self.namespace, self.uid = str(meta["name"]), str(meta["namespace"]), str(meta["uid"])
        self._api, self._network, self._images, self._services = api, network, images, services
        self.folder = Path(tempfile.mkdtemp(prefix=f"pod-{self.name}-"))
        self.folder.chmod(0o755)
        self.space, self.address = network.pod()
        document["status"] = {**document.get("status", {}), "podIP": self.address}
        (self.folder / "volumes").mkdir(mode=0o755)
        self.volumes = Volumes(api, document, self.folder / "volumes", claims)
        self._mounts: dict[str, Path] = {}
        spec = document["spec"]
        only(f"pod {self.name}", spec, _POD)
        init = spec.get("initContainers", ())
        self.init = [self._container(one, one.get("restartPolicy") == "Always") for one in init]
        self.main = [self._container(one, False) for one in spec["containers"]]
        self.problem = ""
        for one in spec.get("securityContext", {}).get("sysctls", ()):
            self.space.call(lambda one=one: _sysctl(one["name"], one["value"]))  # type: ignore[misc]
        self._told: Object = {}
        self._ending = threading.Event()
        self._grace = float(spec.get("terminationGracePeriodSeconds", 30))
        self._thread = threading.Thread(target=self._live, name=f"pod {self.name}", daemon=True)
        self._thread.start()

    def end(self, grace: float | None = None) -> None:
        """Begin to end it."""
        if grace is not None:
            self._grace = min(self._grace, grace)
        self._ending.set()

    @property
    def is_broken(self) -> bool:
        """Whether this kubelet cannot run it."""
        return bool(self.problem) and self._told.get("phase") == "Failed"

    @property
    def is_gone(self) -> bool:
        """Whether nothing of it is left."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Wait until it is gone."""
        self._thread.join()

    def container(self, name: str) -> Container:
        """By its name."""
        return next(one for one in (*self.init, *self.main) if one.name == name)

    def run(self, container: str, *argv: str, timeout: float = 60) -> str:
        """What a command prints that is run in a container, as `kubectl exec` does it."""
        one = self.container(container)
        done = self._entered(one.folder / f"run-{one.restarts}", argv, timeout)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.decode()}")
        return done.stdout.decode()

    def logs(self, most: int = 40) -> str:
        """The end of what each container has printed, for people who look for an error."""
        parts = [f"pod {self.namespace}/{self.name} {self.problem}"]
        for one in (*self.init, *self.main):
            if one.log.exists():
                tail = one.log.read_text(errors="replace").splitlines()[-most:]
                parts.append("\n".join([f"--- {one.name} (exit code {one.exit_code})", *tail]))
        return "\n".join(parts)

    def _container(self, spec: Object, is_sidecar: bool) -> Container:
        only(f"container {spec['name']}", spec, _CONTAINER)
        folder = self.folder / spec["name"]
        folder.mkdir(mode=0o755)
        return Container(spec, folder, is_sidecar)

    def _live(self) -> None:
        try:
            self._start()
            while not self._ending.wait(_TURN_S):
                self._turn()
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
            self._tell("Failed")
            self._ending.wait()
        finally:
            self._stop()
            self.space.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        self._tell("Pending")
        while True:
            try:
                self._mounts = self.volumes.prepare()
                break
            except Missing as missing:
                self.problem = str(missing)
                for folder in (self.folder / "volumes").iterdir():
                    shutil.rmtree(folder)
                if self._ending.wait(0.2):
                    return
        for one in self.init:
            self._run(one)
            while not (one.is_started if one.is_sidecar else one.exit_code == 0):
                if self._ending.wait(_TURN_S):
                    return
                self._turn()
        for one in self.main:
            self._run(one)

    def _turn(self) -> None:
        self.volumes.refresh()
        for one in (*self.init, *self.main):
            if one.process is None:
                continue
            if not one.is_running:
                one.exit_code = one.process.returncode
                is_over = one.exit_code == 0 and one in self.init and not one.is_sidecar
                if not is_over and time.monotonic() > one.started_at + min(0.2 * 2**one.restarts, 10):
                    one.restarts += 1
                    self._run(one)
                continue
            for kind, probe in one.probes.items():
                if kind == "startupProbe" or one.is_started:
                    probe.turn()
            alive = one.probes.get("livenessProbe")
            if alive is not None and alive.is_good is False:
                one.process.terminate()
        self._tell("Running" if any(one.process for one in self.main) else "Pending")

    def _run(self, one: Container) -> None:
        spec, image = one.spec, self._images.get(one.spec["image"])
        if image is None:
            raise RuntimeError(f"container {one.name}: nothing stands for the image {spec['image']!r}")
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/", **image.env}
        # By name: the address is not in the certificate of a test's API server.
        env |= {"KUBERNETES_SERVICE_HOST": "kubernetes.default.svc", "KUBERNETES_SERVICE_PORT": "443"}
        env |= self.volumes.environment(spec, self._services())
        command = spec.get("command") or image.entrypoint
        argv = [expanded(part, env) for part in (*command, *spec.get("args", ()))]
        mounts = [{"source": str(path), "path": at, "readonly": True} for at, path in image.files.items()]
        for mount in spec.get("volumeMounts", ()):
            only("volumeMount", mount, {"name", "mountPath", "readOnly"})
            source = str(self._mounts[mount["name"]])
            mounts.append({"source": source, "path": mount["mountPath"], "readonly": mount.get("readOnly", False)})
        user, group, capabilities = self._rights(spec)
        inside = one.folder / f"run-{one.restarts}"
        inside.mkdir()
        wanted = {
            "netns": self.space.path, "folder": str(inside), "files": self._files(), "mounts": mounts,
            "readonly": spec.get("securityContext", {}).get("readOnlyRootFilesystem", False),
            "argv": argv, "env": env, "cwd": spec.get("workingDir", "/"),
            "user": user, "group": group, "capabilities": capabilities,
        }  # fmt: skip
        file = inside / "spec.json"
        file.write_text(json.dumps(wanted))
        if one.process is not None and one.process.stdin is not None:
            one.process.stdin.close()
        with one.log.open("ab") as sink:
            one.process = subprocess.Popen(
                [sys.executable, "-I", str(_RUNTIME), str(file)], stdin=subprocess.PIPE, stdout=sink, stderr=sink,
                start_new_session=True,
            )  # fmt: skip
        one.exit_code, one.started_at = None, time.monotonic()
        ports = {p["name"]: p["containerPort"] for p in spec.get("ports", ()) if "name" in p}
        one.probes = {
            kind: Probe(
                spec[kind],
                self.address,
                ports,
                self._network,
                lambda argv, t: self._entered(inside, argv, t).returncode,
            )
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
            if kind in spec
        }

    def _rights(self, spec: Object) -> tuple[int, int, list[str]]:
        of_pod, own = self.document["spec"].get("securityContext", {}), spec.get("securityContext", {})
        known = {
            "runAsUser", "runAsGroup", "runAsNonRoot", "capabilities", "privileged", "allowPrivilegeEscalation",
            "readOnlyRootFilesystem", "seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls",
        }  # fmt: skip
        only("securityContext", {**of_pod, **own}, known)
        user = own.get("runAsUser", of_pod.get("runAsUser", 0))
        group = own.get("runAsGroup", of_pod.get("runAsGroup", user))
        if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) and user == 0:
            raise RuntimeError(f"container {spec['name']} must not run as root, and has no other user")
        capabilities = own.get("capabilities", {})
        added = [str(one).lower() for one in capabilities.get("add", ())]
        if user == 0 and "ALL" not in capabilities.get("drop", ()):
            # Of a container runtime's usual ones, those that a test can see.
            added += ["chown", "dac_override", "fowner", "setgid", "setuid", "net_bind_service", "kill"]
        return user, group, list(dict.fromkeys(added))

    def _files(self) -> dict[str, str]:
        domains = " ".join(dns.search(self.namespace))
        switch = Path("/etc/nsswitch.conf")
        lines = (
            [one for one in switch.read_text().splitlines() if not one.startswith("hosts:")] if switch.exists() else []
        )
        return {
            "/etc/resolv.conf": f"nameserver {ADDRESS}\nsearch {domains}\noptions ndots:5\n",
            "/etc/nsswitch.conf": "\n".join([*lines, "hosts: files dns", ""]),
            "/etc/hosts": f"127.0.0.1 localhost\n{self.address} {self.name}\n",
            "/etc/hostname": f"{self.name}\n",
        }

    def _entered(self, inside: Path, argv: Sequence[str], timeout: float) -> subprocess.CompletedProcess[bytes]:
        """Run a command in a container that runs, with its user's rights over the network."""
        spec = json.loads((inside / "spec.json").read_text())
        deadline = time.monotonic() + 30
        while not all((inside / name).exists() for name in ("pid", "made")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{inside} was not made within 30 s")
            time.sleep(0.01)
        enter = [peer("nsenter"), "-t", (inside / "pid").read_text(), "--mount", "--net", "--pid"]
        root = inside / "root"
        become = [peer("setpriv"), f"--reuid={spec['user']}", f"--regid={spec['group']}", "--clear-groups"]
        kept = "+dac_read_search"
        become += [f"--inh-caps=-all,{kept}", f"--ambient-caps=-all,{kept}"]
        return subprocess.run(
            [*enter, peer("chroot"), str(root), *become, *argv],
            capture_output=True, timeout=timeout, check=False, env=spec["env"],
        )  # fmt: skip

    def _stop(self) -> None:
        """The application first; then what it may have needed, the last that was started first."""
        deadline = time.monotonic() + self._grace
        self._end_all(self.main, deadline)
        for one in reversed(self.init):
            self._end_all([one], max(deadline, time.monotonic() + 2))

    def _end_all(self, containers: Sequence[Container], deadline: float) -> None:
        for one in containers:
            if one.is_running and one.process is not None:
                self._before_stop(one, deadline)
                one.process.terminate()
        for one in containers:
            if one.process is None:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.process.wait(max(deadline - time.monotonic(), 0.1))
            if one.process.stdin is not None:
                one.process.stdin.close()  # its end
            one.process.wait()

    def _before_stop(self, one: Container, deadline: float) -> None:
        lifecycle = one.spec.get("lifecycle", {})
        only("lifecycle", lifecycle, {"preStop"})
        hook = lifecycle.get("preStop", {})
        only("preStop", hook, {"exec", "sleep"})
        patience = max(deadline - time.monotonic(), 0.1)
        if "exec" in hook:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._entered(one.folder / f"run-{one.restarts}", hook["exec"]["command"], patience)
        if "sleep" in hook:
            time.sleep(min(float(hook["sleep"]["seconds"]), patience))

    def _tell(self, phase: str) -> None:
        """Write the pod's status, if it is another than before."""
        ready = phase == "Running" and all(
            one.is_ready for one in (*self.main, *(i for i in self.init if i.is_sidecar))
        )

        def condition(kind: str, holds: bool) -> Object:
            return {"type": kind, "status": "True" if holds else "False"}

        def state(one: Container) -> Object:
            now: dict[str, Any] = {"waiting": {"reason": "PodInitializing"}}
            if one.is_running:
                now = {"running": {}}
            elif one.exit_code is not None:
                now = {"terminated": {"exitCode": one.exit_code}}
            return {
                "name": one.name, "image": one.spec["image"], "imageID": "",
                "ready": one.is_ready or one.exit_code == 0,
                "restartCount": one.restarts, "started": one.is_started, "state": now,
            }  # fmt: skip

        status: Object = {
            "phase": phase,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "hostIP": ADDRESS,
            "conditions": [
                condition("PodScheduled", True),
                condition("Initialized", any(one.process for one in self.main)),
                condition("ContainersReady", ready),
                condition("Ready", ready),
            ],
            "initContainerStatuses": [state(one) for one in self.init],
            "containerStatuses": [state(one) for one in self.main],
        }
        if self.problem:
            status["message"] = self.problem
        if status == self._told:
            return
        with contextlib.suppress(OSError, ApiRefused):  # it is told at the next turn
            self._api.status("v1", "Pod", self.name, self.namespace, status)
            self._told = status


def _sysctl(name: str, value: str) -> None:
    Path("/proc/sys", name.replace(".", "/")).write_text(value)
