"""From the text of YAML files to typed resources.

Reading is total: every document of every file is looked at and everything wrong with any of them is
reported. References between resources are the store's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import yaml

from pymesh.control.resources import decode as decoding
from pymesh.control.resources import (
    destination,
    filter_source,
    gateway,
    gateway_api,
    gateway_routes,
    health_check,
    kubernetes,
    kubernetes_workloads,
    mesh_config,
    python_filter,
    rate_limit,
    request_authentication,
    security,
    telemetry,
    traffic,
    workloads,
)
from pymesh.control.resources.diagnostics import Position, Report, did_you_mean
from pymesh.control.resources.metadata import Resource

Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: No file of a mesh is larger; a larger one is a mistake or an attack.
LARGEST_FILE = 8 * 1024 * 1024
#: Levels of one document. Nothing that is read has half as many.
DEEPEST = 64
#: Nodes of one document, aliases written out.
_MOST_NODES = 500_000
#: What is told of more than that, and the remedy.
_TOO_DEEP = ("the document is too deep, too large, or contains itself", "write aliases out, and split it")

#: (group, kind) -> accepted versions and the class.
KINDS: Mapping[tuple[str, str], tuple[tuple[str, ...], type[Resource]]] = {
    ("", "Service"): (("v1",), kubernetes.Service),
    ("", "Secret"): (("v1",), kubernetes.Secret),
    ("", "ConfigMap"): (("v1",), mesh_config.ConfigMap),
    ("", "Pod"): (("v1",), kubernetes_workloads.Pod),
    ("", "Node"): (("v1",), kubernetes_workloads.Node),
    ("", "Namespace"): (("v1",), kubernetes_workloads.Namespace),
    ("discovery.k8s.io", "EndpointSlice"): (("v1",), kubernetes.EndpointSlice),
    **{
        ("networking.istio.io", cls.__name__): (("v1", "v1beta1", "v1alpha3"), cls)
        for cls in (
            workloads.WorkloadEntry,
            workloads.ServiceEntry,
            workloads.Sidecar,
            traffic.VirtualService,
            destination.DestinationRule,
            gateway.Gateway,
        )
    },
    ("security.istio.io", "PeerAuthentication"): (("v1", "v1beta1"), security.PeerAuthentication),
    ("security.istio.io", "AuthorizationPolicy"): (("v1", "v1beta1"), security.AuthorizationPolicy),
    ("security.istio.io", "RequestAuthentication"): (
        ("v1", "v1beta1"),
        request_authentication.RequestAuthentication,
    ),
    ("telemetry.istio.io", "Telemetry"): (("v1", "v1alpha1"), telemetry.Telemetry),
    (gateway_api.GROUP, "Gateway"): (("v1", "v1beta1"), gateway_api.KubeGateway),
    (gateway_api.GROUP, "HTTPRoute"): (("v1", "v1beta1"), gateway_api.HTTPRoute),
    (gateway_api.GROUP, "GRPCRoute"): (("v1", "v1alpha2"), gateway_routes.GRPCRoute),
    (gateway_api.GROUP, "TLSRoute"): (("v1", "v1alpha3", "v1alpha2"), gateway_routes.TLSRoute),
    (gateway_api.GROUP, "TCPRoute"): (("v1", "v1alpha2"), gateway_routes.TCPRoute),
    (gateway_api.GROUP, "ReferenceGrant"): (("v1", "v1beta1"), gateway_routes.ReferenceGrant),
    ("extensions.pymesh.dev", "PythonFilter"): (("v1alpha1",), python_filter.PythonFilter),
    ("extensions.pymesh.dev", "HealthCheckPolicy"): (("v1alpha1",), health_check.HealthCheckPolicy),
    ("extensions.pymesh.dev", "LocalRateLimit"): (("v1alpha1",), rate_limit.LocalRateLimit),
}

#: Kinds of the field's APIs that we do not have, with what there is.
REFUSED_KINDS: Mapping[str, str] = {
    "EnvoyFilter": "write a PythonFilter",
    "WasmPlugin": "write a PythonFilter",
    "TrafficExtension": "write a PythonFilter",
    "WorkloadGroup": "write WorkloadEntry resources",
    "ProxyConfig": "set the control plane's options",
    "UDPRoute": "nothing replaces it yet",
    "BackendTLSPolicy": "write a DestinationRule with trafficPolicy.tls for the service",
    "ListenerSet": "write its listeners into the Gateway",
    "GatewayClass": "the class 'pymesh' is built in; remove it",
    "Endpoints": "write an EndpointSlice",
}


def load_text(file: str, text: str, report: Report, read: Callable[[str], str] | None = None) -> list[Resource]:
    """The resources of one YAML file.

    ``read`` gives the text of a file named in a document, relative to the document's own; it raises
    ``OSError`` or ``UnicodeDecodeError``.
    """
    if len(text) > LARGEST_FILE:
        report.error(Position(file), f"the file is larger than {LARGEST_FILE} bytes", "split it")
        return []
    decoder = decoding.Decoder(file, report)
    found = []
    for node in _documents(decoder, file, text, report):
        made = resource(decoder, node, text, report, read)
        if made is not None:
            found.append(made)
    return found


def resource(
    decoder: decoding.Decoder, node: yaml.Node, text: str, report: Report, read: Callable[[str], str] | None = None
) -> Resource | None:
    """The resource of one document, with the documents inside of it; ``text`` is what stands around those.

    Whatever is in it, no more than this document is lost.
    """
    try:
        made = _resource(decoder, node, report)
        if isinstance(made, python_filter.PythonFilter):
            return _with_source(made, text, read, report)
        if isinstance(made, mesh_config.ConfigMap):
            return _with_mesh(made, text, report)
    except (RecursionError, MemoryError):
        report.error(decoder.position(node), *_TOO_DEEP)
        return None
    return made


def refuse_duplicates(resources: Sequence[Resource], report: Report) -> None:
    """Report resources of the same kind, namespace and name."""
    seen: dict[tuple[type[Resource], str, str], Resource] = {}
    for one in resources:
        first = seen.setdefault((type(one), one.namespace, one.name), one)
        if first is not one:
            report.error(
                one.metadata.place("name"),
                f"{one.title} is defined twice",
                f"the first is at {first.metadata.place('name')}",
                rival=first.at,
            )


def _documents(decoder: decoding.Decoder, file: str, text: str, report: Report) -> Iterator[yaml.Node]:
    try:
        loader = Loader(text)
    except yaml.YAMLError as error:
        report.error(Position(file), f"the file is not YAML: {str(error).splitlines()[0]}")
        return
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None or (isinstance(node, yaml.ScalarNode) and node.value in ("", "null", "~")):
                continue  # an empty document, as between two separators
            if _too_big(node):
                report.error(decoder.position(node), *_TOO_DEEP)
                continue
            yield node
    except RecursionError:
        report.error(Position(file), "the file is nested too deeply")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = decoder.placed(mark) if mark else Position(file)
        report.error(at, f"not YAML: {error.problem or error.context}", "check indentation and quotes")
    except yaml.YAMLError as error:
        report.error(Position(file), f"not YAML: {str(error).splitlines()[0]}")
    finally:
        loader.dispose()


def _too_big(root: yaml.Node) -> bool:
    """Whether the tree, aliases written out, is past the limits."""
    pending = [(root, 1)]
    count = 0
    while pending:
        node, depth = pending.pop()
        count += 1
        if depth > DEEPEST or count > _MOST_NODES:
            return True
        if isinstance(node, yaml.SequenceNode):
            pending.extend((item, depth + 1) for item in node.value)
        elif isinstance(node, yaml.MappingNode):
            pending.extend((part, depth + 1) for pair in node.value for part in pair)
    return False


def _resource(decoder: decoding.Decoder, node: yaml.Node, report: Report) -> Resource | None:
    at = decoder.position(node)
    if not isinstance(node, yaml.MappingNode):
        report.error(at, "a document must be a mapping", "start with apiVersion: and kind:")
        return None
    # Who it is comes first: what else may be in it depends on that. The mapping is checked for
    # duplicates when it is decoded as a whole.
    head = {name.value: value for name, value in node.value if isinstance(name, yaml.ScalarNode)}
    missing = [name for name in ("apiVersion", "kind") if not isinstance(head.get(name), yaml.ScalarNode)]
    if missing:
        report.error(at, f"{missing[0]!r} is missing", "start with apiVersion: and kind:")
        return None
    group, slash, version = head["apiVersion"].value.partition("/")
    if not slash:
        group, version = "", group
    kind = head["kind"].value
    known = KINDS.get((group, kind))
    if known is None:
        _unknown_kind(decoder.position(head["kind"]), group, kind, report)
        return None
    versions, cls = known
    if version not in versions:
        report.error(
            decoder.position(head["apiVersion"]),
            f"{kind} has no version {version!r}",
            f"use {group + '/' if group else ''}{versions[0]}",
        )
        return None
    rest = [pair for pair in node.value if pair[0].value not in ("apiVersion", "kind")]
    body = yaml.MappingNode(node.tag, rest, node.start_mark, node.end_mark)
    made = decoder.decode(cls, body, kind)
    return made if isinstance(made, Resource) else None


def _unknown_kind(at: Position, group: str, kind: str, report: Report) -> None:
    groups = [known for known, name in KINDS if name == kind]
    if kind in REFUSED_KINDS:
        report.error(at, f"kind {kind} is {decoding.NOT_YET}", REFUSED_KINDS[kind])
    elif groups:
        version = KINDS[groups[0], kind][0][0]
        wanted = f"{groups[0]}/{version}" if groups[0] else version
        report.error(at, f"there is no {kind} in group {group!r}", f"apiVersion: {wanted}")
    else:
        report.error(at, f"unknown kind {kind!r}", did_you_mean(kind, (name for _, name in KINDS)))


def _with_source(
    one: python_filter.PythonFilter, text: str, read: Callable[[str], str] | None, report: Report
) -> python_filter.PythonFilter | None:
    """The filter with the text of its file, if that is Python; ``text`` is the YAML around an inline source."""
    spec = one.spec
    if spec.source:
        inline = filter_source.inline(spec.source, spec.place("source"), text)
        return one if filter_source.check(inline, spec, report) else None
    if not spec.file:
        return one
    at = spec.place("file")
    if read is None:
        report.error(at, "files cannot be read here", "put the text under `source`")
        return None
    try:
        source = read(spec.file)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        report.error(at, f"{spec.file!r} cannot be read: {reason}", "the path is relative to this YAML file")
        return None
    if len(source.encode()) > python_filter.LARGEST_SOURCE:
        report.error(at, f"{spec.file!r} is too large", "install it as a package")
        return None
    if not filter_source.check(filter_source.of_file(source, spec.file, at), spec, report):
        return None
    return replace(one, spec=replace(spec, source=source, file=""))


def _with_mesh(one: mesh_config.ConfigMap, file: str, report: Report) -> mesh_config.ConfigMap | None:
    """The mesh's configuration with the document in it read; ``file`` is the text around it."""
    text = one.data[mesh_config.KEY].within(file)
    decoder = decoding.Decoder(text.at.file, report, text)
    nodes = list(_documents(decoder, text.at.file, text.value, report))
    for second in nodes[1:]:
        report.error(decoder.position(second), "the mesh's configuration is one document", "remove this one")
    if not nodes:
        return one
    mesh = decoder.decode(mesh_config.MeshConfig, nodes[0], mesh_config.KEY)
    return replace(one, mesh=mesh) if isinstance(mesh, mesh_config.MeshConfig) else None
