"""The one door for events: what an event may be, whoever makes it."""

from __future__ import annotations

import enum
import json
import math
import re
from collections import UserDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from eventwagon import Context, Event, Train, Volume, Workers
from eventwagon.contracts.facts import EventDied
from eventwagon.errors import EventTooLarge, UsageError
from eventwagon.event import DEATH, EARLIEST, JSON, LATEST, born, checked, child_id, heritage
from eventwagon.payload import shape
from eventwagon.runtime.dead_letters import died
from eventwagon.runtime.handler import Handler
from eventwagon.testing.virtual_time import run
from tests.support import World, until

MOST = 262_144
HALF = json.loads('"\\ud800"')
WORDS = ("id", "type", "source", "subject", "content_type")


def _name(value: object) -> str:
    """The same in each process: without addresses."""
    return re.sub(r"0x\w+|id='\d+'|datetime.*", "", ascii(value)[:300])[:40]


def event(**attributes: Any) -> Event:
    return Event(**{"id": "1", "type": "t", "source": "/s", "time": 1.7e9, "data": b"5", **attributes})


class Name(str):
    __slots__ = ()


class Kind(enum.StrEnum):
    MADE = "order.made"


@pytest.mark.parametrize("attribute", WORDS)
@pytest.mark.parametrize(
    "bad",
    [
        HALF,
        f"a{HALF}b",
        "a\nb",
        "a\rb",
        "a\0",
        "\x1b[31m",
        "\x7f",
        "\x85",
        "\ufffe",
        "\U0010ffff",
        "",
        " ",
        "\u3000",
        "x" * 2049,
        "é" * 1025,
        b"bytes",
        5,
        5.0,
        True,
        ["a"],
        object(),
    ],
    ids=_name,
)
def test_a_word_is_text_of_some_length(attribute: str, bad: object) -> None:
    with pytest.raises(UsageError, match=attribute):
        checked(event(**{attribute: bad}), MOST)


@pytest.mark.parametrize("attribute", WORDS)
@pytest.mark.parametrize(
    "good", ["x" * 2048, "é" * 1024, " a b ", "😀", "\u202eabc", "a\u2028b", "../../x", "[/bold]", "%s{}$"]
)
def test_any_other_text_will_do(attribute: str, good: str) -> None:
    assert getattr(checked(event(**{attribute: good}), MOST), attribute) == good


@pytest.mark.parametrize("attribute", ["id", "type", "source", "content_type"])
def test_only_a_subject_may_be_missing(attribute: str) -> None:
    assert checked(event(subject=None), MOST).subject is None
    with pytest.raises(UsageError):
        checked(event(**{attribute: None}), MOST)


def test_strings_of_other_classes_become_plain_ones() -> None:
    got = checked(event(id=Name("a"), type=Kind.MADE, extensions={Name("tenant"): Kind.MADE}), MOST)
    assert (got.id, got.type, got.extensions) == ("a", "order.made", {"tenant": "order.made"})
    assert {type(word) for word in (got.id, got.type, *got.extensions, *got.extensions.values())} == {str}


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        (math.nan, "between"),
        (math.inf, "between"),
        (-math.inf, "between"),
        (1e300, "between"),
        (10**400, "bits"),
        (-1e12, "between"),
        (1.7e12, "milliseconds"),
        (1_700_000_000_000, "milliseconds"),
        (1.7e15, "microseconds"),
        (1.7e18, "nanoseconds"),
        (True, "number"),
        ("1.7e9", "number"),
        (None, "number"),
        (Decimal(5), "number"),
        (datetime.now(UTC), "number"),
        (1j, "number"),
    ],
    ids=_name,
)
def test_a_time_is_a_number_of_seconds_that_rfc_3339_can_say(bad: object, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        checked(event(time=bad), MOST)


@pytest.mark.parametrize("good", [0, -0.0, 5, -1.5, EARLIEST, LATEST, 1.7e9, 253_000_000_000])
def test_times_of_all_years_will_do(good: float) -> None:
    got = checked(event(time=good), MOST)
    assert got.time == good
    assert type(got.time) is float
    text = datetime.fromtimestamp(got.time, UTC).isoformat(timespec="microseconds")
    assert datetime.fromisoformat(text).timestamp() == good


@pytest.mark.parametrize("bad", ["text", None, 5, [1], {"a": 1}], ids=_name)
def test_data_are_bytes(bad: object) -> None:
    with pytest.raises(UsageError, match="data"):
        checked(event(data=bad), MOST)


@pytest.mark.parametrize("good", [b"5", bytearray(b"5"), memoryview(b"5")], ids=_name)
def test_anything_like_bytes_becomes_bytes(good: bytes) -> None:
    got = checked(event(data=good), MOST)
    assert got.data == b"5"
    assert type(got.data) is bytes


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Tenant",
        "trace-parent",
        "trace_parent",
        "é",
        "a b",
        "a\n",
        HALF,
        "x" * 65,
        5,
        b"a",
        None,
        "id",
        "source",
        "specversion",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "data",
        "data_base64",
    ],
    ids=_name,
)
def test_names_of_extensions_are_lower_case_and_not_of_the_core(name: object) -> None:
    with pytest.raises(UsageError):
        checked(event(extensions={name: "x"}), MOST)


