"""One container, as a program of its own: `python container.py SPEC`, where SPEC is a file with JSON.

    netns       path of the network namespace to enter
    folder      an empty folder of ours
    files       path -> text, put over the root
    mounts      [{source, path, readonly}]
    readonly    whether the root may not be written to
    argv, env, cwd, user, group, capabilities

The process that was started stays outside and stands for the container: it passes on SIGTERM, ends as the container
ends, and takes it along when its standard input is closed, which is when whoever started it is gone. Inside, process 1
waits for the application, so that the application has a process id at which signals do what they do.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_PDEATHSIG = 1


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    made = _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    _check(made, f"mount {source} at {target}")


def main(file: str) -> int:
    """The container's exit code."""
    spec = json.loads(Path(file).read_text())
    with open(spec["netns"]) as namespace:
        _check(_libc.setns(namespace.fileno(), _NEWNET), "setns")
    _check(_libc.unshare(_NEWNS | _NEWPID | _NEWUTS | _NEWIPC), "unshare")
    child = os.fork()
    if child == 0:
        code = 125
        try:
            code = _inside(spec)
        except OSError as error:
            print(f"container: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    Path(spec["folder"], "pid").write_text(str(child))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    process = os.pidfd_open(child)
    if process not in select.select([sys.stdin, process], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _inside(spec: Any) -> int:
    _check(_libc.prctl(_PDEATHSIG, signal.SIGKILL), "prctl")
    _mount("none", "/", flags=_REC | _PRIVATE)
    root = _root(spec["folder"], spec["files"])
    for path, text in spec["files"].items():
        target = Path(_within(root, path))
        target.unlink(missing_ok=True)
        target.write_text(text)
    for one in sorted(spec["mounts"], key=lambda one: str(one["path"])):
        _bind(one["source"], _within(root, one["path"]), one["readonly"])
    if spec["readonly"]:
        _mount("none", root, flags=_REMOUNT | _BIND | _RDONLY)
    Path(spec["folder"], "made").touch()
    os.chroot(root)
    os.chdir(spec["cwd"])
    argv = [shutil.which("setpriv", path="/usr/bin:/bin") or "setpriv", "--no-new-privs"]
    argv += [f"--reuid={spec['user']}", f"--regid={spec['group']}", "--clear-groups"]
    # Images are the machine's own files, which may lie below a closed home.
    kept = ",".join(f"+{one}" for one in ["dac_read_search", *spec["capabilities"]])
    argv += [f"--bounding-set=-all,{kept}", f"--inh-caps=-all,{kept}", f"--ambient-caps=-all,{kept}"]
    application = subprocess.Popen([*argv, *spec["argv"]], env=spec["env"], stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: application.send_signal(signal.SIGTERM))
    code = application.wait()
    return code if code >= 0 else 128 - code


def _root(folder: str, replaced: Container[str]) -> str:
    """The machine's files, and a layer of our own to write to."""
    others = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    layer, root = f"{folder}/layer", f"{folder}/root"
    for one in (layer, root):
        Path(one).mkdir()
    _mount("tmpfs", layer, "tmpfs")
    for one in ("upper", "work"):
        Path(layer, one).mkdir()
    _mount("overlay", root, "overlay", options=f"lowerdir=/,upperdir={layer}/upper,workdir={layer}/work")
    for one in others:
        is_kernels = one.startswith(("/proc", "/sys", "/dev", "/run"))
        if one != "/" and not is_kernels and one not in replaced and Path(one).exists():
            _bind(one, root + one, readonly=True)
    _mount("proc", f"{root}/proc", "proc")
    _mount("/sys", f"{root}/sys", flags=_BIND | _REC)
    _mount("/dev", f"{root}/dev", flags=_BIND | _REC)
    return root


def _within(root: str, path: str) -> str:
    """Where a path of the container is, whose links mean places in it."""
    done, parts = Path(root), [part for part in path.split("/") if part]
    while parts:
        one = done / parts.pop(0)
        if one.is_symlink():
            target = str(one.readlink())
            parts = [*filter(None, target.split("/")), *parts]
            done = Path(root) if target.startswith("/") else done
        else:
            done = one
    return str(done)


def _bind(source: str, target: str, readonly: bool) -> None:
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    elif not Path(target).exists():
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    _mount(source, target, flags=_BIND)
    if readonly:
        _mount(source, target, flags=_BIND | _REMOUNT | _RDONLY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
