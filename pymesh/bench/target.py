"""From URLs and options to what is connected to and what is asked there."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pymesh.bench.errors import BenchError
from pymesh.bench.run import Request, Tls
from pymesh.control.config import Address

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """One origin (scheme, host and port), and the paths that are asked for."""

    scheme: str
    host: str
    port: int
    #: As URLs wrote it.
    authority: str
    paths: tuple[str, ...]


def parse(urls: Sequence[str]) -> Target:
    """All URLs share connections, so all have one origin."""
    split = [_split(url) for url in urls]
    first, base = split[0], _origin(split[0])
    for url, other in zip(urls, split, strict=True):
        if _origin(other) != base:
            raise BenchError(
                f"{url} has another scheme, host or port than {urls[0]}; hint: run one bench for each of them"
            )
    scheme, host, port = base
    paths = tuple((one.path or "/") + (f"?{one.query}" if one.query else "") for one in split)
    return Target(scheme, host, port, first.netloc, paths)


def _split(url: str) -> SplitResult:
    try:
        split = urlsplit(url)
        _ = split.port  # raises for what is no port
    except ValueError as error:
        raise BenchError(f"{url!r} is not a URL: {error}") from None
    if split.scheme not in _PORTS or not split.hostname:
        raise BenchError(f"{url!r} is not a URL that can be asked; hint: write http://HOST:PORT/PATH or https://...")
    if "@" in split.netloc:
        raise BenchError(f"{url!r} has a user in it; hint: send --header 'Authorization: ...'")
    if split.fragment or not url.isascii():
        raise BenchError(f"{url!r} has a fragment or characters that no request can carry; hint: percent-encode them")
    return split


def _origin(split: SplitResult) -> tuple[str, str, int]:
    return split.scheme, split.hostname or "", split.port or _PORTS[split.scheme]


def address(target: Target, resolve: Sequence[str] = ()) -> str:
    """`IP:PORT` of the target, the first that takes a connection; `HOST:PORT:ADDRESS` in place of a look-up."""
    for entry in resolve:
        host, _, rest = entry.partition(":")
        port, _, given = rest.partition(":")
        try:
            found = ipaddress.ip_address(given.strip("[]"))
            matches = (host, int(port)) == (target.host, target.port)
        except ValueError:
            raise BenchError(f"--resolve {entry!r} is not HOST:PORT:ADDRESS") from None
        if matches:
            return str(Address(str(found), target.port))
    try:
        found_all = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BenchError(f"{target.host} cannot be resolved: {error.strerror}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found_all))
    if len(addresses) > 1:
        # `localhost` has two, and few servers listen on both.
        for one in addresses:
            try:
                socket.create_connection((one, target.port), timeout=2).close()
            except OSError:
                continue
            return str(Address(one, target.port))
    return str(Address(addresses[0], target.port))


def tls(
    target: Target, *, insecure: bool, cacert: Path | None, cert: Path | None, key: Path | None, sni: str | None
) -> Tls | None:
    """What TLS needs, for an https target."""
    given = [name for name, value in (("--cacert", cacert), ("--cert", cert), ("--sni", sni)) if value is not None]
    if target.scheme == "http":
        if given or insecure or key:
            raise BenchError(f"{[*given, '--insecure'][0]} is for https; {target.authority} is asked in the clear")
        return None
    if (cert is None) != (key is None):
        raise BenchError("--cert and --key belong together; hint: give both")
    if insecure and cacert:
        raise BenchError("--insecure takes any certificate, --cacert does not; hint: give one of them")
    roots = None if insecure else _read("--cacert", cacert) if cacert else _system_roots()
    identity = (_read("--cert", cert), _read("--key", key)) if cert and key else None
    name = sni or (None if _is_ip(target.host) else target.host)
    return Tls(name, roots, identity)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _system_roots() -> bytes:
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.openssl_cafile):
        if path and Path(path).is_file():
            return Path(path).read_bytes()
    raise BenchError("this system has no file of root certificates; hint: give --cacert, or --insecure")


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"{option} {path} cannot be read: {error.strerror}") from None


def requests(target: Target, method: str | None, headers: Sequence[str], body: str | None) -> list[Request]:
    """One for each path. A body makes a POST of what would be a GET, as with curl."""
    content = b""
    if body is not None:
        content = _read("--body", Path(body[1:])) if body.startswith("@") else body.encode()
    authority, fields = target.authority, list[tuple[str, str]]()
    for line in headers:
        name, colon, value = line.partition(":")
        if not colon:
            raise BenchError(f"--header {line!r} has no colon; hint: write 'Name: value'")
        if name.strip().lower() == "host":
            authority = value.strip()
        else:
            fields.append((name.lower(), value.strip()))
    chosen = method or ("GET" if body is None else "POST")
    return [Request(chosen, authority, path, fields, content) for path in target.paths]