@pytest.mark.parametrize("value", [HALF, "a\nb", "\0", "x" * 8193, 5, None, b"x", ["x"]], ids=_name)
def test_values_of_extensions_are_text(value: object) -> None:
    with pytest.raises(UsageError, match="tenant"):
        checked(event(extensions={"tenant": value}), MOST)


def test_an_event_has_not_thousands_of_extensions() -> None:
    """A store takes only so many fields of a message."""
    many = {f"x{n}": "v" for n in range(500)}
    assert checked(event(extensions=many), 10**6).extensions == many
    with pytest.raises(UsageError, match="501 extension attributes, more than 500"):
        checked(event(extensions={**many, "y": "v"}), 10**6)
    _, _, handed_on = heritage(event(extensions={f"x{n}": "v" for n in range(5000)}))
    assert len(handed_on) == 500
    _, letter = died(event(extensions=many), "", 1, "because", 2, 5.0)  # why it died comes on top, and is read again
    assert checked(letter, 10**6).extensions == {**many, **letter.extensions}


@pytest.mark.parametrize("extensions", [None, [("a", "b")], "ab", 5, {"a"}], ids=_name)
def test_extensions_are_a_mapping(extensions: object) -> None:
    with pytest.raises(UsageError, match="extensions"):
        checked(event(extensions=extensions), MOST)


def test_extensions_are_copied() -> None:
    given = {"tenant": "a"}
    got = checked(event(extensions=given), MOST)
    given["tenant"] = "b"
    assert got.extensions == {"tenant": "a"}
    assert checked(event(extensions=UserDict(a="", b="é" * 4096)), MOST).extensions == {"a": "", "b": "é" * 4096}


def test_a_good_event_is_taken_as_it_is() -> None:
    for good in (event(), event(subject="k")):
        assert checked(good, MOST) is good

    class Own(Event, frozen=True):
        pass

    assert type(checked(Own("1", "t", "/s", 0.0, b""), MOST)) is Event


def test_sizes_are_bytes_not_characters() -> None:
    assert event(id="é", subject="😀", extensions={"a": "é"}).size == 1 + 2 + 1 + 2 + 4 + len(JSON) + 3
    plain = event()
    assert checked(plain, plain.size) is plain
    for large in (plain, event(subject="é"), event(extensions={"a": "é"})):
        assert checked(large, large.size) == large
        with pytest.raises(EventTooLarge, match="max_event_bytes"):
            checked(large, large.size - 1)


def test_a_train_checks_its_source_when_declared() -> None:
    assert Train("t").source == "/eventwagon/t"
    assert Train("t", source="urn:a b").source == "urn:a b"
    for bad in ("", " ", HALF, "a\nb", b"bytes", 5, "x" * 3000):
        with pytest.raises(UsageError, match="source"):
            Train("t", source=bad)  # type: ignore[arg-type]


def test_publishing_refuses_contradictions_and_stores_nothing() -> None:
    async def main() -> None:
        world = World()
        async with world.connect(Train("t", limit=Volume(10))) as connection:
            await connection.publish(0)
            contradictions: list[tuple[object, dict[str, Any]]] = [
                (event(), {"id": "7"}),
                (event(), {"id": ""}),
                (event(), {"subject": "k"}),
                (event(), {"event_type": "u"}),
                (1, {"id": ""}),
                (1, {"event_type": ""}),
                (1, {"subject": ""}),
                (1, {"subject": 5}),
                (1, {"subject": b"k"}),
                (1, {"id": 7}),
                (1, {"event_type": int}),
                (1, {"subject": HALF}),
                (1, {"id": "a\nb"}),
                (event(time=1.7e12), {}),
            ]
            for payload, options in contradictions:
                with pytest.raises(UsageError):
                    await connection.publish(payload, **options)
            with pytest.raises(UsageError):
                await connection.publish_many([event(subject=HALF)])
            assert (await connection.depths())[1][""].published == 1
            assert await connection.publish(event(id="mine", data=bytearray(b"5"))) == "mine"

    run(main())


