"""What the bridge does when a source or a train does what it should not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from eventwagon import BridgeHeldUp, BridgeWentOn, Connection, Train
from eventwagon.bridge import Bridge, Record, Rules, open_source
from eventwagon.errors import EventTooLarge, PublishError, StorageBroken, TrainRemoved, Unavailable, UsageError
from eventwagon.event import Event
from eventwagon.testing.virtual_time import run
from tests.bridge.memory import MemoryFlow, MemorySource, memory_flow
from tests.bridge.support import bridging, letters, numbered, shop, stored, until

Body = Callable[[MemoryFlow, Connection], Awaitable[None]]


def on_memory(body: Body, train: Train | None = None, kind: type[MemorySource] = MemorySource) -> None:
    async def main() -> None:
        async with memory_flow(kind) as flow, (train or shop()).connect("memory://") as c:
            await body(flow, c)

    asyncio.run(main())


class FailsTwice(MemorySource):
    """Each of its calls, with whatever comes to its mind."""

    errors: Sequence[BaseException] = ()

    def __init__(self, flow: MemoryFlow) -> None:
        super().__init__(flow)
        self._errors = {"read": list(self.errors), "commit": list(self.errors), "lag": list(self.errors)}

    def _fail(self, call: str) -> None:
        if self._errors[call]:
            raise self._errors[call].pop()

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        self._fail("read")
        return await super().read(limit, wait)

    async def commit(self, records: Sequence[Record]) -> None:
        self._fail("commit")
        await super().commit(records)

    async def lag(self) -> Any:
        self._fail("lag")
        return await super().lag()


@pytest.mark.parametrize(
    "error", [Unavailable("away"), StorageBroken("no right"), ValueError("x"), KeyError(), asyncio.CancelledError()]
)
def test_whatever_a_source_raises_it_is_tried_again(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FailsTwice, "errors", [error, error])

    async def main(flow: MemoryFlow, c: Connection) -> None:
        await flow.write(numbered(10))
        async with bridging(flow.open(), c) as bridge:
            await until(lambda: len(flow.committed) == 10, "all are committed")
            assert not bridge.trouble
        assert [event.data for event in await stored(c)] == numbered(10)

    on_memory(main, kind=FailsTwice)


def test_a_defect_of_the_broker_buries_the_one_event_that_causes_it() -> None:
    async def main(flow: MemoryFlow, c: Connection) -> None:
        plain = c.broker.publish

        async def publish(channel: Any, events: Sequence[Event]) -> None:
            if channel.wagon and any(event.data == b'{"n": 4}' for event in events):
                raise RuntimeError("a driver's defect")
            await plain(channel, events)

        c.broker.publish = publish  # type: ignore[method-assign]
        await flow.write(numbered(10))
        async with bridging(flow.open(), c) as bridge:
            await until(lambda: len(flow.committed) == 10, "all are committed")
            assert (bridge.passed, bridge.buried) == (9, 1)
        assert [event.data for event in await stored(c)] == [*numbered(4), *numbered(5, 5)]
        (letter,) = await letters(c)
        assert letter.data == b'{"n": 4}'
        assert "a driver's defect" in letter.extensions["deadbecause"]

    on_memory(main)


def test_a_bridge_that_ends_while_the_train_takes_no_events_leaves_no_letter_that_comes_again() -> None:
    async def main(flow: MemoryFlow, c: Connection) -> None:
        plain, room = c.publish_many, 0

        async def publish_many(events: Sequence[Event], **more: Any) -> int:
            nonlocal room
            taken, room = min(room, len(events)), max(0, room - len(events))
            await plain(events[:taken], **more)
            if taken < len(events):
                raise PublishError("not now", accepted=taken) if taken else TrainBusy("not now")
            return taken

        c.publish_many = publish_many  # type: ignore[method-assign, assignment]
        bad = [b"no object"]
        await flow.write([*bad, *numbered(1), *bad, *numbered(1, 1), *bad, *numbered(1, 2)])
        for has_room, commits in ((0, 1), (1, 3), (0, 3), (2, 6)):
            room = has_room
            async with bridging(flow.open(), c, key="body:n") as bridge:
                await until(lambda b=bridge: b.trouble or len(flow.committed) == 6, "it has come so far")  # type: ignore[misc]
            assert len(flow.committed) == commits
        assert [event.data for event in await stored(c)] == numbered(3)
        assert len(await letters(c)) == 3

    on_memory(main)


def test_what_is_refused_behind_a_letter_is_buried_after_it() -> None:
    async def main(flow: MemoryFlow, c: Connection) -> None:
        plain, fails = c.broker.publish, True

        async def publish(channel: Any, events: Sequence[Event]) -> None:
            if channel.wagon and any(event.data == b'{"n": 1}' for event in events):
                raise EventTooLarge("more than the server takes")
            if not channel.wagon and fails:
                raise Unavailable("no letters now")
            await plain(channel, events)

        c.broker.publish = publish  # type: ignore[method-assign]
        await flow.write([*numbered(1), b"no object", *numbered(1, 1)])
        async with bridging(flow.open(), c, key="body:n") as bridge:
            await until(lambda: "no letters now" in bridge.trouble, "it is held up")
            await until(lambda: flow.committed, "the event is committed")
            assert flow.committed == {"memory/0"}
            fails = False
            await until(lambda: len(flow.committed) == 3, "all are committed")
        assert [letter.id for letter in await letters(c)] == ["memory/1", "memory/2"]

    on_memory(main)


def test_nothing_behind_a_letter_that_can_not_be_stored_is_published() -> None:
    """It would come again with each start."""

    async def main(flow: MemoryFlow, c: Connection) -> None:
        plain = c.broker.publish

        async def publish(channel: Any, events: Sequence[Event]) -> None:
            if not channel.wagon:
                raise Unavailable("no letters now")
            await plain(channel, events)

        c.broker.publish = publish  # type: ignore[method-assign]
        await flow.write([*numbered(1), b"no object", *numbered(4, 1)])
        async with bridging(flow.open(), c, key="body:n") as bridge:
            await until(lambda: "no letters now" in bridge.trouble and flow.committed, "it is held up")
        assert flow.committed == {"memory/0"}
        assert [event.data for event in await stored(c)] == numbered(1)

    on_memory(main)


def test_the_stored_part_of_a_batch_is_committed_while_the_rest_waits() -> None:
    async def main(flow: MemoryFlow, c: Connection) -> None:
        refuses = True

        async def publish_many(events: Sequence[Event], **_: Any) -> int:
            if refuses:
                taken = 3 if len(events) == 10 else 0
                raise PublishError("not now", accepted=taken) if taken else TrainBusy("not now")
            return len(events)

        c.publish_many = publish_many  # type: ignore[method-assign, assignment]
        await flow.write(numbered(10))
        async with bridging(flow.open(), c) as bridge:
            await until(lambda: "not now" in bridge.trouble, "it is held up")
            await until(lambda: len(flow.committed) == 3, "what is stored is committed")
            refuses = False
            await until(lambda: len(flow.committed) == 10, "the rest follows")
        assert bridge.passed == 10

    on_memory(main)


class TrainBusy(PublishError):
    pass


def test_a_bridge_that_should_end_while_the_train_is_away_gives_its_records_back() -> None:
    async def main(flow: MemoryFlow, c: Connection) -> None:
        async def publish_many(events: Sequence[Event], **_: Any) -> int:
            raise Unavailable("away")

        c.publish_many = publish_many  # type: ignore[method-assign, assignment]
        await flow.write(numbered(3000))
        async with bridging(flow.open(), c, patience=3.0) as bridge:
            await until(lambda: "away" in bridge.trouble, "it is held up")
        assert len(flow.free()) == 3000

    on_memory(main)


@pytest.mark.parametrize("error", [TrainRemoved("gone"), UsageError("closed")])
def test_what_can_not_pass_ends_the_bridge(error: Exception) -> None:
    async def main(flow: MemoryFlow, c: Connection) -> None:
        async def publish_many(events: Sequence[Event], **_: Any) -> int:
            raise error

        c.publish_many = publish_many  # type: ignore[method-assign, assignment]
        await flow.write(numbered(3))
        async with flow.open() as source:
            with pytest.raises(type(error)):
                await Bridge(source, c, Rules(source="memory", most=1000)).run(asyncio.Event())
        assert len(flow.free()) == 3

    on_memory(main)


def test_an_event_that_the_broker_refuses_goes_to_the_dead_letters() -> None:
    async def main(flow: MemoryFlow, c: Connection) -> None:
        plain = c.broker.publish

        async def publish(channel: Any, events: Sequence[Event]) -> None:
            if any(len(event.data) > 2000 for event in events):
                raise EventTooLarge("more than the server takes")
            await plain(channel, events)

        c.broker.publish = publish  # type: ignore[method-assign]
        await flow.write([b"1", b"x" * 5000, b"2"])
        async with bridging(flow.open(), c):
            await until(lambda: len(flow.committed) == 3, "all are committed")
        assert [event.data for event in await stored(c)] == [b"1", b"2"]
        (letter,) = await letters(c)
        assert letter.extensions["deadsize"] == "5000"  # as much as the server takes
        assert 0 < len(letter.data) <= 2000

    on_memory(main)


def test_a_middleware_of_the_program_that_fails_holds_the_bridge_and_buries_nothing() -> None:
    train, fails = shop(), True

    @train.publish_middleware
    async def moody(events: Any, call_next: Any) -> None:
        if fails:
            raise ConnectionError("its database is away")
        await call_next(events)

    async def main(flow: MemoryFlow, c: Connection) -> None:
        nonlocal fails
        await flow.write(numbered(10))
        async with bridging(flow.open(), c) as bridge:
            await until(lambda: "its database is away" in bridge.trouble, "it is held up")
            fails = False
            await until(lambda: len(flow.committed) == 10, "it goes on")
        assert (bridge.passed, bridge.buried) == (10, 0)

    on_memory(main, train)


def test_a_hold_up_is_in_the_journal_with_how_long_it_was_also_in_virtual_time() -> None:
    away = True

    class Away(MemorySource):
        async def commit(self, records: Sequence[Record]) -> None:
            if away:
                raise Unavailable("away")
            await super().commit(records)

    async def main() -> None:
        nonlocal away
        async with memory_flow(Away) as flow, shop().connect("memory://") as c:
            await flow.write(numbered(3))
            async with bridging(flow.open(), c):
                await asyncio.sleep(20.0)
                away = False
                await asyncio.sleep(10.0)
            told = [e.fact async for e in c.journal() if isinstance(e.fact, BridgeHeldUp | BridgeWentOn)]
        held_up, went_on = told
        assert isinstance(held_up, BridgeHeldUp)
        assert held_up.because == "committing: away"
        assert isinstance(went_on, BridgeWentOn)
        assert 20.0 <= went_on.seconds < 26.0

    run(main())


def test_a_defect_of_the_registry_s_driver_ends_no_bridge(caplog: pytest.LogCaptureFixture) -> None:
    class Away(MemorySource):
        async def commit(self, records: Sequence[Record]) -> None:
            if asyncio.get_running_loop().time() < away_until:
                raise Unavailable("away")
            await super().commit(records)

    away_until = 0.0

    async def main() -> None:
        nonlocal away_until
        async with memory_flow(Away) as flow, shop().connect("memory://") as c:

            async def fails(*_: object, **__: object) -> None:
                raise TypeError("a defect")

            c.registry.append = fails  # type: ignore[method-assign]
            away_until = asyncio.get_running_loop().time() + 5.0
            await flow.write(numbered(3))
            async with bridging(flow.open(), c) as bridge:
                await until(lambda: len(flow.committed) == 3, "it goes on")
            assert bridge.passed == 3

    run(main())
    assert "writing to the journal raised TypeError: a defect" in caplog.text


OPENS = """
from tests.bridge.memory import MemoryFlow

