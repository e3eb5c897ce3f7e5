"""Undoing wagons with real workers and a real archive, on memory and SQLite."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventwagon import Context, DeadFilter, PastEvents, Train, Volume, Workers
from eventwagon.connection import Connection
from eventwagon.contracts.facts import (
    ArchiveIncomplete,
    ChannelUndone,
    Entry,
    ReplayBegun,
    ReplayCancelled,
    ReplayEnded,
    UndoStopped,
    WagonArchived,
    is_alarming,
    sentence,
)
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Reject, UsageError
from eventwagon.event import DEAD, LEVEL, Channel, Event
from eventwagon.runtime import undos as undos_module
from eventwagon.runtime.undoing import surveyed
from eventwagon.views.undos import preview_in_words

Seen = tuple[str, Any, str, Any]
"""The channel, the payload, the event's id, `ctx.undone`."""


class Program:
    """A train with two inner channels; `page` emits to itself."""

    def __init__(self, archive: Path, *, undoes: tuple[str, ...] = ("t", "bill", "page")) -> None:
        self.handled: list[Seen] = []
        self.undone: list[Seen] = []
        self.fails: Callable[[str, Any], bool] = lambda channel, number: False
        self.train = train = Train(
            "t",
            limit=Volume(1000),
            workers=Workers(each=4),
            observe_every=0.02,
            member_ttl=1.0,
            archive=archive.as_uri(),
            attempts=1,
        )

        @train.on("t")
        async def handle(number: int, ctx: Context) -> None:
            self.handled.append(("t", number, ctx.event.id, ctx.undone))
            if number % 10 == 3:
                raise Reject("three")
            ctx.emit("bill", number)
            if number == 1:
                ctx.emit("page", 2)

        @train.on("bill")
        async def bill(number: int, ctx: Context) -> None:
            self.handled.append(("bill", number, ctx.event.id, ctx.undone))

        @train.on("page")
        async def page(left: int, ctx: Context) -> None:
            self.handled.append(("page", left, ctx.event.id, ctx.undone))
            if left:
                ctx.emit("page", left - 1)

        for channel in undoes:
            self._undo(channel)

    def _undo(self, channel: str) -> None:
        @self.train.undo(channel)
        async def back(number: int, ctx: Context) -> None:
            if self.fails(channel, number):
                raise Reject("not now")
            self.undone.append((channel, number, ctx.event.id, ctx.undone))


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'train'}"


async def gone(connection: Connection, events: int = 20, first: int = 0) -> int:
    """So many events in one wagon, which is archived and gone. Returns its number."""
    active = connection.manifest.active
    assert active is not None
    await connection.publish_many(range(first, first + events))
    await connection.wait_drained(await connection.request_switch())
    return active.number


def alive(letter: Event) -> Event:
    """The event as it was before it died."""
    kept = {name: value for name, value in letter.extensions.items() if not name.startswith("dead")}
    return msgspec.structs.replace(letter, extensions=kept)


def ids(seen: list[Seen]) -> set[tuple[str, Any, str]]:
    return {(channel, payload, event_id) for channel, payload, event_id, _ in seen}


def test_events_that_are_gone_from_the_archive_are_not_known(tmp_path: Path) -> None:
    async def main() -> None:
        program = Program(tmp_path / "archive")
        async with program.train.connect("memory:") as c, c.running(), asyncio.timeout(60):
            wagon = await gone(c)
            (bills,) = (tmp_path / "archive").glob("**/*.bill.parquet")
            bills.unlink()
            preview = await c.undo.preview(wagon)
            assert "bill" not in {e.channel for e in preview.channels if e.handled}
            assert (preview.unknown, preview.unknown_because) == (18, "18 rows of the archive are gone from it")
            with pytest.raises(UsageError, match=r"^18 of the events that were settled in t_v1 are not"):
                await c.undo.request(wagon)
            undo = await c.undo.request(wagon, partial=True)
            assert await c.undo.wait(undo.number) == ""
        assert {channel for channel, _, _, _ in program.undone} == {"t", "page"}

    asyncio.run(main())


