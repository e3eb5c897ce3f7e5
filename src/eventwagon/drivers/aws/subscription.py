"""A consumer of one channel: claims by SQS's visibility timeout, settled first in the table."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ...cloudevents import UNDECODABLE, undecodable
from ...contracts.broker import Delivery
from ...errors import BrokerError, ChannelGone, Unavailable
from ...event import Channel, Event
from .clients import TROUBLE, Trouble
from .errors import AWSRefused, explain
from .place import Place
from .queues import LONGEST, NotTaken, Queues
from .rows import Rows
from .wire import CONTENT_TYPE, MARK, REFERENCE, event_from, key_of, reference_from

log = logging.getLogger("eventwagon.drivers.aws")

_WAIT = 10  # seconds: the longest single wait, so that a deleted queue is noticed
_CALLS = 10  # receives at the same time


class ClaimedMessage:
    """A claimed message. `key`: the key of its row; None if eventwagon did not send it."""

    __slots__ = ("attempt", "done", "key", "message", "receipt", "received", "suspect", "until")

    def __init__(self, seen: QueueMessage, attempt: int, until: float, *, suspect: bool) -> None:
        self.message = seen.id
        self.receipt = seen.receipt
        self.key = seen.key
        self.received = seen.received
        """How often SQS has delivered it."""
        self.attempt = attempt
        self.suspect = suspect
        self.until = until
        """When another consumer may get it, on the event loop's clock: computed before it was requested."""
        self.done = False
        """Settled or given back."""


