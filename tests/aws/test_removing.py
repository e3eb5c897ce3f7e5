"""A removed train leaves no queue and no item in the table."""

from __future__ import annotations

import asyncio
from secrets import token_hex

from eventwagon.drivers.aws import SQSBroker
from tests.aws.support import QUICK, clients_of
from tests.removed import lives_and_is_removed
from tests.servers.moto import MotoServer


def test_a_removed_train_leaves_no_queue_and_no_item(moto_server: MotoServer) -> None:
    name = f"parcels_{token_hex(4)}"
    url = f"{moto_server.url}&resend=3&poll=0.3"

    async def left() -> list[str]:
        async with SQSBroker.from_url(url) as broker:
            call = clients_of(broker).call
            queues = (await call("sqs", "list_queues")).get("QueueUrls", [])
            found = [queue for queue in queues if name in queue]
            items = (await call("dynamodb", "scan", TableName=broker.place.table, ConsistentRead=True))["Items"]
            return found + [str(item) for item in items if name in f"{item['pk']}{item['sk']}"]

    asyncio.run(lives_and_is_removed(name, url, left, **QUICK))
