"""Logs as JSON: one object a line, with what is being handled."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from eventwagon import Context, Failed, JsonFormatter, Train, Volume, Workers, tracing
from eventwagon.cli.serve import is_json
from eventwagon.contracts.facts import EventRetried, Switched, WagonRemoved, log
from eventwagon.contracts.manifest import Wagon
from eventwagon.display.json_lines import passed_on
from eventwagon.tracing import spans
from tests.scenarios.test_cli import cli, command, environment
from tests.support import World, until

SECRET = "can" + "ary"


class Lines(logging.Handler):
    """What a handler with a JsonFormatter has written."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = io.StringIO()

    def emit(self, record: logging.LogRecord) -> None:
        self.stream.write(self.format(record) + "\n")

    @property
    def found(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().split("\n")[:-1]]

    def of(self, logger: str) -> list[dict[str, Any]]:
        return [line for line in self.found if line["logger"] == logger]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def record(message: object, *arguments: object, **further: Any) -> logging.LogRecord:
    made = logging.LogRecord("mine", logging.WARNING, "", 0, "", arguments, None)
    made.msg = message
    made.__dict__.update(further)
    return made


def written(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(made)
    assert text.isascii()
    assert text.isprintable()
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_program_s_own_lines_have_what_is_handled_in_threads_too(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(spans, "get_tracer", provider.get_tracer)
    mine = logging.getLogger("mine")

    async def main() -> None:
        world = World(clock=time.time)
        train = Train("t", limit=Volume(100), workers=Workers(each=2), revision="r1", backoff=0.01)
        tracing.trace(train)

        @train.on("t")
        def first(n: int, ctx: Context) -> None:
            mine.info("in a thread")
            if ctx.attempt == 1:
                raise ValueError
            ctx.emit("mail", n)

        @train.on("mail")
        async def mail(n: int) -> None:
            await asyncio.sleep(0)
            mine.warning("async")

        @train.on("many", batch=5, within=0.01)
        async def many(ns: list[int]) -> None:
            mine.info("batch")

        @train.on("last")
        async def last(n: int) -> None:
            pass

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: len(lines.of("mine")) == 3)
        mine.info("after")

    asyncio.run(main())
    first, again, mail, after = lines.of("mine")
    assert first == {
        "time": first["time"],
        "level": "INFO",
        "logger": "mine",
        "message": "in a thread",
        "train": "t",
        "wagon": "t_v1",
        "channel": "t",
        "event": first["event"],
        "attempt": 1,
        "revision": "r1",
        "trace_id": first["trace_id"],
        "span_id": first["span_id"],
    }
    assert (again["attempt"], again["event"]) == (2, first["event"])
    assert (mail["channel"], mail["level"]) == ("mail", "WARNING")
    [failed] = lines.of("eventwagon.worker")
    assert failed.pop("traceback").endswith("ValueError")
    told = {"time", "level", "logger", "message", "span_id"}
    assert {k: v for k, v in failed.items() if k not in told} == {k: v for k, v in first.items() if k not in told}
    assert first["trace_id"] == again["trace_id"] == mail["trace_id"]
    assert len({first["span_id"], again["span_id"], mail["span_id"]}) == 3
    assert after.keys() == {"time", "level", "logger", "message"}


def test_a_batch_has_the_ids_of_its_events(lines: Lines) -> None:
    async def main() -> None:
        world, train = World(clock=time.time), Train("t", limit=Volume(100), workers=Workers(each=1), backoff=0.01)

        @train.on("t", batch=2, within=1.0)
        async def many(ns: list[int]) -> None:
            logging.getLogger("mine").info("batch")
            if len(ns) == 2:
                raise ValueError
            if ns == [2] and len(lines.of("mine")) < 4:
                raise Failed({0: KeyError("of the second")})

        async with world.running(train) as c:
            ids = [await c.publish(1), await c.publish(2)]
            await until(lambda: len(lines.of("mine")) >= 3 and len(lines.of("eventwagon.worker")) == 2)
        mine, worker = lines.of("mine"), lines.of("eventwagon.worker")
        assert mine[0]["events"] == worker[0]["events"] == ids
        assert [each["event"] for each in worker[1:]] == ids[1:]
        assert "trace_id" not in mine[0]

    asyncio.run(main())


def test_without_a_formatter_in_use_nothing_surrounds_the_handlers() -> None:
    async def main() -> None:
        world, train = World(clock=time.time), Train("t", limit=Volume(100), workers=Workers(each=1))
        handled: list[int] = []

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        for _ in range(2):
            async with world.running(train) as c:
                await c.publish(1)
                await until(lambda: handled)
            assert train.around_handling == []
            assert train.handlers[""].is_plain
        JsonFormatter()
        for _ in range(2):
            async with world.running(train):
                await until(lambda: train.around_handling)
                assert len(train.around_handling) == 1

    asyncio.run(main())


def test_decisions_have_their_wagon(lines: Lines) -> None:
    logging.getLogger("eventwagon").setLevel(logging.DEBUG)
    try:
        log(Switched(train="t", old=1, new=2, pressure=1.0, because="full"))
        log(EventRetried(train="t", number=3, channel="", id="x", attempt=1, pause=1.0, because="away"))
        log(WagonRemoved(train="t", wagon=Wagon(number=1, opened_at=0.0), dead=0))
    finally:
        logging.getLogger("eventwagon").setLevel(logging.NOTSET)
    switched, retried, removed = lines.of("eventwagon")
    assert (switched["train"], switched["fact"], switched["wagon"]) == ("t", "Switched", "t_v2")
    assert (retried["wagon"], retried["channel"], retried["event"]) == ("t_v3", "t", "x")
    assert (removed["fact"], removed["wagon"]) == ("WagonRemoved", "t_v1")


class Bad:
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (record("two\nlines\x1b[2J \u202e \ud800 é"), "two\\nlines\\x1b[2J \\u202e \\ud800 é"),
        (record(f"redis://me:{SECRET}@host"), "redis://me:***@host"),
        (
            record("%s of %s", 1),
            "%s of %s (its arguments can't be written: TypeError: not enough arguments for format string)",
        ),
        (record("%s", Bad()), None),
        (record(Bad()), None),
        (record(7), "7"),
    ],
)
def test_no_message_breaks_a_line(made: logging.LogRecord, message: str | None) -> None:
    found = written(made)
    if message is not None:
        assert found["message"] == message
    assert found["time"].endswith("Z")