def open_shelf(address, begin):
    return MemoryFlow().open()

def open_nothing(address, begin):
    return "nothing"

def open_worse(address, begin):
    raise RuntimeError("its own")
"""


def test_a_package_brings_a_source_and_takes_no_built_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "shelves-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shelves\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[eventwagon.sources]\nshelf = shelves:open_shelf\nstdin = shelves:open_shelf\nnothing = shelves:open_nothing\n"
        "worse = shelves:open_worse\n"
    )
    (tmp_path / "shelves.py").write_text(OPENS)
    monkeypatch.syspath_prepend(tmp_path)
    assert open_source("shelf://x").name == "memory"
    assert open_source("-").name == "stdin"
    with pytest.raises(UsageError, match="is no Source"):
        open_source("nothing://x")
    with pytest.raises(UsageError, match="its own"):
        open_source("worse://x")


def test_how_large_an_event_may_be_is_as_the_train_declares_also_anew() -> None:
    async def main() -> None:
        async with memory_flow() as flow, shop(max_event_bytes=50_000).connect("memory://") as declares:
            await declares.found()
            drivers = {"broker": declares.broker, "registry": declares.registry}
            async with shop(max_event_bytes=2000).connect(**drivers) as c:  # type: ignore[arg-type]
                await flow.write([b"1" * 40_000, b"2" * 60_000])
                async with bridging(flow.open(), c) as bridge:
                    await until(lambda: len(flow.committed) == 2, "as it was declared")
                    assert (bridge.passed, bridge.buried) == (1, 1)
                    anew = shop(max_event_bytes=70_000).connect(redeclare=True, **drivers)  # type: ignore[arg-type]
                    async with anew, anew.running(work=False):
                        await until(lambda: bridge.rules.most == 70_000, "the bridge has seen it")
                    await flow.write([b"3" * 60_000, b"4" * 80_000])
                    await until(lambda: len(flow.committed) == 4, "as it is declared now")
                    assert (bridge.passed, bridge.buried) == (2, 2)
                assert [len(event.data) for event in await stored(c)] == [40_000, 60_000]
                said = [letter.extensions["deadbecause"] for letter in await letters(c)]
                assert ["max_event_bytes=50,000" in said[0], "max_event_bytes=70,000" in said[1]] == [True, True]

    asyncio.run(main())