def test_rows_that_came_late_do_not_hide_what_the_archive_lacks(tmp_path: Path) -> None:
    async def main() -> None:
        program = Program(tmp_path / "archive")
        broker, registry = MemoryBroker(), MemoryRegistry()
        connection = program.train.connect(broker=broker, registry=registry)
        async with connection as c, c.running(), asyncio.timeout(60):
            wagon = await gone(c)
            late = WagonArchived(train="t", number=wagon, count=0, files=0, size=0, where="", digest="late")
            lacks = ArchiveIncomplete(train="t", number=wagon, missing=2, because="lost")
            await registry.append("t", [Entry(time.time(), "p", fact) for fact in (lacks, late)], keep=2_000)
            preview = await c.undo.preview(wagon)
            assert (preview.unknown, preview.unknown_because) == (2, "lost")

    asyncio.run(main())


def test_a_replay_is_not_cancelled_as_an_undo_nor_the_reverse(tmp_path: Path) -> None:
    async def main() -> None:
        program = Program(tmp_path / "archive")
        async with program.train.connect("memory:") as c, c.running(), asyncio.timeout(60):
            replay = await c.replays.request(PastEvents(wagon=(wagon := await gone(c))), rate=0.1)
            undo = await c.undo.request(wagon)
            with pytest.raises(UsageError, match=f"^{undo.number} is an undo, and no replay: "):
                await c.replays.cancel(undo.number)
            with pytest.raises(UsageError, match=f"^{replay.number} is a replay, and no undo: "):
                await c.undo.cancel(replay.number)
            assert [each.cancelled for each in c.replays.standing] == ["", ""]
            await c.undo.cancel(undo.number)
            await c.replays.cancel(replay.number)

    asyncio.run(main())


