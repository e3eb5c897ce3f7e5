"""The seam to the registry: the train's one shared document, its members and its journal. Contracts only; the drivers
are in `drivers/`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from ..display.text import said
from ..errors import Conflict
from .documents import as_read
from .facts import Entry
from .ledger import ChannelCounts
from .manifest import Manifest
from .orchestrator import Deployment
from .process import Pod, Process

_logger = logging.getLogger("eventwagon")


class Snapshot(msgspec.Struct, frozen=True):
    """A manifest at a version. Versions grow by any amount with each change; 0: there is none yet."""

    manifest: Manifest
    version: int


def out_of_date(train: str, version: int, expect: int) -> Conflict:
    """What `replace` raises at a manifest of this version, where it was to replace that of version `expect`."""
    return Conflict(f"train {train} is at version {version}, not {expect}: read it again and decide again")


class Changes:
    """The iterator that `watch` returns: each `anext` waits for a version other than the last one returned. An error
    does not end it: call `anext` again. `wait(seen)` returns the first snapshot whose version is not `seen`; -1: none
    has been returned yet."""

    def __init__(self, wait: Callable[[int], Awaitable[Snapshot]]) -> None:
        self._wait = wait
        self._seen = -1

    def __aiter__(self) -> AsyncIterator[Snapshot]:
        return self

    async def __anext__(self) -> Snapshot:
        snapshot = await self._wait(self._seen)
        self._seen = snapshot.version
        return snapshot


class BudgetPart(msgspec.Struct, frozen=True):
    """What one process says of a budget: in handlings at a time, or in events per second."""

    held: float
    """What it may use; never less than it uses."""
    wants: float
    """What it could use now."""
    of: float
    """The whole budget, as its program declares it. Where programs differ, the smallest counts."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A live process of the train: what it does, and the version of the manifest that it has seen."""

    name: str
    roles: tuple[str, ...] = ()
    """Any of `observe`, `work`, `serve` (works for one given wagon) and `publish`; or `bridge`, which checks in under
    a name of its own, see `bridge_member`."""
    version: int = msgspec.field(default=0, name="revision")
    """Of the manifest."""
    revision: str = msgspec.field(default="", name="code")
    """Of its code; empty: none was named."""
    shared_workers: int = msgspec.field(default=0, name="crew")
    """How many shared workers it has."""
    deployed: tuple[Deployment, ...] = ()
    """The wagons' workers as the orchestrator of an observing process finds them."""
    publishing_to: int = 0
    """If the broker can't refuse writes: the turn of the earliest wagon to which it may publish. 0: not known yet."""
    attachments: tuple[Deployment, ...] = ()
    """Its own workers, wagon by wagon."""
    channels: tuple[str, ...] | None = None
    """The inner channels for which its program has handlers; None: not known."""
    undoes: tuple[str, ...] | None = None
    """The channels for which its program has undo handlers, the ingress with an empty name; None: not known."""
    caught: int = 0
    """Unexpected exceptions that one of its long tasks caught and survived, and handlers that other code cancelled."""
    held: int = 0
    """Workers that take no events because a handler still runs in its thread after its attempt was ended."""
    trouble: str = ""
    """Why it is unhealthy: a defect that it found."""
    process: Process | None = None
    """The process's identity, for others on its machine; None if its system can't give it."""
    pod: Pod | None = None
    """The Pod in which it runs, for orchestrators that see Pods end; None if it runs in no Pod."""
    budgets: dict[str, BudgetPart] = {}
    """What it holds of budgets, in check-ins of its own under names that begin with its name and `/budgets/`."""

    counts: tuple[ChannelCounts, ...] = ()
    """What it did in the channels of a wagon, for the ledger: kept apart from the train's members, see
    `runtime/handing_in.py`."""

    @property
    def is_process(self) -> bool:
        """It is a process, and not what one holds of budgets."""
        return not self.budgets


_OF_BRIDGE = "/bridge/"


def bridge_member(name: str, source: str) -> str:
    """The name under which the process `name` checks in for its bridge from this source."""
    return f"{name}{_OF_BRIDGE}{source}"


