"""Publish calls gathered into batches: each gets one answer, in order, and refusals are told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Event
from eventwagon.errors import ChannelFull, EventRefused, EventTooLarge, EventwagonError, PublishTimeout, Sealed
from eventwagon.runtime.publish_queue import MOST_BYTES, Batch, PublishCall, PublishQueue, fitting, own
from eventwagon.testing.virtual_time import run
from tests.fuzz import examples


class Call(msgspec.Struct, frozen=True):
    """What one caller publishes: the size of each event, negative where the broker refuses it for good."""

    sizes: tuple[int, ...]
    timeout: float


_sizes = st.one_of(st.integers(1, 3), st.sampled_from([MOST_BYTES // 3, MOST_BYTES, MOST_BYTES + 1]))
_events = st.tuples(_sizes, st.sampled_from([1, 1, 1, 1, -1])).map(lambda pair: pair[0] * pair[1])
_calls = st.lists(
    st.builds(Call, st.lists(_events, min_size=1, max_size=7).map(tuple), st.sampled_from([1.0, 5.0, 1000.0])),
    min_size=1,
    max_size=12,
)
_data = [b"x" * size for size in (0, 1, 2, 3)]
_large = {size: b"x" * size for size in (MOST_BYTES // 3, MOST_BYTES, MOST_BYTES + 1)}


def event(name: str, size: int) -> Event:
    data = _data[abs(size)] if abs(size) < 4 else _large[abs(size)]
    return Event(name, "bad" if size < 0 else "good", "/", 0.0, data)


def late(publish_call: PublishCall) -> EventwagonError:
    return PublishTimeout("late", accepted=publish_call.accepted)


@examples(200)
@given(
    calls=_calls,
    most=st.integers(1, 8),
    # what the broker does with the calls that hold no bad event: how many it stores, None for all; and how long it
    # takes
    stores=st.lists(st.one_of(st.none(), st.integers(0, 4)), max_size=20),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 2.0]), max_size=30),
)
def test_each_call_has_one_right_answer(
    calls: list[Call], most: int, stores: list[int | None], pauses: list[float]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue = PublishQueue(late, lambda _: None)
        queue.open()
        publish_calls = [
            queue.add([event(f"{c}.{e}", size) for e, size in enumerate(call.sizes)], loop.time() + call.timeout)
            for c, call in enumerate(calls)
        ]
        stored: list[str] = []
        while batch := queue.take(most):
            while batch.waits():
                events = batch.events
                assert 0 < len(events) <= most
                assert len(events) == 1 or sum(len(e.data) for e in events) <= MOST_BYTES
                await asyncio.sleep(pauses.pop() if pauses else 0.0)
                if any(e.type == "bad" for e in events):
                    batch.refuse(len(events), EventRefused("bad"))
                    continue
                some = stores.pop() if stores else None
                count = len(events) if some is None else min(some, len(events))
                stored += [e.id for e in events[:count]]
                batch.accept(count)
        await asyncio.sleep(2000)
        assert len(set(stored)) == len(stored)
        for c, (call, publish_call) in enumerate(zip(calls, publish_calls, strict=True)):
            mine = [name for name in stored if name.startswith(f"{c}.")]
            assert mine == [f"{c}.{e}" for e in range(len(mine))]
            assert publish_call.done.done()
            error = publish_call.done.exception()
            bad = next((e for e, size in enumerate(call.sizes) if size < 0), None)
            if error is None:
                assert bad is None
                assert len(mine) == len(call.sizes)
            elif isinstance(error, EventRefused):
                assert bad == error.accepted == len(mine)
            else:
                assert isinstance(error, PublishTimeout)
                assert call.timeout < 1000
                assert error.accepted <= len(mine)
        assert stored == sorted(stored, key=lambda name: int(name.split(".")[0]))

    run(main())


def test_one_bad_of_a_thousand_costs_a_handful_of_calls() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        publish_calls = [
            PublishCall([event(str(i), -1 if i == 600 else 1)], 1000.0, loop.create_future()) for i in range(1000)
        ]
        batch, calls = Batch(publish_calls, 1000), 0
        while batch.waits():
            calls += 1
            events = batch.events
            if any(e.type == "bad" for e in events):
                batch.refuse(len(events), EventRefused("bad"))
            else:
                batch.accept(len(events))
        assert calls < 25
        assert [i for i, publish_call in enumerate(publish_calls) if publish_call.done.exception()] == [600]

    run(main())


def test_others_are_looked_after_in_time() -> None:
    """While calls wait to be taken, somebody is told; soon enough for those with a short deadline too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        looks: list[float] = []
        queue = PublishQueue(late, lambda _: looks.append(loop.time()))
        queue.open()
        queue.add([event("a", 1)], loop.time() + 30.0)
        await asyncio.sleep(0.3)
        assert looks == pytest.approx([0.25])
        brief = queue.add([event("b", 1)], loop.time() + 0.1)
        await asyncio.sleep(0.06)
        assert looks[1] == pytest.approx(0.35)
        assert queue.take(10)
        looks.clear()
        await asyncio.sleep(10)
        assert not looks
        assert isinstance(brief.done.exception(), PublishTimeout)

    run(main())


class Odd(EventRefused):
    """A driver's own, which can't be made from its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@pytest.mark.parametrize("error", [EventTooLarge("text", accepted=2), Odd(3, "text"), Sealed("text", accepted=1)])
def test_each_caller_has_an_error_of_its_own(error: EventwagonError) -> None:
    mine = own(error, 5)
    assert mine is not error
    assert mine.accepted == 5
    assert "text" in str(mine)


@given(sizes=st.lists(_sizes, min_size=1, max_size=20), most=st.integers(1, 20))
def test_what_fits_into_a_call(sizes: list[int], most: int) -> None:
    events: Sequence[Event] = [event(str(i), size) for i, size in enumerate(sizes)]
    some = fitting(events, most)
    assert some == events[: len(some)]
    assert 1 <= len(some) <= most
    assert len(some) == 1 or sum(len(e.data) for e in some) <= MOST_BYTES
    more = events[: len(some) + 1]
    assert len(some) in (most, len(events)) or sum(len(e.data) for e in more) > MOST_BYTES


def test_errors_that_carry_a_count_keep_it() -> None:
    assert ChannelFull("full", accepted=3).accepted == 3
    assert EventwagonError("any").accepted == 0