def test_what_a_wagon_has_handled_is_undone_children_before_parents(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        facts: list[Any] = []
        program = Program(tmp_path / "archive")
        async with program.train.connect(url, listeners=[facts.append]) as c, c.running(), asyncio.timeout(60):
            wagon = await gone(c)
            preview = await c.undo.preview(wagon)
            assert {(e.channel, e.handled, e.others.get("dead", 0)) for e in preview.channels} == {
                ("t", 18, 2),
                ("bill", 18, 0),
                ("page", 3, 0),
            }
            assert (preview.count, preview.unknown, preview.lacking, preview.undone) == (39, 0, (), ())
            before = list(program.handled)
            undo = await c.undo.request(wagon, "a bad release", by="me")
            assert await c.undo.wait(undo.number) == ""
            assert program.handled == before
            with pytest.raises(UsageError, match=rf"by undo {undo.number}: "):
                await c.undo.request(wagon)
            preview = await c.undo.preview(wagon)
            assert {(e.channel, e.undone) for e in preview.channels} == {("t", 18), ("bill", 18), ("page", 3)}
            lines = list(preview_in_words(preview, "t"))
            assert lines[-1] == f"t_v{wagon} was undone before, by undo {undo.number}"
            own = [f.wagon for f in facts if type(f).__name__ == "WagonRemoved" and f.wagon.undoes == wagon]
            with pytest.raises(UsageError, match=rf"is the wagon of an undo \(t/{undo.number}\)"):
                await c.undo.preview(own[0].number)
        meant = {each for each in ids(before) if not (each[0] == "t" and each[1] % 10 == 3)}
        assert len(program.undone) == len(meant)
        assert ids(program.undone) == meant
        assert {u.channel or "t" for _, _, _, u in program.undone} == {"t", "bill", "page"}
        assert {(u.undo, u.wagon, u.attempts) for _, _, _, u in program.undone} == {(undo.number, wagon, 1)}
        place = {(channel, payload): n for n, (channel, payload, _, _) in enumerate(program.undone)}
        assert all(place["bill", n] < place["t", n] for n in range(20) if n % 10 != 3)
        assert place["page", 0] < place["page", 1] < place["page", 2] < place["t", 1]
        (ended,) = [f for f in facts if isinstance(f, ReplayEnded)]
        assert (ended.undoes, ended.fed, ended.count, ended.dead, ended.because) == (wagon, 39, 39, 0, "")
        assert sum(f.count for f in facts if isinstance(f, ChannelUndone)) == 39
        for fact in facts:
            str(fact)

    asyncio.run(main())


def test_it_stops_at_what_can_not_be_undone_and_is_resumed(tmp_path: Path) -> None:
    async def main() -> None:
        facts: list[Any] = []
        program = Program(tmp_path / "archive")
        program.fails = lambda channel, number: channel == "bill" and number in (5, 6)
        async with program.train.connect("memory:", listeners=[facts.append]) as c, c.running(), asyncio.timeout(60):
            wagon = await gone(c, 10)
            undo = await c.undo.request(wagon)
            assert await c.undo.wait(undo.number) == "2 dead letters"
            assert "t" not in {channel for channel, _, _, _ in program.undone}
            (stopped,) = [f for f in facts if isinstance(f, UndoStopped)]
            assert stopped.channel == "bill"
            assert is_alarming(stopped)
            assert "until somebody resumes or cancels it" in sentence(stopped)
            with pytest.raises(UsageError, match=rf"{undo.number} is an undo, and no replay: .*undo t --cancel"):
                await c.replays.cancel(undo.number)
            replay = await c.replays.request(PastEvents(wagon=wagon))
            with pytest.raises(UsageError, match=rf"{replay.number} is a replay, and no undo: .*replay t --cancel"):
                await c.undo.cancel(replay.number)
            with pytest.raises(UsageError, match=rf"{wagon} is the number of t_v{wagon}, not of an undo: undo"):
                await c.undo.cancel(wagon)
            with pytest.raises(UsageError, match="has had no undo 10000"):
                await c.undo.cancel(10_000)
            assert not any(each.cancelled for each in c.replays.standing)
            assert await c.replays.cancel(replay.number)
            with pytest.raises(UsageError, match=r"is being undone already|was undone before"):
                await c.undo.request(wagon)
            assert await c.undo.resume(undo.number) == 2  # in vain
            assert await c.undo.wait(undo.number) == "2 dead letters"
            program.fails = lambda channel, number: number == 5
            assert await c.undo.resume(undo.number, "mended") == 2
            assert await c.undo.wait(undo.number) == "1 dead letter"
            assert await c.undo.resume(undo.number, without_failed=True) == 0
            assert await c.undo.wait(undo.number) == "1 dead letter"  # the ingress's 5
            with pytest.raises(UsageError, match="has no undo"):
                await c.undo.resume(10_000)
            (bill,) = [f for f in facts if isinstance(f, ChannelUndone) and f.channel == "bill"]
            assert (bill.count, bill.left) == (8, 1)
            assert await c.undo.cancel(undo.number)
            await c.replays.wait(undo.number)
            preview = await c.undo.preview(wagon)
            assert preview.undone == (undo.number,)
            assert {(e.channel, e.handled, e.undone) for e in preview.channels} == {
                ("t", 9, 8),  # it stopped there, and was cancelled
                ("bill", 9, 8),
                ("page", 3, 3),
            }
            lines = list(preview_in_words(preview, "t"))
            assert "bill: 9 events to undo, 8 of them were undone before" in lines
            assert lines[-1] == f"t_v{wagon} was undone before in part, by undo {undo.number}"
        kinds = (ReplayBegun, ReplayCancelled, ReplayEnded)
        told = {type(f): sentence(f) for f in facts if isinstance(f, kinds) and f.number == undo.number}
        assert set(told) == set(kinds)
        assert "6 dead letters, including any of events that were undone later" in told[ReplayEnded]
        for words in told.values():
            assert f"undo {undo.number} of t_v{wagon}" in words
        assert len(program.undone) == len(ids(program.undone)), "none is undone twice"
        bills = {n for channel, n, _, _ in program.undone if channel == "bill"}
        assert bills == {n for n in range(10) if n not in (3, 5)}

    asyncio.run(main())


def test_of_two_requests_one_is_refused_even_if_the_other_is_over_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        program = Program(tmp_path / "archive")
        async with program.train.connect("memory:", listeners=[]) as c, c.running(), asyncio.timeout(60):
            wagon = await gone(c, 3)

            async def slow(*given: Any) -> Any:
                monkeypatch.setattr(undos_module, "surveyed", surveyed)
                undo = await c.undo.request(wagon)
                assert await c.undo.wait(undo.number) == ""
                return await surveyed(*given)

            monkeypatch.setattr(undos_module, "surveyed", slow)
            with pytest.raises(UsageError, match="ended meanwhile"):
                await c.undo.request(wagon)
            with pytest.raises(UsageError, match="was undone before"):
                await c.undo.request(wagon)
        assert len(program.undone) == len(ids(program.undone))

    asyncio.run(main())


def test_a_channel_without_an_undo_handler_is_refused_or_left(tmp_path: Path) -> None:
    async def main() -> None:
        program = Program(tmp_path / "archive", undoes=("bill",))
        async with program.train.connect("memory:", listeners=[]) as c, c.running(), asyncio.timeout(60):
            wagon = await gone(c)
            assert (await c.undo.preview(wagon)).lacking == ("page", "t")
            with pytest.raises(UsageError, match="no undo handler for page, t"):
                await c.undo.request(wagon)
            undo = await c.undo.request(wagon, partial=True)
            assert await c.undo.wait(undo.number) == ""
        assert {channel for channel, _, _, _ in program.undone} == {"bill"}
        assert len(program.undone) == 18

    asyncio.run(main())


def test_an_undo_handler_publishes_and_does_not_emit_and_nobody_else_handles_its_events(tmp_path: Path) -> None:
    async def main() -> None:
        said: list[str] = []
        new: list[tuple[int, str, set[str]]] = []
        train = Train(
            "t", limit=Volume(1000), workers=Workers(each=4), observe_every=0.02, archive=(tmp_path / "a").as_uri()
        )

        @train.on("t")
        async def handle(number: int, ctx: Context) -> None:
            new.append((number, ctx.event.id, {*ctx.event.extensions}))
            if number < 100:
                ctx.publish(number + 100)

        @train.on("bill")
        async def bill(number: int) -> None:
            pass

        @train.undo("t", attempts=1)
        def back(number: int, ctx: Context) -> None:
            try:
                ctx.emit("bill", number)
            except UsageError as e:
                said.append(str(e))
            if number == 9:
                raise ValueError("too late")
            ctx.publish(number + 200)

        async with train.connect("memory:", listeners=[]) as c, c.running(), asyncio.timeout(60):
            wagon = await gone(c, 1, first=9)
            undo = await c.undo.request(wagon, by="me")
            assert await c.undo.wait(undo.number) == "1 dead letter"
            del new[:]
            letters = await c.dead.preview(DeadFilter(all=True))
            assert (letters.count, letters.retried, letters.of_undos) == (1, 0, 1)
            (letter,) = [each async for each in c.dead_letters()]
            await c.broker.publish(Channel("t", 2), [alive(letter)])  # as older code would
            while (await c.depths())[2]["dead"].published != 1:
                await asyncio.sleep(0.01)
            (_, letter) = [each async for each in c.dead_letters()]
            assert f"it is for undo t/{undo.number}" in letter.extensions["deadbecause"]
            assert await c.undo.cancel(undo.number)
            await c.replays.wait(undo.number)

            wagon = await gone(c, 3)
            await c.undo.wait((await c.undo.request(wagon)).number)
            while sum(n >= 200 for n, _, _ in new) < 3:
                await asyncio.sleep(0.01)
        assert "an undo handler can't emit" in said[0]
        assert len({event_id for _, event_id, _ in new}) == len(new), "what it publishes has ids of its own"
        assert all(names <= {LEVEL} for n, _, names in new), "and no marks of the undo"
        assert {n for n, _, _ in new} >= {200, 201, 202}

    asyncio.run(main())


def test_handlers_of_batches_leave_what_is_to_be_undone_alone(tmp_path: Path) -> None:
    async def main() -> None:
        got: list[int] = []
        train = Train("t", limit=Volume(100), observe_every=0.02)

        @train.on("t", batch=10, within=0.05)
        async def handle(numbers: list[int]) -> None:
            got.extend(numbers)

        async with train.connect("memory:", listeners=[]) as c, c.running(), asyncio.timeout(30):
            made = [Event(f"e{n}", "int", "s", 1e9, b"%d" % n, None, "application/json") for n in range(3)]
            made[1] = msgspec.structs.replace(made[1], extensions={"undo": "t/1"})
            await c.broker.publish(Channel("t", 1), made)
            while len(got) < 2 or not [each async for each in c.dead_letters()]:
                await asyncio.sleep(0.01)
            assert sorted(got) == [0, 2]

    asyncio.run(main())


def test_what_is_declared_wrongly_is_refused_at_once(tmp_path: Path) -> None:
    without = Train("t")
    without.on("t")(lambda payload: None)
    with pytest.raises(UsageError, match="only an archive knows"):
        without.undo("t")
    train = Program(tmp_path).train
    with pytest.raises(UsageError, match=r"has an undo handler for 'bill' already"):

        @train.undo("bill")
        def twice(payload: int) -> None: ...

    for channel, words in (("nobody", "no handler for 'nobody'"), (7, "channel name"), (print, "name the channel")):
        with pytest.raises(UsageError, match=words):
            train.undo(channel)  # type: ignore[arg-type]
    fresh = Program(tmp_path, undoes=()).train
    with pytest.raises(UsageError, match="takes no batch"):
        fresh.undo("bill", batch=7)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="attempts"):
        fresh.undo("bill", attempts=0)
    with pytest.raises(UsageError):

        @fresh.undo("bill")  # type: ignore[type-var]
        def many(a: int, b: int, c: int) -> None: ...


