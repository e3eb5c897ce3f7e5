"""What the tests on moto need: channels, events, and answers that moto does not give."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from random import Random
from secrets import token_hex
from typing import Any

from aiobotocore.awsrequest import AioAWSResponse  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from eventwagon.drivers.aws.broker import SQSBroker
from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.errors import AWSRefused
from eventwagon.drivers.aws.queues import Queues
from eventwagon.drivers.aws.rows import Rows
from eventwagon.event import Channel, Event, new_ids

QUICK: dict[str, Any] = {"lease": 1.0, "keep_drained": 1.0, "observe_every": 0.5, "member_ttl": 3.0, "visibility": 5.0}
"""Settings of a train whose tests should not take long."""


def a_channel(name: str = "") -> Channel:
    return Channel(f"test_{token_hex(5)}", 1, name)


def events(count: int, data: bytes = b"1") -> list[Event]:
    now = time.time()
    return [Event(id=new, type="t", source="s", time=now, data=data) for new in new_ids(count, now)]


def refused(code: str, status: int = 400) -> AWSRefused:
    """An error as AWS answers it."""
    said = {"Error": {"Code": code, "Message": "made up by the test"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return AWSRefused(ClientError(said, "Test"))


def clients_of(driver: Any) -> Clients:
    """The clients of a driver or an orchestrator: the one place where tests take them, to meddle with their answers and
    to ask the emulator with the driver's rights."""
    found: Clients = driver._clients  # noqa: SLF001 - here alone
    return found


def rows_of(broker: SQSBroker) -> Rows:
    """The rows of the broker's table, without what the broker remembers of them."""
    return Rows(broker.table, broker.place)


def queues_of(broker: SQSBroker) -> Queues:
    """The broker's queues, without what the broker remembers of them."""
    return Queues(clients_of(broker))


class Between:
    """Stands between a driver and its client, and gives in some calls an answer that moto would not: what AWS
    throttles, loses or takes in part. `meddle(operation, request, ask)` answers instead; `ask` asks moto."""

    def __init__(self, clients: Clients, meddle: Callable[[str, dict[str, Any], Callable[[], Any]], Any]) -> None:
        self._real = clients.call
        self._meddle = meddle
        clients.call = self._call  # type: ignore[method-assign]

    async def _call(self, service: str, operation: str, /, **given: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._meddle(operation, given, lambda: self._real(service, operation, **given))
        return answer


def throttle(clients: Clients, share: float, rng: Random) -> Counter[str]:
    """That share of the requests of this driver's clients, each try counted, gets AWS's word for: not so fast. Counts
    them by operation."""
    told: Counter[str] = Counter()

    def refuse(request: Any, event_name: str, **_: Any) -> AioAWSResponse | None:
        if rng.random() >= share:
            return None
        told[event_name.rpartition(".")[2]] += 1
        body = b'{"__type": "ThrottlingException", "message": "made up by the test"}'
        headers = {"x-amzn-errortype": "ThrottlingException", "content-type": "application/json"}
        return AioAWSResponse(request.url, 400, headers, _Raw(body))

    clients.on_open = lambda client: client.meta.events.register("before-send", refuse)
    return told


class _Raw:
    """A body as the client's library reads it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def read(self) -> bytes:
        return self._body
