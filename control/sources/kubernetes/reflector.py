"""A copy of all objects of one kind, kept as the API server has them.

List, then watch from the list's version on; what Kubernetes calls a reflector. The rules that keep it right:

* Only a whole list withdraws anything. While the server cannot be reached, or refuses, the copy stays as it is.
* A watch that ends is taken up where it ended. Bookmarks move that place on while nothing happens.
* What the server no longer keeps (410) is listed anew; so is everything now and then, whatever the watches said.
* A version that is older than one that was seen comes from a server behind its time: it is not taken, for a while. A
  store that was set back for good has only such versions, and is believed in the end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

from pymesh.control.resources.objects import place, without_others
from pymesh.control.sources.kubernetes.backoff import Backoff
from pymesh.control.sources.kubernetes.client import ApiClient, ApiError, Object
from pymesh.control.sources.kubernetes.kinds import Kind

log = logging.getLogger(__name__)

#: Namespace and name.
Key = tuple[str, str]

_PAGE: Final = 500
#: Whether a kind is served at all is asked this often while it is not: its CRD may come.
_ABSENT_SECONDS: Final = 5.0
#: How long the server is asked to go on with a watch.
_WATCH_SECONDS: Final = (240.0, 300.0)
#: A watch that ends sooner is a failure.
_SHORT_SECONDS: Final = 1.0
#: How long older versions than those that were seen are refused.
_STALE_SECONDS: Final = 60.0


class Reflector:
    """One kind's objects."""

    def __init__(
        self,
        client: ApiClient,
        kind: Kind,
        changed: Callable[[], None],
        *,
        relist_seconds: float = 600.0,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.kind = kind
        self.objects: dict[Key, Object] = {}
        #: Of which objects watches have told since :meth:`moved`; None: all were listed.
        self._moved: set[Key] | None = None
        #: Whether all of it was seen once.
        self.is_synced = False
        #: Why the copy may be behind; empty while it is not.
        self.trouble = ""
        self._client = client
        self._changed = changed
        self._relist_seconds = relist_seconds
        self._backoff = backoff or Backoff()
        self._sleep = sleep
        self._clock = clock
        self._random = rng or random.Random()
        #: The one of the kind's versions that the server has.
        self._served = ""
        #: Where the next watch begins; empty: after a list.
        self._version = ""
        #: The newest version that any answer had.
        self._newest = 0
        self._stale_since: float | None = None
        self._relist_at = 0.0

    def moved(self) -> set[Key] | None:
        """The names of those objects that may be others since this was asked last; None: all may."""
        moved, self._moved = self._moved, set()
        return moved

    def place(self, key: Key) -> str:
        """The place of an object of this name, whether it is there or not."""
        namespace, name = key
        bare = {"apiVersion": self.kind.version(self._served), "kind": self.kind.name}
        return place({**bare, "metadata": {"namespace": namespace, "name": name}})

    async def run(self) -> None:
        """Keep it current until cancelled."""
        while True:
            try:
                if not self._version or self._clock() >= self._relist_at:
                    await self._list()
                await self._watch()
            except ApiError as error:
                if error.is_expired:
                    self._version = ""
                elif error.code == 404 and not self._served:
                    await self._absent()
                    continue
                self._troubled(str(error))
                await self._sleep(self._backoff.failed(error.retry_after))

    async def _absent(self) -> None:
        """The server does not have the kind. What was known of it is gone with its definition, event by event."""
        if not self.is_synced:
            self.is_synced = True
            self._changed()
        await self._sleep(_ABSENT_SECONDS * (0.5 + self._random.random()))

    async def _list(self) -> None:
        found, version = await self._whole()
        number = _number(version)
        if number < self._newest and not self._believes_stale():
            raise ApiError(f"{self.kind.title}: the server lists version {version}, {self._newest} was seen already")
        self._stale_since = None
        self._newest, self._version = number, version
        self._relist_at = self._clock() + self._relist_seconds * (0.9 + self._random.random() / 5)
        differs = found.keys() != self.objects.keys() or any(
            differ(one, self.objects[key]) for key, one in found.items()
        )
        self.objects, self._moved = found, None
        if differs or not self.is_synced:
            self.is_synced = True
            self._changed()
        self._untroubled()

    async def _whole(self) -> tuple[dict[Key, Object], str]:
        """Everything, page by page, and the version that it is of."""
        limit, found, token = _PAGE, dict[Key, Object](), ""
        while True:
            query = {"limit": str(limit)} if limit else {}
            try:
                page = await self._page({**query, **({"continue": token} if token else {})})
            except ApiError as error:
                if not error.is_expired or not token:
                    raise
                # The version that the pages are of is no longer kept: all at once cannot grow too old.
                limit, found, token = 0, {}, ""
                continue
            for item in page.get("items") or ():
                one = self._kept(item)
                found[key_of(one)] = one
            meta = page.get("metadata") or {}
            token = meta.get("continue") or ""
            if not token:
                return found, str(meta.get("resourceVersion", ""))

    async def _page(self, query: dict[str, str]) -> Object:
        selected = {"fieldSelector": self.kind.field_selector} if self.kind.field_selector else {}
        for version in [self._served] if self._served else self.kind.versions:
            try:
                page = await self._client.request("GET", self.kind.path(version), query={**query, **selected})
            except ApiError as error:
                if error.code == 404:
                    self._served = ""
                    continue
                raise
            self._served = version
            return page
        raise ApiError(f"the server has no {self.kind.title}", code=404)

    async def _watch(self) -> None:
        seconds = self._random.uniform(*_WATCH_SECONDS)
        seconds = max(1.0, min(seconds, self._relist_at - self._clock()))
        query = {
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(seconds)),
        }
        if self.kind.field_selector:
            query["fieldSelector"] = self.kind.field_selector
        began, quiet = self._clock(), True
        path = self.kind.path(self._served)
        async with aclosing(self._client.watch(path, query, self._in_touch)) as events:
            async for event in events:
                self._take(event)
                self._untroubled()
                quiet = False
        if quiet and self._clock() - began < min(_SHORT_SECONDS, seconds / 2):
            raise ApiError(f"{self.kind.title}: the server ends watches at once")
        self._untroubled()

    def _take(self, event: Object) -> None:
        what, item = event.get("type"), event.get("object") or {}
        if what == "ERROR":
            code = int(item.get("code") or 500)
            raise ApiError(f"watch {self.kind.title}: {item.get('message')}", code=code, reason=str(item.get("reason")))
        version = str((item.get("metadata") or {}).get("resourceVersion", ""))
        if not version:
            raise ApiError(f"watch {self.kind.title}: an event of type {what!r} has no version")
        number = _number(version)
        if what == "BOOKMARK":
            self._version, self._newest = version, max(self._newest, number)
            return
        one = self._kept(item)
        key = key_of(one)
        known = self.objects.get(key)
        if known is not None and number < _number(known["metadata"]["resourceVersion"]):
            return  # told late: what is known is newer
        self._version, self._newest = version, max(self._newest, number)
        if self._moved is not None:
            self._moved.add(key)
        if what == "DELETED":
            if self.objects.pop(key, None) is not None:
                self._changed()
        elif what in ("ADDED", "MODIFIED"):
            self.objects[key] = one
            if known is None or differ(known, one):
                self._changed()

    def _kept(self, item: Object) -> Object:
        """The object with its kind, which lists leave out, and without what is large and read by nobody."""
        meta = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
        one = {**item, "apiVersion": self.kind.version(self._served), "kind": self.kind.name, "metadata": meta}
        return _pod(one) if self.kind.name == "Pod" else one

    def _believes_stale(self) -> bool:
        now = self._clock()
        if self._stale_since is None:
            self._stale_since = now
        return now - self._stale_since >= _STALE_SECONDS

    def _troubled(self, reason: str) -> None:
        if not self.trouble:
            log.warning("out of touch with the API server", extra={"kind": self.kind.title, "reason": reason})
        self.trouble = reason

    def _untroubled(self) -> None:
        self._backoff.succeeded()
        self._in_touch()

    def _in_touch(self) -> None:
        """As soon as a watch begins: where nothing happens it says nothing for a minute."""
        if self.trouble:
            log.info("in touch with the API server again", extra={"kind": self.kind.title})
            self.trouble = ""