def test_publishing_checks_the_payload_against_the_ingress_handler() -> None:
    async def main() -> None:
        world, train = World(), Train("t", limit=Volume(10))

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with world.connect(train) as connection:
            with pytest.raises(UsageError, match="Expected `int`"):
                await connection.publish("5")
            with pytest.raises(UsageError, match="Expected `int`"):
                await connection.publish_many(["5"])
            await connection.publish(5)
            await connection.publish(event(data=b'"5"'))  # as it is

    run(main())


def taking(channel: str, annotation: Any) -> Handler:
    def handle(payload: object) -> None: ...

    handle.__annotations__["payload"] = annotation
    return Handler(channel, handle, shape(handle))


def context(of: Event, annotation: Any = int, most: int = MOST) -> Context:
    return Context(of, 1, "t", 1, "", {"": taking("", int), "inner": taking("inner", annotation)}, most, lambda: 5.0)


def test_a_child_inherits_what_belongs_to_the_chain() -> None:
    dead = dict.fromkeys(DEATH, "x")
    ctx = context(event(subject="k", extensions={"tenant": "a", "deadline": "5", **dead}))
    ctx.emit("inner", 1)
    ctx.emit("inner", 1, subject="l", event_type="u", extensions={"tenant": "b", "more": "c"})
    first, second = (e for _, e in ctx.emitted)
    assert first == Event(first.id, "int", "/s", 5.0, b"1", "k", JSON, {"tenant": "a", "deadline": "5"})
    assert second == Event(second.id, "u", "/s", 5.0, b"1", "l", JSON, {"tenant": "b", "deadline": "5", "more": "c"})
    assert first.id != second.id


def test_emitting_an_event_takes_it_as_it_is() -> None:
    ctx = context(event(subject="k", extensions={"tenant": "a"}))
    sent = event(id="7", data=b"not json", extensions={"tenant": "b"})
    ctx.emit("inner", sent)
    assert ctx.emitted == [("inner", sent)]
    contradictions: list[dict[str, Any]] = [{"event_type": "u"}, {"subject": "k"}, {"extensions": {}}]
    for options in contradictions:
        with pytest.raises(UsageError, match="its own"):
            ctx.emit("inner", sent, **options)
    with pytest.raises(UsageError, match="milliseconds"):
        ctx.emit("inner", event(time=1.7e12))
    with pytest.raises(EventTooLarge):
        context(event(), most=10).emit("inner", event())


def test_ids_of_children_count_what_was_emitted_to_their_channel() -> None:
    ctx = context(event())
    with pytest.raises(UsageError):
        ctx.emit("inner", 1, subject=HALF)
    ctx.emit("inner", 1)
    ctx.emit("inner", event(id="7"))
    ctx.emit("inner", 1)
    assert [e.id for _, e in ctx.emitted] == [child_id(event(), "inner", 0), "7", child_id(event(), "inner", 2)]


@pytest.mark.parametrize(
    "options",
    [
        {"payload": "5"},
        {"payload": 1.5},
        {"payload": object()},
        {"channel": ""},
        {"channel": "nowhere"},
        {"channel": ["inner"]},
        {"channel": None},
        {"event_type": ""},
        {"event_type": 5},
        {"subject": ""},
        {"subject": 5},
        {"subject": HALF},
        {"extensions": {"Bad": "x"}},
        {"extensions": {"a": 1}},
        {"extensions": {"id": "1"}},
        {"extensions": 5},
    ],
    ids=_name,
)
def test_emit_refuses_what_publish_would(options: dict[str, Any]) -> None:
    ctx = context(event())
    with pytest.raises(UsageError):
        ctx.emit(**{"channel": "inner", "payload": 1, **options})
    assert ctx.emitted == []


def test_nothing_is_emitted_once_the_handler_has_ended() -> None:
    async def main() -> None:
        world, kept, seen = World(), list[Context](), list[int]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1), attempts=1)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            kept.append(ctx)
            ctx.emit("inner", n)
            if n < 0:
                raise ValueError

        @train.on("inner")
        async def inner(n: int) -> None:
            seen.append(n)

        async with world.running(train) as connection:
            await connection.publish(-1)
            await connection.publish(1)
            await until(lambda: seen)
            for ctx in kept:
                with pytest.raises(UsageError, match="has ended"):
                    await ctx.emit("inner", 2)
        assert seen == [1]

    run(main())


