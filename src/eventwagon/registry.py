"""The seam to the train's one shared document, its members and its journal. Contracts only: drivers in `registries/`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from .facts import Entry
from .manifest import Manifest
from .process import Process


class Snapshot(msgspec.Struct, frozen=True):
    """A manifest at a revision. Revisions grow by any amount with each change; 0: there is none yet."""

    manifest: Manifest
    revision: int


class Attachment(msgspec.Struct, frozen=True):
    """What one process's workers do for one wagon."""

    number: int
    ready: bool
    """Attached to all of its channels."""
    workers: int = 0
    """Its own workers, or those of the shared crew that are at it now."""
    trouble: str = ""
    """Why it is not ready."""
    handled: int = 0
    """Handlings that ended well in this process."""
    failed: int = 0
    """Handlings that failed in this process."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the train that is alive: what it does, and the manifest revision it has seen."""

    name: str
    roles: tuple[str, ...] = ()
    """Any of `observe`, `work`, `serve` (works for one given wagon), `publish`."""
    revision: int = 0
    code: str = ""
    """The revision of its code, where it says one."""
    crew: int = 0
    """Its workers, where they are a shared crew."""
    deployed: tuple[Attachment, ...] = ()
    """What the orchestrator of an observing process says of the wagons' workers."""
    publishing_to: int = 0
    """Where the broker can't refuse writes: the turn of the wagon that it may publish to; to none before. 0: not known yet."""
    attachments: tuple[Attachment, ...] = ()
    process: Process | None = None
    """Which one it is, for others on its machine; None where its system does not say."""


class Registry(Protocol):
    """One train = one document. An asynchronous context manager: entered once, by its owner, before use.

    Its methods may be called concurrently, from the event loop that entered it. All raise Unavailable and StorageBroken.
    """

    async def __aenter__(self) -> Registry: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def read(self, train: str) -> Snapshot:
        """The newest manifest; where there is none, an empty one with revision 0. Creates nothing."""
        ...

    async def replace(
        self, train: str, manifest: Manifest, *, expect: int, entries: Sequence[Entry] = (), keep: int = 10_000
    ) -> Snapshot:
        """Compare-and-swap: store `manifest` if the revision still is `expect`, else raise Conflict and store nothing.
        `entries` join the journal as by `append`: in the same step where the store can, right after it where not."""
        ...

    def watch(self, train: str) -> AbstractAsyncContextManager[AsyncIterator[Snapshot]]:
        """The newest manifest first, then each change; may skip some, never goes back, never ends by itself."""
        ...

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        """This member is alive for `ttl` seconds from now. Replaces what it said before. `ttl=0` checks it out."""
        ...

    async def members(self, train: str) -> Sequence[Member]:
        """Those that are alive, ordered by name."""
        ...

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        """Add to the journal, in order; only the newest `keep` entries stay."""
        ...

    def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        """The journal, oldest first; with `last`, only that many of the newest."""
        ...

    async def trains(self) -> Sequence[str]:
        """The names of all trains that have a manifest here, sorted."""
        ...
