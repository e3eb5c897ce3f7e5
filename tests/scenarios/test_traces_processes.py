"""Traces across processes, as a real OTLP receiver gets them; and what is not there when they are off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.otlp import Receiver, receiving
from tests.scenarios.test_cli import cli, command, environment
from tests.servers.server import Server

PROGRAM = """
from eventwagon import Context, Train, Volume, Workers

train = Train("orders", limit=Volume(50), workers=Workers(each=2), spares=1)

@train.on("orders")
async def take(n: int, ctx: Context) -> None:
    ctx.emit("ship", n)

@train.on("ship")
def ship(n: int) -> None:
    pass
"""
EVENTS = 120
PRODUCER, CONSUMER = 4, 5


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def until(true: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_burst_on_sqlite_with_a_process_for_each_wagon(receiver: Receiver, tmp_path: Path) -> None:
    a_burst(receiver, tmp_path, "sqlite:///trains", "--isolate")


def test_a_burst_on_redis(receiver: Receiver, redis_server: Server, tmp_path: Path) -> None:
    a_burst(receiver, tmp_path, f"{redis_server.url}?prefix=traces")


def a_burst(receiver: Receiver, place: Path, url: str, *options: str) -> None:
    """One process publishes, others handle: each handling is the child of its publishing, across processes."""
    (place / "app.py").write_text(PROGRAM)
    variables = {**receiver.environment, "EVENTWAGON_URL": url}
    published = cli(
        place,
        "publish",
        "app:train",
        given="".join(f"{n}\n" for n in range(EVENTS)),
        OTEL_SERVICE_NAME="shop",
        **variables,
    )
    assert published.returncode == 0, published.stderr
    process = subprocess.Popen(
        command("run", "app:train", *options),
        cwd=place,
        env=environment(**variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: sum(each.name == "process orders" for each in receiver.spans) >= 2 * EVENTS)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, err

    spans = {each.span: each for each in receiver.spans}
    sends = [each for each in spans.values() if each.name == "send orders"]
    assert {(each.service, each.kind) for each in sends} == {("shop", PRODUCER)}
    assert sum(each.attributes.get("messaging.batch.message_count", 1) for each in sends) == EVENTS
    handled = [each for each in spans.values() if each.name == "process orders"]
    assert {(each.service, each.kind) for each in handled} == {("orders", CONSUMER)}
    by_channel = Counter(each.attributes["eventwagon.channel"] for each in handled)
    assert by_channel == {"orders": EVENTS, "ship": EVENTS}
    for each in handled:
        parent = spans[each.parent]
        assert (parent.name, parent.trace) == (
            "send orders" if each.attributes["eventwagon.channel"] == "orders" else "process orders",
            each.trace,
        )
        assert each.links == (each.parent,)
        assert each.attributes["messaging.destination.name"].startswith("orders_v")
    assert len({each.attributes["messaging.message.id"] for each in handled}) == 2 * EVENTS

    why = cli(place, "why", "orders", "--json", EVENTWAGON_URL=url)
    journal = [json.loads(line) for line in why.stdout.splitlines()]
    noted = {fact["trace"] for entry in journal if (fact := entry["fact"])["fact"] == "Switched"}
    assert noted == {each.trace for each in spans.values() if each.name == "switch orders"} != set()


MODULES = """
import asyncio, sys
from app import train

async def main() -> None:
    async with train.connect("memory://off") as c, c.running():
        await c.publish(1)
        await asyncio.sleep(0.2)

asyncio.run(main())
assert train.around_handling == train.around_publishing == []
print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "google", "requests")))
print(*sorted(name for name in sys.modules if name.startswith("eventwagon.tracing")))
"""


def test_off_nothing_is_imported_and_nothing_surrounds_the_handlers(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    done = subprocess.run([sys.executable, "-c", MODULES], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["", "eventwagon.tracing eventwagon.tracing.wanted"]


EXPORTING = """
import asyncio
from app import train
from eventwagon.tracing.exporting import exporting

async def main() -> None:
    async with train.connect("memory://wrong") as c:
        await c.publish(1)
    print("published")

with exporting("orders", to_flush=2.0):
    asyncio.run(main())
"""
MISSING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(
    ("program", "variables", "says"),
    [
        (MISSING, {"OTEL_TRACES_EXPORTER": "otlp"}, "pip install 'eventwagon[otel]'"),
        ("", {"OTEL_TRACES_EXPORTER": "zipkin"}, "no exporter zipkin is installed"),
        ("", {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}, "carrier-pigeon"),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, ""),  # nobody listens
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "soon"}, ""),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "max_queue_size"),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "no://\x1b[2Jurl"}, ""),
        (
            "",
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "dice", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"},
            "many",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_told_and_the_events_are_published(
    tmp_path: Path, program: str, variables: dict[str, str], says: str
) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program + EXPORTING],
        cwd=tmp_path,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "published\n"), done.stderr
    assert says in done.stderr
    assert done.stderr.count("asks for traces, which fails") == bool(says)
    assert time.monotonic() - began < 10


def test_the_command_goes_on_without_the_extra(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(MISSING + PROGRAM)
    done = cli(tmp_path, "publish", "app:train", given="1\n", OTEL_TRACES_EXPORTER="otlp")
    assert (done.returncode, done.stdout) == (0, "published 1 event to orders\n"), done.stderr
    assert done.stderr.count("pip install 'eventwagon[otel]'") == 1
