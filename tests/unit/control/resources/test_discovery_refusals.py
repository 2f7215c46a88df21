"""What users are told when a resource that says where services are, or what a gateway opens, is wrong.

The Gateway API's: `test_gateway_api_refusals.py`.
"""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text


def istio(kind: str, spec: str) -> str:
    return f"apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n"


def entry(fields: str) -> str:
    return istio(
        "ServiceEntry", "{hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}], " + fields + "}"
    )


def hosts(written: str, fields: str) -> str:
    return istio(
        "ServiceEntry", f"{{hosts: [{written}], ports: [{{number: 80, name: http, protocol: HTTP}}], {fields}}}"
    )


def service(fields: str) -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: 80}}], {fields}}}\n"


def endpoint_slice(endpoint: str, kind: str = "IPv4") -> str:
    return (
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\n"
        f"addressType: {kind}\nendpoints: [{endpoint}]\n"
    )


def server(tls: str, port: str = "{number: 443, name: https, protocol: HTTPS}") -> str:
    return istio("Gateway", f"{{servers: [{{port: {port}, hosts: [a.example], tls: {{{tls}}}}}]}}")


def rule(tls: str) -> str:
    return istio("DestinationRule", f"{{host: a, trafficPolicy: {{tls: {{{tls}}}}}}}")


HASH = "ab" * 32

