"""Wrong PythonFilters: the exact text, with place and remedy; a slip in the source is told in its own file."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.resources.python_filter import PythonFilter

HEAD = "apiVersion: extensions.pymesh.dev/v1alpha1\nkind: PythonFilter\nmetadata: {name: a}\nspec:\n"
TARGET = "  selector: {matchLabels: {app: a}}\n"
CLASS = "  class: keys:Keys\n"
NESTED = (
    "the filter's source is nested too deeply to be parsed\n"
    "  hint: split the longest expression; data in it goes into `config`"
)
IMAGE = "a filter is no image: give its source, or install its package where the proxy runs"

#: A file beside the YAML file, and what is in it.
FILES = {
    "keys.py": "class Keys:\n    pass\n",
    "broken.py": "import os\n\nclass Keys\n    pass\n",
    "tabs.py": "class Keys:\n    def one(self):\n\t  pass\n",
    "other.py": "class Kees:\n    pass\n\nclass Locks:\n    pass\n",
    "empty.py": "# nothing yet\n",
    "zero.py": "x = 1\0\n",
    "large.py": "#" * 262145,
    "sum.py": "x = 1" + " + 1" * 60000,
    "signs.py": "x = " + "-" * 60000 + "1",
}


def spec(*lines: str, target: str = TARGET, cls: str = CLASS) -> str:
    return HEAD + target + cls + "".join(f"  {line}\n" for line in lines)


CASES = {
    "nobody is selected": (spec(target=""), "f.yaml:5:3: error: spec: one of 'selector', 'targetRefs' is needed"),
    "selected twice": (
        spec("targetRefs: [{kind: Service, name: a}]"),
        "f.yaml:7:15: error: spec: 'selector' and 'targetRefs' exclude each other\n  hint: keep one of them",
    ),
    "no class": (spec(cls=""), "f.yaml:5:3: error: spec: 'class' is missing"),
    "a module alone": (
        spec(cls="  class: keys\n"),
        "f.yaml:6:10: error: spec: 'keys' is not MODULE:CLASS\n  hint: write it as in my_filters:AddHeader",
    ),
    "two sources": (
        spec("source: x", "file: keys.py"),
        "f.yaml:8:9: error: spec: 'source' and 'file' exclude each other\n  hint: keep one of them",
    ),
    "policy": (
        spec("failurePolicy: FAIL_OPEN"),
        "f.yaml:7:18: error: failurePolicy: 'FAIL_OPEN' is not supported\n  hint: did you mean 'OPEN'?",
    ),
    "timeout": (
        spec("timeout: 20"),
        "f.yaml:7:12: error: timeout: expected a string, found an integer (20)\n  hint: quote it",
    ),
    "phase": (
        spec("phase: AUTH"),
        "f.yaml:7:10: error: phase: 'AUTH' is not supported\n  hint: did you mean 'AUTHZ'?",
    ),
    "priority": (
        spec("priority: 3000000000"),
        "f.yaml:7:13: error: priority: 3000000000 is out of range\n  hint: -2147483648 to 2147483647",
    ),
    "mode": (
        spec("match: [{mode: INBOUND}]"),
        "f.yaml:7:18: error: mode: 'INBOUND' is not supported\n  hint: known: CLIENT, CLIENT_AND_SERVER, SERVER",
    ),
    "port": (
        spec("match: [{ports: [{number: 0}]}]"),
        "f.yaml:7:29: error: number: 0 is out of range\n  hint: 1 to 65535",
    ),
    "a port's name": (
        spec("match: [{ports: [{number: 80, name: http}]}]"),
        "f.yaml:7:33: error: ports[0]: unknown field 'name'\n  hint: did you mean 'number'?",
    ),
    "no limit backwards": (
        spec("timeout: -1s"),
        "f.yaml:7:12: error: timeout: '-1s' is not a duration\n  hint: write it as in 250ms, 10s or 1h30m",
    ),
    "secret": (
        spec("imagePullSecret: a"),
        f"f.yaml:7:3: error: spec: 'imagePullSecret' is not supported yet\n  hint: {IMAGE}",
    ),
    "image": (
        spec("url: oci://a"),
        "f.yaml:7:3: error: spec: 'url' is not supported yet\n  hint: a filter is no image: write source or file",
    ),
    "fail strategy": (
        spec("failStrategy: FAIL_OPEN"),
        "f.yaml:7:3: error: spec: 'failStrategy' is not supported yet\n  hint: write failurePolicy: CLOSED or OPEN",
    ),
    "plugin's config": (
        spec("pluginConfig: {}"),
        "f.yaml:7:3: error: spec: 'pluginConfig' is not supported yet\n  hint: write config",
    ),
    "lane": (
        spec("lane: async"),
        "f.yaml:7:3: error: spec: 'lane' is not supported yet\n  hint: the class says it: lane = \"async\"",
    ),
    "no such file": (
        spec("file: no.py"),
        "f.yaml:7:9: error: 'no.py' cannot be read: No such file or directory\n"
        "  hint: the path is relative to this YAML file",
    ),
    "syntax in a file": (
        spec("file: broken.py"),
        "broken.py:3:11: error: the filter's source is not Python: expected ':'",
    ),
    "tabs": (
        spec("file: tabs.py"),
        "tabs.py:3:1: error: the filter's source is not Python: inconsistent use of tabs and spaces in indentation",
    ),
    # CPython's parser says RecursionError of the one and MemoryError of the other.
    "an expression without end": (spec("file: sum.py"), f"sum.py:1:1: error: {NESTED}"),
    "signs without end": (spec("file: signs.py"), f"signs.py:1:1: error: {NESTED}"),
    "octet zero": (
        spec("file: zero.py"),
        "zero.py:1:1: error: the filter's source is not Python: source code string cannot contain null bytes",
    ),
    "syntax in the YAML file": (
        spec("source: |", "  class Keys:", "    def one(self:", "      pass"),
        "f.yaml:9:14: error: the filter's source is not Python: '(' was never closed",
    ),
    "syntax on the line of the key": (
        spec("source: 'class Keys'"),
        "f.yaml:7:11: error: the filter's source is not Python: expected ':'",
    ),
    "another class": (
        spec("file: other.py"),
        "f.yaml:6:10: error: the filter's source has no class 'Keys'\n  hint: did you mean 'Kees'?",
    ),
    "a large source": (
        spec(f"source: '{'#' * 262145}'"),
        "f.yaml:7:11: error: spec: the source is larger than 262144 bytes\n  hint: install it as a package",
    ),
    "a large file": (
        spec("file: large.py"),
        "f.yaml:7:9: error: 'large.py' is too large\n  hint: install it as a package",
    ),
    "a file that is no text": (
        spec("file: octets.py"),
        "f.yaml:7:9: error: 'octets.py' cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: "
        "invalid start byte\n  hint: the path is relative to this YAML file",
    ),
    "a target of another kind": (
        spec(target="  targetRefs: [{kind: Deployment, name: a}]\n"),
        "f.yaml:5:23: error: kind: 'Deployment' is not supported\n  hint: known: Gateway, Service",
    ),
    "a target in another group": (
        spec(target="  targetRefs: [{kind: Gateway, group: gateway.k8s.io, name: a}]\n"),
        "f.yaml:5:39: error: group: 'gateway.k8s.io' is not supported\n"
        "  hint: did you mean 'gateway.networking.k8s.io'?",
    ),
    "a target without a name": (
        spec(target="  targetRefs: [{kind: Service}]\n"),
        "f.yaml:5:16: error: targetRefs[0]: 'name' is missing",
    ),
    "labels that are a list": (
        spec(target="  selector: {matchLabels: [app]}\n"),
        "f.yaml:5:27: error: matchLabels: expected a mapping, found a list",
    ),
    "settings that are a list": (
        spec("config: [a]"),
        "f.yaml:7:11: error: config: expected a mapping, found a list",
    ),
    "a misspelt field": (
        spec("failurePolici: OPEN"),
        "f.yaml:7:3: error: spec: unknown field 'failurePolici'\n  hint: did you mean 'failurePolicy'?",
    ),
    "a class that is no text": (
        spec(cls="  class: 7\n"),
        "f.yaml:6:10: error: class: expected a string, found an integer (7)\n  hint: quote it",
    ),
    "another version": (
        spec().replace("v1alpha1", "v1"),
        "f.yaml:1:13: error: PythonFilter has no version 'v1'\n  hint: use extensions.pymesh.dev/v1alpha1",
    ),
    "another group": (
        spec().replace("extensions.pymesh.dev", "extensions.istio.io"),
        "f.yaml:2:7: error: there is no PythonFilter in group 'extensions.istio.io'\n"
        "  hint: apiVersion: extensions.pymesh.dev/v1alpha1",
    ),
    "no class at all": (spec("file: empty.py"), "f.yaml:6:10: error: the filter's source has no class 'Keys'"),
}


def read(file: str) -> str:
    if file == "octets.py":
        return b"\xff".decode()
    try:
        return FILES[file]
    except KeyError:
        raise FileNotFoundError(2, "No such file or directory") from None


@pytest.mark.parametrize("name", CASES)
def test_wrong_document(name: str) -> None:
    text, expected = CASES[name]
    report = Report()
    load_text("f.yaml", text, report, read)
    assert [str(one) for one in report.diagnostics] == [expected]


def test_a_files_place_is_beside_the_yaml_file() -> None:
    report = Report()
    load_text("mesh/config/f.yaml", spec("file: ../filters/broken.py"), report, lambda file: FILES["broken.py"])
    assert [str(one.at) for one in report.diagnostics] == ["mesh/filters/broken.py:3:11"]


@pytest.mark.parametrize(
    "source",
    [
        "from elsewhere import Keys",
        "import elsewhere as Keys",
        "from elsewhere import *",
        "Keys = object",
        "try:\n    from fast import Keys\nexcept ImportError:\n    class Keys: ...",
        "globals()['Ke' + 'ys'] = object",
        "def Keys(): ...",
    ],
)
def test_what_may_have_the_class_is_left_to_the_proxy(source: str) -> None:
    report = Report()
    (one,) = load_text("f.yaml", spec("file: some.py"), report, lambda file: source)
    assert isinstance(one, PythonFilter)
    assert (one.spec.source, report.diagnostics) == (source, ())
