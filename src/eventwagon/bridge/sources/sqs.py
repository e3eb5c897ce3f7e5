"""An SQS queue. It has no groups and no positions: who receives a message hides it from others for a while, and deletes
it when it is done."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

from ...contracts.address import Address
from ...drivers.aws.clients import TROUBLE, Clients
from ...drivers.aws.errors import GONE, AWSRefused, explain
from ...drivers.aws.place import Place
from ...errors import EventwagonError, Unavailable, UsageError
from ...event import check_word
from ..source import Begin, Lag, Record

_ATONCE = 10
"""Messages of one request: SQS takes no more."""
_CALLS = 8
"""Requests at a time."""
_LONGEST = 20
"""Seconds that SQS lets a request wait."""


def open_sqs(address: Address, begin: Begin) -> SQSQueue:
    """The source of `sqs://region/queue?visibility=60`. Raises UsageError."""
    address.only("visibility", "endpoint")
    queue = address.path.strip("/")
    if not queue or "/" in queue:
        raise address.wrong("name the queue: sqs://eu-west-1/QUEUE")
    if "@" in address.host:
        raise address.wrong("no keys in the URL; AWS credentials come from the environment, a profile or a role")
    if begin is not None:
        raise address.wrong("a queue has no positions: leave --from out; what is in the queue is read")
    endpoint = address.http("endpoint", "", example="http://127.0.0.1:5000") or None
    return SQSQueue(
        Clients(Place(region=address.host or None, endpoint=endpoint), clock=address.clock),
        queue,
        name=check_word("source", f"sqs://{address.host}/{queue}"),
        visibility=address.whole("visibility", 60, least=2, most=43_200),
        clock=address.clock,
    )


class SQSQueue:
    """Receives, and hides what it holds again in good time. What a dead bridge held is visible again after `visibility`
    seconds."""

    def __init__(self, clients: Clients, queue: str, *, name: str, visibility: int, clock: Callable[[], float]) -> None:
        self.name = name
        self._clients, self._queue, self._visibility, self._clock = clients, queue, visibility, clock
        self._url = ""
        self._held: dict[str, tuple[str, float]] = {}
        """The messages that were read and not committed, by their ids: their receipts, and when they were sent."""
        self._hiding: asyncio.Task[None] | None = None
        self._was_full = False

    async def __aenter__(self) -> Self:
        await self._clients.__aenter__()
        try:
            self._url = (await self._call("get_queue_url", "connecting", QueueName=self._queue))["QueueUrl"]
        except BaseException:
            await self._clients.__aexit__()
            raise
        self._hiding = asyncio.create_task(self._hide_again())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._hiding is not None:
            self._hiding.cancel()
            await asyncio.wait([self._hiding])
        with suppress(EventwagonError):  # else they are visible when their time is over
            await self._change(list(self._held), 0)
        self._held.clear()
        await self._clients.__aexit__()

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """See Source. A message that comes again although it is held (SQS may do that) is passed over."""
        calls = min(_CALLS, math.ceil(limit / _ATONCE)) if self._was_full else 1
        sizes = [min(_ATONCE, limit - _ATONCE * n) for n in range(calls)]
        seconds = min(_LONGEST, max(1, int(wait)))  # SQS waits for whole seconds; without waiting each look costs
        answers = await asyncio.gather(*(self._receive(size, seconds) for size in sizes), return_exceptions=True)
        failed = [each for each in answers if isinstance(each, BaseException)]
        found = [message for each in answers if not isinstance(each, BaseException) for message in each]
        if failed and not found:
            raise failed[0]
        self._was_full = len(found) == sum(sizes)
        records = []
        for message in found:
            known = message["MessageId"] in self._held
            record = self._record(message)
            self._held[message["MessageId"]] = (message["ReceiptHandle"], record.time)
            if not known:
                records.append(record)
        return records

    async def _receive(self, number: int, seconds: int) -> Sequence[dict[str, Any]]:
        answer = await self._call(
            "receive_message",
            "receiving",
            QueueUrl=self._url,
            MaxNumberOfMessages=number,
            WaitTimeSeconds=seconds,
            VisibilityTimeout=self._visibility,
            MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
            MessageAttributeNames=["All"],
        )
        found: Sequence[dict[str, Any]] = answer.get("Messages", ())
        return found

    async def commit(self, records: Sequence[Record]) -> None:
        """See Source."""
        names = [record.token for record in records if record.token in self._held]
        await self._in_parts(names, self._delete)

    async def _delete(self, names: Sequence[str]) -> None:
        entries = [{"Id": str(n), "ReceiptHandle": self._held[name][0]} for n, name in enumerate(names)]
        answer = await self._call("delete_message_batch", "deleting", QueueUrl=self._url, Entries=entries)
        failed = {int(each["Id"]): each for each in answer.get("Failed", ())}
        for n, name in enumerate(names):
            if n not in failed or failed[n].get("SenderFault"):  # with an old receipt: somebody else has it
                self._held.pop(name, None)
        if again := [each for each in failed.values() if not each.get("SenderFault")]:
            raise Unavailable(f"{self.name}: deleting {len(again)} messages: {again[0].get('Message', '')}")

    async def peek(self, limit: int) -> Sequence[Record]:
        """See Source. Raises UsageError."""
        raise UsageError(
            f"{self.name}: SQS can't show messages without receiving them, which counts toward maxReceiveCount; try "
            "the mapping on a file of JSON Lines instead: eventwagon bridge - TRAIN --dry-run 10"
        )

    async def lag(self) -> Lag:
        """See Source. The number is SQS's approximation, which may be off for about a minute."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = await self._call("get_queue_attributes", "counting", QueueUrl=self._url, AttributeNames=names)
        number = sum(int(answer["Attributes"].get(name, 0)) for name in names)
        oldest = min((sent for _, sent in self._held.values()), default=None)
        if oldest is not None:
            return Lag(records=number, seconds=max(0.0, self._clock() - oldest))
        return Lag(records=number, seconds=None if number else 0.0)

    async def _hide_again(self) -> None:
        while True:
            await asyncio.sleep(self._visibility / 3)
            with suppress(EventwagonError):  # `read` and `commit` tell of it
                await self._change(list(self._held), self._visibility)

    async def _change(self, names: Sequence[str], seconds: int) -> None:
        async def change(some: Sequence[str]) -> None:
            entries = [
                {"Id": str(n), "ReceiptHandle": self._held[name][0], "VisibilityTimeout": seconds}
                for n, name in enumerate(some)
                if name in self._held
            ]
            if entries:
                await self._call("change_message_visibility_batch", "hiding", QueueUrl=self._url, Entries=entries)

        await self._in_parts(names, change)

    async def _in_parts(self, names: Sequence[str], call: Callable[[Sequence[str]], Any]) -> None:
        """By requests of ten, several at a time. Raises the first error, when all have ended."""
        parts = [names[n : n + _ATONCE] for n in range(0, len(names), _ATONCE)]
        for n in range(0, len(parts), _CALLS):
            outcomes = await asyncio.gather(*(call(each) for each in parts[n : n + _CALLS]), return_exceptions=True)
            for each in outcomes:
                if isinstance(each, BaseException):
                    raise each

    async def _call(self, operation: str, what: str, **given: Any) -> dict[str, Any]:
        try:
            return await self._clients.call("sqs", operation, **given)
        except TROUBLE as e:
            if isinstance(e, AWSRefused) and e.code in GONE:
                error = f"{self.name}: there is no queue {self._queue}"
                raise (Unavailable(error) if self._url else UsageError(error)) from None
            raise explain(e, f"{what} (queue {self._queue})", self._clients.place) from e

    def _record(self, message: dict[str, Any]) -> Record:
        system = message.get("Attributes", {})
        headers = [
            (name, value.get("StringValue", value.get("BinaryValue")))
            for name, value in message.get("MessageAttributes", {}).items()
        ]
        sent = system.get("SentTimestamp")
        return Record(
            position=f"sqs/{self._queue}/{message['MessageId']}",
            value=message.get("Body", "").encode(),
            headers=headers,
            key=system.get("MessageGroupId", "").encode() or None,
            time=self._clock() if sent is None else int(sent) / 1000,
            token=message["MessageId"],
        )