def process_of(member: Member) -> str:
    """The name of the process that has checked in."""
    return member.name.partition(_OF_BRIDGE)[0]


class Peer(NamedTuple):
    """The part of a member by which the processes of a train divide the workers between them. It seldom changes."""

    name: str
    roles: tuple[str, ...]
    revision: str
    """Of its code."""

    @classmethod
    def of(cls, member: Member) -> Peer:
        """That part of this member."""
        return cls(member.name, member.roles, member.revision)


_member_decoder = msgspec.json.Decoder(Member)
_unreadable: set[str] = set()


def encode_member(member: Member) -> bytes:
    """The member as JSON, as registries store it. Raises Defect if it could not be read again."""
    return msgspec.json.encode(sound_member(member))


def sound_member(member: Member) -> Member:
    """The member as every process will read it. Raises Defect."""
    return as_read(member, _member_decoder)


def decode_members(found: Iterable[bytes | str]) -> list[Member]:
    """The members that `encode_member` wrote, ordered by name. A check-in that can't be read (another version's) is
    left out, and reported once."""
    members = []
    for each in found:
        try:
            members.append(_member_decoder.decode(each))
        except (ValueError, RecursionError) as e:
            why = said(e)
            if why not in _unreadable and len(_unreadable) < 100:
                _unreadable.add(why)
                _logger.warning("a check-in can't be read and is ignored: %s (%.200r)", why, each)
    return sorted(members, key=lambda member: member.name)


class Registry(Protocol):
    """One train = one document. An asynchronous context manager: its owner enters it once, before use.

    Its methods may be called concurrently, from the event loop that entered it. All raise Unavailable and
    StorageBroken.
    """

    async def __aenter__(self) -> Registry: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def read(self, train: str) -> Snapshot:
        """The newest manifest; if there is none, an empty one with version 0. Creates nothing."""
        ...

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
        """Compare-and-swap: store `manifest` if the version is still `expect`, else raise Conflict and store nothing.
        The new version is also higher than `beyond`, if the driver numbers versions itself. `entries` are appended to
        the journal: in the same step if the store can, right after it if not."""
        ...

    def watch(self, train: str) -> AbstractAsyncContextManager[AsyncIterator[Snapshot]]:
        """The newest manifest first, then each change. It may skip some and never ends by itself. It goes back only if
        the store itself did (it was restored from an older copy)."""
        ...

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        """This member is alive for `ttl` seconds from now. Replaces its earlier check-in. `ttl=0` checks it out."""
        ...

    async def members(self, train: str) -> Sequence[Member]:
        """The live members, ordered by name."""
        ...

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        """Add to the journal, in order; only the newest `keep` entries stay."""
        ...

    def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        """The journal, oldest first; with `last`, only that many of the newest."""
        ...

    async def delete(self, train: str) -> None:
        """Delete everything of the train: its members and its journal first, its manifest last. Idempotent: another
        process finishes an interrupted call. From then on `read` gives an empty manifest with version 0, and the train
        may be founded again. Only for trains whose processes have ended: the behaviour of watches is not defined."""
        ...

    async def trains(self) -> Sequence[str]:
        """The names of all trains that have a manifest in this registry, sorted."""
        ...


@runtime_checkable
class Polling(Protocol):
    """A registry whose watches poll for the changes of other processes. A registry that may poll less often than every
    second must be one: `remove` waits for two polls before it deletes a train's manifest."""

    @property
    def poll(self) -> float:
        """Seconds between two polls."""
        ...


@runtime_checkable
class ListsPeers(Protocol):
    """A registry that says who is there without reading all that they check in: in a train of a thousand processes each
    asks once a second."""

    async def peers(self, train: str) -> Sequence[Peer]:
        """The live members, in any order. One that has expired may be among them until the next check-in of any. Raises
        Unavailable, StorageBroken."""
        ...


async def peers_of(registry: Registry, train: str) -> Sequence[Peer]:
    """The live members, from any registry. Raises Unavailable, StorageBroken."""
    if isinstance(registry, ListsPeers):
        return await registry.peers(train)
    return [Peer.of(member) for member in await registry.members(train)]
