"""What a handler's own options say of time and failures, in place of the train's settings. In virtual time."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from eventwagon import Context, Event, Reject, Retry, Snooze, Train, UsageError, Volume, Workers
from eventwagon.cloudevents import BATCH
from eventwagon.contracts.facts import EventDied, EventRetried, EventSnoozed
from eventwagon.testing.virtual_time import run
from tests.support import World, until


def train_of(**settings: Any) -> Train:
    return Train("t", **{"limit": Volume(1000), "workers": Workers(each=4), "backoff": 0.1, **settings})


async def _handled(train: Train, payloads: Sequence[object], *, seconds: float = 60.0) -> World:
    """What is told while the train handles these events."""
    world = World()
    async with world.running(train) as connection:
        for payload in payloads:
            await connection.publish(payload)
        await asyncio.sleep(seconds)
    return world


def test_each_handler_has_its_own_timeout() -> None:
    async def main() -> None:
        train, cut = train_of(handler_timeout=20.0, attempts=1), dict[str, float]()

        def handler(name: str) -> Any:
            async def handle(_: int, ctx: Context) -> None:
                if not name:
                    for inner in ("brief", "patient"):
                        await ctx.emit(inner, 1)
                    return
                began = asyncio.get_running_loop().time()
                try:
                    await asyncio.Event().wait()
                finally:
                    cut[name] = round(asyncio.get_running_loop().time() - began, 2)

            return handle

        train.on("t")(handler(""))
        train.on("brief", timeout=2)(handler("brief"))
        train.on("patient")(handler("patient"))
        world = await _handled(train, [1])
        assert cut == {"brief": 2.0, "patient": 20.0}
        why = {f.channel: f.because for f in world.of(EventDied)}
        assert why == {
            "brief": "not finished after timeout=2 s",
            "patient": "not finished after handler_timeout=20 s",
        }

    run(main())


def test_the_longest_timeout_is_what_a_machine_must_wait_for() -> None:
    train = train_of(handler_timeout=20.0)
    assert train.longest_timeout == 20.0
    train.on("t", timeout=5)(_nothing)
    assert train.longest_timeout == 20.0
    train.on("a", timeout=90)(_nothing)
    assert train.longest_timeout == 90.0


async def _nothing(_: int) -> None: ...


def test_attempts_and_pauses_of_a_handler_replace_those_of_the_train() -> None:
    async def main() -> None:
        train = train_of(attempts=2)

        @train.on("t", attempts=4, backoff=8, backoff_most=9)
        async def handle(_: int) -> None:
            raise ValueError

        world = await _handled(train, [1])
        assert [f.attempts for f in world.of(EventDied)] == [4]
        pauses = [f.pause for f in world.of(EventRetried)]
        assert len(pauses) == 3
        assert 4 <= pauses[0] <= 8
        assert all(4.5 <= pause <= 9 for pause in pauses[1:])

    run(main())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"backoff": 60}, "handler of 'a': backoff_most=30 is less than backoff=60"),
        ({"backoff_most": 0.01}, "handler of 'a': backoff_most=0.01 is less than backoff=0.1"),
        ({"backoff": 3, "backoff_most": 2}, "handler of 'a': backoff_most=2 is less than backoff=3"),
        ({"attempts": 0}, "handler of 'a': attempts must be a whole number of at least 1"),
        ({"attempts": True}, "attempts must be a whole number"),
        ({"timeout": 0}, r"timeout \(seconds\) must be a number above 0"),
        ({"timeout": float("nan")}, r"timeout \(seconds\) must be a number above 0"),
        ({"dead_on": BaseException}, "dead_on=.*: give exception classes"),
        ({"dead_on": ValueError("x")}, "dead_on=.*: give exception classes"),
        ({"retry_on": "ValueError"}, "retry_on=.*: give exception classes"),
        ({"retry_on": [int]}, "retry_on=.*: give exception classes"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_declared(given: dict[str, Any], says: str) -> None:
    train = train_of()
    with pytest.raises(UsageError, match=says):
        train.on("a", **given)
    assert not train.handlers


class Gone(ValueError):
    """A kind of ValueError."""


class _Odd(type):
    def __subclasscheck__(cls, other: type) -> bool:
        raise SystemError("asked")


class Odd(Exception, metaclass=_Odd):
    """A class that can't be asked what belongs to it."""


async def _fails_with(error: BaseException, **options: Any) -> World:
    train = train_of(attempts=3)

    @train.on("t", **options)
    async def handle(_: int) -> None:
        raise error

    return await _handled(train, [1], seconds=10)


def _fate(world: World) -> tuple[int, str]:
    """How often the event was tried, and why it is dead."""
    (died,) = world.of(EventDied)
    return died.attempts, died.because


