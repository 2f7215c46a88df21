"""The API server's trust: written whenever it is not ours, however that came about."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

from pymesh.control.admission.trust import TrustKeeper, patch_of
from tests.injection.pods import Json, patched


class Refused(Exception):
    """The API server does not answer."""


class Api:
    """The two configurations, as an API server has them."""

    def __init__(self) -> None:
        self.answers = True
        self.written = 0
        self.found: dict[str, Json] = {
            f"/apis/admissionregistration.k8s.io/v1/{name}": {"webhooks": [{"name": "a", "clientConfig": {}}]}
            for name in (
                "mutatingwebhookconfigurations/pymesh-sidecar-injector-mesh",
                "validatingwebhookconfigurations/pymesh-validator-mesh",
            )
        }

    async def request(self, method: str, path: str, body: Any = None, *, content_type: str = "") -> Json:
        if not self.answers or path not in self.found:
            raise Refused("not there")
        if method == "PATCH":
            assert content_type == "application/json-patch+json"
            self.found[path] = patched(self.found[path], [one for one in body if one["op"] != "test"])
            self.written += 1
        return self.found[path]

    def bundles(self) -> set[str]:
        found = {hook["clientConfig"].get("caBundle", "") for one in self.found.values() for hook in one["webhooks"]}
        return {base64.b64decode(one).decode() for one in found}


async def until(what: Callable[[], bool]) -> None:
    for _ in range(6000):
        if what():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("in vain")


def test_it_is_ours_in_the_end_whatever_happens() -> None:
    async def run() -> None:
        api, roots = Api(), ["first"]
        keeper = TrustKeeper(api, "mesh", lambda: roots[0], Refused, resync_seconds=0.02, retry_seconds=0.02)
        api.answers = False
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(0.05)
        api.answers = True
        await until(lambda: api.bundles() == {"first"})
        roots[0] = "second"
        keeper.changed()
        await until(lambda: api.bundles() == {"second"})
        for one in api.found.values():  # an installation made anew
            one["webhooks"][0]["clientConfig"] = {}
        await until(lambda: api.bundles() == {"second"})
        written = api.written
        await asyncio.sleep(0.1)
        assert api.written == written
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_only_what_is_missing_or_old_is_written() -> None:
    wanted = base64.b64encode(b"PEM").decode()
    hooks = [
        {"name": "a", "clientConfig": {"caBundle": wanted}},
        {"name": "b", "clientConfig": {"caBundle": "old"}},
        {"name": "c", "clientConfig": {}},
    ]
    operations = patch_of({"webhooks": hooks}, "PEM")
    assert operations == [
        {"op": "test", "path": "/webhooks/1/name", "value": "b"},
        {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": wanted},
        {"op": "test", "path": "/webhooks/2/name", "value": "c"},
        {"op": "add", "path": "/webhooks/2/clientConfig/caBundle", "value": wanted},
    ]
    assert patch_of({}, "PEM") == []
