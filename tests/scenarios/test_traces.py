"""Traces: a span for each handling, publishing and switch, whose context travels in the events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, TraceState
from pydantic import BaseModel, SecretStr

from eventwagon import (
    BatchContext,
    Context,
    Event,
    EventDied,
    Failed,
    Reject,
    Snooze,
    Switched,
    Train,
    TrainPaused,
    Volume,
    Workers,
    tracing,
)
from eventwagon.contracts.facts import Entry, decode_entry, encode_entry
from eventwagon.event import MOST_EXTENSIONS, Channel
from eventwagon.testing.virtual_time import run
from eventwagon.tracing import spans as spans_module
from eventwagon.tracing.spans import context_as, context_in
from eventwagon.tracing.wanted import is_wanted
from tests.support import World, journal, until

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "can" + "ary"  # so that no line of this file holds it


class Spans:
    """The spans that have ended."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._memory))

    def __call__(self, operation: str = "", channel: str = "") -> list[ReadableSpan]:
        return [
            span
            for span in self._memory.get_finished_spans()
            if span.name.startswith(operation) and (not channel or of(span)["eventwagon.channel"] == channel)
        ]


def of(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def links_of(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    found = Spans()
    monkeypatch.setattr(spans_module, "get_tracer", found.provider.get_tracer)
    return found


def train_of(**settings: Any) -> Train:
    train = Train("t", **{"limit": Volume(10_000), "workers": Workers(each=2), "backoff": 0.1, **settings})
    tracing.trace(train)
    return train


# --- what a trace holds ------------------------------------------------------------------------


def test_a_chain_is_one_trace_through_publish_emit_and_publish_by_a_handler(spans: Spans) -> None:
    async def main() -> None:
        world, train = World(), train_of(revision="r1")

        @train.on("t")
        async def first(n: int, ctx: Context) -> None:
            if n == 1:
                ctx.emit("mail", 2)
                ctx.publish(3)

        @train.on("mail")
        async def mail(n: int) -> None:
            pass

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: len(spans("process")) == 3)

    run(main())
    [sent], [mailed] = spans("send"), spans("process", "mail")
    came, again = spans("process", "t")
    assert parent_of(sent) is None
    assert parent_of(came) == id_of(sent)
    assert links_of(came) == [id_of(sent)]
    assert parent_of(mailed) == parent_of(again) == id_of(came)
    assert len({trace_of(each) for each in (sent, came, mailed, again)}) == 1
    assert (sent.name, sent.kind) == ("send t", SpanKind.PRODUCER)
    assert (mailed.name, mailed.kind) == ("process t", SpanKind.CONSUMER)
    assert of(mailed) == {
        "messaging.system": "memory",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "t_v1.mail",
        "messaging.destination.template": "t_v{wagon}.mail",
        "messaging.message.id": of(mailed)["messaging.message.id"],
        "eventwagon.wagon": 1,
        "eventwagon.channel": "mail",
        "eventwagon.attempt": 1,
        "eventwagon.revision": "r1",
    }
    assert of(sent)["messaging.message.id"] == of(came)["messaging.message.id"]


def test_a_batch_is_linked_to_its_events_and_what_it_emits_is_its_child(spans: Spans) -> None:
    async def main() -> None:
        world, train = World(), train_of()

        @train.on("t", batch=3, within=5.0)
        async def many(ns: list[int], ctx: BatchContext) -> None:
            ctx.emit("mail", ns[1], of=1)

        @train.on("mail")
        async def mail(n: int) -> None:
            pass

        async with world.running(train) as c:
            await c.publish(1)
            await c.publish_many([2, 3])
            await until(lambda: spans("process", "mail"))

    run(main())
    one, two = spans("send")
    [many], [mailed] = spans("process", "t"), spans("process", "mail")
    assert of(two)["messaging.batch.message_count"] == 2
    assert of(many)["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in of(many)
    assert parent_of(many) is None
    assert sorted(links_of(many)) == sorted([id_of(one), id_of(two), id_of(two)])
    assert parent_of(mailed) == id_of(many)


def test_events_for_later_retries_and_schedules_keep_their_trace(spans: Spans) -> None:
    async def main() -> None:
        world, train = World(), train_of()

        @train.on("t")
        async def handle(text: str, ctx: Context) -> None:
            if text == "later":
                ctx.emit("mail", text, after=5)
            if text == "retried" and ctx.attempt == 1:
                raise ValueError
            if text == "snoozed" and len(spans("process")) < 40 and ctx.event.id not in seen:
                seen.add(ctx.event.id)
                raise Snooze(1, "not yet")

        @train.on("mail")
        async def mail(text: str) -> None:
            pass

        @train.every(30)
        def tick() -> str:
            return "tick"

        seen = set[str]()
        async with world.running(train) as c:
            await c.publish("later", after=5)
            await c.publish("retried")
            await c.publish("snoozed")
            await until(lambda: spans("process", "mail") and len(spans("send")) >= 4 and len(spans("process")) >= 7)

    run(main())
    later, retried, snoozed, tick = spans("send")[:4]
    [came] = [each for each in spans("process") if parent_of(each) == id_of(later)]
    assert parent_of(spans("process", "mail")[0]) == id_of(came)
    tries = [each for each in spans("process") if parent_of(each) == id_of(retried)]
    assert [(of(each)["eventwagon.attempt"], each.status.status_code) for each in tries] == [
        (1, StatusCode.ERROR),
        (2, StatusCode.UNSET),
    ]
    put_off, handled = [each for each in spans("process") if parent_of(each) == id_of(snoozed)]
    assert of(put_off)["eventwagon.outcome"] == "snoozed"
    assert put_off.status.status_code == handled.status.status_code == StatusCode.UNSET
    assert any(parent_of(each) == id_of(tick) for each in spans("process"))


def test_a_context_that_the_user_gave_stays_and_the_span_is_linked_to_it(spans: Spans) -> None:
    seen: list[Mapping[str, str]] = []

    async def main() -> None:
        world, train = World(), train_of()

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            ctx.emit("mail", 1)
            ctx.emit("mail", 2, extensions={"traceparent": GIVEN, "tracestate": "own=1"})

        @train.on("mail")
        async def mail(n: int, ctx: Context) -> None:
            seen.append(ctx.event.extensions)

        async with world.running(train) as c:
            extensions = {"traceparent": GIVEN, "tracestate": "a=b,c@d=e f", "tenant": "acme"}
            await c.publish(Event("x", "t", "/s", 1.0, b"1", extensions=extensions))
            await until(lambda: len(seen) == 2)

    run(main())
    [sent], [came] = spans("send"), spans("process", "t")
    assert links_of(sent) == [0xB7AD6B7169203331]
    assert trace_of(sent) != trace_of(came) == 0x0AF7651916CD43DD8448EB211C80319C
    assert parent_of(came) == 0xB7AD6B7169203331
    first, second = sorted(seen, key=lambda each: each["tracestate"])
    assert first == {
        "traceparent": f"00-0af7651916cd43dd8448eb211c80319c-{id_of(came):016x}-01",
        "tracestate": "a=b,c@d=e f",
        "tenant": "acme",
    }
    assert second == {"traceparent": GIVEN, "tracestate": "own=1", "tenant": "acme"}


def test_failures_are_told_without_secrets_and_without_the_payload(spans: Spans) -> None:
    class Pet(BaseModel):
        age: int

    async def main() -> None:
        world, train = World(), train_of(attempts=1)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            if n == 0:
                raise Reject("no such pet")
            if n == 1:
                raise ConnectionError(f"redis://user:{SECRET}@host:6379 is away\x1b[2J")
            Pet.model_validate({"age": SecretStr(SECRET)} if n == 2 else {"age": SECRET})

        @train.on("many", batch=2, within=0.1)
        async def many(ns: list[int]) -> None:
            raise Failed({0: ValueError("the first")})

        async with world.running(train) as c:
            for n in range(4):
                await c.publish(n)
            await until(lambda: len(world.of(EventDied)) == 4)
            await c.pause("for a test", publishing=True)
            with pytest.raises(TrainPaused):
                await c.publish(5, timeout=0.1)

    run(main())
    failed = spans("process", "t")
    assert [of(each)["error.type"].rpartition(".")[2] for each in failed] == [
        "Reject",
        "ConnectionError",
        "ValidationError",
        "ValidationError",
    ]
    assert all(each.status.status_code is StatusCode.ERROR for each in failed)
    assert (failed[0].status.description or "").endswith("no such pet")
    text = repr([(each.status.description, [dict(e.attributes or {}) for e in each.events]) for each in failed])
    assert SECRET not in text
    assert "\x1b" not in (failed[1].status.description or "\x1b")
    assert "in handle" in text
    assert of(spans("send")[-1])["error.type"].endswith("TrainPaused")


def test_a_switch_is_a_trace_and_the_journal_has_its_id(spans: Spans) -> None:
    entries: list[Entry] = []

    async def main() -> None:
        world, train = World(), train_of(limit=Volume(5), spares=1)

        @train.on("t")
        async def handle(n: int) -> None:
            pass

        async with world.running(train) as c:
            for n in range(12):
                await c.publish(n)
                await asyncio.sleep(0.2)
            await until(lambda: len(world.of(Switched)) >= 2)
            entries.extend(await journal(c))

    run(main())
    noted = [entry.fact for entry in entries if isinstance(entry.fact, Switched)]
    switches = spans("switch t")
    assert [fact.trace for fact in noted] == [f"{trace_of(each):032x}" for each in switches][: len(noted)]
    assert len(noted) >= 2
    second = switches[1]
    assert of(second)["eventwagon.wagon"] == 2
    assert of(second)["eventwagon.wagon.old"] == 1
    assert of(second)["eventwagon.because"] == noted[1].because
    provision, ready = (
        next(each for each in spans(name) if parent_of(each) == id_of(second)) for name in ("provision t", "stand")
    )
    assert second.start_time == provision.start_time
    assert provision.end_time == ready.start_time
    assert ready.end_time == second.end_time
    assert None not in (second.start_time, second.end_time)


def test_a_journal_with_and_without_a_trace_is_read() -> None:
    plain = Switched(train="t", old=1, new=2, pressure=1.0, because="full")
    before = encode_entry(Entry(1.0, "me", plain)).replace(b',"trace":""', b"")
    assert b"trace" not in before
    assert decode_entry(before) == Entry(1.0, "me", plain)


# --- hostile -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        GIVEN.upper(),
        GIVEN + "\n",
        GIVEN + " ",
        GIVEN + "-more",
        "ff" + GIVEN[2:],
        "00-" + "0" * 32 + GIVEN[35:],
        GIVEN[:36] + "0" * 16 + "-01",
        GIVEN[:-1],
        "00-" + "١" * 32 + GIVEN[35:],
        GIVEN * 40,
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-" + "x" * 8000,
        "\u202e" + GIVEN,
    ],
)
def test_a_malformed_context_counts_as_none(spans: Spans, parent: str, caplog: pytest.LogCaptureFixture) -> None:
    assert context_in({"traceparent": parent, "tracestate": "a=b"}) is None
    caplog.set_level(logging.DEBUG, logger="opentelemetry")

    async def main() -> None:
        world, train = World(), train_of()
        seen: list[str] = []

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            ctx.emit("mail", n)

        @train.on("mail")
        async def mail(n: int, ctx: Context) -> None:
            seen.append(ctx.event.extensions["traceparent"])

        async with world.running(train, observe=True) as c:
            await c.found()
            ingress = c.manifest.active
            assert ingress is not None
            await world.broker.publish(  # as another client writes it: no check of ours
                c.manifest.ingress(ingress),
                [Event("x", "t", "/s", 1.0, b"1", extensions={"traceparent": parent, "tracestate": "=,;" * 2000})],
            )
            await until(lambda: seen)
        assert context_in({"traceparent": seen[0]}) is not None

    run(main())
    [came] = spans("process", "t")
    assert parent_of(came) is None
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