@pytest.mark.parametrize(
    ("options", "error", "fate"),
    [
        ({"dead_on": ValueError}, Gone("x"), (1, "Gone: x (dead_on)")),
        ({"dead_on": (KeyError, ValueError)}, ExceptionGroup("g", [Gone("x")]), (1, "(dead_on)")),
        ({"dead_on": ValueError}, ExceptionGroup("g", [Gone("x"), KeyError()]), (3, "")),
        ({"dead_on": ExceptionGroup}, ExceptionGroup("g", [Gone("x"), KeyError()]), (1, "(dead_on)")),
        ({"dead_on": ValueError}, KeyError("x"), (3, "KeyError: 'x'")),
        ({"retry_on": OSError}, Gone("x"), (1, "Gone: x (not in retry_on)")),
        ({"retry_on": OSError}, ConnectionError("x"), (3, "ConnectionError: x")),
        (
            {"retry_on": (OSError,), "dead_on": ConnectionError},
            ConnectionError("x"),
            (1, "ConnectionError: x (dead_on)"),
        ),
        ({"retry_on": ()}, OSError("x"), (1, "OSError: x (not in retry_on)")),
        ({"retry_on": OSError, "dead_on": Exception}, SystemExit(3), (3, "SystemExit: 3")),
        ({"retry_on": OSError, "dead_on": ValueError}, Retry(after=0.1), (3, "")),
        ({"dead_on": Exception}, Reject("no"), (1, "rejected: no")),
        ({"dead_on": Odd}, Gone("x"), (3, "Gone: x")),
        ({"dead_on": TimeoutError}, TimeoutError("mine"), (1, "TimeoutError: mine (dead_on)")),
    ],
    ids=str,
)
def test_what_is_never_retried(options: dict[str, Any], error: BaseException, fate: tuple[int, str]) -> None:
    async def main() -> None:
        attempts, because = _fate(await _fails_with(error, **options))
        assert attempts == fate[0]
        assert fate[1] in because

    run(main())


@pytest.mark.parametrize(
    ("options", "attempts", "why"),
    [
        ({}, 3, ""),
        ({"dead_on": ValueError}, 3, ""),
        ({"dead_on": OSError}, 1, " (dead_on)"),  # a TimeoutError is an OSError
        ({"retry_on": ValueError}, 1, " (not in retry_on)"),
        ({"retry_on": TimeoutError}, 3, ""),
    ],
    ids=str,
)
def test_a_handling_that_takes_too_long_counts_as_a_timeout_error(
    options: dict[str, Any], attempts: int, why: str
) -> None:
    async def main() -> None:
        train = train_of(attempts=3)

        @train.on("t", timeout=1, **options)
        async def handle(_: int) -> None:
            await asyncio.Event().wait()

        assert _fate(await _handled(train, [1], seconds=10)) == (attempts, f"not finished after timeout=1 s{why}")

    run(main())


def test_snooze_keeps_its_meaning() -> None:
    async def main() -> None:
        train = train_of()

        @train.on("t", dead_on=Exception, retry_on=())
        async def handle(_: int) -> None:
            raise Snooze(100)

        world = await _handled(train, [1], seconds=10)
        assert len(world.of(EventSnoozed)) == 1
        assert not world.of(EventDied)

    run(main())


def test_a_worker_is_ready_for_the_next_event_after_a_timeout() -> None:
    """What the last handling was cut short for says nothing of the next failure."""

    async def main() -> None:
        train = train_of(attempts=2, workers=Workers(each=1))

        @train.on("t", timeout=1, dead_on=TimeoutError)
        async def handle(n: int) -> None:
            if n == 0:
                await asyncio.Event().wait()
            raise KeyError(n)

        world = await _handled(train, [0, 1], seconds=10)
        assert [f.attempts for f in world.of(EventDied)] == [1, 2]

    run(main())


def test_one_event_of_a_batch_dies_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        train, seen = train_of(attempts=3), list[int]()

        @train.on("t", dead_on=ValueError)
        async def handle(n: int) -> None:
            seen.append(n)
            if n == 1:
                raise ValueError("one")

        each = [{"specversion": "1.0", "id": str(n), "source": "/x", "type": "int", "data": n} for n in range(3)]
        batch = Event("b", "batch", "/elsewhere", 1.0, json.dumps(each).encode(), None, BATCH)
        world = await _handled(train, [batch], seconds=10)
        assert seen == [0, 1, 2]
        assert [(f.id, f.because) for f in world.of(EventDied)] == [("1", "ValueError: one (dead_on)")]

    with caplog.at_level(logging.CRITICAL):
        run(main())


def test_its_log_says_that_it_was_the_last(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await _fails_with(ValueError("x"), dead_on=ValueError)

    run(main())
    said = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(said) == 1
    assert said[0].levelno == logging.ERROR
    assert "is dead after 1 attempt: ValueError: x (dead_on) (handler " in said[0].getMessage()
    assert said[0].exc_info


def test_programs_that_differ_each_do_as_their_own_code_says() -> None:
    async def main() -> None:
        world = World()

        def train(attempts: int) -> Train:
            made = train_of()

            @made.on("t", attempts=attempts)
            async def handle(_: int) -> None:
                raise ValueError

            return made

        async with world.running(train(2)) as connection:
            await connection.publish(1)
            await until(lambda: world.of(EventDied))
        async with world.running(train(3)) as connection:  # they are no part of the declaration
            await connection.publish(1)
            await until(lambda: len(world.of(EventDied)) == 2)
        assert [f.attempts for f in world.of(EventDied)] == [2, 3]

    run(main())