class Subscription:
    """Receives from one channel. See the seam for the contract."""

    def __init__(self, channel: Channel, queues: Queues, rows: Rows, place: Place, visibility: float) -> None:
        self._channel = channel
        self._queues = queues
        self._rows = rows
        self._place = place
        self._visibility = max(1, min(LONGEST, math.ceil(visibility)))
        self._suspect_first = True

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            left = deadline - loop.time()
            # whole seconds, at least one: a receive without waiting asks only some of SQS's servers
            wait = 0 if timeout <= 0 else max(1, min(_WAIT, math.ceil(left)))
            try:
                got = await self._apart(await self._receive(limit, wait))
            except TROUBLE as e:
                raise self._explain(e, "receiving from") from e
            if got or loop.time() >= deadline:
                return got

    async def _receive(self, limit: int, wait: int) -> list[Delivery]:
        began = asyncio.get_running_loop().time()
        messages = await self._queues.receive(self._channel, limit, wait, self._visibility)
        if len(messages) == 10 and limit > 10:
            began_more = asyncio.get_running_loop().time()
            more = min(_CALLS, math.ceil((limit - 10) / 10))
            sizes = [min(10, limit - 10 * (at + 1)) for at in range(more)]
            calls = (self._queues.receive(self._channel, size, 0, self._visibility) for size in sizes)
            found = await asyncio.gather(*calls, return_exceptions=True)
            rest = [message for some in found if isinstance(some, list) for message in some]
            return await self.taken(messages, began) + await self.taken(rest, began_more)
        return await self.taken(messages, began)

    async def _apart(self, got: list[Delivery]) -> list[Delivery]:
        """One suspect of them, or the others. The rest is given back and can be received again at once."""
        suspects = sorted((d for d in got if d.suspect), key=lambda d: -d.attempt)
        if not suspects:
            self._suspect_first = self._suspect_first or bool(got)
            return got
        others = [d for d in got if not d.suspect]
        now = suspects[:1] if self._suspect_first or not others else others
        self._suspect_first = not now[0].suspect
        try:
            await self.release([d for d in got if d not in now], tried=False)
        except BrokerError as e:
            log.debug(
                "%s: events received together with a suspect come again when their claims expire: %s", self._channel, e
            )
        return now

    async def taken(self, messages: Sequence[dict[str, Any]], began: float) -> list[Delivery]:
        """The deliveries for messages that were requested at `began` or later. A message without a row was settled
        before: SQS has kept a copy, or its deletion failed. One that was received before and not given back since is a
        suspect."""
        until = began + self._visibility
        seen = [QueueMessage(message) for message in messages]
        asked = {one.key for one in seen if one.key is not None and (one.received > 1 or one.event is None)}
        rows = await self._rows.find(self._channel, list(asked)) if asked else {}
        deliveries: list[Delivery] = []
        settled: list[str] = []
        for one in seen:
            attempt, suspect, event = one.received, False, one.event
            if one.key is not None and one.key in asked:
                if one.key in rows:
                    row = rows[one.key]
                    attempt, event = row.tried + 1, event_from(row.body, message=one.id, sent=one.sent)
                    suspect = one.received > 1 and (row.suspect or row.given_back != f"{one.id}:{one.received - 1}")
                elif one.marked or event is None:
                    settled.append(one.receipt)
                    continue
                else:
                    one.key = None  # another sender's, with our content type
            assert event is not None  # noqa: S101 - for the type checker: what stands in its row alone was asked for
            deliveries.append(Delivery(event, attempt, ClaimedMessage(one, attempt, until, suspect=suspect), suspect))
        await self._tidy(settled)
        return deliveries

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        claims = [claim for claim in _claims(deliveries) if not claim.done]
        if not claims:
            return
        now = asyncio.get_running_loop().time()
        mine = [c.key for c in claims if c.key is not None and c.received == 1 and now < c.until]
        shared = [c.key for c in claims if c.key is not None and not (c.received == 1 and now < c.until)]
        try:
            await self._rows.remove(self._channel, mine)
            count = len(set(mine)) + await self._rows.take(self._channel, shared)
            for claim in claims:
                claim.done = True
            there = await self._rows.settled(self._channel, count)
        except TROUBLE as e:
            raise self._explain(e, "settling in") from e
        if not there:
            raise ChannelGone(f"channel {self._channel} does not exist")
        await self._tidy(claim.receipt for claim in claims)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        claims = self._held(deliveries)
        if not claims:
            return
        try:
            await asyncio.gather(*(self._note(claim, tried=tried, cleared=cleared) for claim in claims))
            for claim in claims:
                claim.done = True
            seconds = min(LONGEST, math.ceil(delay))
            await self._queues.show(self._channel, (claim.receipt for claim in claims), seconds)
        except (*TROUBLE, NotTaken) as e:
            for claim in claims:
                claim.done = False
            raise self._explain(e, "giving back to") from e

    async def _note(self, claim: ClaimedMessage, *, tried: bool, cleared: bool) -> None:
        """Record that it is given back, before it is: otherwise its claim would seem to have expired."""
        if claim.key is not None:
            attempts, by = claim.attempt if tried else claim.attempt - 1, f"{claim.message}:{claim.received}"
            suspect = claim.suspect and not (tried or cleared)
            await self._rows.note(self._channel, claim.key, attempts, given_back=by, suspect=suspect)

    async def alone(self, delivery: Delivery) -> bool:
        claims = self._held([delivery])
        if not claims:
            return False
        try:
            key = claims[0].key
            return key is None or await self._rows.note(self._channel, key, delivery.attempt)
        except TROUBLE as e:
            raise self._explain(e, "marking in") from e

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        claims = self._held(deliveries)
        if not claims:
            return
        began = asyncio.get_running_loop().time()
        try:
            await self._queues.show(self._channel, (claim.receipt for claim in claims), self._visibility)
        except (*TROUBLE, NotTaken) as e:
            raise self._explain(e, "extending claims in") from e
        for claim in claims:
            claim.until = began + self._visibility

    def _held(self, deliveries: Sequence[Delivery]) -> list[ClaimedMessage]:
        """Those whose claim is still valid: an expired one may belong to another consumer by now."""
        now = asyncio.get_running_loop().time()
        return [claim for claim in _claims(deliveries) if not claim.done and now < claim.until]

    async def _tidy(self, receipts: Iterable[str]) -> None:
        """Delete messages of settled events. One that stays comes again, and its missing row shows that it is
        settled."""
        receipts = list(receipts)
        if receipts:
            try:
                await self._queues.remove(self._channel, receipts)
            except (*TROUBLE, NotTaken) as e:
                log.debug("%s: messages of settled events stay for now: %s", self._channel, e)

    def _explain(self, error: Trouble | NotTaken, doing: str) -> BrokerError:
        what = f"{doing} {self._channel}"
        if isinstance(error, NotTaken):
            return Unavailable(f"{what}: {error}")
        if isinstance(error, AWSRefused) and error.gone:
            self._queues.forget(self._channel)
            return ChannelGone(f"channel {self._channel} does not exist")
        return explain(error, what, self._place)


class QueueMessage:
    """A message as SQS delivered it."""

    __slots__ = ("event", "id", "key", "marked", "receipt", "received", "sent")

    def __init__(self, message: dict[str, Any]) -> None:
        attributes = message.get("Attributes", {})
        self.id = str(message["MessageId"])
        self.receipt = str(message["ReceiptHandle"])
        self.received = int(attributes.get("ApproximateReceiveCount", 1))
        self.sent = int(attributes.get("SentTimestamp", 0)) / 1000
        body = str(message["Body"])
        data = body.encode(errors="surrogatepass")
        said = message.get("MessageAttributes", {})
        kind = said.get("contentType", {}).get("StringValue")
        self.marked = MARK in said
        self.key: str | None = None
        self.event: Event | None = None
        """None if the event is only in its row."""
        if kind == REFERENCE:
            self.key = reference_from(body)
            if self.key is None:
                pairs = [("contentType", kind)]
                because = "it names no row of the table"
                self.event = undecodable(data, pairs, position=self.id, written=self.sent, because=because)
            return
        self.event = event_from(data, message=self.id, sent=self.sent, kind=kind)
        if kind == CONTENT_TYPE and self.event.extensions.get(UNDECODABLE) != self.id:
            self.key = key_of(self.event)


def _claims(deliveries: Sequence[Delivery]) -> list[ClaimedMessage]:
    return list(dict.fromkeys(delivery.token for delivery in deliveries))