def key_of(one: Mapping[str, Any]) -> Key:
    """Of an object."""
    meta = one["metadata"]
    return (meta.get("namespace", ""), meta["name"])


def _number(version: str) -> int:
    """Versions of one server can be compared as numbers (KEP-5504); what is none is older than any."""
    return int(version) if version.isdecimal() else 0


def differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether anything differs that a resource is made of."""
    return _meaning(one) != _meaning(other)


def _meaning(one: Mapping[str, Any]) -> dict[str, Any]:
    bare = without_others(one)
    bare["metadata"] = {
        name: value for name, value in bare["metadata"].items() if name not in ("resourceVersion", "generation")
    }
    return bare


def _pod(one: Object) -> Object:
    """The few fields of a pod that are read: whole, a thousand of them are megabytes."""
    spec, status = one.get("spec") or {}, one.get("status") or {}
    kept = dict(one)
    kept["spec"] = {name: spec[name] for name in ("nodeName", "serviceAccountName") if name in spec}
    kept["status"] = {name: status[name] for name in ("phase", "podIP", "podIPs") if name in status}
    # Who is to go gets nobody new, whatever it says of itself.
    if not one["metadata"].get("deletionTimestamp"):
        ready = (each for each in status.get("conditions") or () if each.get("type") == "Ready")
        kept["status"]["conditions"] = [{"type": "Ready", "status": each.get("status", "")} for each in ready]
    return kept
