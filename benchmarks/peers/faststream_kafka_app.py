# mypy: ignore-errors
"""FastStream on a Kafka topic with a consumer group (aiokafka). Worker: `faststream run …:app`."""

import asyncio
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError
from faststream import FastStream
from faststream.kafka import KafkaBroker

from .common import CONCURRENCY, SLEEP, URL, handled

SERVERS = URL.removeprefix("kafka://")
broker = KafkaBroker(SERVERS)
app = FastStream(broker)


@app.on_startup
async def make_topic() -> None:
    """The server makes none by itself."""
    admin = AIOKafkaAdminClient(bootstrap_servers=SERVERS)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("peers", 1, 1)])
    except TopicAlreadyExistsError:
        pass
    finally:
        await admin.close()


@broker.subscriber("peers", group_id="peers", auto_offset_reset="earliest", max_workers=CONCURRENCY)
async def handle(order: dict) -> None:
    if SLEEP:
        await asyncio.sleep(SLEEP)
    handled(order["number"])


@asynccontextmanager
async def sender():
    await make_topic()
    await broker.connect()
    try:
        yield lambda order: broker.publish(order, topic="peers")
    finally:
        await broker.stop()
