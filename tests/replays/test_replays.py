"""Replays with real workers and a real archive, on memory and SQLite."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventwagon import Context, Train, Volume, Workers
from eventwagon import connection as connection_module
from eventwagon.archives.parquet import ParquetArchive
from eventwagon.archives.past import ArchivedEvents
from eventwagon.connection import Connection
from eventwagon.contracts.archive import ArchiveFile
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import ReplayCancelled, ReplayEnded, ReplayTorn
from eventwagon.contracts.lifecycle import Move
from eventwagon.contracts.manifest import moved, replay_changed
from eventwagon.contracts.replay import NothingKeptError, PastEvents, Replay
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.errors import (
    EventTooLarge,
    PublishUncertain,
    Reject,
    RemovalRefused,
    StorageBroken,
    Unavailable,
    UsageError,
)
from eventwagon.event import REPLAY, UNDO, Channel, Event
from eventwagon.metrics import Metrics
from eventwagon.metrics import instruments as i
from eventwagon.policy.edits import Edit
from eventwagon.policy.replays import requested
from eventwagon.runtime import feeding
from tests.support import World

Seen = tuple[int, str, int, dict[str, str]]
"""A payload, its event's id, the wagon, the extension attributes."""


def made(archive: Path, handled: list[Seen]) -> Train:
    train = Train(
        "t",
        limit=Volume(40),
        workers=Workers(each=4),
        observe_every=0.02,
        member_ttl=1.0,
        archive=archive.as_uri(),
    )

    @train.on("t")
    async def handle(number: int, ctx: Context) -> None:
        handled.append((number, ctx.event.id, ctx.wagon, dict(ctx.event.extensions)))
        if number % 10 == 3 and not ctx.event.extensions:
            raise Reject("three")
        if number % 2:
            ctx.emit("odd", number)

    @train.on("odd")
    async def odd(number: int, ctx: Context) -> None:
        handled.append((number, ctx.event.id, ctx.wagon, dict(ctx.event.extensions)))

    return train


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'train'}"


async def two_wagons(connection: Connection) -> None:
    """80 events, in wagons 1 and 2, which are archived and gone."""
    for number in range(80):
        await connection.publish(number)
    await connection.request_switch()
    while (active := connection.manifest.active) is None or active.number < 3:
        await asyncio.sleep(0.01)
    await connection.wait_drained(2)


