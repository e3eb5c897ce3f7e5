"""The suite for registries: compare-and-swap, watching, members, the journal."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from secrets import token_hex
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from ...contracts import facts
from ...contracts.facts import DECISIONS, Entry
from ...contracts.lifecycle import State
from ...contracts.manifest import FORMAT, Manifest
from ...contracts.orchestrator import Deployment
from ...contracts.registry import Member, Peer, Registry, Snapshot, peers_of
from ...errors import Conflict
from .check import Body, Check, Make, Suite, holds, identity, refused, same, sentence, soon, together


class RegistryTrial:
    """A registry under trial: the driver, a train name unique to the check, and the steps that checks share."""

    def __init__(
        self,
        registry: Registry,
        another: Callable[[], AbstractAsyncContextManager[Registry]],
        ttl: float,
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        self.registry = registry
        self.another = another
        """Another process's view."""
        self.ttl = ttl
        self.patience = patience
        self.clock = clock
        self.train = f"check_{token_hex(6)}"

    def entry(self, what: str) -> Entry:
        """A journal entry that `what` identifies."""
        return Entry(round(self.clock(), 3), "conformance", facts.OrphanRemoved(train=self.train, what=what))

    async def journal(self, registry: Registry | None = None, *, last: int | None = None) -> list[str]:
        """The `what` of each journal entry, in order."""
        found = [entry.fact async for entry in (registry or self.registry).entries(self.train, last=last)]
        return [fact.what for fact in found if isinstance(fact, facts.OrphanRemoved)]

    async def first(self) -> Snapshot:
        """The train's first manifest, stored."""
        return await self.registry.replace(self.train, Manifest(train=self.train), expect=0)

    async def next(self, watching: AsyncIterator[Snapshot]) -> Snapshot:
        """The next snapshot of the watch."""
        return await soon(anext(watching), self.patience, "a watch that should give something")


def registry_checks(
    *, ttl: float = 0.5, patience: float = 10.0, clock: Callable[[], float] = time.time
) -> Sequence[Check[Registry]]:
    """Every check of the registry's contract.

    `ttl`: the shortest ttl of a member that the driver keeps reliably, in seconds. `patience`: a check fails if
    something that must happen takes more seconds than this. `clock` dates the entries.
    """

    def make_check(body: Body[RegistryTrial], requires: tuple[str, ...]) -> Check[Registry]:
        async def start(check: Check[Registry], make: Make[Registry]) -> None:
            async with make() as registry:
                await body(RegistryTrial(registry, make, ttl, patience, clock))

        return Check(identity(body), sentence(body), requires, start)

    return [make_check(body, requires) for body, requires in suite.bodies]


suite: Suite[RegistryTrial] = Suite()


_VALUES: dict[object, object] = {
    int: 3,
    float: 2.5,
    str: "because ünïcödé ✓ \"'\\\n",
    int | None: 2**53,
    float | None: 1.75e9,
    bool: True,
    str | None: "v2",
    tuple[str, ...]: ("a", "b-c"),
    tuple[int, ...]: (3, 4),
    dict[str, str]: {"limit": "Volume(5)"},
    Mapping[str, str]: {"limit": "Volume(5)"},
    str | None: "v2 ünïcödé",
    State: State.DRAINING,
}


def _filled(kind: Any, **given: object) -> Any:
    """A struct of this kind with every field filled in by its type, except those given."""
    for name, hint in get_type_hints(kind).items():
        if name not in given:
            structs = [t for t in (hint, *get_args(hint)) if isinstance(t, type) and issubclass(t, msgspec.Struct)]
            value = _filled(structs[0]) if structs else _VALUES[hint]
            given[name] = (value,) if structs and get_origin(hint) is tuple else value
    return kind(**given)


def _full(train: str) -> Manifest:
    """A valid manifest with every field filled in."""
    manifest: Manifest = _filled(Manifest, train=train, format=FORMAT, next_number=2**33)
    return manifest


