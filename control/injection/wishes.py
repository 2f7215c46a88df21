"""A pod's own wishes: annotations, each read or refused by name, all errors at once."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pymesh.control.injection.policy import INJECT, STATUS
from pymesh.control.injection.problems import Fault
from pymesh.control.injection.settings import InjectionSettings, amount, is_quantity
from pymesh.control.resources.diagnostics import did_you_mean

SIDECAR, TRAFFIC = "sidecar.istio.io/", "traffic.sidecar.istio.io/"

#: Istio's that we do not have, and what there is.
REFUSED: Mapping[str, str] = {
    "proxy.istio.io/config": "set the options of `pymesh control`, or the InjectionSettings",
    "inject.istio.io/templates": "there is one template; leave it out",
    f"{SIDECAR}bootstrapOverride": "the bootstrap is the sidecar's own; leave it out",
    f"{SIDECAR}logLevel": "the proxy has one level of its log; leave it out",
    f"{SIDECAR}componentLogLevel": "the proxy has one level of its log; leave it out",
    f"{SIDECAR}agentLogLevel": "the proxy has one level of its log; leave it out",
    f"{SIDECAR}enableCoreDump": "leave it out",
    f"{SIDECAR}discoveryAddress": "set spec.control of the InjectionSettings",
    f"{SIDECAR}statsInclusionPrefixes": "every proxy has all of its metrics; leave it out",
    f"{SIDECAR}statsInclusionSuffixes": "every proxy has all of its metrics; leave it out",
    f"{SIDECAR}statsInclusionRegexps": "every proxy has all of its metrics; leave it out",
    f"{SIDECAR}extraStatTags": "every proxy has all of its metrics; leave it out",
    f"{SIDECAR}userVolume": "leave it out",
    f"{SIDECAR}userVolumeMount": "leave it out",
    f"{SIDECAR}controlPlaneAuthPolicy": "it is always mutual; leave it out",
    f"{SIDECAR}proxyImageType": "name the whole image with sidecar.istio.io/proxyImage",
    f"{SIDECAR}statsHistogramBuckets": "leave it out",
    f"{SIDECAR}statsCompression": "leave it out",
    f"{SIDECAR}statsEvictionInterval": "leave it out",
    f"{TRAFFIC}kubevirtInterfaces": "interfaces of virtual machines are not captured",
    f"{TRAFFIC}excludeInterfaces": "name networks with excludeOutboundIPRanges",
    "istio.io/reroute-virtual-interfaces": "interfaces of virtual machines are not captured",
    "status.sidecar.istio.io/port": "it is 15021; leave it out",
}
_OF_ANOTHER = ("proxy.istio.io/", "inject.istio.io/", "readiness.status.sidecar.istio.io/", "status.sidecar.istio.io/")
_MODES = ("REDIRECT", "TPROXY", "NONE")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one pod's sidecar is like: the mesh's settings, changed by the pod's annotations."""

    image: str
    interception_mode: str
    rewrite_probes: bool
    requests: Mapping[str, str]
    limits: Mapping[str, str]
    #: Arguments of `pymesh capture on`.
    capture: tuple[str, ...] = ()


def _ports(text: str) -> str | None:
    for one in filter(None, (part.strip() for part in text.split(","))):
        if not one.isascii() or not one.isdecimal() or not 0 < int(one) < 65536:
            return f"{one!r} is not a port"
    return None


def _networks(text: str) -> str | None:
    for one in filter(None, (part.strip() for part in text.split(","))):
        try:
            ipaddress.ip_network(one, strict=False)
        except ValueError:
            return f"{one!r} is neither an IP address nor a network"
    return None


def _or_all(check: Callable[[str], str | None]) -> Callable[[str], str | None]:
    return lambda text: None if text.strip() == "*" else check(text)


def _quantity(text: str) -> str | None:
    return None if is_quantity(text) else f"{text!r} is not a quantity, as in 500m or 128Mi"


def _truth(text: str) -> str | None:
    return None if text in ("true", "false") else f"{text!r} is neither 'true' nor 'false'"


def _mode(text: str) -> str | None:
    return None if text in _MODES else f"{text!r} is not {', '.join(_MODES)}"


def _image(text: str) -> str | None:
    return None if text and not any(one.isspace() for one in text) else f"{text!r} is not the name of an image"


def _only(wanted: str) -> Callable[[str], str | None]:
    return lambda text: None if text == wanted else f"only {wanted!r} is supported, not {text!r}"


