"""Which topics there are, with how many partitions: the table in docs/brokers/kafka.md has them all."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from eventwagon import Budget, Context, Train, Volume
from eventwagon.runtime.probe import probe
from tests import doctors
from tests.kafka.support import new_channel
from tests.servers.kafka import KafkaServer
from tests.support import until

DOCUMENT = Path(__file__).parents[2] / "docs" / "brokers" / "kafka.md"
PARTITIONS = 3


def documented() -> dict[str, int]:
    """The number of partitions of each topic in the table, of the train `signups`."""
    section = DOCUMENT.read_text().partition("\n## Topics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \| (`partitions`|\d) \| ", section, re.MULTILINE)
    return {
        name: PARTITIONS if number == "`partitions`" else int(number)
        for names, number in rows
        for name in re.findall(r"`([^`]+)`", names)
    }


def test_the_table_has_all_topics(kafka_server: KafkaServer, tmp_path: Path) -> None:
    prefix = f"topics{new_channel().train}."
    client = AdminClient({"bootstrap.servers": kafka_server.bootstrap})
    found: dict[str, int] = {}

    def look() -> None:
        every = client.list_topics(timeout=10).topics
        found.update({n.removeprefix(prefix): len(t.partitions) for n, t in every.items() if n.startswith(prefix)})

    async def main() -> None:
        url = f"{kafka_server.url}?partitions={PARTITIONS}&topic_prefix={prefix}"
        train = Train(
            "signups", limit=Volume(2), attempts=1, ledger=f"sqlite://{tmp_path}/ledger", archive=f"file://{tmp_path}"
        )
        mailed = list[int]()

        @train.on("signups", budget=Budget("database", concurrency=4))
        async def register(n: int, ctx: Context) -> None:
            await ctx.emit("welcome_email", n)

        @train.on("welcome_email")
        async def welcome(n: int) -> None:
            mailed.append(n)
            if n == 1:
                raise ValueError(n)

        async with train.connect(url, listeners=()) as connection, asyncio.timeout(100):
            async with connection.running():
                await connection.publish(9, at=time.time() + 3600)
                await connection.publish_many([1, 2])
                await until(lambda: len(mailed) == 2, seconds=30)
                look()
                probing = asyncio.create_task(probe(connection.broker, "signups", 1))
                while not probing.done():
                    await asyncio.to_thread(look)
                while (await connection.refresh()).manifest.wagon(1):
                    await connection.publish(3)
                    await asyncio.sleep(0.2)
                look()
            await connection.remove(force=True)
            look()

    asyncio.run(main())
    left = [name for name in client.list_topics(timeout=10).topics if name.startswith(prefix)]
    for gone in client.delete_topics(left).values():
        gone.result(10)
    of_first = {name: n for name, n in found.items() if not re.search(r"_v([2-9]|\d\d)", name)}
    assert of_first == documented()


def test_who_is_told_another_number_than_the_wagon_has(
    kafka_server: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Only who opens a wagon decides: a worker that is told otherwise says so, once, and so does `doctor`."""

    async def main() -> None:
        train = Train(new_channel().train, limit=Volume(10))
        handled = list[int]()

        @train.on(train.name)
        async def handle(n: int) -> None:
            handled.append(n)

        # of many trains the doctor names three: here it finds no other
        alone = f"{kafka_server.url}?topic_prefix={new_channel().train}."
        url = f"{alone}&partitions=4"
        async with train.connect(alone, listeners=()) as founder:
            await founder.publish(1)
            async with train.connect(url, listeners=()) as worker, worker.running(observe=False):
                await until(lambda: handled == [1], seconds=30)
            told = [r.getMessage() for r in caplog.records if "partitions=4" in r.getMessage()]
            assert len(told) == 1
            assert f"channel {train.name}_v1 has 1 partition" in told[0]
            found = (await doctors.examined(url))["broker"].findings
            assert [f.severity for f in found if f.what.startswith("partitions=4")] == [
                "fine"
            ]  # the channel that it tries
            (other,) = (f for f in found if f.what.startswith("partitions=1") and train.name in f.what)
            assert other.severity == "costs"
            assert not [f for f in (await doctors.examined(alone))["broker"].findings if "=4" in f.what]
            await founder.remove(force=True)

    asyncio.run(main())