#: The document, and the place, message and remedy of what is wrong with it.
CASES: dict[str, tuple[str, str, str, str]] = {
    # --- ServiceEntry
    "no hosts": (hosts("", ""), "4:7", "spec: a ServiceEntry needs hosts and ports", ""),
    "a host that is none": (
        hosts('"a b"', ""),
        "4:15",
        "spec: 'a b' is not a host name",
        "write a whole name, or '*.suffix'",
    ),
    "every host": (hosts('"*"', ""), "4:15", "spec: '*' is not a host name", "write a whole name, or '*.suffix'"),
    "a wildcard to look up": (
        hosts('"*.example"', "resolution: DNS"),
        "4:15",
        "spec: wildcard host '*.example' has no address that could be looked up",
        "use resolution: NONE, or give endpoints",
    ),
    "an address that is none": (
        entry("addresses: [10.0.0.0/33]"),
        "4:90",
        "spec: '10.0.0.0/33' is neither an IP address nor a network",
        "write it as in 10.1.2.3 or 10.1.0.0/16",
    ),
    "endpoints of NONE": (
        entry("endpoints: [{address: 10.0.0.1}]"),
        "4:90",
        "spec: resolution: NONE goes where the client goes and has no 'endpoints'",
        "use resolution: STATIC, or DNS where they are names",
    ),
    "workloads of NONE": (
        entry("workloadSelector: {labels: {a: b}}"),
        "4:97",
        "spec: resolution: NONE goes where the client goes and has no 'workloadSelector'",
        "use resolution: STATIC, or DNS where they are names",
    ),
    "a name of STATIC": (
        entry("resolution: STATIC, endpoints: [{address: b.example}]"),
        "4:110",
        "spec: 'b.example' is not an IP address",
        "host names need resolution: DNS",
    ),
    "two of DNS_ROUND_ROBIN": (
        entry("resolution: DNS_ROUND_ROBIN, endpoints: [{address: b.example}, {address: c.example}]"),
        "4:119",
        "spec: resolution: DNS_ROUND_ROBIN has one endpoint at most",
        "use resolution: DNS",
    ),
    "workloads of DNS_ROUND_ROBIN": (
        entry("resolution: DNS_ROUND_ROBIN, workloadSelector: {labels: {a: b}}"),
        "4:126",
        "spec: resolution: DNS_ROUND_ROBIN cannot select workloads",
        "use resolution: STATIC or DNS",
    ),
    "both kinds of endpoints": (
        entry("resolution: STATIC, endpoints: [{address: 10.0.0.1}], workloadSelector: {labels: {a: b}}"),
        "4:151",
        "spec: 'endpoints' and 'workloadSelector' exclude each other",
        "",
    ),
    "a port that is not there": (
        entry("resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {htp: 80}}]"),
        "4:110",
        "spec: 'htp' is not the name of a port",
        "did you mean 'http'?",
    ),
    "ports without names": (
        istio("ServiceEntry", "{hosts: [a.example], ports: [{number: 1, protocol: TCP}, {number: 2, protocol: TCP}]}"),
        "4:35",
        "spec: port 1 needs a name",
        "several ports are told apart by name",
    ),
    # --- WorkloadEntry
    "another network": (
        istio("WorkloadEntry", "{address: 10.0.0.1, network: b}"),
        "4:27",
        "spec: 'network' is not supported yet",
        "multi-network meshes come later; remove it",
    ),
    "a Unix socket": (
        istio("WorkloadEntry", '{address: "unix:///run/a.sock"}'),
        "4:17",
        "spec: 'unix:///run/a.sock' is a Unix socket",
        "give the workload an IP address and a port",
    ),
    "an address with a port": (
        istio("WorkloadEntry", '{address: "10.0.0.1:80"}'),
        "4:17",
        "spec: '10.0.0.1:80' is neither an IP address nor a host name",
        "write 10.0.0.7, fd00::7 or db.example.com; ports have a field of their own",
    ),
    "a place that is none": (
        istio("WorkloadEntry", "{address: 10.0.0.1, locality: eu//a}"),
        "4:37",
        "spec: 'eu//a' is not REGION/ZONE/SUBZONE",
        "as in eu-west/eu-west-1, or leave it out",
    ),
    # --- Service and EndpointSlice
    "a virtual IP that is none": (
        service("clusterIP: headless"),
        "4:40",
        "spec: 'headless' is not an IP address",
        "None (the word) makes a headless service",
    ),
    "two that contradict each other": (
        service("clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2]"),
        "4:62",
        "spec: the first of them is not clusterIP '10.0.0.1'",
        "",
    ),
    "ExternalName of an address": (
        service("type: ExternalName, externalName: 10.0.0.1"),
        "4:63",
        "spec: '10.0.0.1' is not a host name",
        "an address needs a ServiceEntry with resolution: STATIC",
    ),
    "ExternalName with workloads": (
        service("type: ExternalName, externalName: b.example, selector: {a: b}"),
        "4:84",
        "spec: type ExternalName has no 'selector'",
        "the name is resolved by DNS; remove it",
    ),
    "externalName of another type": (
        service("externalName: b.example"),
        "4:43",
        "spec: 'externalName' belongs to type ExternalName",
        "set type: ExternalName",
    ),
    "a node's port": (
        service("type: NodePort"),
        "4:35",
        "type: 'NodePort' is not supported",
        "known: ClusterIP, ExternalName",
    ),
    "sessions by address": (
        service("sessionAffinity: Cookie"),
        "4:46",
        "sessionAffinity: 'Cookie' is not supported",
        "known: ClientIP, None",
    ),
    "sessions for some time": (
        service("sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}"),
        "4:56",
        "spec: 'sessionAffinityConfig' is not supported yet",
        "a client stays for as long as the endpoints are the same; remove it",
    ),
    "endpoints somewhere near": (
        service("trafficDistribution: Near"),
        "4:50",
        "trafficDistribution: 'Near' is not supported",
        "known: PreferClose, PreferSameNode, PreferSameZone",
    ),
    "the other IP version": (
        endpoint_slice('{addresses: ["fd00::1"]}'),
        "4:14",
        "EndpointSlice: fd00::1 is not IPv4",
        "a slice has addresses of one IP version; write a slice for each",
    ),
    "names for addresses": (
        endpoint_slice("{addresses: [b.example]}", "FQDN"),
        "4:14",
        "addressType: 'FQDN' is not supported",
        "known: IPv4, IPv6",
    ),
    "hints for nodes": (
        endpoint_slice("{addresses: [10.0.0.1], hints: {forNodes: [{name: a}]}}"),
        "5:45",
        "hints: 'forNodes' is not supported yet",
        "a proxy knows its zone only; use forZones",
    ),
    # --- Sidecar
    "egress for nothing": (
        istio("Sidecar", "{egress: [{hosts: []}]}"),
        "4:25",
        "egress[0]: an egress listener needs a host",
        'for nothing at all: hosts: ["~/*"]',
    ),
    "egress without a namespace": (
        istio("Sidecar", "{egress: [{hosts: [a.example]}]}"),
        "4:25",
        "egress[0]: 'a.example' is not NAMESPACE/HOST",
        "write it as in shop/catalog.shop.svc.cluster.local",
    ),
    "an address without a port": (
        istio("Sidecar", '{egress: [{hosts: ["*/*"], bind: 127.0.0.1}]}'),
        "4:40",
        "egress[0]: 'bind' needs a port",
        "add port.number and port.protocol, or remove it",
    ),
    "nothing to listen on": (
        istio("Sidecar", '{egress: [{hosts: ["*/*"], captureMode: NONE}]}'),
        "4:47",
        "egress[0]: captureMode: NONE needs a port to listen on",
        "add port.number and port.protocol",
    ),
    "two for everything": (
        istio("Sidecar", '{egress: [{hosts: ["*/*"]}, {hosts: ["./*"]}]}'),
        "4:16",
        "spec: two egress listeners have no port",
        "name all hosts in one of them",
    ),
    "an egress proxy": (
        istio("Sidecar", "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a}}}"),
        "4:49",
        "outboundTrafficPolicy: 'egressProxy' is not supported yet",
        "route the hosts to a gateway with a VirtualService",
    ),
    # --- DestinationRule, towards others
    "revoked certificates": (
        rule("mode: SIMPLE, caCrl: a"),
        "4:53",
        "tls: 'caCrl' is not supported yet",
        "let certificates live for a short time, or name an authority of its own with caCertificates",
    ),
    "a Secret and files": (
        rule("mode: SIMPLE, credentialName: a, caCertificates: b"),
        "4:88",
        "tls: 'credentialName' and 'caCertificates' exclude each other",
        "keep one of them",
    ),
    "nothing to show": (
        rule("mode: MUTUAL"),
        "4:45",
        "tls: MUTUAL needs clientCertificate and privateKey",
        "or credentialName, with a Secret",
    ),
    "a Secret for the mesh": (
        rule("mode: ISTIO_MUTUAL, credentialName: a"),
        "4:75",
        "tls: 'credentialName' has no meaning with mode ISTIO_MUTUAL",
        "use mode: SIMPLE or MUTUAL",
    ),
    "judged and not judged": (
        rule("mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]"),
        "4:96",
        "tls: insecureSkipVerify judges nothing, not even by 'subjectAltNames'",
        "keep one of them",
    ),
    # --- Istio's Gateway
    "TLS by the mesh between clusters": (
        server("mode: AUTO_PASSTHROUGH"),
        "4:102",
        "mode: 'AUTO_PASSTHROUGH' is not supported",
        "did you mean 'PASSTHROUGH'?",
    ),
    "an old version": (
        server("credentialName: a, minProtocolVersion: TLSV1_1"),
        "4:135",
        "minProtocolVersion: 'TLSV1_1' is not supported",
        "did you mean 'TLSV1_3'?",
    ),
    "versions the wrong way round": (
        server("credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2"),
        "4:164",
        "tls: the lowest TLS version is above the highest",
        "",
    ),
    "a weak suite": (
        server("credentialName: a, cipherSuites: [ECDHE-RSA-AES128-SHA]"),
        "4:129",
        "tls: cipher suite 'ECDHE-RSA-AES128-SHA' is not supported",
        "did you mean 'ECDHE-RSA-AES128-GCM-SHA256'?",
    ),
    "suites of TLS 1.3": (
        server("credentialName: a, minProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]"),
        "4:158",
        "tls: the suites of TLS 1.3 are not for choice",
        "remove 'cipherSuites', or set minProtocolVersion: TLSV1_2",
    ),
    "one and several": (
        server("credentialName: a, credentialNames: [a, b]"),
        "4:132",
        "tls: 'credentialName' and 'credentialNames' exclude each other",
        "keep one of them",
    ),
    "Secrets and files": (
        server("credentialNames: [a], serverCertificate: b, privateKey: c"),
        "4:137",
        "tls: 'credentialNames' and 'serverCertificate' exclude each other",
        "keep one of them",
    ),
    "half a certificate": (
        server("serverCertificate: a"),
        "4:95",
        "tls: 'serverCertificate' and 'privateKey' belong together",
        "give both",
    ),
    "nobody to trust": (
        server("mode: OPTIONAL_MUTUAL, serverCertificate: a, privateKey: b"),
        "4:102",
        "tls: OPTIONAL_MUTUAL needs 'caCertificates'",
        "name the authority of the clients",
    ),
    "names of nobody": (
        server("credentialName: a, subjectAltNames: [b]"),
        "4:132",
        "tls: 'subjectAltNames' judges certificates of clients, and SIMPLE takes none of yours",
        "use mode: MUTUAL",
    ),
    "a hash that is none": (
        server("mode: MUTUAL, credentialName: a, verifyCertificateHash: [ab]"),
        "4:152",
        "tls: 'ab' is not a SHA-256 hash in hexadecimal",
        "write what `openssl x509 -fingerprint -sha256` says",
    ),
    "a key's hash that is none": (
        server(f"mode: MUTUAL, credentialName: a, verifyCertificateHash: [{HASH}], verifyCertificateSpki: [ab]"),
        "4:243",
        "tls: 'ab' is not a SHA-256 hash in Base64",
        "it is the hash of the public key in DER",
    ),
    "a certificate for the mesh": (
        server("mode: ISTIO_MUTUAL, credentialName: a"),
        "4:132",
        "tls: ISTIO_MUTUAL presents the mesh's certificate",
        "remove 'credentialName', or use MUTUAL",
    ),
    "versions of TLS that goes through": (
        server("mode: PASSTHROUGH, minProtocolVersion: TLSV1_2"),
        "4:135",
        "tls: 'minProtocolVersion' has no meaning for TLS that ends elsewhere",
        "remove 'minProtocolVersion'",
    ),
    "certificates in line": (
        server("tlsCertificates: []"),
        "4:96",
        "tls: 'tlsCertificates' is not supported yet",
        "put the certificates into Secrets and name those in credentialNames",
    ),
    "an authority by another name": (
        server("credentialName: a, caCertCredentialName: b"),
        "4:115",
        "tls: 'caCertCredentialName' is not supported yet",
        "put ca.crt into the Secret that credentialName names",
    ),
    "no certificate": (
        server("minProtocolVersion: TLSV1_2"),
        "4:116",
        "tls: 'minProtocolVersion' has no meaning for TLS that ends elsewhere",
        "remove 'minProtocolVersion'",
    ),
    "a server's host that is none": (
        istio("Gateway", '{servers: [{port: {number: 80, protocol: HTTP}, hosts: ["/a.example"]}]}'),
        "4:62",
        "servers[0]: '/a.example' is not a host",
        "write HOST or NAMESPACE/HOST; a host is a whole name, '*.suffix' or '*'",
    ),
    "one host in two servers": (
        istio(
            "Gateway",
            "{servers: [{port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.example], tls: {credentialName: a}}, "
            "{port: {number: 443, name: b, protocol: TLS}, hosts: [./a.example], tls: {mode: PASSTHROUGH}}]}",
        ),
        "4:17",
        "spec: host 'a.example' is in two servers on port 443",
        "a client's server name must lead to one of them; join the servers",
    ),
    "one name for two ports": (
        istio(
            "Gateway",
            "{servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: [a.example]}, "
            "{port: {number: 81, name: a, protocol: HTTP}, hosts: [a.example]}]}",
        ),
        "4:17",
        "spec: port name 'a' is here twice",
        "give each server's port its own name",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, place, message, hint = CASES[case]
    report = Report()
    load_text("f.yaml", text, report)
    wanted = f"f.yaml:{place}: error: {message}" + (f"\n  hint: {hint}" if hint else "")
    assert wanted in [str(one) for one in report.diagnostics]