def test_a_traceback_is_one_field_without_secrets() -> None:
    try:
        raise ValueError(f"redis://me:{SECRET}@host\x1b[2J\nforged")
    except ValueError as e:
        found = written(record("it failed", exc_info=(type(e), e, e.__traceback__)))
    assert SECRET not in found["traceback"]
    assert "\x1b" not in found["traceback"]
    assert found["traceback"].splitlines()[0] == "Traceback (most recent call last):"
    try:
        raise type("Odd", (Exception,), {"__str__": lambda self: 1 / 0})
    except Exception as e:  # noqa: BLE001 - any
        found = written(record("x", exc_info=(type(e), e, e.__traceback__)))
    assert "Odd" in found["traceback"]
    assert written(record("x", exc_text="a\nb", stack_info="c"))["traceback"] == "a\nb\nc"


def test_further_fields_that_are_not_ours_change_nothing() -> None:
    assert written(record("x", eventwagon="mine")).keys() == {"time", "level", "logger", "message"}
    assert written(record("x", eventwagon={"wagon": float("nan"), "fact": Bad()}))["wagon"] == "nan"


class Lies:
    """Says that it is of another class."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, "kind" if name == "__class__" else name)


class Text(str):
    """Text whose methods do as they like."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError(SECRET)

    __hash__ = str.__hash__


class Says:
    def __str__(self) -> str:
        return Text("two\nlines")


ITSELF: list[Any] = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    "value",
    [*map(Lies, (int, float, str, list)), Text("two\nlines"), Says(), 10**5000, ITSELF],
    ids=["int", "float", "str", "list", "subclass", "its text", "huge", "endless"],
)
def test_an_object_that_lies_costs_no_line(value: object) -> None:
    for made in (
        record("%s", value),
        record("x", name=value),
        record("x", exc_text=value),
        record("x", stack_info=value),
        record("x", eventwagon={"wagon": value}),
        record("x", eventwagon={Says(): 1}),
    ):
        assert written(made)["level"] == "WARNING"


