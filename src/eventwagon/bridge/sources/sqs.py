"""An SQS queue. It has no positions: who receives a message hides it from others for a while, and deletes it when it is
done."""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import msgspec

from ...backoff import Backoff
from ...contracts.address import Address
from ...display.text import count, plain, said
from ...drivers.aws.clients import TROUBLE, Clients
from ...drivers.aws.errors import GONE, AWSRefused, explain, is_forbidden
from ...drivers.aws.place import Place
from ...errors import EventwagonError, StorageBroken, Unavailable, UsageError
from ...event import check_word
from ...runtime.bulkhead import Seldom
from ..source import Begin, Lag, Record

_ATONCE = 10
"""Messages of one request: SQS takes no more."""
_CALLS = 8
"""Requests at a time."""
_LONGEST = 20
"""Seconds that SQS lets a request wait."""
_MOST_HIDDEN = 43_200
"""Seconds for which SQS hides a message at most, from its receipt on."""
_GRACE = 0.1
"""Seconds that messages wait for those of other requests."""
_PATIENCE = 10.0
"""Seconds until a request without an answer counts as failed."""
_LAST, _LEAVE = 2.0, 5.0
"""Seconds at the end for the last answers, and for giving messages back."""
_LOOKUP = 3.0
"""Seconds for the look-up of the account, for a message."""
_FEW = 3
"""Receives that a message should have before the queue gives it up: one is gone with each bridge that is killed."""
_ENVELOPE = re.compile(r'\s*\{\s*"Type"\s*:\s*"Notification"')
_logger = logging.getLogger("eventwagon.bridge")


def open_sqs(address: Address, begin: Begin) -> SQSQueue:
    """The source of `sqs://region/queue?visibility=60&sns=false`. Raises UsageError."""
    address.only("visibility", "sns", "endpoint")
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
        visibility=address.whole("visibility", 60, least=2, most=_MOST_HIDDEN),
        sns=address.flag("sns"),
        clock=address.clock,
    )


class _Held(msgspec.Struct):
    """A message that was received and not deleted. Times are the loop's."""

    receipt: str
    sent: float
    """Seconds since the epoch."""
    received: float
    until: float
    """When SQS shows it to others."""
    is_lost: bool = False
    """SQS hides it no longer from others, and never again for this receipt."""


class _Attribute(msgspec.Struct, rename="pascal"):
    value: str


class _Notification(msgspec.Struct, rename="pascal"):
    """What SNS makes of a message, unless raw message delivery is on."""

    type: Literal["Notification"]
    message_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,100}\Z")]
    message: str
    subject: str | None = None
    message_attributes: dict[str, _Attribute] = {}


class _Redrive(msgspec.Struct, rename="camel"):
    """A queue's policy for messages that are received again and again."""

    max_receive_count: int