@pytest.mark.parametrize(
    "foreign",
    [
        {"source": ""},
        {"source": "a\nb"},
        {"source": "é" * 5000},
        {"subject": ""},
        {"subject": "a\0b"},
        {"subject": "é" * 5000},
        {"extensions": {"Bad-Name": "x", "tenant": "a", "id": "2", "note": "a\nb", "long": "x" * 9000}},
        {"type": ""},
        {"time": 1e300},
        {"time": -1e10},
        {"time": math.nan},
        {"time": math.inf},
    ],
    ids=_name,
)
def test_a_handler_can_emit_whatever_a_foreign_client_wrote(foreign: dict[str, Any]) -> None:
    ctx = context(event(**foreign))
    ctx.emit("inner", 1)
    ((_, child),) = ctx.emitted
    assert checked(child, MOST) == child
    if "extensions" in foreign:
        assert child.extensions == {"tenant": "a", "note": "a\ufffdb"}
    assert 0 <= born(child) < 1e12


def test_a_dead_letter_can_be_published_again() -> None:
    because = "ValueError: \x1b[31mred\x1b[0m\tand \ud800 half" + "\U0001f600" * 600
    _, letter = died(event(extensions={"tenant": "a"}), "", 1, because, 2, 5.0)
    assert checked(letter, MOST) == letter
    assert msgspec.json.encode(letter.extensions)

    async def main() -> None:
        world, seen = World(), list[int]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1), attempts=1)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            if not seen and "deadbecause" not in ctx.event.extensions:
                raise ValueError("\x1b[31mno")
            seen.append(n)

        async with world.running(train) as connection:
            await connection.publish(5)
            await until(lambda: world.of(EventDied))
            letters: list[Event] = []
            while not letters:
                letters = [e async for e in connection.dead_letters()]
            for dead in letters:
                await connection.publish(dead)
            await until(lambda: seen == [5])

    run(main())


def _raises(self: object) -> None:
    raise RuntimeError("no name")


NAMELESS: Any = type("OddName", (type,), {"__name__": property(_raises)})("Nameless", (), {})()
"""Of a class that does not even tell its name."""


def liar(said: Any) -> object:
    """An object that says it is of another class, or raises when it is asked."""

    class Liar:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            if said is None:
                raise RuntimeError("no class")
            return said

        def __repr__(self) -> str:
            raise RuntimeError("no text")

    return Liar()


LIARS = [liar(said) for said in (None, Event, str, bytes, dict, float, bool, list, 5)] + [NAMELESS]


def test_objects_that_lie_about_their_class_are_refused_at_every_door() -> None:
    async def main() -> None:
        world = World()
        train = Train("t")

        @train.on("inner")
        async def inner(payload: dict[str, int]) -> None: ...

        ctx = Context(event(), 1, "t", 1, "", train.handlers, MOST, world.clock)
        async with world.connect(train) as c:
            calls: list[Callable[[Any], Awaitable[object]]] = [
                lambda odd: c.publish(odd),
                lambda odd: c.publish({"a": [odd]}),
                lambda odd: c.publish_many(odd),
                lambda odd: c.publish_many([odd]),
                lambda odd: c.publish(5, id=odd),
                lambda odd: c.publish(5, subject=odd),
                lambda odd: c.publish(5, event_type=odd),
                lambda odd: c.publish(5, timeout=odd),
                *(lambda odd, a=a: c.publish(event(**{a: odd})) for a in (*WORDS, "time", "data", "extensions")),
                lambda odd: c.publish(event(extensions={"a": odd})),
            ]
            emits: list[Callable[[Any], object]] = [
                lambda odd: ctx.emit("inner", odd),
                lambda odd: ctx.emit(odd, {"a": 1}),
                lambda odd: ctx.emit("inner", {"a": 1}, subject=odd),
                lambda odd: ctx.emit("inner", {"a": 1}, extensions=odd),
            ]
            for odd in LIARS:
                for call in calls:
                    with pytest.raises(UsageError):
                        await call(odd)
                for emit in emits:
                    with pytest.raises(UsageError):
                        emit(odd)
            assert not await world.broker.channels("t"), "nothing was even founded"

    run(main())
