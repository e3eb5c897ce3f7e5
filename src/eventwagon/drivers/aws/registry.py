"""The train's manifest, members and journal in a DynamoDB table, the same in which the SQS broker keeps its account.

Items: a train's manifest with its version (the attribute `revision`) and the entries that explain it, replaced by one
conditional write; its members, each with its expiry time; its journal, in pages of entries with growing numbers.
Watches poll: DynamoDB sends no notifications.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from secrets import token_hex

from ...contracts import facts, manifest
from ...contracts.broker import Finding
from ...contracts.facts import Entry
from ...contracts.manifest import Manifest
from ...contracts.registry import Changes, Member, Snapshot, decode_members, encode_member, out_of_date
from ...event import Channel
from .clients import TROUBLE, Clients
from .errors import AWSRefused, explain
from .inspection import inspect_table
from .place import Place, parse
from .table import Item, Key, Table
from .timetable import DynamoDBTimetable

_PAGE, _PAGE_BYTES = 200, 200_000  # entries in an item
_PRUNE_EVERY = 16  # pages
_DIGITS = 15  # of a page's number
_LONG_GONE = 3600.0  # seconds: members that expired so long ago are removed by whoever lists them


class DynamoDBRegistry:
    """Trains in DynamoDB. `place` says where, or use `from_url`; credentials come from AWS's usual chain. Members'
    times use the service's clock, as precisely as the date of its answers shows it. A watch finds another process's
    change within `place.poll` seconds. Belongs to the event loop that entered it."""

    def __init__(self, place: Place | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.place = place or Place()
        self._clients = Clients(self.place, clock=clock)
        self._table = Table(self._clients)
        self.timetable = DynamoDBTimetable(self._clients, self._table, self.place)
        self._changed: dict[str, asyncio.Event] = {}

    @classmethod
    def from_url(cls, url: str, *, clock: Callable[[], float] = time.time) -> DynamoDBRegistry:
        """A URL as for `SQSBroker.from_url`. Raises UsageError."""
        return cls(parse(url), clock=clock)

    @property
    def poll(self) -> float:
        """Seconds between two reads of a watch."""
        return self.place.poll

    async def __aenter__(self) -> DynamoDBRegistry:
        """Connect, and create the table if there is none. Raises Unavailable, StorageBroken."""
        await self._table.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._table.__aexit__(*exc)

    def _manifest(self, train: str) -> Key:
        return f"{self.place.prefix}:trains", train

    def _head(self, train: str) -> Key:
        return f"{self.place.prefix}:journal-head:{train}", "head"

    def _pk(self, what: str, train: str) -> str:
        return f"{self.place.prefix}:{what}:{train}"

    async def read(self, train: str) -> Snapshot:
        try:
            return _snapshot(train, await self._table.get(self._manifest(train)))
        except TROUBLE as e:
            raise explain(e, f"reading the manifest of {train}", self.place) from e

    async def replace(
        self,
        train: str,
        manifest: Manifest,
        *,
        expect: int,
        entries: Sequence[Entry] = (),
        keep: int = 10_000,
        beyond: int = 0,
    ) -> Snapshot:
        try:
            standing = await self._table.get(self._manifest(train))
            at = int(standing["revision"]["N"]) if standing is not None else 0
            if at != expect:
                raise out_of_date(train, at, expect)
            await self._table.put_all(_noted(standing))  # their writer may have died before doing so
            pages = await self._pages(train, entries, keep)
            new = max(expect, beyond) + 1
            await self._swap(train, manifest, expect, new, pages)
            with suppress(*TROUBLE):  # they are stored with the manifest: the next writer does it
                await self._table.put_all(pages)
        except TROUBLE as e:
            raise explain(e, f"replacing the manifest of {train}", self.place) from e
        self._notify(train)
        await self._prune(train, pages, keep)
        return Snapshot(manifest, new)

    async def _swap(self, train: str, manifest: Manifest, expect: int, new: int, pages: Sequence[Item]) -> None:
        """Store manifest and entries in one conditional write. By the mark, an attempt whose answer was lost sees that
        it had succeeded."""
        pk, sk = self._manifest(train)
        mark = token_hex(8)
        item = {
            "pk": {"S": pk},
            "sk": {"S": sk},
            "revision": {"N": str(new)},
            "mark": {"S": mark},
            "document": {"B": _encode(manifest)},
            "noted": {"L": [{"M": page} for page in pages]},
        }
        try:
            await self._table.put(
                item, only_if="revision = :expect" if expect else "attribute_not_exists(pk)", expect=expect
            )
        except AWSRefused as e:
            if not e.condition:
                raise
            found = await self._table.get((pk, sk))
            if found is None or found["mark"]["S"] != mark:
                raise out_of_date(train, int(found["revision"]["N"]) if found else 0, expect) from None

    @asynccontextmanager
    async def watch(self, train: str) -> AsyncIterator[AsyncIterator[Snapshot]]:
        yield Changes(partial(self._wait, train))

    async def _wait(self, train: str, seen: int) -> Snapshot:
        """The first manifest whose version differs from `seen`."""
        while True:
            changed = self._changed.setdefault(
                train, asyncio.Event()
            )  # before the read, so that no change is missed in between
            snapshot = await self.read(train)
            if snapshot.version != seen:
                return snapshot
            with suppress(TimeoutError):
                async with asyncio.timeout(self.place.poll):
                    await changed.wait()

    def _notify(self, train: str) -> None:
        """Wake this process's watches: they need not wait for their next poll."""
        if changed := self._changed.pop(train, None):
            changed.set()

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        key = self._pk("members", train), member.name
        try:
            if ttl <= 0:
                await self._table.remove(key)
                return
            await self._table.put(
                {
                    "pk": {"S": key[0]},
                    "sk": {"S": key[1]},
                    "until": {"N": f"{self._clients.now() + ttl:.3f}"},
                    "said": {"B": encode_member(member)},
                }
            )
        except TROUBLE as e:
            raise explain(e, f"checking in to {train}", self.place) from e

    async def members(self, train: str) -> Sequence[Member]:
        found: list[bytes] = []
        try:
            async for page in self._table.pages(self._pk("members", train)):
                now = self._clients.now()
                found += [item["said"]["B"] for item in page if float(item["until"]["N"]) > now]
                old = [item for item in page if float(item["until"]["N"]) < now - _LONG_GONE]
                await self._table.remove_all((item["pk"]["S"], item["sk"]["S"]) for item in old)
        except TROUBLE as e:
            raise explain(e, f"asking who is alive of {train}", self.place) from e
        return decode_members(found)

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        try:
            pages = await self._pages(train, entries, keep)
            await self._table.put_all(pages)
        except TROUBLE as e:
            raise explain(e, f"writing the journal of {train}", self.place) from e
        await self._prune(train, pages, keep)

    async def _pages(self, train: str, entries: Sequence[Entry], keep: int) -> list[Item]:
        """Items for the entries, numbered after all existing ones; they record `keep` for readers."""
        lines = [facts.encode_entry(entry) for entry in entries]
        pages: list[list[bytes]] = []
        for line in lines:
            if not pages or len(pages[-1]) == _PAGE or sum(map(len, pages[-1])) > _PAGE_BYTES:
                pages.append([])
            pages[-1].append(line)
        if not pages:
            return []
        head = await self._table.update(
            self._head(train),
            UpdateExpression="ADD pages :count SET keep = :keep",
            ExpressionAttributeValues={":count": {"N": str(len(pages))}, ":keep": {"N": str(keep)}},
            ReturnValues="UPDATED_NEW",
        )
        first = int(head["pages"]["N"]) - len(pages)
        pk, mark = self._pk("journal", train), token_hex(4)
        return [
            {
                "pk": {"S": pk},
                "sk": {"S": f"{first + at:0{_DIGITS}d}.{mark}"},
                "count": {"N": str(len(page))},
                "lines": {"L": [{"B": line} for line in page]},
            }
            for at, page in enumerate(pages)
        ]

    async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        try:
            head = await self._table.get(self._head(train))
            most = int(head["keep"]["N"]) if head is not None else 0
            if last is not None:
                most = min(most, last)
            pages: dict[str, list[bytes]] = {}
            if most > 0:
                for item in _noted(await self._table.get(self._manifest(train))):
                    pages[item["sk"]["S"]] = _lines(item)
                found = 0
                async for items in self._table.pages(self._pk("journal", train), backward=True, size=50):
                    for item in items:
                        pages[item["sk"]["S"]] = _lines(item)
                        found += len(pages[item["sk"]["S"]])
                    if found >= most:
                        break
        except TROUBLE as e:
            raise explain(e, f"reading the journal of {train}", self.place) from e
        lines = [line for _, page in sorted(pages.items()) for line in page]
        for line in lines[-most:] if most > 0 else ():
            yield facts.decode_entry(line)

    async def _prune(self, train: str, pages: Sequence[Item], keep: int) -> None:
        """Occasionally remove the pages that hold none of the newest `keep` entries. What fails is done the next
        time."""
        if not any(int(page["sk"]["S"][:_DIGITS]) % _PRUNE_EVERY == 0 for page in pages):
            return
        pk = self._pk("journal", train)
        newer = 0
        old: list[Key] = []
        with suppress(*TROUBLE):
            async for items in self._table.pages(pk, backward=True, only="sk, #count", names={"#count": "count"}):
                for item in items:
                    if newer >= keep:
                        old.append((pk, item["sk"]["S"]))
                    newer += int(item["count"]["N"])
            await self._table.remove_all(old)

    async def delete(self, train: str) -> None:
        try:
            for what in ("members", "journal"):
                async for page in self._table.pages(self._pk(what, train), only="pk, sk"):
                    await self._table.remove_all((item["pk"]["S"], item["sk"]["S"]) for item in page)
            for key in (self._head(train), self._manifest(train)):
                await self._table.remove(key)
        except TROUBLE as e:
            raise explain(e, f"deleting {train}", self.place) from e
        self._notify(train)

    async def trains(self) -> Sequence[str]:
        pk, _ = self._manifest("")
        try:
            return [item["sk"]["S"] async for page in self._table.pages(pk, only="sk") for item in page]
        except TROUBLE as e:
            raise explain(e, "listing the trains", self.place) from e

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable."""
        try:
            return await inspect_table(self._clients, is_new=self._table.is_new)
        except TROUBLE as e:
            raise explain(e, "reading the settings", self.place) from e


def _snapshot(train: str, item: Item | None) -> Snapshot:
    if item is None:
        return Snapshot(Manifest(train=train), 0)
    kept = f"DynamoDB, item {item['pk']['S']} / {item['sk']['S']}, attribute document"
    return Snapshot(manifest.decode(item["document"]["B"], train=train, kept=kept), int(item["revision"]["N"]))


def _noted(item: Item | None) -> list[Item]:
    """The pages of the journal that were stored with a manifest."""
    return [] if item is None else [page["M"] for page in item["noted"]["L"]]


def _lines(page: Item) -> list[bytes]:
    return [line["B"] for line in page["lines"]["L"]]


def _encode(document: Manifest) -> bytes:
    return manifest.encode(document)
