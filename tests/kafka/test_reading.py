"""What a process caches of its partitions and keeps of its deliveries, and when it claims from others' partitions."""

from __future__ import annotations

import asyncio
import sys
from secrets import token_hex
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.contracts.broker import Delivery
from eventwagon.drivers.kafka.claims import ChannelClaims, WagonClaims
from eventwagon.drivers.kafka.forward import Forward
from eventwagon.drivers.kafka.kept import KeptEvents
from eventwagon.drivers.kafka.lane import EACH, Lane
from eventwagon.drivers.kafka.proposals import FORMAT, Beat, Claim, Join, Member, Op, encode, held_of
from eventwagon.drivers.kafka.reader import Reader, offset_of
from eventwagon.drivers.kafka.stealing import Stealing
from eventwagon.errors import Unavailable
from eventwagon.event import Event
from tests.fuzz import examples
from tests.kafka.support import topics
from tests.servers.server import Server


def messages(*offsets: int) -> list[Message]:
    return [Message(topic="t", partition=0, offset=offset, value=b"x" * 10) for offset in offsets]


def deliveries(claim: int, *offsets: int) -> list[Delivery]:
    return [Delivery(Event(str(o), "t", "/t", 0.0, b"x" * 10), 1, (0, o, claim)) for o in offsets]


reads = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), max_size=6)
takes = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=12)


@examples(300)
@given(reads, st.integers(0, 10), takes)
def test_a_lane_hands_out_what_was_read(gaps: list[list[int]], fresh: int, taken: list[tuple[int, int]]) -> None:
    """Whatever is missing in the log, and in whatever order it is taken."""
    lane, model, at = Lane(0, 0), set[int](), 0
    for read in gaps:
        offsets = []
        for gap in read:
            offsets.append(at + gap)
            at += gap + 1
        lane.add(messages(*offsets), fresh)
        model |= {offset for offset in offsets if offset >= fresh}
        assert lane.position == at
    for start, count in taken:
        expected = sorted(offset for offset in model if start <= offset < start + count)
        assert [offset_of(m) for m in lane.take(start, start + count)] == expected
        model -= set(expected)
        assert (lane.messages, lane.bytes) == (len(model), (10 + EACH) * len(model))


def test_a_lane_is_not_given_the_same_twice() -> None:
    lane = Lane(0, 5)
    assert not lane.add(messages(1, 2, 3), 0)
    assert lane.add(messages(3, 4, 5, 6), 0)
    assert [offset_of(m) for m in lane.take(0, 10)] == [5, 6]


def test_a_lane_lets_go_of_what_it_hands_out() -> None:
    """The garbage collector looks at every message that lives, with all its headers: thousands would cost more than
    decoding them."""
    lane = Lane(0, 0)
    lane.add(messages(*range(100)), 0)
    taken = lane.take(10, 30)
    others = messages(*range(20))
    assert [sys.getrefcount(message) for message in taken] == [sys.getrefcount(message) for message in others]


def test_events_are_kept_until_they_are_settled() -> None:
    kept = KeptEvents()
    kept.keep(0, 7, deliveries(7, 1, 2, 3))
    kept.settled([(0, 1, 2, 7)])
    assert kept.bytes
    kept.released([(0, 2, 3, 7)])
    again = kept.take(0, 2)
    assert again is not None
    assert again.id == "2"
    assert kept.take(0, 2) is None
    kept.settled([(0, 3, 4, 7), (0, 3, 4, 8)])
    assert kept.bytes == 0
    for claim in range(5):
        kept.keep(0, claim, deliveries(claim, claim))
    kept.shrink(3 * (10 + EACH))
    assert kept.bytes == 3 * (10 + EACH)
    kept.clear()
    assert kept.bytes == 0


def test_an_event_that_is_given_back_twice_is_kept_once() -> None:
    kept = KeptEvents()
    kept.keep(0, 7, deliveries(7, 1, 2, 3))
    kept.keep(0, 8, deliveries(8, 2, 4))
    for _ in range(2):
        kept.released([(0, 1, 2, 7)])
    kept.released([(0, 2, 3, 7), (0, 2, 3, 8)])
    assert kept.take(0, 1) is not None
    assert kept.take(0, 2) is not None
    kept.settled([(0, 3, 4, 7), (0, 4, 5, 8)])
    assert kept.bytes == 0


def test_what_is_kept_of_events_counts_with_their_extensions() -> None:
    kept = KeptEvents()
    large = Event("1", "t", "/t", 0.0, b"x" * 10, extensions={f"x{n}": "y" * 8000 for n in range(10)})
    kept.keep(0, 7, [Delivery(large, 1, (0, 1, 7))])
    assert kept.bytes == 80_010 + EACH


