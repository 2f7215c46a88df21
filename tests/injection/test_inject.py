"""The injected pod: what it runs, what it keeps, what is refused; by the patch and by the function the same."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.control.injection.again import complete
from pymesh.control.injection.inject import Owner, inject
from pymesh.control.injection.patch import difference
from pymesh.control.injection.policy import skipped
from pymesh.control.injection.problems import InjectionError
from tests.injection.pods import SETTINGS, Json, named, patched, pod


def wishes(**annotations: str) -> Json:
    """A pod with annotations, by the ends of their names."""
    prefixes = {"include": "traffic.", "exclude": "traffic."}
    full = {f"{prefixes.get(key[:7], '')}sidecar.istio.io/{key}": text for key, text in annotations.items()}
    return pod(metadata={"annotations": full})


def test_capture_comes_first_then_the_sidecar_then_the_pods_own() -> None:
    made = inject(pod(initContainers=[{"name": "migrate", "image": "m"}]), SETTINGS)
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["istio-init", "istio-proxy", "migrate"]
    assert [one["name"] for one in made["spec"]["containers"]] == ["web"]
    sidecar = named(made, "istio-proxy")
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"] == {"path": "/healthz/ready", "port": 15021}
    assert sidecar["command"] + sidecar["args"][:2] == ["pymesh", "pod", "sidecar"]
    assert sidecar["securityContext"]["runAsUser"] == 1337
    capture = named(made, "istio-init")
    assert capture["command"] + capture["args"][:2] == ["pymesh", "capture", "on"]
    assert capture["securityContext"]["capabilities"] == {"add": ["NET_ADMIN"], "drop": ["ALL"]}


def test_the_token_is_for_the_control_plane_alone() -> None:
    volumes = {one["name"]: one for one in inject(pod(), SETTINGS)["spec"]["volumes"]}
    source = volumes["istio-token"]["projected"]["sources"][0]["serviceAccountToken"]
    assert source["audience"] == "istio-ca"
    assert source["path"] == "istio-token"


def test_what_was_there_stays_and_the_argument_is_left_alone() -> None:
    given = pod(volumes=[{"name": "data"}], somethingNew={"a": [1]}, restartPolicy="Never")
    before = copy.deepcopy(given)
    made = inject(given, SETTINGS)
    assert given == before
    assert made["spec"]["somethingNew"] == {"a": [1]}
    assert made["spec"]["volumes"][0] == {"name": "data"}
    assert made["spec"]["containers"] == before["spec"]["containers"]


def _told(made: Json) -> Any:
    values = {one["name"]: one.get("value") for one in named(made, "istio-proxy")["env"]}
    return json.loads(values.get("ISTIO_META_POD_PORTS") or "null")


def test_the_sidecar_is_told_the_ports_that_have_a_name() -> None:
    container = {"ports": [{"containerPort": 8080, "name": "http", "hostPort": 80}, {"containerPort": 9000}]}
    dns = {"containerPort": 53, "name": "dns", "protocol": "UDP"}
    stays = {"name": "log", "restartPolicy": "Always", "ports": [dns]}
    ends = {"name": "migrate", "ports": [{"containerPort": 7000, "name": "gone"}]}
    assert _told(inject(pod(container=container, initContainers=[ends, stays]), SETTINGS)) == [
        {"containerPort": 8080, "name": "http", "protocol": "TCP"},
        dns,
    ]
    assert _told(inject(pod(container={"ports": [{"containerPort": 9000}]}), SETTINGS)) is None


def test_who_it_is_for_others() -> None:
    made = inject(pod(), SETTINGS)["metadata"]
    assert made["labels"] == {
        "app": "web",
        "version": "v1",
        "security.istio.io/tlsMode": "istio",
        "service.istio.io/canonical-name": "web",
        "service.istio.io/canonical-revision": "v1",
    }
    status = json.loads(made["annotations"]["sidecar.istio.io/status"])
    assert status["initContainers"] == ["istio-init", "istio-proxy"]
    assert made["annotations"]["prometheus.io/port"] == "15090"
    assert made["annotations"]["kubectl.kubernetes.io/default-container"] == "web"


def test_an_application_with_metrics_of_its_own_keeps_them() -> None:
    made = inject(pod(metadata={"annotations": {"prometheus.io/port": "9000"}}), SETTINGS)
    assert {key for key in made["metadata"]["annotations"] if key.startswith("prometheus")} == {"prometheus.io/port"}


def test_a_second_time_changes_nothing() -> None:
    once = inject(pod(), SETTINGS)
    assert skipped(once, "shop") == "it has a sidecar already"


def test_what_was_added_since_is_treated_as_the_rest_was() -> None:
    once = inject(pod(container={"livenessProbe": {"httpGet": {"port": "http"}}}), SETTINGS)
    assert complete(once, SETTINGS) == once, "nothing was"
    added = {
        "name": "agent",
        "image": "agent:1",
        "ports": [{"containerPort": 9000, "name": "agent"}],
        "readinessProbe": {"httpGet": {"port": "agent", "path": "/ready"}},
    }
    later = {**once, "spec": {**once["spec"], "containers": [*once["spec"]["containers"], added]}}
    made = complete(later, SETTINGS)
    assert named(made, "agent")["readinessProbe"]["httpGet"]["path"] == "/app-health/agent/readyz"
    assert named(made, "agent")["lifecycle"]["preStop"] == named(once, "web")["lifecycle"]["preStop"]
    assert [one["name"] for one in _told(made)] == ["http", "agent"]
    (probers,) = (o["value"] for o in named(made, "istio-proxy")["env"] if o["name"] == "ISTIO_KUBE_APP_PROBERS")
    assert set(json.loads(probers)) == {"/app-health/web/livez", "/app-health/agent/readyz"}
    assert complete(made, SETTINGS) == made
    assert named(made, "web") == named(once, "web")


def test_of_what_was_added_since_a_probe_that_leads_nowhere_is_told() -> None:
    once = inject(pod(), SETTINGS)
    wrong = {"name": "agent", "image": "a", "readinessProbe": {"httpGet": {"port": "none"}}}
    later = {**once, "spec": {**once["spec"], "containers": [*once["spec"]["containers"], wrong]}}
    with pytest.raises(InjectionError, match="'none' is no port of the container"):
        complete(later, SETTINGS)


def test_what_somebody_else_wrote_for_the_sidecar_is_refused() -> None:
    once = inject(pod(container={"livenessProbe": {"httpGet": {"port": 8080}}}), SETTINGS)
    for one in named(once, "istio-proxy")["env"]:
        if one["name"] == "ISTIO_KUBE_APP_PROBERS":
            one["value"] = "{"
    with pytest.raises(InjectionError, match="is not JSON"):
        complete(once, SETTINGS)


def test_a_sidecar_of_another_mesh_is_left_alone() -> None:
    once = inject(pod(), SETTINGS)
    theirs = {**once, "spec": {**once["spec"], "initContainers": [{**named(once, "istio-proxy"), "command": ["x"]}]}}
    assert complete(theirs, SETTINGS) == theirs


@pytest.mark.parametrize(
    ("given", "namespace", "why"),
    [
        (pod(hostNetwork=True), "shop", "node's network"),
        (pod(os={"name": "windows"}), "shop", "for Windows"),
        (pod(nodeSelector={"kubernetes.io/os": "windows"}), "shop", "for Windows"),
        (pod(metadata={"labels": {"sidecar.istio.io/inject": "false"}}), "shop", "says so"),
        (pod(metadata={"annotations": {"sidecar.istio.io/inject": "false"}}), "shop", "says so"),
        (pod(), "kube-system", "kube-system"),
    ],
)
def test_who_gets_none(given: Json, namespace: str, why: str) -> None:
    assert why in skipped(given, namespace)
    assert skipped(pod(), "shop") == ""


def test_a_label_wins_over_an_annotation() -> None:
    both = {"labels": {"sidecar.istio.io/inject": "true"}, "annotations": {"sidecar.istio.io/inject": "false"}}
    assert skipped(pod(metadata=both), "shop", wanted_by_namespace=False) == ""
    assert "neither its namespace" in skipped(pod(), "shop", wanted_by_namespace=False)


def test_capture_by_the_pods_wishes() -> None:
    asked = wishes(
        includeInboundPorts="8080, 9090",
        excludeInboundPorts="9100",
        includeOutboundIPRanges="10.0.0.0/8",
        excludeOutboundPorts="5432",
    )
    arguments = named(inject(asked, SETTINGS), "istio-init")["args"]
    assert arguments[arguments.index("--include-inbound-ports") + 1] == "8080,9090"
    assert arguments[arguments.index("--exclude-inbound-ports") + 1] == "15020,15021,15090,9100"
    assert arguments[arguments.index("--include-outbound-cidrs") + 1] == "10.0.0.0/8"
    assert arguments[arguments.index("--exclude-outbound-ports") + 1] == "5432"
    nothing = named(inject(wishes(includeInboundPorts=""), SETTINGS), "istio-init")["args"]
    assert nothing[nothing.index("--include-inbound-ports") + 1] == ""


def test_without_capture_there_is_no_container_for_it() -> None:
    made = inject(wishes(interceptionMode="NONE"), SETTINGS)
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["istio-proxy"]
    environment = {one["name"]: one.get("value") for one in named(made, "istio-proxy")["env"]}
    assert environment["ISTIO_META_INTERCEPTION_MODE"] == "NONE"


def test_transparent_sockets_need_a_right_and_the_group_tells_whose_they_are() -> None:
    made = inject(wishes(interceptionMode="TPROXY"), SETTINGS)
    assert named(made, "istio-init")["args"][-4:-2] == ["--mode", "TPROXY"]
    context = named(made, "istio-proxy")["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["capabilities"]["add"]) == (0, 1337, ["NET_ADMIN"])


def test_resources_and_image_of_one_pod() -> None:
    made = inject(wishes(proxyImage="other:2", proxyCPU="250m", proxyMemoryLimit="512Mi"), SETTINGS)
    sidecar = named(made, "istio-proxy")
    assert sidecar["image"] == "other:2"
    assert sidecar["resources"] == {
        "requests": {"cpu": "250m", "memory": "40Mi"},
        "limits": {"cpu": "2", "memory": "512Mi"},
    }


@pytest.mark.parametrize(
    ("said", "asked", "most"),
    [
        ({"proxyCPU": "2500m"}, {"cpu": "2500m", "memory": "40Mi"}, {"cpu": "2500m", "memory": "1Gi"}),
        ({"proxyMemory": "2Gi"}, {"cpu": "10m", "memory": "2Gi"}, {"cpu": "2", "memory": "2Gi"}),
        ({"proxyMemoryLimit": "32Mi"}, {"cpu": "10m", "memory": "32Mi"}, {"cpu": "2", "memory": "32Mi"}),
        ({"proxyMemory": "1024Mi"}, {"cpu": "10m", "memory": "1024Mi"}, {"cpu": "2", "memory": "1Gi"}),
        ({"proxyCPU": "3", "proxyCPULimit": "1"}, {"cpu": "3", "memory": "40Mi"}, {"cpu": "1", "memory": "1Gi"}),
    ],
)
def test_one_amount_of_the_pods_own_never_keeps_it_from_starting(said: Json, asked: Json, most: Json) -> None:
    """An API server refuses a pod that asks for more than its limit; what both annotations say is for it to judge."""
    resources = {"requests": asked, "limits": most}
    made = inject(wishes(**said), SETTINGS)
    assert [named(made, name)["resources"] for name in ("istio-init", "istio-proxy")] == [resources] * 2


@pytest.mark.parametrize(
    ("owner", "labels", "name"),
    [
        ({"kind": "ReplicaSet", "name": "web-5d4f"}, {"pod-template-hash": "5d4f"}, "web"),
        ({"kind": "ReplicaSet", "name": "web-5d4f"}, {}, "web-5d4f"),
        ({"kind": "ReplicaSet", "name": "web-5d4f"}, {"rollouts-pod-template-hash": "5d4f"}, "web"),
        ({"kind": "ReplicationController", "name": "web-7"}, {"deploymentconfig": "web"}, "web"),
        ({"kind": "ReplicationController", "name": "web-7"}, {}, "web-7"),
        ({"kind": "StatefulSet", "name": "db"}, {}, "db"),
        ({"kind": "Job", "name": "nightly-29301120"}, {}, "nightly"),
        ({"kind": "Job", "name": "import"}, {}, "import"),
    ],
)
def test_the_workload_is_who_owns_the_pod(owner: Json, labels: Json, name: str) -> None:
    given = pod(metadata={"labels": labels, "ownerReferences": [{**owner, "controller": True}]})
    assert Owner.of_pod(given).name == name
    made = inject(given, SETTINGS)
    assert made["metadata"]["labels"]["service.istio.io/canonical-name"] == name


@pytest.mark.parametrize("mark", "-._")
def test_a_long_name_is_cut_to_a_label(mark: str) -> None:
    made = inject(pod(metadata={"labels": {}, "name": "a" * 62 + mark + "b"}), SETTINGS)
    assert made["metadata"]["labels"]["service.istio.io/canonical-name"] == "a" * 62


def test_a_name_that_is_null_is_none() -> None:
    assert Owner.of_pod({"metadata": {"generateName": None}}).name == ""


#: What is wrong -> where, and what is said of it.
REFUSED: list[tuple[Any, str, str]] = [
    ({}, "spec", "expected a mapping"),
    ([], "spec", "expected a mapping"),
    ({"spec": {"containers": []}}, "spec.containers", "expected a list of containers"),
    ({"spec": {"containers": [{"image": "a"}]}}, "spec.containers[0]", "expected a container with a name"),
    ({"metadata": [], "spec": {"containers": [{"name": "a"}]}}, "metadata", "expected a mapping"),
    (pod(metadata={"labels": {"app": 5}}), "metadata.labels['app']", "expected a string; hint: put it in quotes"),
    (pod(metadata={"generateName": 5}), "metadata.generateName", "expected a string"),
    (pod(metadata={"ownerReferences": ["x"]}), "metadata.ownerReferences", "expected a list of references"),
    ({"spec": {"containers": [{"name": "a", "ports": 5}]}}, "spec.containers[0].ports", "expected a list of ports"),
    (wishes(excludeInboundPorts="80,http"), "excludeInboundPorts", "'http' is not a port"),
    (wishes(excludeInboundPorts="*"), "excludeInboundPorts", "'*' is not a port"),
    (wishes(includeOutboundIPRanges="10.0.0/8"), "includeOutboundIPRanges", "'10.0.0/8' is neither an IP address"),
    (wishes(interceptionMode="EBPF"), "interceptionMode", "'EBPF' is not REDIRECT, TPROXY, NONE"),
    (wishes(proxyCPU="much"), "proxyCPU", "'much' is not a quantity"),
    (wishes(rewriteAppHTTPProbers="yes"), "rewriteAppHTTPProbers", "neither 'true' nor 'false'"),
    (wishes(nativeSidecar="false"), "nativeSidecar", "only 'true' is supported"),
    (wishes(proxyImage=""), "proxyImage", "'' is not the name of an image"),
    (wishes(logLevel="debug"), "logLevel", "not supported yet; hint: the proxy has one level"),
    (wishes(interceptonMode="NONE"), "interceptonMode", "did you mean 'sidecar.istio.io/interceptionMode'?"),
    (pod(metadata={"annotations": {"proxy.istio.io/config": "{}"}}), "proxy.istio.io/config", "not supported yet"),
    (pod(metadata={"labels": {"sidecar.istio.io/inject": "yes"}}), "metadata.labels", "neither 'true' nor 'false'"),
    (pod(container={"name": "istio-proxy"}), "spec.containers[0].name", "is the sidecar's; hint: rename it"),
    (pod(volumes=[{"name": "istio-token"}]), "spec.volumes[0].name", "is the sidecar's"),
    (
        pod(container={"livenessProbe": {"httpGet": {"port": "admin"}}}),
        "spec.containers[0].livenessProbe.httpGet.port",
        "'admin' is no port of the container; hint: its ports have the names http",
    ),
]


@pytest.mark.parametrize(("given", "where", "what"), REFUSED)
def test_what_is_wrong_is_said_with_its_place(given: Any, where: str, what: str) -> None:
    with pytest.raises(InjectionError) as caught:
        inject(given, SETTINGS)
    found = [str(one) for one in caught.value.faults]
    assert any(where in one and what in one for one in found), found


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InjectionError) as caught:
        inject(wishes(proxyCPU="x", interceptionMode="y", excludeInboundPorts="z"), SETTINGS)
    assert len(caught.value.faults) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "b/c", "d~e"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b/c", "d~e", "f"]), inner),
    max_leaves=12,
)


@given(JSON.map(lambda one: {"x": one}), JSON.map(lambda one: {"x": one}))
def test_a_patch_leads_from_any_document_to_any_other(old: Any, new: Any) -> None:
    assert patched(old, difference(old, new)) == new
    assert json.dumps(patched(old, difference(old, new)), sort_keys=True) == json.dumps(new, sort_keys=True)


def test_the_patch_of_a_pod_makes_the_injected_pod() -> None:
    for one in (pod(), pod(initContainers=[{"name": "first", "image": "f"}], volumes=[{"name": "v"}])):
        made = inject(one, SETTINGS)
        operations = difference(one, made)
        assert patched(one, operations) == made
        # What was there is not sent again.
        assert not [each for each in operations if each["path"] in ("", "/spec", "/metadata", "/spec/containers")]


SLEEP = {"sleep": {"seconds": 5}}


@pytest.mark.parametrize(
    ("container", "spec", "expected"),
    [
        ({}, {}, {"preStop": SLEEP}),
        ({"lifecycle": {"postStart": {"exec": {"command": ["a"]}}}}, {},
         {"postStart": {"exec": {"command": ["a"]}}, "preStop": SLEEP}),
        ({"lifecycle": {"preStop": {"exec": {"command": ["a"]}}}}, {}, {"preStop": {"exec": {"command": ["a"]}}}),
        ({"lifecycle": {"preStop": {"sleep": {"seconds": 0}}}}, {}, {"preStop": {"sleep": {"seconds": 0}}}),
        ({"lifecycle": {"preStop": None}}, {}, {"preStop": SLEEP}),
        ({"lifecycle": "none"}, {}, "none"),
        ({}, {"terminationGracePeriodSeconds": 6}, {"preStop": {"sleep": {"seconds": 3}}}),
        ({}, {"terminationGracePeriodSeconds": 1}, None),
        ({}, {"terminationGracePeriodSeconds": 0}, None),
        ({}, {"terminationGracePeriodSeconds": "x"}, None),
        ({}, {"restartPolicy": "Never"}, None),
        ({}, {"restartPolicy": "Always"}, {"preStop": SLEEP}),
    ],
)  # fmt: skip
def test_who_ends_goes_on_for_a_moment(container: Json, spec: Json, expected: Any) -> None:
    made = inject(pod(container=container, **spec), SETTINGS)
    assert named(made, "web").get("lifecycle") == expected


def test_who_ends_may_end_at_once() -> None:
    made = inject(pod(), replace(SETTINGS, pre_stop_sleep_seconds=0))
    assert "lifecycle" not in named(made, "web")