@suite.check()
async def absent_train(t: RegistryTrial) -> None:
    """If there is no manifest, reading gives an empty one of version 0; reading, listing and watching create
    nothing."""
    same(await t.registry.read(t.train), Snapshot(Manifest(train=t.train), 0), "what is read")
    same(list(await t.registry.members(t.train)), [], "members")
    same(await t.journal(), [], "journal")
    async with t.registry.watch(t.train) as watching:
        same((await t.next(watching)).version, 0, "the version that a watch begins with")
    same((await t.registry.read(t.train)).version, 0, "version")
    holds(t.train not in await t.registry.trains(), "a train that nobody made is listed")


@suite.check()
async def replace_stores(t: RegistryTrial) -> None:
    """Any process reads the stored manifest, with all its fields and the version that replace returned."""
    stored = await t.registry.replace(t.train, _full(t.train), expect=0)
    holds(stored.version > 0, f"version {stored.version} for a manifest that exists")
    same(stored.manifest, _full(t.train), "the manifest that replace returns")
    same(await t.registry.read(t.train), stored, "what is read")
    async with t.another() as other:
        same(await other.read(t.train), stored, "what another process reads")


@suite.check()
async def replace_conflicts(t: RegistryTrial) -> None:
    """With any version except the newest, replace raises Conflict and stores nothing: no manifest, no entries."""
    for wrong in (1, 7):
        attempt = t.registry.replace(t.train, _full(t.train), expect=wrong, entries=[t.entry("never")])
        await refused(attempt, Conflict, what=f"replace of nothing, expecting version {wrong}")
    holds(t.train not in await t.registry.trains(), "a refused replace created the train")
    one = await t.first()
    two = await t.registry.replace(t.train, Manifest(train=t.train, stops=2), expect=one.version)
    holds(two.version > one.version, f"version {two.version} after {one.version}")
    async with t.another() as other:
        for registry, wrong in itertools.product((t.registry, other), (0, one.version, two.version + 1)):
            attempt = registry.replace(t.train, _full(t.train), expect=wrong, entries=[t.entry("never")])
            await refused(attempt, Conflict, what=f"replace at {two.version}, expecting {wrong}")
    same(await t.registry.read(t.train), two, "what is read after the conflicts")
    same(await t.journal(), [], "journal")


@suite.check()
async def first_one_wins(t: RegistryTrial) -> None:
    """If many processes create the first manifest at once, one succeeds."""

    async def make(registry: Registry, number: int) -> int:
        try:
            await registry.replace(t.train, Manifest(train=t.train, stops=number), expect=0)
        except Conflict:
            return 0
        return number

    async with t.another() as other:
        numbers = [(registry, i * 2 + j) for i in range(1, 11) for j, registry in enumerate((t.registry, other))]
        winners = [number for number in await together(*(make(*one) for one in numbers)) if number]
    same(len(winners), 1, "winners")
    same((await t.registry.read(t.train)).manifest.stops, winners[0], "the winner's manifest")


@suite.check()
async def many_writers(t: RegistryTrial) -> None:
    """Twenty concurrent writers in two processes read again at a conflict: each wins once, none is overwritten."""
    await t.first()
    versions: list[int] = []

    async def write(registry: Registry, number: int) -> None:
        while True:
            snapshot = await registry.read(t.train)
            await asyncio.sleep(0)
            manifest = msgspec.structs.replace(snapshot.manifest, stops=snapshot.manifest.stops + 1)
            try:
                won = await registry.replace(
                    t.train, manifest, expect=snapshot.version, entries=[t.entry(f"writer {number}")]
                )
            except Conflict:
                continue
            versions.append(won.version)
            return

    async with t.another() as other:
        await together(*(write(registry, i) for i, registry in enumerate([t.registry, other] * 10)))
    same((await t.registry.read(t.train)).manifest.stops, 20, "writers that are in the manifest")
    same(len(set(versions)), 20, "different versions")
    same(sorted(await t.journal()), sorted(f"writer {i}" for i in range(20)), "entries, one for each that won")