def test_what_is_asked_wrongly_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        program = Program(tmp_path / "archive")
        async with program.train.connect("memory:", listeners=[]) as c, c.running(), asyncio.timeout(60):
            for wagon in ("7", None, True, 0, -1, 1.5, float("nan"), 10**30):
                with pytest.raises(UsageError):
                    await c.undo.preview(wagon)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="not gone yet"):
                await c.undo.request(1)
            with pytest.raises(UsageError, match="not archived"):
                await c.undo.request(7)
            with pytest.raises(UsageError):
                await c.undo.request(7, "")
            for number in ("7", True, 0, -1, 99):
                with pytest.raises(UsageError):
                    await c.undo.resume(number)  # type: ignore[arg-type]
                with pytest.raises(UsageError):
                    await c.undo.wait(number)  # type: ignore[arg-type]
            assert c.undo.standing == []

    asyncio.run(main())


def test_what_a_forgotten_wagon_has_left_to_undo_is_not_handled(tmp_path: Path) -> None:
    async def main() -> None:
        program = Program(tmp_path / "archive")
        async with program.train.connect("memory:", listeners=[]) as c, c.running(), asyncio.timeout(30):
            made = [Event(f"e{n}", "int", "s", 1e9, b"%d" % n, None, "application/json") for n in range(3)]
            made[1] = msgspec.structs.replace(made[1], extensions={"undo": "t/1"})
            for name in (DEAD, ""):  # of a wagon that the registry does not know
                await c.broker.create(Channel("t", 7, name))
            await c.broker.publish(Channel("t", 7), made)
            while len([h for h in program.handled if h[0] == "t"]) < 2 or not [e async for e in c.dead_letters()]:
                await asyncio.sleep(0.01)
            (letter,) = [each async for each in c.dead_letters()]
            assert (letter.id, letter.extensions["undo"]) == ("e1", "t/1")
            assert letter.extensions["deadbecause"] == (
                "it came late to t_v7, and could not be published anew: it was to be undone: the active wagon would "
                "handle it"
            )

    asyncio.run(main())


def test_what_was_passed_on_to_its_channel_is_not_missing(tmp_path: Path) -> None:
    async def main() -> None:
        billed = asyncio.Event()
        train = Train("t", limit=Volume(1000), workers=Workers(each=2), grace=1.0, archive=(tmp_path / "a").as_uri())

        @train.on("t")
        async def order(n: int, ctx: Context) -> None:
            ctx.emit("bill", n, after=0.05)

        @train.on("bill")
        async def bill(n: int) -> None:
            billed.set()

        @train.undo("bill")
        async def unbill(n: int) -> None:
            pass

        @train.undo("t")
        async def unorder(n: int) -> None:
            pass

        async with train.connect("memory:") as c, c.running(), asyncio.timeout(60):
            await c.publish(1)
            await billed.wait()
            await c.wait_switched(await c.request_switch())
            while c.manifest.wagon(1) is not None:
                await asyncio.sleep(0.05)
            preview = await c.undo.preview(1)
            assert {e.channel: e.handled for e in preview.channels} == {"bill": 1, "t": 1}
            assert preview.unknown == 0

    asyncio.run(main())
