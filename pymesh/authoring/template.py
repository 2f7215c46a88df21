"""What `pymesh filter new` writes: a filter that works, a test that passes, a resource that is ready."""

from __future__ import annotations

from pathlib import Path

_FILTER = '''\
"""{title}: refuses whoever is on a list, and says who has asked."""

from __future__ import annotations

from dataclasses import dataclass

from pymesh.filters import Context, HttpFilter, Reply, Request, Response, When


@dataclass
class Settings:
    """The resource's `config`."""

    deny: tuple[str, ...] = ()


class {title}(HttpFilter[Settings]):
    """Called for each request that carries an `x-user`."""

    Config = Settings
    when = (When("x-user", "present"),)

    def on_request_headers(self, request: Request, ctx: Context) -> Reply | None:
        """The head of a request has arrived."""
        user = request.headers["x-user"]
        if user in self.config.deny:
            return Reply(403, b"not you\\n")
        request.headers["x-asked-by"] = user
        return None

    def on_response_headers(self, response: Response, ctx: Context) -> None:
        """The head of its answer has arrived."""
        response.headers["x-filtered-by"] = "{name}"
'''

_TEST = '''\
"""{title}, without a proxy."""

from {name} import {title}
from pymesh.testing import FilterHarness


def test_it_says_who_has_asked() -> None:
    with FilterHarness({title}) as harness:
        exchange = harness.request(headers={{"x-user": "ann"}})
    assert exchange.upstream is not None
    assert exchange.upstream.headers.get("x-asked-by") == "ann"
    assert exchange.response.headers.get("x-filtered-by") == "{name}"


def test_it_refuses_whoever_is_on_the_list() -> None:
    with FilterHarness({title}, {{"deny": ["mallory"]}}) as harness:
        exchange = harness.request(headers={{"x-user": "mallory"}})
    assert (exchange.status, exchange.upstream) == (403, None)


def test_other_requests_do_not_enter_it() -> None:
    with FilterHarness({title}) as harness:
        assert not harness.request().entered
'''

_RESOURCE = """\
apiVersion: extensions.pymesh.dev/v1alpha1
kind: PythonFilter
metadata: {{name: {dashed}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: web}}}} # the workloads; or targetRefs to a Service or a Gateway
  class: {name}:{title}
  file: {name}.py
  config: {{deny: [mallory]}}
  failurePolicy: CLOSED # a failure answers 500; OPEN goes on without the filter
  timeout: 50ms
"""


class NameTakenError(Exception):
    """Nothing was written; the text says why, and what to do."""


def write_new(name: str, folder: Path) -> list[Path]:
    """Writes `name.py`, its test and its resource, or nothing if one of them is there."""
    module = name.replace("-", "_")
    if not module.isidentifier() or not module.isascii() or module != module.lower():
        raise NameTakenError(f"`{name}` cannot be a module's name\nhint: small letters, digits and `-`: my-filter")
    words = {"name": module, "dashed": module.replace("_", "-"), "title": module.title().replace("_", "")}
    texts = {f"{module}.py": _FILTER, f"test_{module}.py": _TEST, f"{module}.yaml": _RESOURCE}
    taken = [str(folder / file) for file in texts if (folder / file).exists()]
    if taken:
        raise NameTakenError(f"{', '.join(taken)}: already there, nothing was written\nhint: choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text.format(**words))
    except OSError as error:
        raise NameTakenError(f"{error.filename or folder}: {error.strerror}") from None
    return [folder / file for file in texts]