@suite.check()
async def trains_apart(t: RegistryTrial) -> None:
    """Trains with names that begin alike share nothing: manifests, members, journals, watches."""
    names = [t.train, f"{t.train}_x", f"{t.train}-x", f"{t.train}x"]
    async with t.registry.watch(names[0]) as watching:
        same((await t.next(watching)).version, 0, "the first version")
        for i, name in enumerate(names[1:], 1):
            await t.registry.replace(name, Manifest(train=name, stops=i), expect=0, entries=[t.entry(name)])
            await t.registry.check_in(name, Member(name=name), ttl=600.0)
        same(list(await t.registry.members(names[0])), [], "members")
        same(await t.journal(), [], "journal")
        await t.first()
        same((await t.next(watching)).manifest.train, names[0], "the train that is watched")
    for i, name in enumerate(names):
        same((await t.registry.read(name)).manifest.stops, i, f"the manifest of {name}")
    listed = [name for name in await t.registry.trains() if name in names]
    same(listed, sorted(names), "trains, sorted")


@suite.check()
async def watch_begins_with_the_newest(t: RegistryTrial) -> None:
    """A watch gives the newest manifest first, then each change of any process, soon after it was made."""
    one = await t.first()
    async with t.another() as other, t.registry.watch(t.train) as watching:
        same(await t.next(watching), one, "what a watch begins with")
        newest = one
        for i, registry in enumerate((t.registry, other, other, t.registry)):
            newest = await registry.replace(t.train, Manifest(train=t.train, stops=i), expect=newest.version)
            same(await t.next(watching), newest, "what a watch gives after a change")
        async with other.watch(t.train) as late:
            same(await t.next(late), newest, "what a later watch begins with")


@suite.check()
async def watch_waits(t: RegistryTrial) -> None:
    """A watch that waits, also for a train's first manifest, wakes for a change; without one it gives nothing."""
    async with t.another() as other, t.registry.watch(t.train) as watching:
        same((await t.next(watching)).version, 0, "the first version")
        newest = 0
        for stops in range(3):
            waiting = asyncio.ensure_future(anext(watching))
            try:
                await asyncio.sleep(t.ttl / 3)
                holds(not waiting.done(), "a watch gave something though nothing had changed")
                stored = await other.replace(t.train, Manifest(train=t.train, stops=stops), expect=newest)
                same(await soon(waiting, t.patience, "a waiting watch"), stored, "what it gives")
            finally:
                waiting.cancel()
            newest = stored.version


@suite.check()
async def watch_never_goes_back(t: RegistryTrial) -> None:
    """Under many quick changes each watch sees versions that only grow, with their own manifests, up to the newest."""
    await t.first()

    async def follow(registry: Registry) -> None:
        async with registry.watch(t.train) as watching:
            seen, stops = 0, -1
            while stops < 100:
                snapshot = await t.next(watching)
                holds(snapshot.version > seen, f"version {snapshot.version} after {seen}")
                holds(snapshot.manifest.stops > stops, f"an older manifest: {snapshot.manifest.stops} after {stops}")
                seen, stops = snapshot.version, snapshot.manifest.stops

    async def write(registry: Registry) -> None:
        while (snapshot := await registry.read(t.train)).manifest.stops < 100:
            manifest = msgspec.structs.replace(snapshot.manifest, stops=snapshot.manifest.stops + 1)
            try:
                await registry.replace(t.train, manifest, expect=snapshot.version)
            except Conflict:
                continue

    async with t.another() as other:
        await together(follow(t.registry), follow(t.registry), follow(other), write(t.registry), write(other))


@suite.check()
async def members_come_and_go(t: RegistryTrial) -> None:
    """Any process lists members by name with their last check-in, until they check out."""
    attachments = (
        Deployment(number=1, ready=True, workers=4),
        Deployment(number=2, ready=False, trouble="no ünïcödé ✓"),
    )
    full = Member(name="b@host:1", roles=("observe", "work"), version=12, shared_workers=8, attachments=attachments)
    await t.registry.check_in(t.train, full, ttl=600.0)
    async with t.another() as other:
        await other.check_in(t.train, Member(name="c"), ttl=600.0)
        await other.check_in(t.train, Member(name="a"), ttl=600.0)
        await other.check_in(t.train, Member(name="c", version=3), ttl=600.0)
        for registry in (t.registry, other):
            same(
                list(await registry.members(t.train)), [Member(name="a"), full, Member(name="c", version=3)], "members"
            )
        await other.check_in(t.train, full, ttl=0)
        await other.check_in(t.train, Member(name="never came"), ttl=0)
        same([m.name for m in await t.registry.members(t.train)], ["a", "c"], "members left")
    same([m.name for m in await t.registry.members(t.train)], ["a", "c"], "members when a process has closed")
    holds(t.train not in await t.registry.trains(), "members without a manifest made a train")