#: Annotation -> the option of `pymesh capture on`.
_CAPTURE: Mapping[str, str] = {
    f"{TRAFFIC}includeInboundPorts": "--include-inbound-ports",
    f"{TRAFFIC}excludeInboundPorts": "--exclude-inbound-ports",
    f"{TRAFFIC}includeOutboundIPRanges": "--include-outbound-cidrs",
    f"{TRAFFIC}excludeOutboundIPRanges": "--exclude-outbound-cidrs",
    f"{TRAFFIC}includeOutboundPorts": "--include-outbound-ports",
    f"{TRAFFIC}excludeOutboundPorts": "--exclude-outbound-ports",
}
#: Annotation -> what is wrong with a text, or None.
_KNOWN: Mapping[str, Callable[[str], str | None]] = {
    STATUS: lambda _: None,
    INJECT: _truth,
    f"{SIDECAR}proxyImage": _image,
    f"{SIDECAR}proxyCPU": _quantity,
    f"{SIDECAR}proxyMemory": _quantity,
    f"{SIDECAR}proxyCPULimit": _quantity,
    f"{SIDECAR}proxyMemoryLimit": _quantity,
    f"{SIDECAR}interceptionMode": _mode,
    f"{SIDECAR}rewriteAppHTTPProbers": _truth,
    f"{SIDECAR}nativeSidecar": _only("true"),
    "prometheus.istio.io/merge-metrics": _only("false"),
    f"{TRAFFIC}includeInboundPorts": _or_all(_ports),
    f"{TRAFFIC}excludeInboundPorts": _ports,
    f"{TRAFFIC}includeOutboundIPRanges": _or_all(_networks),
    f"{TRAFFIC}excludeOutboundIPRanges": _networks,
    f"{TRAFFIC}includeOutboundPorts": _ports,
    f"{TRAFFIC}excludeOutboundPorts": _ports,
}
#: Ports of the sidecar itself: probes, its readiness, its metrics. As with Istio never captured.
OWN_PORTS = "15020,15021,15090"


def read(metadata: Mapping[str, Any], settings: InjectionSettings) -> tuple[Wishes, list[Fault]]:
    """The wishes, and all that is wrong with them."""
    annotations: Mapping[str, Any] = metadata.get("annotations") or {}
    faults = list(_faults(annotations))
    own = (metadata.get("labels") or {}).get(INJECT)
    if own is not None and (wrong := _truth(str(own))):
        faults.append(Fault(f"metadata.labels[{INJECT}]", wrong))
    said = {name: str(value) for name, value in annotations.items()}
    mode = said.get(f"{SIDECAR}interceptionMode", settings.interception_mode)
    rewrite = said.get(f"{SIDECAR}rewriteAppHTTPProbers", "true" if settings.rewrite_probes else "false")
    return Wishes(
        said.get(f"{SIDECAR}proxyImage", settings.image),
        mode,
        rewrite == "true",
        *_resources(settings, said),
        tuple(_capture(said, mode)),
    ), faults


def _resources(settings: InjectionSettings, said: Mapping[str, str]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What the sidecar asks for, and what it gets at most. A pod that says one of them means it: an API server takes no
    limit below what is asked for, so that the mesh's setting of the other one gives way.
    """
    requests, limits = dict(settings.resources.requests), dict(settings.resources.limits)
    for resource, name in (("cpu", f"{SIDECAR}proxyCPU"), ("memory", f"{SIDECAR}proxyMemory")):
        asks, is_limited = name in said, f"{name}Limit" in said
        if asks:
            requests[resource] = said[name]
        if is_limited:
            limits[resource] = said[f"{name}Limit"]
        least, most = amount(requests.get(resource, "")), amount(limits.get(resource, ""))
        if least is None or most is None or least <= most or asks == is_limited:
            continue
        if asks:
            limits[resource] = requests[resource]
        else:
            requests[resource] = limits[resource]
    return requests, limits


def _capture(said: Mapping[str, str], mode: str) -> Iterator[str]:
    if mode == "TPROXY":
        yield from ("--mode", "TPROXY")
    for annotation, option in _CAPTURE.items():
        text = ",".join(filter(None, (part.strip() for part in said.get(annotation, "").split(","))))
        if option == "--exclude-inbound-ports":
            text = f"{OWN_PORTS},{text}".removesuffix(",")
        # An empty list of what is included means nothing, as with Istio; of what is excluded, the same as none.
        if text or (annotation in said and option.startswith("--include") and option != "--include-outbound-ports"):
            yield from (option, text)


def _faults(annotations: Mapping[str, Any]) -> Iterator[Fault]:
    for name, value in annotations.items():
        path = f"metadata.annotations[{name}]"
        if not isinstance(value, str):
            yield Fault(path, "an annotation is a text", "quote it")
        elif name in _KNOWN:
            wrong = _KNOWN[name](value)
            if wrong:
                yield Fault(path, wrong)
        elif name in REFUSED:
            yield Fault(path, "not supported yet", REFUSED[name])
        elif name.startswith((SIDECAR, TRAFFIC, *_OF_ANOTHER)):
            yield Fault(path, "there is no such annotation", did_you_mean(name, _KNOWN, otherwise="remove it"))
