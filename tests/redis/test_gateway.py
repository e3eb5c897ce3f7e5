"""Consumers in other languages: `examples/consumer.mjs` and `consumer.go` beside a gateway that works for the train."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eventwagon import Train, Volume, Workers
from tests.servers.fixtures import missing
from tests.servers.install import Missing
from tests.servers.ports import free_port
from tests.servers.server import Server
from tests.support import until

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM = """\
from typing import Any
from eventwagon import Train, Volume, Workers

train = Train("orders", limit=Volume(200), workers=Workers(each=24), attempts=3, backoff=0.05, spares=1)


@train.on("orders")
def order(payload: Any) -> None: ...


@train.on("ship")
def ship(payload: dict[str, int]) -> None: ...
"""
ORDERS = 500


class NoLanguage(Missing):
    """A language's tools are not installed."""

    help = "install Node 20 and Go"


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/local/go/bin")
    if found is None:
        raise missing(NoLanguage(f"{name} is not on PATH"))
    return found


class Started:
    """A process that writes to a file."""

    def __init__(self, command: list[str], output: Path, directory: Path, environment: Mapping[str, str]) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=directory, env={**os.environ, **environment}
            )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def shipped(self) -> list[int]:
        return [int(number) for number in re.findall(r"^shipped (\d+)$", self.text, re.MULTILINE)]

    def end(self) -> int:
        """The exit code, after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


@contextmanager
def processes() -> Iterator[list[Started]]:
    started: list[Started] = []
    try:
        yield started
    finally:
        for each in started:
            each.process.kill()
            each.process.wait()


def declared(**settings: Any) -> Train:
    """The train of the program."""
    train = Train("orders", **settings)

    @train.on("orders")
    def order(payload: Any) -> None: ...

    @train.on("ship")
    def ship(payload: dict[str, int]) -> None: ...

    return train


@pytest.mark.slow
def test_consumers_in_node_and_go(redis_server: Server, tmp_path: Path) -> None:
    """500 orders and a poison; a consumer is killed with events in hand. Volume(200): they come through three wagons or
    more."""
    node, consumer = [tool("node"), str(EXAMPLES / "consumer.mjs")], str(tmp_path / "consumer")
    subprocess.run([tool("go"), "build", "-o", consumer, str(EXAMPLES / "consumer.go")], check=True, timeout=300)
    url = f"{redis_server.url}?prefix=far"
    (tmp_path / "app.py").write_text(PROGRAM)
    train = declared(limit=Volume(200), workers=Workers(each=24), attempts=3, backoff=0.05, spares=1)

    async def scenario(started: list[Started]) -> None:
        def start(name: str, command: list[str], **environment: str) -> Started:
            started.append(Started(command, tmp_path / name, tmp_path, environment))
            return started[-1]

        async with asyncio.timeout(180), train.connect(url, listeners=()) as c, c.running(work=False):
            gateway = start(
                "gateway",
                [sys.executable, "-m", "eventwagon", "gateway", "app:train", "--work", "--url", url, "--port", "0"],
                PYTHONPATH=os.pathsep.join(sys.path),
            )
            await until(lambda: "works for" in gateway.text, seconds=30)
            at = re.search(r"http://127\.0\.0\.1:\d+", gateway.text)
            assert at is not None
            far = {"GATEWAY": at[0], "EVENTWAGON_TRAIN": "orders", "LEASE": "2"}
            killed, go = start("node-1", node, **far), start("go", [consumer], **far)
            await c.publish("poison")
            await c.publish_many({"id": n} for n in range(ORDERS))
            await until(lambda: len(killed.shipped) > 20, seconds=60)
            killed.process.kill()
            other = start("node-2", node, **far)

            def shipped() -> Counter[int]:
                return Counter(n for each in (killed, go, other) for n in each.shipped)

            await until(lambda: len(shipped()) == ORDERS, seconds=90)
            assert set(shipped()) == set(range(ORDERS))
            assert shipped().total() <= ORDERS + 10  # what the killed one had in hand may come twice
            assert go.shipped
            assert other.shipped
            await c.wait_drained(2)
            dead = [letter async for letter in c.dead_letters()]
            assert [(d.data, d.extensions["deadattempts"]) for d in dead] == [(b'"poison"', "3")]
            assert "no order" in dead[0].extensions["deadbecause"]
            assert [each.end() for each in (go, other, gateway)] == [0, 0, 0], gateway.text

    with processes() as started:
        asyncio.run(scenario(started))


@pytest.mark.slow
@pytest.mark.parametrize("language", ["node", "go"])
def test_no_data_end_a_consumer(tmp_path: Path, language: str) -> None:
    """Reasons with emoji that are too long, at any place where they may be cut, and an emit that the gateway refuses:
    each of these events becomes a dead letter, and the consumer goes on. What it logs while the gateway is not there
    yet is one line."""
    if language == "node":
        command = [tool("node"), str(EXAMPLES / "consumer.mjs")]
    else:
        command = [str(tmp_path / "consumer")]
        subprocess.run([tool("go"), "build", "-o", *command, str(EXAMPLES / "consumer.go")], check=True, timeout=300)
    (tmp_path / "app.py").write_text(PROGRAM)
    url, port = f"sqlite:///{tmp_path}/trains", free_port()
    train = declared(limit=Volume(200), workers=Workers(each=24), attempts=3, backoff=0.05, spares=1)

    async def scenario(started: list[Started]) -> None:
        far = {"GATEWAY": f"http://127.0.0.1:{port}", "EVENTWAGON_TRAIN": "orders"}
        consumer = Started(command, tmp_path / "consumer.log", tmp_path, far)
        started.append(consumer)
        await until(lambda: "trying again" in consumer.text, seconds=30)
        words = ["gateway", "app:train", "--work", "--url", url, "--port", str(port), "--max-body", "8000"]
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        gateway = Started([sys.executable, "-m", "eventwagon", *words], tmp_path / "gateway", tmp_path, path)
        started.append(gateway)
        async with asyncio.timeout(100), train.connect(url, listeners=()) as c, c.running(work=False):
            bad = [{"id": "a" * n + "\N{GRINNING FACE}" * 3000} for n in (0, 1)] + [{"id": 1, "x" * 9000: 1}]
            await c.publish_many(bad)
            dead: list[str] = []
            while len(dead) < 3:
                dead = [letter.extensions["deadbecause"] async for letter in c.dead_letters()]
                await asyncio.sleep(0.1)
            assert sorted("no order" in each for each in dead) == [False, True, True]
            [refused] = [each for each in dead if "no order" not in each]
            assert "settle: 413" in refused
            await c.publish({"id": 7})
            await until(lambda: consumer.shipped == [7], seconds=30)
        assert consumer.text.count("trying again") == 1
        assert [each.end() for each in (consumer, gateway)] == [0, 0], consumer.text

    with processes() as started:
        asyncio.run(scenario(started))


@pytest.mark.slow
def test_a_gateway_and_a_consumer_for_each_wagon(tmp_path: Path) -> None:
    """`examples/serve.sh`, started by the command orchestrator, on SQLite: the first wagon fills up, is drained and
    removed, and the next one has a gateway and a consumer of its own."""
    url, node = f"sqlite:///{tmp_path}/trains", tool("node")
    program = PROGRAM.replace("Volume(200)", "Volume(20)").replace("each=24", "each=1").replace("spares=1", "spares=0")
    (tmp_path / "app.py").write_text(program)
    orchestrator = f"command:sh {EXAMPLES}/serve.sh app:train {node} {EXAMPLES}/consumer.mjs?ready=check-in&grace=40"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))

    async def scenario(started: list[Started]) -> None:
        observer = Started(
            ["eventwagon", "observe", "app:train", "--url", url, "--orchestrator", orchestrator],
            tmp_path / "observer",
            tmp_path,
            {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": path},
        )
        started.append(observer)
        train = declared(limit=Volume(20), workers=Workers(each=1), attempts=3, backoff=0.05, spares=0)
        async with asyncio.timeout(120), train.connect(url, listeners=()) as c:
            await c.publish_many({"id": n} for n in range(40))
            shipped = re.compile(r"shipped (\d+)$", re.MULTILINE)
            await until(lambda: len(set(shipped.findall(observer.text))) == 40, seconds=100, step=0.1)
            await c.wait_drained(1)
            await c.publish_many({"id": n} for n in range(40, 50))
            await until(lambda: len(set(shipped.findall(observer.text))) == 50, seconds=100, step=0.1)
            assert [letter async for letter in c.dead_letters()] == []
            assert observer.end() == 0, observer.text

    with processes() as started:
        asyncio.run(scenario(started))
