"""SQS queues: created, written to and received from, in batches of ten, several calls at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from ...errors import StorageBroken
from ...event import Channel
from .clients import Clients
from .errors import AWSRefused
from .wire import MARK, Letter

_BATCH, _BATCH_BYTES = 10, 240_000  # SQS takes 10 messages and 256 KiB in a call, attributes included
_AT_ONCE = 16
_TRIES = 5
_RETENTION = "1209600"  # 14 days, the maximum: what is lost after that is sent again from its row
_KNOWN = 4096
LONGEST = 43_200
"""The longest, in seconds, that a message can stay invisible: 12 hours."""

Entry = dict[str, Any]


class NotTaken(Exception):
    """SQS refused some entries of a batch, after a few retries."""


class Queues:
    """The queues at one place. Methods raise one of TROUBLE; it is `AWSRefused.gone` if there is no queue."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._place = clients.place
        self._urls: dict[Channel, str] = {}
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def create(self, channel: Channel) -> None:
        """Create the queue; idempotent; returns when it answers. Raises StorageBroken if the queue belongs to somebody
        else."""
        name = self._place.queue(channel)
        try:
            await self._whose(channel)
        except AWSRefused as e:
            if not e.gone:
                raise
            await self._make(channel, name)
        for attempt in range(10):  # AWS says that a new queue may take a second
            try:
                await self.in_sight(channel)
                return
            except AWSRefused as e:
                if not e.gone or attempt == 9:
                    raise
            await asyncio.sleep(0.3)

    async def _make(self, channel: Channel, name: str) -> None:
        try:
            answer = await self._call(
                "create_queue",
                QueueName=name,
                Attributes={"MessageRetentionPeriod": _RETENTION},
                tags={**self._place.tags(channel.train), "eventwagon-wagon": str(channel.wagon)},
            )
        except AWSRefused as e:
            if e.code not in ("QueueAlreadyExists", "QueueNameExists"):  # another was first, and has changed it since
                raise
            await self._whose(channel)
        else:
            self._know(channel, answer["QueueUrl"])

    async def _whose(self, channel: Channel) -> None:
        """Raise StorageBroken unless the existing queue belongs to this channel."""
        if whose := await self._stranger(channel):
            name = self._place.queue(channel)
            self.forget(channel)
            raise StorageBroken(f"channel {channel}: queue {name} {whose}; choose another prefix or train name")

    async def _stranger(self, channel: Channel) -> str:
        answer = await self._call("list_queue_tags", QueueUrl=await self.url(channel))
        return self._place.stranger(answer.get("Tags", {}), channel.train)

    async def delete(self, channel: Channel) -> None:
        """An absent queue is no error; somebody else's queue is not touched."""
        try:
            if not await self._stranger(channel):
                await self._call("delete_queue", QueueUrl=await self.url(channel))
        except AWSRefused as e:
            if not e.gone:
                raise
        self.forget(channel)

    async def url(self, channel: Channel) -> str:
        """The queue's URL."""
        found = self._urls.get(channel)
        if found is None:
            answer = await self._call("get_queue_url", QueueName=self._place.queue(channel))
            found = str(answer["QueueUrl"])
            self._know(channel, found)
        return found

    def forget(self, channel: Channel) -> None:
        """Forget the queue's URL: the queue may be gone."""
        self._urls.pop(channel, None)

    def _know(self, channel: Channel, url: str) -> None:
        self._urls[channel] = url
        while len(self._urls) > _KNOWN:
            del self._urls[next(iter(self._urls))]

    async def in_sight(self, channel: Channel) -> int:
        """The approximate number of its messages: waiting, delayed and in flight."""
        names = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesDelayed",
            "ApproximateNumberOfMessagesNotVisible",
        ]
        answer = await self._call("get_queue_attributes", QueueUrl=await self.url(channel), AttributeNames=names)
        return sum(int(answer.get("Attributes", {}).get(name, 0)) for name in names)

    async def send(self, channel: Channel, letters: Sequence[Letter]) -> None:
        """Send all of them. Raises NotTaken."""
        url = await self.url(channel)

        async def one(entries: Sequence[Entry]) -> None:
            await self._batch("send_message_batch", url, entries)

        await together(one, batches(_entry(letter) for letter in letters))

    async def receive(self, channel: Channel, limit: int, wait: int, visibility: int) -> list[dict[str, Any]]:
        """Up to ten messages; waits up to `wait` s for the first."""
        url = await self.url(channel)
        answer = await self._clients.call(
            "sqs",
            "receive_message",
            QueueUrl=url,
            MaxNumberOfMessages=min(10, limit),
            WaitTimeSeconds=wait,
            VisibilityTimeout=visibility,
            MessageAttributeNames=["contentType", MARK],
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
        )
        return list(answer.get("Messages", []))

    async def remove(self, channel: Channel, receipts: Iterable[str]) -> None:
        """Delete messages. Raises NotTaken."""
        url = await self.url(channel)

        async def one(entries: Sequence[Entry]) -> None:
            await self._batch("delete_message_batch", url, entries)

        await together(one, batches({"ReceiptHandle": receipt} for receipt in receipts))

    async def show(self, channel: Channel, receipts: Iterable[str], seconds: int) -> None:
        """Make them invisible for this many seconds from now; messages whose claim has expired are left alone."""
        url = await self.url(channel)

        async def one(entries: Sequence[Entry]) -> None:
            await self._batch("change_message_visibility_batch", url, entries, lenient=True)

        await together(one, batches({"ReceiptHandle": receipt, "VisibilityTimeout": seconds} for receipt in receipts))

    async def _batch(self, operation: str, url: str, entries: Sequence[Entry], *, lenient: bool = False) -> None:
        """One call, repeated for the entries that it refused. `lenient`: ignore refusals that are the sender's
        fault."""
        left = {str(number): entry for number, entry in enumerate(entries)}
        said = ""
        for attempt in range(_TRIES):
            numbered = [{"Id": number, **entry} for number, entry in left.items()]
            answer = await self._call(operation, QueueUrl=url, Entries=numbered)
            failed = answer.get("Failed", [])
            faults = [each for each in failed if each.get("SenderFault")]
            if faults and not lenient:
                raise NotTaken(f"{operation}: {faults[0].get('Code')}: {faults[0].get('Message', '')}")
            again = {each["Id"] for each in failed if not each.get("SenderFault")}
            left = {number: entry for number, entry in left.items() if number in again}
            if not left:
                return
            said = f"{failed[0].get('Code')}: {failed[0].get('Message', '')}"
            await asyncio.sleep(0.05 * 2**attempt)
        raise NotTaken(f"{operation}: {len(left)} of {len(entries)} entries were not taken ({said})")

    async def _call(self, operation: str, **given: Any) -> dict[str, Any]:
        async with self._turn:
            return await self._clients.call("sqs", operation, **given)


def _entry(letter: Letter) -> Entry:
    body, kind = letter.message
    return {
        "MessageBody": body,
        "MessageAttributes": {
            "contentType": {"DataType": "String", "StringValue": kind},
            MARK: {"DataType": "String", "StringValue": "row"},
        },
    }


def batches(entries: Iterable[Entry]) -> Iterable[list[Entry]]:
    """In batches that fit into one call."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        own = len(entry.get("MessageBody", "").encode()) + 128
        if batch and (len(batch) == _BATCH or size + own > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += own
    if batch:
        yield batch


async def together(step: Callable[[Sequence[Entry]], Awaitable[None]], parts: Iterable[list[Entry]]) -> None:
    """Run the step for each part, concurrently. Raises the first failure when all have ended."""
    for outcome in await asyncio.gather(*(step(part) for part in parts), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