@suite.check()
async def members_time_out(t: RegistryTrial) -> None:
    """A member that does not check in for its ttl is gone; one that checks in stays, and a gone one may come back."""
    quiet, alive = Member(name="quiet"), Member(name="alive")
    await t.registry.check_in(t.train, quiet, ttl=t.ttl)
    await t.registry.check_in(t.train, alive, ttl=t.ttl)
    await t.registry.check_in(t.train, alive, ttl=600.0)
    await asyncio.sleep(t.ttl * 1.25)
    same([m.name for m in await t.registry.members(t.train)], ["alive"], "members after the ttl")
    await t.registry.check_in(t.train, quiet, ttl=600.0)
    same([m.name for m in await t.registry.members(t.train)], ["alive", "quiet"], "members")
    await t.registry.check_in(t.train, alive, ttl=t.ttl)
    await asyncio.sleep(t.ttl * 1.25)
    same([m.name for m in await t.registry.members(t.train)], ["quiet"], "members after a shorter ttl")


@suite.check()
async def peers_are_the_members(t: RegistryTrial) -> None:
    """A registry that lists peers (`ListsPeers`) gives the roles and the revision of each live member, to any process,
    at any time. Others are asked for the members."""

    async def agree(when: str) -> None:
        for registry in (t.registry, other):
            same(set(await peers_of(registry, t.train)), await _peers_by_members(registry, t.train), f"peers {when}")

    async with t.another() as other:
        await agree("at first")
        await t.registry.check_in(t.train, Member(name="a", roles=("work",)), ttl=600.0)
        await other.check_in(t.train, Member(name="b", roles=("observe", "work"), revision="v2"), ttl=600.0)
        await agree("when two have come")
        await agree("once more")
        await other.check_in(t.train, Member(name="b", roles=("observe",), revision="v3", shared_workers=3), ttl=600.0)
        await agree("when one has changed")
        await t.registry.check_in(t.train, Member(name="a", roles=("work",), held=1), ttl=t.ttl)
        await asyncio.sleep(t.ttl * 1.25)
        await other.check_in(t.train, Member(name="c"), ttl=600.0)
        await agree("when one has expired, and another has come")
        await other.check_in(t.train, Member(name="b"), ttl=0)
        await agree("when one has left")


async def _peers_by_members(registry: Registry, train: str) -> set[Peer]:
    return {Peer.of(member) for member in await registry.members(train)}


@suite.check()
async def journal_keeps_order(t: RegistryTrial) -> None:
    """Entries come oldest first, in the order in which append and replace of any process added them; `last` gives the
    newest. A journal alone makes no train."""
    await t.registry.append(t.train, [t.entry("1"), t.entry("2")])
    await t.registry.append(t.train, [])
    holds(t.train not in await t.registry.trains(), "a journal without a manifest made a train")
    async with t.another() as other:
        await other.append(t.train, [t.entry("3")])
        await other.replace(t.train, Manifest(train=t.train), expect=0, entries=[t.entry("4"), t.entry("5")])
        await t.registry.append(t.train, [t.entry("6")])
        for registry in (t.registry, other):
            same(await t.journal(registry), list("123456"), "journal")
    for last, expected in ((1, "6"), (4, "3456"), (6, "123456"), (100, "123456"), (0, "")):
        same(await t.journal(last=last), list(expected), f"the last {last}")


@suite.check()
async def journal_is_bounded(t: RegistryTrial) -> None:
    """Only the newest `keep` entries stay, whether append or replace added them."""
    for first in range(0, 50, 7):
        await t.registry.append(t.train, [t.entry(str(i)) for i in range(first, first + 7)], keep=10)
    same(await t.journal(), [str(i) for i in range(46, 56)], "journal")
    entries = [t.entry(str(i)) for i in range(56, 60)]
    await t.registry.replace(t.train, Manifest(train=t.train), expect=0, entries=entries, keep=5)
    same(await t.journal(), [str(i) for i in range(55, 60)], "journal")
    await t.registry.append(t.train, [t.entry(str(i)) for i in range(60, 70)], keep=3)
    same(await t.journal(), ["67", "68", "69"], "journal")