def test_past_events_are_handled_once_more_in_a_wagon_of_their_own(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        handled: list[Seen] = []
        facts: list[Any] = []
        train = made(tmp_path / "archive", handled)
        async with train.connect(url, listeners=[facts.append]) as connection, connection.running():
            async with asyncio.timeout(60):
                await two_wagons(connection)
                first, active = [h for h in handled if h[2] == 1], connection.manifest.active
                del handled[:]
                assert await connection.replays.preview(PastEvents(wagon=1, outcome="handled")) == 36
                replay = await connection.replays.request(PastEvents(wagon=1, outcome="handled"), "a test", by="me")
                await connection.publish(1000)
                await connection.replays.wait(replay.number)
            assert connection.manifest.active == active
        old = [h for h in handled if h[0] < 1000]
        new = [h for h in handled if h[0] == 1000]
        meant = {(n, i) for n, i, _, _ in first if n % 10 != 3}
        assert Counter((n, i) for n, i, _, _ in old) == Counter(meant)
        assert len({w for _, _, w, _ in old}) == 1
        assert {w for _, _, w, _ in old}.isdisjoint(w for _, _, w, _ in new)
        assert all(x == {"replay": f"t/{replay.number}", "replayedfrom": "t_v1"} for _, _, _, x in old)
        (ended,) = [f for f in facts if isinstance(f, ReplayEnded)]
        assert (ended.fed, ended.count, ended.dead, ended.because) == (36, 36, 0, "")

    asyncio.run(main())


def test_what_is_no_longer_wanted_is_cancelled(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        handled: list[Seen] = []
        facts: list[Any] = []
        train = made(tmp_path / "archive", handled)
        async with train.connect(url, listeners=[facts.append]) as connection, connection.running():
            async with asyncio.timeout(60):
                await two_wagons(connection)
                del handled[:]
                replay = await connection.replays.request(PastEvents(wagon=2), rate=10.0)
                while not handled:
                    await asyncio.sleep(0.01)
                assert await connection.replays.cancel(replay.number, "enough", by="me")
                assert [r.number for r in connection.replays.standing] == [replay.number]
                await connection.replays.wait(replay.number)
                assert not await connection.replays.cancel(replay.number)
            assert 0 < len({n for n, _, _, _ in handled}) < 40
        (ended,) = [f for f in facts if isinstance(f, ReplayEnded)]
        assert (ended.count, ended.because) == (40, "enough")
        assert 0 < ended.fed < 40
        (cancelled,) = [f for f in facts if isinstance(f, ReplayCancelled)]
        assert (cancelled.because, cancelled.by) == ("enough", "me")

    asyncio.run(main())


def test_a_train_is_not_removed_silently_while_past_events_are_to_be_replayed(tmp_path: Path) -> None:
    async def main() -> None:
        train, metrics = made(tmp_path / "archive", []), Metrics()
        url = f"sqlite:///{tmp_path / 'train'}"
        names = {i.REPLAYS, i.REPLAY_LEFT, i.REPLAYED}

        def figures() -> dict[tuple[str, ...], float]:
            found = [(each, labels, value) for each, series in metrics.collect() for labels, value in series.items()]
            return {
                (each.name, *labels[1:]): value
                for each, labels, value in found
                if each in names and isinstance(value, float | int) and value
            }

        async with train.connect(url, meter=metrics) as connection, connection.running():
            async with asyncio.timeout(60):
                await two_wagons(connection)
                first = await connection.replays.request(PastEvents(wagon=1), rate=1.0)
                second = await connection.replays.request(PastEvents(wagon=2))
                while figures().get(("eventwagon.replays", "replay", "waiting")) != 1:
                    await asyncio.sleep(0.05)
                assert figures()["eventwagon.replays", "replay", "running"] == 1
                assert 60 < figures()["eventwagon.replay.events.left", "replay"] <= 80
                await connection.replays.cancel(first.number)
                await connection.replays.wait(second.number)
                third = await connection.replays.request(PastEvents(wagon=1), rate=1.0)
            fed = figures()["eventwagon.replay.events", "replay"]
            assert 40 <= fed < 80
        async with Train("t").connect(url, listeners=()) as hand:
            with pytest.raises(RemovalRefused, match=rf"replay {third.number}, which runs \(`eventwagon replay t "):
                await hand.remove()
            assert (await hand.remove(force=True)).replays == 1

    asyncio.run(main())


def test_a_request_lists_the_archive_once_for_the_parts_and_once_to_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        train = made(tmp_path / "archive", [])
        async with train.connect("memory:") as connection, connection.running():
            async with asyncio.timeout(60):
                await two_wagons(connection)
            listed: list[str] = []
            files = ParquetArchive.files

            async def counted(self: ParquetArchive, train: str) -> Sequence[ArchiveFile]:
                listed.append(train)
                return await files(self, train)

            monkeypatch.setattr(ParquetArchive, "files", counted)
            await connection.replays.preview(PastEvents(wagon=1, channel="odd"))
            assert len(listed) == 2

    asyncio.run(main())


def test_mistakes_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        train = made(tmp_path / "archive", [])
        async with train.connect("memory:") as connection, connection.running():
            async with asyncio.timeout(60):
                await two_wagons(connection)
            for of, why in (
                (PastEvents(wagon=7), "t_v7 is not archived"),
                (PastEvents(wagon=1, type="nothing"), "nothing to replay"),
                (PastEvents(wagon=1, channel="even"), "t_v1 has no channel 'even': it has odd"),
                (PastEvents(wagon=1, outcome="lost"), "outcome='lost'"),
                (PastEvents(wagon=1, ids=("x",) * 1001), "more than 1,000"),
                (PastEvents(wagon=1, ids=("x" * 1001,)), "at most 1,000 characters"),
                (PastEvents(wagon=1, ids=("\ud800",)), "UTF-8"),
                (PastEvents(wagon=1, ids="0190"), "list of ids"),  # type: ignore[arg-type]
                (PastEvents(wagon=1, subject=""), "subject is empty"),
                (PastEvents(wagon=True), "wagon must"),
                (PastEvents(wagon="7"), "wagon must"),  # type: ignore[arg-type]
                (PastEvents(wagon=1, since=float("nan")), "since=nan"),
                (PastEvents(wagon=1, until=datetime(2026, 1, 1)), "time zone"),  # type: ignore[arg-type]
                (1, "PastEvents"),
            ):
                with pytest.raises(UsageError, match=why):
                    await connection.replays.request(of)  # type: ignore[arg-type]
            for rate in (0, -1.0, float("nan"), True, "fast"):
                with pytest.raises(UsageError, match="rate"):
                    await connection.replays.request(PastEvents(wagon=1), rate=rate)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="no replay 300"):
                await connection.replays.cancel(300)
            for number in (connection.manifest.wagons[-1].number, "1", True):
                with pytest.raises(UsageError, match="number"):
                    await connection.replays.cancel(number)  # type: ignore[arg-type]
            assert not connection.manifest.replays
            [earlier, *_] = (tmp_path / "archive" / "t").glob("t_v1-*Z.parquet")
            (earlier.parent / "t_v1-20250101T000000000Z.parquet").write_bytes(earlier.read_bytes())
            with pytest.raises(UsageError, match="2 wagons of the name t_v1"):
                await connection.replays.preview(PastEvents(wagon=1))

    asyncio.run(main())


def test_what_can_not_be_found_any_more_ends_the_replay_and_lists_are_taken(tmp_path: Path) -> None:
    async def main() -> None:
        handled: list[Seen] = []
        facts: list[Any] = []
        train = made(tmp_path / "archive", handled)
        async with train.connect("memory:", listeners=[facts.append]) as connection, connection.running():
            async with asyncio.timeout(60):
                await two_wagons(connection)
                ids = [event_id for _, event_id, wagon, _ in handled if wagon == 1][:3]
                of = PastEvents(wagon=1, ids=ids, since=datetime(2020, 1, 1, tzinfo=UTC))  # type: ignore[arg-type]
                replay = await connection.replays.request(of)
                assert replay.count == len(set(ids))
                await connection.replays.wait(replay.number)
                more = msgspec.structs.replace(replay, count=5, number=0)
                await connection._state.apply(  # noqa: SLF001 - what no user can request
                    lambda m: requested(m, more, "more than there is")
                )
                while len([f for f in facts if isinstance(f, ReplayEnded)]) < 2:
                    await asyncio.sleep(0.01)
        first, second = [f for f in facts if isinstance(f, ReplayEnded)]
        assert (first.because, second.fed, second.count) == ("", 3, 5)
        assert "5 events were counted, and only 3" in second.because

    asyncio.run(main())


def test_what_a_failed_wagon_of_a_replay_has_left_becomes_dead_letters(tmp_path: Path) -> None:
    async def main() -> None:
        handled: list[Seen] = []
        train = made(tmp_path / "archive", handled)
        async with train.connect("memory:") as connection, connection.running(), asyncio.timeout(60):
            await two_wagons(connection)
            await connection.pause()
            del handled[:]
            before = len([letter async for letter in connection.dead_letters()])
            replay = await connection.replays.request(PastEvents(wagon=1))
            while not (fed := connection.replays.standing[0]).is_over:
                await asyncio.sleep(0.01)
            await connection._state.apply(  # noqa: SLF001 - as an observer does when its channels are lost
                lambda m: Edit(moved(m, fed.wagon, Move.GIVEN_UP))
            )
            await connection.replays.wait(replay.number)
            letters = [letter async for letter in connection.dead_letters()]
        assert len(letters) - before == replay.count
        assert not handled
        because = letters[-1].extensions["deadbecause"]
        assert "could not be published anew: it was for replay" in because
        assert "takes no replayed events" in because

    asyncio.run(main())


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Feeders publish 5 events at a time, and wait while more than 20 wait: how many were published at each look."""
    for name, least in (("_AHEAD", 20), ("_BATCH", 5), ("_LOOKS", (0.01, 0.01))):
        monkeypatch.setattr(feeding, name, least)
    looks: list[int] = []

    class Watched(feeding.Feeder):
        async def _not_too_far(self, replay: Replay, channel: Channel, count: int) -> None:
            self._count = count
            await super()._not_too_far(replay, channel, count)

        async def _wait(self, replay: Replay, seconds: float) -> None:
            looks.append(self._count)
            await super()._wait(replay, seconds)

    monkeypatch.setattr(connection_module, "Feeder", Watched)
    return looks


def test_no_more_is_published_while_much_waits(url: str, tmp_path: Path, looks: list[int]) -> None:
    """A replay of a large wagon must not fill the broker before its workers get to it."""
    train = Train("t", limit=Volume(10**9), observe_every=0.02, archive=(tmp_path / "archive").as_uri())
    may_go_on = asyncio.Event()
    again: list[int] = []

    @train.on("t", concurrency=1)
    async def handle(number: int, ctx: Context) -> None:
        if "replay" in ctx.event.extensions:
            await may_go_on.wait()
            again.append(number)

    async def main() -> None:
        async with train.connect(url) as connection, connection.running():
            async with asyncio.timeout(60):
                await connection.publish_many(range(1000))
                await connection.request_switch()
                await connection.wait_drained(1)
                replay = await connection.replays.request(PastEvents(wagon=1))
                while len(looks) < 5:
                    await asyncio.sleep(0.01)
                assert not again
                assert len(set(looks)) == 1
                assert looks[0] < 500  # what waits, and what a worker has fetched
                while (now := connection.manifest.replay(replay.number)) is None or now.fed < looks[0]:
                    await asyncio.sleep(0.01)  # what `status` says is true while it waits, too
                may_go_on.set()
                await connection.replays.wait(replay.number)
        assert sorted(again) == list(range(1000))

    asyncio.run(main())


def test_no_feeder_adds_to_a_wagon_in_which_much_waits_already(tmp_path: Path, looks: list[int]) -> None:
    """While a wagon is paused its processes may be restarted again and again; each restart must not add to it."""
    train = Train("t", limit=Volume(10**9), observe_every=0.02, archive=(tmp_path / "archive").as_uri())
    train.on("t")(lambda _number: None)
    url = f"sqlite:///{tmp_path}"

    async def main() -> None:
        async with asyncio.timeout(60):
            async with train.connect(url) as connection, connection.running():
                await connection.publish_many(range(1000))
                await connection.request_switch()
                await connection.wait_drained(1)
                await connection.pause("restarts")
                await connection.replays.request(PastEvents(wagon=1))
            published = set()
            for _ in range(4):
                del looks[:]
                async with train.connect(url) as connection, connection.running():
                    while len(looks) < 3:
                        await asyncio.sleep(0.01)
                published |= set(looks)
            assert len(published) == 1, published

    asyncio.run(main())


async def replayed(train: Train, published: Sequence[int]) -> Replay:
    """The replay of wagon 1, which got these, after its end."""
    async with train.connect("memory://") as connection, connection.running(), asyncio.timeout(30):
        await connection.publish_many(published)
        await connection.request_switch()
        await connection.wait_drained(1)
        replay = await connection.replays.request(PastEvents(wagon=1))
        await connection.replays.wait(replay.number)
        return replay


def test_a_look_that_is_never_answered_holds_no_replay_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, least in (("_AHEAD", 20), ("_BATCH", 5)):
        monkeypatch.setattr(feeding, name, least)
    train = Train("t", limit=Volume(10**9), observe_every=0.02, archive=tmp_path.as_uri(), publish_timeout=0.5)
    hung = list[Channel]()

    @train.on("t")
    async def handle(number: int) -> None: ...

    class Hangs(feeding.Feeder):
        async def _not_too_far(self, replay: Replay, channel: Channel, count: int) -> None:
            answers = self._broker.depth

            async def depth(channels: Sequence[Channel]) -> Sequence[Depth]:
                self._broker.depth = answers  # type: ignore[method-assign]
                hung.append(channel)
                await asyncio.Event().wait()
                return []

            if not hung:
                self._broker.depth = depth  # type: ignore[method-assign]
            await super()._not_too_far(replay, channel, count)

    monkeypatch.setattr(connection_module, "Feeder", Hangs)

    async def main() -> None:
        await replayed(train, range(100))
        assert len(hung) == 1

    asyncio.run(main())


def test_a_registry_that_forgets_what_was_fed_holds_no_replay_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Train("t", limit=Volume(10**9), observe_every=0.02, archive=tmp_path.as_uri())
    handled = list[str]()
    forgot = list[int]()

    @train.on("t")
    async def handle(number: int, ctx: Context) -> None:
        handled.append(ctx.event.extensions.get(REPLAY, ""))

    class Forgets(feeding.Feeder):
        async def _store(self, replay: Replay, channel: Channel, events: Sequence[Event], count: int) -> None:
            await super()._store(replay, channel, events, count)
            me = self._runtime.name
            if not forgot:
                forgot.append(count)
                await self._state.apply(lambda m: Edit(replay_changed(m, replay.number, fed=0, feeder=me)))

    monkeypatch.setattr(connection_module, "Feeder", Forgets)

    async def main() -> None:
        replay = await replayed(train, range(10))
        assert forgot == [10]
        assert Counter(handled) == {"": 10, replay.name("t"): 10}

    asyncio.run(main())


class StoringTwice(MemoryBroker):
    """As a client that sends again what it had no answer to: it stores the first batch of each replay's wagon twice.
    Nobody knows what became of the second batch of the first one: nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[Channel]()

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if not channel.name and events and {REPLAY, UNDO} & events[0].extensions.keys():
            self.calls[channel] += 1
            if self.calls[channel] == 1:
                await super().publish(channel, events)
            elif self.calls[channel] == 2 and len(self.calls) == 1:
                raise PublishUncertain("no answer")
        await super().publish(channel, events)


@pytest.mark.parametrize("trouble", [None, Unavailable, NothingKeptError, StorageBroken])
@pytest.mark.parametrize("undo", [False, True])
def test_what_is_stored_twice_counts_once(
    undo: bool, trouble: type[Exception] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wagon of which the feeder is not sure has 10 events in the broker's count: the first 5 twice, and no others.
    The archive says so; while it is away that is asked again, and what it does not know is published once more."""
    monkeypatch.setattr(feeding, "_BATCH", 5)
    parts, asked = ArchivedEvents.parts, list[int]()

    async def troubled(self: ArchivedEvents, wagon: int, channel: str) -> tuple[str, ...]:
        if wagon > 1 and trouble is not None:
            asked.append(wagon)
            if len(asked) == 1 or trouble is not Unavailable:
                raise trouble("simulated")
        return await parts(self, wagon, channel)

    monkeypatch.setattr(ArchivedEvents, "parts", troubled)
    again: list[int] = []
    train = Train("t", limit=Volume(10**9), observe_every=0.02, archive=(tmp_path / "archive").as_uri())

    @train.on("t")
    async def handle(number: int, ctx: Context) -> None:
        if REPLAY in ctx.event.extensions:
            again.append(number)

    @train.undo("t")
    async def undone(number: int, _: Context) -> None:
        again.append(number)

    async def main() -> None:
        world = World(clock=time.time)
        world.broker = StoringTwice()
        async with world.running(train) as connection, asyncio.timeout(30):
            await connection.publish_many(range(20))
            await connection.request_switch()
            await connection.wait_drained(1)
            if undo:
                await connection.undo.wait((await connection.undo.request(1)).number)
            else:
                await connection.replays.wait((await connection.replays.request(PastEvents(wagon=1))).number)
        assert len(world.of(ReplayTorn)) == 1
        (ended,) = world.of(ReplayEnded)
        assert (ended.fed, ended.count, ended.because) == (20, 20, "")

    asyncio.run(main())
    assert set(again) == set(range(20))
    assert len(again) == 20 + 2 * 5, "the first batch of either wagon twice, and no other"
    assert len(asked) == (0 if trouble is None else 2 if trouble is Unavailable else 1)


def test_one_that_is_cancelled_ends_though_nobody_can_say_what_its_torn_wagon_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all replays and undos behind it would wait."""
    monkeypatch.setattr(feeding, "_BATCH", 5)
    events, away = ArchivedEvents.events, list[bool]()

    async def read(self: ArchivedEvents, wagon: int, channel: str, parts: Sequence[str]) -> AsyncIterator[Any]:
        if away:
            raise Unavailable("a part is gone")
        async for batch in events(self, wagon, channel, parts):
            yield batch

    monkeypatch.setattr(ArchivedEvents, "events", read)
    train = Train("t", limit=Volume(10**9), observe_every=0.02, archive=(tmp_path / "archive").as_uri())
    train.on("t")(lambda _number: None)

    async def main() -> None:
        world = World(clock=time.time)
        world.broker = StoringTwice()
        async with world.running(train) as connection, asyncio.timeout(30):
            await connection.publish_many(range(20))
            await connection.request_switch()
            await connection.wait_drained(1)
            number = (await connection.replays.request(PastEvents(wagon=1))).number
            while not world.of(ReplayTorn):
                await asyncio.sleep(0.005)
            away.append(True)
            await connection.replays.cancel(number)
            while not world.of(ReplayEnded):
                await asyncio.sleep(0.01)

    asyncio.run(main())


class RefusingOne(MemoryBroker):
    """It refuses payload 0 of a replay. The call with the last payload has no answer, once, though it is stored."""

    is_done = False

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        replayed = not channel.name and bool(events) and REPLAY in events[0].extensions
        if replayed and any(event.data == b"0" for event in events):
            raise EventTooLarge("it is too large")
        await super().publish(channel, events)
        if replayed and not self.is_done and any(event.data == b"19" for event in events):
            self.is_done = True
            raise PublishUncertain("no answer")


def test_what_was_refused_hides_nothing_that_a_torn_wagon_got(tmp_path: Path) -> None:
    again: list[int] = []
    train = Train("t", limit=Volume(10**9), observe_every=0.02, archive=(tmp_path / "archive").as_uri())

    @train.on("t")
    async def handle(number: int, ctx: Context) -> None:
        if REPLAY in ctx.event.extensions:
            again.append(number)

    async def main() -> None:
        world = World(clock=time.time)
        world.broker = RefusingOne()
        async with world.running(train) as connection, asyncio.timeout(30):
            await connection.publish_many(range(20))
            await connection.request_switch()
            await connection.wait_drained(1)
            await connection.replays.wait((await connection.replays.request(PastEvents(wagon=1))).number)
            assert [letter.data async for letter in connection.dead_letters()] == [b"0"]
        assert len(world.of(ReplayTorn)) == 1

    asyncio.run(main())
    assert sorted(again) == list(range(1, 20))