@pytest.mark.parametrize(
    ("state", "read"),
    [
        ("a=b", "a=b"),
        (" a=b ,\tc=d,,", "a=b,c=d"),
        ("a=b,a=c", ""),
        ("a=b," * 40, ""),
        ("A=b", ""),
        ("a=b\x1b", ""),
        ("a=" + "x" * 600, ""),
        ("a", ""),
    ],
)
def test_a_state_that_can_not_be_read_is_left_out(state: str, read: str) -> None:
    found = context_in({"traceparent": GIVEN, "tracestate": state})
    assert found is not None
    assert (found.trace_state or TraceState()).to_header() == read
    assert context_as(found) == {"traceparent": GIVEN, "tracestate": read}


def test_an_event_without_room_is_published_without_a_context(spans: Spans) -> None:
    async def main() -> None:
        world, train = World(), train_of(max_event_bytes=2000)
        seen: list[Event] = []

        @train.on("t")
        async def handle(data: bytes, ctx: Context) -> None:
            seen.append(ctx.event)

        many = {f"x{n}": "" for n in range(MOST_EXTENSIONS)}
        async with world.running(train) as c:
            bare = Event("x", "t", "/s", 1.0, b"", content_type="application/octet-stream")
            await c.publish(Event("x", "t", "/s", 1.0, b"x" * (2000 - bare.size), content_type=bare.content_type))
            await until(lambda: seen)
        assert seen[0].size == 2000
        assert not seen[0].extensions
        train.settings = msgspec.structs.replace(train.settings, max_event_bytes=100_000)
        async with world.connect(train, redeclare=True) as c, c.running():
            await c.publish(Event("y", "t", "/s", 1.0, b"", content_type=bare.content_type, extensions=many))
            await until(lambda: len(seen) == 2)
        assert seen[1].extensions == many

    run(main())