def test_what_was_read_is_its_owner_s_once_it_is_handed_over() -> None:
    """The owner may take it out of the list before the thread goes on."""

    class Client:
        def poll(self, _: float) -> Message:
            return messages(7)[0]

        def consume(self, *_: object) -> list[Message]:
            return messages(8)

    async def main() -> None:
        reads = Forward({}, "reads", prompt=True)
        at_once = SimpleNamespace(
            call_soon=lambda call, *args: call(*args), call_soon_threadsafe=lambda call, *args: call(*args)
        )
        reads._loop = at_once  # type: ignore[assignment]  # noqa: SLF001
        reads.assigned["t", 0] = reads._sinks["t", 0] = (list[Message].clear, None)  # noqa: SLF001
        reads._turn(Client())  # type: ignore[arg-type]  # noqa: SLF001
        assert reads._starts == {("t", 0): 9}  # noqa: SLF001

    asyncio.run(main())


@examples(200)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12), st.integers(1, 2)), max_size=12))
def test_what_is_held_is_named_once(tokens: list[tuple[int, int, int]]) -> None:
    held = held_of(tokens)
    named = [(p, offset, claim) for p, start, stop, claim in held for offset in range(start, stop)]
    assert sorted(named) == sorted(set(tokens))
    assert len(held) <= len(set(tokens))


def test_a_topic_that_only_seems_absent_is_not_empty(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets that could not be read would be taken for offsets without an event. (A client says so for a moment while
    leaders change.)"""

    def seems(self: Reader, consumer: object, topic: str, *rest: object) -> list[Message]:
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))

    monkeypatch.setattr(Reader, "_range", seems)

    async def main() -> None:
        async with topics(kafka_server.url) as admin:
            reader, name = Reader(admin, admin.options.consumer(wait=5)), f"seems-{token_hex(4)}"
            assert await reader.range(name, 0, 0, 5) == []
            await admin.create(name, 1, {})
            while await admin.describe(name) is None:
                await asyncio.sleep(0.05)
            with pytest.raises(Unavailable, match="but it exists: try again"):
                await reader.these(name, 0, [0, 1])
            await admin.delete(name)
            await reader.close()

    asyncio.run(main())


class Wagon:
    """Partition 0 belongs to "a", partition 1 to "b"; "b" wonders what to claim."""

    def __init__(self) -> None:
        self.claims = WagonClaims()
        self.now = 1000
        self.claims.apply(0, self.now, encode([FORMAT]))
        for member in ("a", "b"):
            self.write(member, Join("", 2))
        channel = self.channel
        self.other = next(p for p in (0, 1) if channel.partition(p).owner == "a")
        self.stealing = Stealing()

    @property
    def channel(self) -> ChannelClaims:
        return self.claims.channel("")

    def write(self, member: str, op: Op) -> None:
        self.claims.apply(0, self.now, encode([Member(member), op]))

    def target(self, later: int = 0, limit: int = 10) -> tuple[int, int] | None:
        self.now += later
        return self.stealing.target(self.channel, {1 - self.other}, limit, self.now)


def test_events_that_an_owner_handles_are_left_to_it() -> None:
    wagon = Wagon()
    assert wagon.target() is None
    wagon.stealing.ends(wagon.other, 5)
    assert wagon.target() is None
    for _ in range(5):
        wagon.write("a", Claim("", 1, 60_000, [(wagon.other, 20)]))
        assert wagon.target(later=150) is None
    assert wagon.stealing.waits()


def test_events_that_an_owner_leaves_alone_are_claimed() -> None:
    wagon = Wagon()
    wagon.now += 10_000  # it had nothing to do for long: that is no reason
    wagon.stealing.ends(wagon.other, 5)
    assert wagon.target() is None
    assert wagon.target(later=250) == (wagon.other, 5)


def test_events_that_an_owner_offers_are_claimed_at_once() -> None:
    wagon = Wagon()
    wagon.write("a", Claim("", 1, 60_000, [(wagon.other, 1)]))
    wagon.write("a", Beat("", [(wagon.other, 5)]))
    assert wagon.target() == (wagon.other, 5)
    wagon.write("a", Claim("", 1, 60_000, [(wagon.other, 5)]))
    assert wagon.target() is None


@pytest.mark.parametrize(("end", "claimed"), [(21, False), (22, True)])
def test_of_a_long_backlog_a_share_is_claimed(end: int, claimed: bool) -> None:
    wagon = Wagon()
    wagon.write("a", Claim("", 1, 60_000, [(wagon.other, end)]))
    assert wagon.target(limit=10) == ((wagon.other, end) if claimed else None)


def test_events_without_an_owner_are_claimed_at_once() -> None:
    claims = WagonClaims()
    claims.apply(0, 1000, encode([FORMAT]))
    stealing = Stealing()
    claims.channel("").ensure(0)
    stealing.ends(0, 3)
    assert stealing.target(claims.channel(""), set(), 10, 1000) == (0, 3)
