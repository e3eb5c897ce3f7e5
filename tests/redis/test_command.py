"""Wagons whose consumers are no Python: `examples/consumer.sh`, sh and redis-cli, started by the command
orchestrator."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from eventwagon import Connection, Train, Volume, Workers
from eventwagon.contracts.broker import Named
from eventwagon.event import Channel
from eventwagon.orchestrators.processes.command import Command, Line
from tests.servers.server import Server
from tests.support import until

CONSUMER = Path(__file__).parents[2] / "examples" / "consumer.sh"
HANDLER = """
read -r payload
if [ "$payload" = '"poison"' ]; then exit 1; fi
sleep 0.1
echo "$EVENTWAGON_WAGON $PPID $payload" >> "$HANDLED"
"""


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli: it comes with redis-server")
@pytest.mark.slow
def test_a_foreign_consumer_drains_its_wagons_and_what_was_accepted_was_handled(
    redis_server: Server, tmp_path: Path
) -> None:
    """Volume(30), 80 events and a poison: wagons 1 and 2 fill up, drain and go; one consumer is killed with an event in
    hand."""
    url = f"{redis_server.url}?prefix=foreign"
    handled = tmp_path / "handled"
    train = Train("foreign", limit=Volume(30), workers=Workers(each=2), spares=1, keep_drained=0.5)

    @train.on("foreign")
    def declared(payload: str) -> None:
        raise AssertionError("it is handled elsewhere")

    def lines() -> list[list[str]]:
        return [line.split(maxsplit=2) for line in handled.read_text().splitlines()] if handled.exists() else []

    async def scenario() -> None:
        connection = train.connect(url, listeners=())
        assert isinstance(connection.broker, Named)
        orchestrator = Command(
            ["sh", str(CONSUMER), "sh", "-c", HANDLER],
            url=url,
            ready=Line("serving foreign:"),
            names=connection.broker.name_of,
            environment={"HANDLED": str(handled), "VISIBLE_MS": "1000"},
            directory=tmp_path / "processes",
            grace=5.0,
        )
        connection = train.connect(url, orchestrator=orchestrator, listeners=())
        async with asyncio.timeout(120), connection, connection.running():
            await connection.publish("poison")
            assert await connection.publish_many(f"event {n}" for n in range(80)) == 80
            await until(lambda: len(lines()) >= 5, seconds=30)
            os.kill(int(lines()[-1][1]), signal.SIGKILL)
            await connection.wait_drained(2)
            await until(lambda: len({payload for _, _, payload in lines()}) == 80, seconds=30)
            await no_more_than(connection, 3)
            dead = [letter async for letter in connection.dead_letters()]
            assert [(d.data, d.extensions["deadwagon"], d.extensions["deadattempts"]) for d in dead] == [
                (b'"poison"', "1", "5")
            ]
            assert [c for c in await connection.broker.channels("foreign") if c.wagon in (1, 2)] == []

    asyncio.run(scenario())
    times = Counter(json.loads(payload) for _, _, payload in lines())
    assert set(times) == {f"event {n}" for n in range(80)}
    assert sum(times.values()) <= 82  # the one that was in hand of the killed consumer, and its copy's
    assert {wagon for wagon, _, _ in lines()} == {"1", "2", "3"}
    assert list((tmp_path / "processes").iterdir()) == []


async def no_more_than(connection: Connection, number: int) -> None:
    """All of that wagon's events are settled."""
    while True:
        depth = (await connection.broker.depth([Channel(connection.train.name, number)]))[0]
        if depth.published == depth.settled:
            return
        await asyncio.sleep(0.05)
