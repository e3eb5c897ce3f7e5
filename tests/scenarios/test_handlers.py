"""Handlers and payloads: what is taken, what is refused, and how it is said."""

from __future__ import annotations

import asyncio
import dataclasses
import logging

import attrs
import msgspec
import pydantic
import pytest

from eventwagon import Context, Event, EventwagonError, Settings, Train, Volume, Workers
from eventwagon.contracts.facts import EventDied
from eventwagon.errors import (
    EventTooLarge,
    UsageError,
)
from eventwagon.testing.virtual_time import run
from tests.support import World, until


class Struct(msgspec.Struct):
    n: int


@attrs.define
class Attrs:
    n: int


class Pydantic(pydantic.BaseModel):
    n: int = pydantic.Field(gt=0)


@dataclasses.dataclass
class Data:
    n: int


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [
        (Struct, Struct(1)),
        (Attrs, Attrs(1)),
        (Pydantic, Pydantic(n=1)),
        (Data, Data(1)),
        (dict, {"n": 1}),
        (bytes, b"\0"),
        (str, "é"),
        (list[int], [1]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_payload_types(annotation: type, payload: object) -> None:
    async def main() -> None:
        world, seen = World(), list[object]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1))

        async def handle(value: object) -> None:
            seen.append(value)

        handle.__annotations__["value"] = annotation
        train.on("t")(handle)
        async with world.running(train) as connection:
            await connection.publish(payload)
            await until(lambda: seen)
        assert seen == [payload]

    run(main())


def test_pydantic_validation_counts() -> None:
    async def main() -> None:
        world = World()
        train = Train("t", limit=Volume(10), workers=Workers(each=1))

        @train.on("t")
        async def handle(value: Pydantic) -> None:
            raise AssertionError(value)

        async with world.running(train) as connection:
            await connection.publish(Event("1", "Pydantic", "/elsewhere", 1.0, b'{"n": 0}'))
            await until(lambda: world.of(EventDied))
        assert "ValidationError" in world.of(EventDied)[0].because

    run(main())


def test_sync_handlers_run_in_threads_and_may_emit_without_await() -> None:
    async def main() -> None:  # in real time: threads don't fit virtual time
        import threading
        import time

        world, seen = World(clock=time.time), list[tuple[str, bool]]()
        train = Train("t", limit=Volume(100), workers=Workers(total=4))

        @train.on("t")
        def handle(n: int, ctx: Context) -> None:
            if n == 3 and ctx.attempt == 1:
                raise StopIteration
            ctx.emit("next", n)

        @train.on("next")
        def collect(n: int) -> None:
            seen.append((str(n), threading.current_thread() is threading.main_thread()))

        train.settings = msgspec.structs.replace(train.settings, backoff=0.0)
        async with world.running(train) as connection:
            await connection.publish_many(range(20))
            await until(lambda: len(seen) == 20)
        assert sorted(int(n) for n, _ in seen) == list(range(20))
        assert not any(main for _, main in seen)

    asyncio.run(main())


def test_a_returned_value_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world, seen = World(), list[int]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1))

        @train.on("t")
        async def handle(n: int) -> list[int]:
            seen.append(n)
            return [n]

        async with world.running(train) as connection:
            await connection.publish_many(range(3))
            await until(lambda: len(seen) == 3)

    with caplog.at_level(logging.WARNING, logger="eventwagon"):
        run(main())
    (record,) = [r for r in caplog.records if "ctx.emit" in r.message]
    assert "returned a list" in record.message


def test_handlers_that_cannot_be_are_refused_when_declared() -> None:
    train = Train("t")
    with pytest.raises(UsageError, match="yield"):

        @train.on("t")
        async def generator(n: int):  # type: ignore[no-untyped-def]
            yield n

    with pytest.raises(UsageError, match=r"\(payload\) or \(payload, ctx\)"):

        @train.on("t")  # type: ignore[type-var]
        async def nothing() -> None: ...

    with pytest.raises(UsageError, match="payload type"):

        @train.on("t")
        async def unknown(n: asyncio.Event) -> None: ...

    @train.on("t")
    async def fine(n: int) -> None: ...

    with pytest.raises(UsageError, match="already"):
        train.on("t")(fine)
    with pytest.raises(UsageError, match="dead"):
        train.on("dead")


def test_emit_says_what_is_wrong() -> None:
    async def main() -> None:
        world, errors = World(), list[EventwagonError]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1), max_event_bytes=1024)

        @train.on("t")
        async def handle(n: int | str, ctx: Context) -> None:
            for channel, payload in (("nowhere", 1), ("t", 1), ("inner", object()), ("inner", "x" * 2000)):
                try:
                    await ctx.emit(channel, payload)
                except EventwagonError as e:
                    errors.append(e)

        @train.on("inner")
        async def inner(n: str) -> None: ...

        async with world.running(train) as connection:
            with pytest.raises(EventTooLarge, match="max_event_bytes"):
                await connection.publish("x" * 2000)
            with pytest.raises(UsageError, match="can't be sent"):
                await connection.publish(object())
            await connection.publish(1)
            await until(lambda: len(errors) == 4)
        assert "there are: inner" in str(errors[0])
        assert "nothing can be emitted to the ingress" in str(errors[1])
        assert str(errors[2]).startswith("emit to 'inner': object can't be sent as str: ")
        assert isinstance(errors[2], UsageError)
        assert isinstance(errors[3], EventTooLarge)
        assert "publish" not in " ".join(map(str, errors)).replace("`publish` goes there", "")

    run(main())


def test_a_program_without_a_handler_for_the_ingress_cannot_work() -> None:
    async def main() -> None:
        async with World().connect(Train("t")) as connection:
            with pytest.raises(UsageError, match=r"@train.on\('t'\)"):
                async with connection.running():
                    pass

    run(main())


def test_settings_are_kept() -> None:
    assert Train("t", wagons=5).settings == Settings(wagons=5)
    with pytest.raises(UsageError, match="did you mean visibility="):
        Train("t", visbility=3)  # type: ignore[call-arg]