@pytest.mark.parametrize("created", [float("nan"), 1e300])
def test_a_time_outside_the_calendar_costs_no_line(created: float) -> None:
    assert written(record("x", created=created))["time"] == str(created)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "plain \x1b[2J",
        "{",
        "[1]",
        "7",
        '{"message": 7}',
        '{"a":' * 5000,
        "[" * 100_000,
        '{"message": NaN}',
        "9" * 5000,
    ],
)
def test_what_a_wagon_s_process_prints_is_a_message(line: str) -> None:
    found = json.loads(passed_on(line, "t_v1"))
    assert (found["logger"], found["wagon"]) == ("eventwagon.output", "t_v1")


def test_the_lines_of_a_wagon_s_process_stay_what_they_are() -> None:
    line = JsonFormatter().format(record("hello"))
    assert json.loads(passed_on(line, "t_v1")) == {"wagon": "t_v1", **json.loads(line)}
    deep = '{"message": "m", "x": ' + "[" * 400 + "]" * 400 + "}"
    assert json.loads(passed_on(deep, "t_v1"))["message"] == "m"


# --- the command line --------------------------------------------------------------------------

PROGRAM = """
import logging
from eventwagon import Context, Train, Volume, Workers

train = Train("orders", limit=Volume(1000), workers=Workers(each=2))

@train.on("orders")
def take(text: str) -> None:
    print(f"printed {text}\\n", end="")  # in one piece: two threads print
    logging.getLogger("mine").warning("taken: %s", text)
    if text == "bad":
        raise ValueError("it is bad")
"""


async def publish(place: Path) -> None:
    async with Train("orders").connect(f"sqlite:///{place}/trains") as c:
        await c.publish_many(["good", "bad"])


def ran(place: Path, *options: str, program: str = PROGRAM, **variables: str) -> list[str]:
    """What a run that handles two events writes to stderr, and in JSON what it prints in its wagons' processes."""
    (place / "app.py").write_text(program)
    asyncio.run(publish(place))
    with (place / "err").open("w") as err:
        process = subprocess.Popen(
            command("run", "app:train", *options),
            cwd=place,
            env=environment(**variables),
            stderr=err,
            stdout=subprocess.DEVNULL,
        )
    try:
        deadline = time.monotonic() + 90
        while (text := (place / "err").read_text()).count("taken: ") < 2:
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    return (place / "err").read_text().splitlines()


@pytest.mark.parametrize("isolate", [False, True])
def test_run_logs_json(tmp_path: Path, isolate: bool) -> None:
    options = ("--isolate",) if isolate else ()
    found = [json.loads(line) for line in ran(tmp_path, "--log-format", "json", *options)]
    assert all({"time", "level", "logger", "message"} <= each.keys() for each in found)
    mine = [each for each in found if each["logger"] == "mine"]
    assert {each["message"] for each in mine} >= {"taken: good", "taken: bad"}
    assert all(each["wagon"] == "orders_v1" and each["event"] for each in mine)
    [failed] = [each for each in found if each["logger"] == "eventwagon.worker" and "traceback" in each]
    assert "ValueError: it is bad" in failed["traceback"]
    assert any("fact" in each for each in found)
    if isolate:
        assert {each["message"] for each in found if each["logger"] == "eventwagon.output"} >= {"printed good"}


def test_the_environment_may_ask_for_it_and_a_program_s_own_logging_stays(tmp_path: Path) -> None:
    own = "import logging\nlogging.basicConfig(level='INFO', format='OWN %(message)s')\n" + PROGRAM
    found = ran(tmp_path, program=own, EVENTWAGON_LOG_FORMAT="JSON")
    assert all(line.startswith("OWN ") for line in found if "taken" in line)
    assert sum("the program has set up logging itself" in line for line in found) == 1


@pytest.mark.parametrize(("text", "found"), [("json", True), (" JSON", True), ("text", False), ("", False)])
def test_the_formats(text: str, found: bool) -> None:
    assert is_json(text) is found


def test_another_format_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise RuntimeError('loaded')")
    done = cli(tmp_path, "run", "app:train", "--log-format", "xml")
    assert done.returncode == 2
    assert "give text or json" in done.stderr