class SQSQueue:
    """Receives, and hides what it holds again in good time. What a dead bridge held is visible again after `visibility`
    seconds. With `sns`, messages are notifications of SNS, and each record is the message in it."""

    def __init__(
        self,
        clients: Clients,
        queue: str,
        *,
        name: str,
        visibility: int,
        sns: bool,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._clients, self._queue, self._visibility, self._clock = clients, queue, visibility, clock
        self._sns = sns
        self._url = ""
        self._held = dict[str, _Held]()
        """By the messages' ids."""
        self._ready = deque[Record]()
        """Those of them that `read` has not returned yet."""
        self._asking = set[asyncio.Task[tuple[int, int]]]()
        """Requests for messages."""
        self._atonce = 1
        """Requests to send at a time: more while messages are at hand."""
        self._hiding: asyncio.Task[None] | None = None
        self._seldom = Seldom()

    async def __aenter__(self) -> Self:
        await self._clients.__aenter__()
        try:
            self._url = (await self._call("get_queue_url", "connecting", QueueName=self._queue))["QueueUrl"]
            await self._check()
        except BaseException:
            await self._clients.__aexit__()
            raise
        self._hiding = asyncio.create_task(self._hide_again())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._hiding is not None:
            self._hiding.cancel()
            await asyncio.wait([self._hiding])
        if self._asking:  # they may still bring messages
            await asyncio.wait(self._asking, timeout=_LAST)
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        with suppress(TimeoutError):  # else they are visible when their time is over
            async with asyncio.timeout(_LEAVE):
                await self._change([name for name, held in self._held.items() if not held.is_lost], 0)
        self._held.clear()
        await self._clients.__aexit__()

    # --- reading ------------------------------------------------------------------------------

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """See Source. A message that comes again although it is held (SQS may do that) is passed over. While the
        visibility of one that it holds is over, it receives none: it would get that one again, and SQS counts that."""
        if not self._ready:
            now = asyncio.get_running_loop().time()
            if any(held.until <= now for held in self._held.values()):
                await asyncio.sleep(wait)
                return []
            # Requests that wait hold back what others have found, so only a single one does.
            is_at_hand = self._atonce > 1
            if is_at_hand:
                await self._ask(limit, self._atonce, 0)
            if not self._ready:
                seconds = min(_LONGEST, max(1, int(wait)))  # SQS waits for whole seconds; without waiting a look costs
                await self._ask(limit, 1, seconds, grows=not is_at_hand)
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    async def _ask(self, limit: int, number: int, seconds: int, *, grows: bool = True) -> None:
        """Send requests, and wait until they have answers: for others only shortly once there are messages. Those
        without an answer go on. Raises what went wrong, if there are no messages."""
        number = max(0, min(number, math.ceil(limit / _ATONCE), _CALLS - len(self._asking)))
        sizes = [min(_ATONCE, limit - _ATONCE * n) for n in range(number)]
        new = {asyncio.create_task(self._receive(size, seconds)) for size in sizes}
        self._asking |= new
        failed, asked, found = list[BaseException](), 0, 0
        while self._asking:
            grace = _GRACE if self._ready else None
            done, self._asking = await asyncio.wait(self._asking, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is not None:
                    failed.append(error)
                else:
                    size, got = task.result()
                    asked, found = asked + size, found + got
            if not done or not (self._ready or new & self._asking):
                break
        if asked and found == asked and grows and not failed:
            self._atonce = min(_CALLS, 2 * self._atonce)
        elif 2 * found < asked or failed:
            self._atonce = max(1, self._atonce // 2)
        if failed and not self._ready:
            raise failed[0]

    async def _receive(self, number: int, seconds: int) -> tuple[int, int]:
        """Returns how many messages it asked for, and how many there were."""
        answer = await self._call(
            "receive_message",
            "receiving",
            patience=seconds + _PATIENCE,
            QueueUrl=self._url,
            MaxNumberOfMessages=number,
            WaitTimeSeconds=seconds,
            VisibilityTimeout=self._visibility,
            MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
            MessageAttributeNames=["All"],
        )
        now = asyncio.get_running_loop().time()
        found: Sequence[dict[str, Any]] = answer.get("Messages", ())
        for message in found:
            name, record = message["MessageId"], self._record(message)
            if name not in self._held:
                self._ready.append(record)
            self._held[name] = _Held(message["ReceiptHandle"], record.time, now, now + self._visibility)
        return number, len(found)

    async def commit(self, records: Sequence[Record]) -> None:
        """See Source."""
        names = [record.token for record in records if record.token in self._held]
        for error in (await self._in_parts(names, self._delete)).values():
            raise error

    async def _delete(self, names: Sequence[str]) -> Mapping[str, Exception]:
        entries = [{"Id": str(n), "ReceiptHandle": self._held[name].receipt} for n, name in enumerate(names)]
        answer = await self._call("delete_message_batch", "deleting", QueueUrl=self._url, Entries=entries)
        failed = {names[int(each["Id"])]: each for each in answer.get("Failed", ())}
        again = {name: each for name, each in failed.items() if not each.get("SenderFault")}
        for name in names:
            if name not in again:  # with SenderFault its receipt is old: somebody else has it
                self._held.pop(name, None)
        return {name: self._failure(f"deleting {count(len(again), 'message')}", each) for name, each in again.items()}

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
        oldest = min((held.sent for held in self._held.values()), default=None)
        if oldest is not None:
            return Lag(records=number, seconds=max(0.0, self._clock() - oldest))
        return Lag(records=number, seconds=None if number else 0.0)

    # --- hiding -------------------------------------------------------------------------------

    async def _hide_again(self) -> None:
        """Hide what is held again when a third of its time is over; what fails is tried again soon."""
        clock, often = asyncio.get_running_loop().time, self._visibility / 6
        backoff, pause, is_told = Backoff(min(0.5, often / 4), min(60.0, often / 2)), often, False
        while True:
            await asyncio.sleep(pause)
            soon = clock() + self._visibility * 2 / 3
            due = [
                name
                for name, held in self._held.items()
                if not held.is_lost and held.until < min(soon, held.received + _MOST_HIDDEN - 1)
            ]
            failed = await self._change(due, self._visibility)
            self._tell_visible()
            if not failed:
                if is_told:
                    _logger.info("bridge from %s: it hides its messages again", self.name)
                backoff.reset()
                pause, is_told = often, False
                continue
            pause = backoff.next()
            if (held_back := self._seldom.due("hiding")) is not None:
                is_told = True
                error = next(iter(failed.values()))
                _logger.warning(
                    "bridge from %s: %s could not be hidden again: %s; it tries again%s",
                    self.name,
                    count(len(failed), "message"),
                    plain(str(error), 500) if isinstance(error, EventwagonError) else said(error),
                    f" ({held_back:,} more times since the last line)" if held_back else "",
                )

    def _tell_visible(self) -> None:
        now = asyncio.get_running_loop().time()
        shown = sum(held.until <= now for held in self._held.values())
        if shown and self._seldom.due("visible") is not None:
            _logger.warning(
                "bridge from %s: SQS shows %s to others that the bridge holds, since their visibility time is over: "
                "they may come again, which counts toward the queue's maxReceiveCount; the bridge receives no more "
                "until it has deleted them",
                self.name,
                count(shown, "message"),
            )

    async def _change(self, names: Sequence[str], seconds: int) -> Mapping[str, Exception]:
        """Hide them for so long from now on. Returns those for which to try again, and why that failed."""
        clock = asyncio.get_running_loop().time

        async def change(some: Sequence[str]) -> Mapping[str, Exception]:
            now = clock()
            times = {
                name: max(0, min(seconds, math.floor(held.received + _MOST_HIDDEN - 1 - now)))
                for name in some
                if (held := self._held.get(name)) is not None
            }
            if not times:
                return {}
            entries = [
                {"Id": str(n), "ReceiptHandle": self._held[name].receipt, "VisibilityTimeout": times[name]}
                for n, name in enumerate(times)
            ]
            answer = await self._call(
                "change_message_visibility_batch",
                "hiding",
                patience=max(1.0, self._visibility / 6),
                QueueUrl=self._url,
                Entries=entries,
            )
            there = list(times)
            failed = {there[int(each["Id"])]: each for each in answer.get("Failed", ())}
            for name in there:
                if (held := self._held.get(name)) is None:
                    failed.pop(name, None)  # deleted meanwhile
                elif name not in failed:
                    held.until = now + times[name]
                elif failed[name].get("SenderFault"):
                    held.until, held.is_lost = now, True  # `_tell_visible` tells of it
                    del failed[name]
            return {name: self._failure("hiding", each) for name, each in failed.items()}

        return await self._in_parts(names, change)

    async def _in_parts(
        self, names: Sequence[str], call: Callable[[Sequence[str]], Awaitable[Mapping[str, Exception]]]
    ) -> Mapping[str, Exception]:
        """Call it for ten at a time, several at once; each is tried. Returns those that failed, and why."""
        room = asyncio.Semaphore(_CALLS)

        async def one(part: Sequence[str]) -> Mapping[str, Exception]:
            async with room:
                try:
                    return await call(part)
                except Exception as e:  # noqa: BLE001 - the others are tried, whatever this one raised
                    return dict.fromkeys(part, e)

        parts = [names[n : n + _ATONCE] for n in range(0, len(names), _ATONCE)]
        return {name: e for each in await asyncio.gather(*map(one, parts)) for name, e in each.items()}

    def _failure(self, what: str, entry: Mapping[str, Any]) -> Unavailable:
        """Of one entry of a batch."""
        return Unavailable(f"{self.name}: {what}: {entry.get('Code', '')} {entry.get('Message', '')}".rstrip())

    # --- asking AWS ---------------------------------------------------------------------------

    async def _check(self) -> None:
        """Warn of what will not go well with this queue."""
        try:
            names = ["RedrivePolicy"]
            answer = await self._call("get_queue_attributes", "looking", QueueUrl=self._url, AttributeNames=names)
        except StorageBroken as e:
            _logger.info("bridge from %s: its lag is unknown, and its redrive policy was not checked: %s", self.name, e)
            return
        most = _FEW
        if text := answer.get("Attributes", {}).get("RedrivePolicy"):
            with suppress(msgspec.DecodeError):
                most = msgspec.json.decode(text, type=_Redrive, strict=False).max_receive_count
        if most < _FEW:
            _logger.warning(
                "bridge from %s: the queue's redrive policy has maxReceiveCount %d: a message that a killed bridge "
                "held may end in the queue's dead-letter queue instead of the train; set it to %d or more",
                self.name,
                most,
                _FEW,
            )

    async def _call(self, operation: str, what: str, *, patience: float | None = None, **given: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(patience):
                return await self._clients.call("sqs", operation, **given)
        except TROUBLE as e:
            if isinstance(e, TimeoutError) and patience is not None:
                raise Unavailable(f"{what} (queue {self._queue}): no answer within {patience:g} s") from None
            if isinstance(e, AWSRefused) and e.code in GONE:
                error = f"{self.name}: there is no queue {self._queue}{await self._where()}"
                raise (Unavailable(error) if self._url else UsageError(error)) from None
            if is_forbidden(e):
                raise StorageBroken(
                    f"{self.name}: {what}: AWS does not allow it ({e}); deploy/aws/bridge-policy.json has the rights "
                    "that the bridge needs (docs/bridge.md)"
                ) from e
            raise explain(e, f"{what} (queue {self._queue})", self._clients.place) from e

    async def _where(self) -> str:
        """The region and the account in which it looked for the queue, in words."""
        account = urlsplit(self._url).path.strip("/").partition("/")[0]
        if not self._url:
            with suppress(*TROUBLE):
                async with asyncio.timeout(_LOOKUP):
                    account = str((await self._clients.call("sts", "get_caller_identity"))["Account"])
        return f" in {self._clients.region('sqs')}" + (f" in account {account}" if account else "")

    # --- mapping ------------------------------------------------------------------------------

    def _record(self, message: dict[str, Any]) -> Record:
        system = message.get("Attributes", {})
        headers = [
            (name, value.get("StringValue", value.get("BinaryValue")))
            for name, value in message.get("MessageAttributes", {}).items()
        ]
        position, body, trouble = f"sqs/{self._queue}/{message['MessageId']}", message.get("Body", ""), ""
        sent = system.get("SentTimestamp")
        if self._sns:
            try:
                found = msgspec.json.decode(body, type=_Notification)
            except (msgspec.DecodeError, RecursionError) as e:
                trouble = f"it is no notification of SNS ({said(e)}), as the option sns=true says"
            else:
                position, body = f"sns/{self._queue}/{found.message_id}", found.message
                headers += [(name, each.value) for name, each in found.message_attributes.items()]
                headers += [("sns-subject", found.subject)] if found.subject else []
        elif _ENVELOPE.match(body) and self._seldom.due("sns") is not None:
            _logger.warning(
                "bridge from %s: messages are notifications of SNS, which hold the producers' messages: add sns=true "
                "to the URL, or turn on raw message delivery of the subscription",
                self.name,
            )
        return Record(
            position=position,
            value=body.encode(),
            headers=headers,
            key=system.get("MessageGroupId", "").encode() or None,
            time=self._clock() if sent is None else int(sent) / 1000,
            token=message["MessageId"],
            trouble=trouble,
        )