@suite.check()
async def journal_of_many(t: RegistryTrial) -> None:
    """Two processes add entries at the same time, thousands too: each call's entries are all there, in order."""

    async def add(registry: Registry, name: str) -> None:
        for i in range(5):
            await registry.append(t.train, [t.entry(f"{name} {i * 2}"), t.entry(f"{name} {i * 2 + 1}")])

    async with t.another() as other:
        await together(*(add(registry, f"writer{i}") for i, registry in enumerate([t.registry, other] * 5)))
    found = await t.journal()
    same(len(found), 100, "entries")
    for i in range(10):
        mine = [what for what in found if what.split()[0] == f"writer{i}"]
        same(mine, [f"writer{i} {n}" for n in range(10)], "one writer's entries")
    await t.registry.append(t.train, [t.entry(str(i)) for i in range(3000)], keep=2500)
    same(await t.journal(), [str(i) for i in range(500, 3000)], "journal")


@suite.check()
async def journal_keeps_every_decision(t: RegistryTrial) -> None:
    """Each kind of decision comes back as it was."""
    entries = [Entry(1.5 + i, "ünïcödé ✓", _filled(kind, train=t.train)) for i, kind in enumerate(DECISIONS)]
    await t.registry.append(t.train, entries)
    same([entry async for entry in t.registry.entries(t.train)], entries, "journal")


@suite.check()
async def stays_when_closed(t: RegistryTrial) -> None:
    """Manifest, journal and members stay when the process that stored them has closed the registry."""
    async with t.another() as other:
        stored = await other.replace(t.train, _full(t.train), expect=0, entries=[t.entry("1")])
        await other.check_in(t.train, Member(name="a"), ttl=600.0)
    async with t.another() as later:
        same(await later.read(t.train), stored, "what is read")
        same(await t.journal(later), ["1"], "journal")
        same([m.name for m in await later.members(t.train)], ["a"], "members")


@suite.check()
async def delete_leaves_nothing(t: RegistryTrial) -> None:
    """After `delete`, manifest, members and journal are gone, for this process and for later ones; the train is no
    longer listed, and other trains are unchanged. Deleting again changes nothing."""
    other = f"{t.train}_2"
    kept = await t.registry.replace(other, Manifest(train=other), expect=0, entries=[t.entry("other")])
    await t.registry.check_in(other, Member(name="b"), ttl=600.0)
    await t.registry.replace(t.train, _full(t.train), expect=0, entries=[t.entry("1")])
    await t.registry.append(t.train, [t.entry(str(i)) for i in range(700)])
    for name in ("a", "b"):
        await t.registry.check_in(t.train, Member(name=name), ttl=600.0)
    await t.registry.delete(t.train)
    async with t.another() as later:
        for _ in range(2):
            for registry in (t.registry, later):
                same((await registry.read(t.train)).version, 0, "the version")
                same([m.name for m in await registry.members(t.train)], [], "members")
                same(await t.journal(registry), [], "journal")
                holds(t.train not in await registry.trains(), "a deleted train is listed")
            await later.delete(t.train)
        same(await later.read(other), kept, "another train")
        same([m.name for m in await later.members(other)], ["b"], "another train's members")
    await t.registry.delete(other)


@suite.check()
async def delete_of_what_was_never_there_creates_nothing(t: RegistryTrial) -> None:
    """Deleting an absent train succeeds and creates nothing."""
    await t.registry.delete(t.train)
    holds(t.train not in await t.registry.trains(), "it is listed")
    same((await t.registry.read(t.train)).version, 0, "the version")


@suite.check()
async def founded_anew_after_deletion(t: RegistryTrial) -> None:
    """A train founded again under the same name starts empty."""
    for _ in range(3):
        stored = await t.registry.replace(t.train, _full(t.train), expect=0, entries=[t.entry("1")])
        await t.registry.check_in(t.train, Member(name="a"), ttl=600.0)
        async with t.another() as later:
            same(await later.read(t.train), stored, "what is read")
            same(await t.journal(later), ["1"], "journal")
            await later.replace(t.train, Manifest(train=t.train, turns=1), expect=stored.version)
        await t.registry.delete(t.train)
    same([m.name for m in await t.registry.members(t.train)], [], "members")