def test_there_is_room_for_a_context_in_what_the_train_declares(spans: Spans) -> None:
    async def main() -> None:
        world = World()
        declares = train_of(max_event_bytes=2000)

        @declares.on("t")
        async def handle(data: bytes) -> None: ...

        async with world.connect(declares) as c:
            await c.found()
        async with world.connect(train_of(max_event_bytes=100_000)) as c:
            await c.publish(Event("x", "t", "/s", 1.0, b"x" * 1950))
            (event,) = [event async for event in c.broker.read(Channel("t", 1))]
        assert not event.extensions  # as it would be too large for the train with it

    run(main())


class Broken(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("on_start")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("on_end")


def test_broken_parts_of_the_program_s_tracing_hurt_no_event(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    spans.provider.add_span_processor(Broken())

    async def main() -> None:
        world, train = World(), train_of(limit=Volume(5))
        handled: list[int] = []

        @train.on("t")
        def handle(n: int) -> None:
            handled.append(n)

        async with world.running(train) as c:
            await c.publish_many(range(20))
            await until(lambda: sorted(handled) == list(range(20)))

    asyncio.run(main())
    told = [record for record in caplog.records if "tracing raised RuntimeError" in record.getMessage()]
    assert 1 <= len(told) <= 2


def test_what_is_not_sampled_is_passed_on_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    monkeypatch.setattr(spans_module, "get_tracer", provider.get_tracer)

    async def main() -> None:
        world, train = World(), train_of()
        seen: list[str] = []

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            seen.append(ctx.event.extensions["traceparent"])

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: seen)
            assert world.of(Switched)[0].trace == ""
        assert int(seen[0][-2:], 16) & 1 == 0

    run(main())


# --- when it is on -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": ""}, False),
        ({"OTEL_TRACES_EXPORTER": " , "}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console,none"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_SERVICE_NAME": "orders"}, False),
    ],
)
def test_the_environment_says_whether_traces_are_wanted(environment: Mapping[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted


def test_a_train_is_traced_once_if_the_environment_asks_for_it(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Train("t").around_handling == []
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    train = Train("t")

    @train.middleware
    async def own(ctx: Context, call_next: Callable[..., Any]) -> None:
        await call_next()

    tracing.trace(train)
    assert len(train.around_handling) == 2
    assert train.around_handling[1] is own
    assert len(train.around_publishing) == 1
