"""A producer whose reports are served by the event loop.

If a producer's first two messages are on their way to a partition that has just got its leader, the leader may refuse
the first and accept the second. When the first is sent again, the leader has seen a later number: it takes the message
for a repetition, and the client reports success, without an offset. But the message is not stored. So a success without
an offset counts as a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ...background import Background
from .errors import cause
from .options import LOGGER

Report = Callable[[KafkaError | None, Message | None], None]
Headers = Sequence[tuple[str, str | bytes]]

REPEATED = KafkaError(KafkaError.DUPLICATE_SEQUENCE_NUMBER, "taken for a repetition, and perhaps not stored")
"""The error of a report without an error or an offset."""
_SHORT, _LONG = 0.001, 0.02  # s between two polls for reports
_KEPT = 300.0  # s for which a producer that is not used stays connected


class Sender:
    """One idempotent producer. It belongs to the event loop that made it.

    The event loop itself polls for reports while any is due. A thread would take and release the interpreter's lock
    once for each message, and compete with a busy event loop.
    """

    def __init__(self, config: dict[str, Any], *, rests: bool = False) -> None:
        """`rests`: close a producer that nobody uses for some minutes. A new one needs half a second to begin; asked
        for a topic first, some 40 ms."""
        self._config = config
        self._rests = rests
        self.known: set[str] = set()
        """Topics that the producer knows (see `Admin.describe_to`); another set for another producer."""
        self._loop = asyncio.get_running_loop()
        self._producer: Producer | None = None
        self._used = 0.0
        self._resting: asyncio.TimerHandle | None = None
        self._background = Background()
        self._renewed = -1.0
        self._old: list[Producer] = []  # replaced, with reports still to come
        self._due = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _SHORT
        self._closed = False

    def producer(self) -> Producer:
        """The producer, made when it is needed. Raises KafkaException after `close`."""
        self._used = self._loop.time()
        if self._producer is None:
            if self._closed:
                raise KafkaException(KafkaError(KafkaError._DESTROY, "the connection is closed"))
            self._producer = Producer(self._config)
        if self._rests and self._resting is None:
            self._resting = self._loop.call_later(_KEPT, self._rest)
        return self._producer

    @property
    def at_rest(self) -> bool:
        """Whether the producer is yet to be made."""
        return self._producer is None

    @property
    def is_new(self) -> bool:
        """Whether the producer knows no topic."""
        return not self.known

    def _rest(self) -> None:
        self._resting = None
        left = self._used + _KEPT - self._loop.time()
        if left > 0 or self._due > 0 or self._old:
            self._resting = self._loop.call_later(max(left, 1.0), self._rest)
        elif self._producer is not None:
            old, self._producer = self._producer, None
            self.known = set()
            self._background.start(_end([old]))
            del old

    def begin(self, count: int = 1) -> None:
        """This many reports are due, of messages that are about to be passed to `producer().produce`."""
        self._due += count
        self._pause = _SHORT
        if self._timer is None:
            self._timer = self._loop.call_later(_SHORT, self._look)

    def end(self, count: int = 1) -> None:
        """This many reports have come, or will not come."""
        self._due -= count

    def look(self) -> int:
        """Serve the reports that have arrived."""
        served = self._serve(self._producer) if self._producer is not None else 0
        for old in self._old:
            served += self._serve(old)
        self._old = [old for old in self._old if len(old)]
        return served

    def _serve(self, producer: Producer) -> int:
        try:
            return producer.poll(0)
        except KafkaException as e:  # the producer has failed for good; the next poll serves the reports
            if producer is self._producer and not self._closed:
                self.mind(cause(e))
            return 0

    def _look(self) -> None:
        self._timer = None
        try:
            served = self.look()
        finally:
            if self._due > 0 and not self._closed:
                self._timer = self._loop.call_later(self._pause, self._look)
        self._pause = _SHORT if served else min(_LONG, self._pause * 1.2)

    def mind(self, error: KafkaError) -> None:
        """Replace the producer if it does not recover from this error: all later messages would fail, too."""
        now = self._loop.time()
        if (error.fatal() or error.code() == KafkaError._FATAL) and now >= self._renewed + 1.0:
            self._renewed = now  # reports of the previous producer may still say the same
            self.renew()

    def renew(self) -> None:
        """Replace the producer after an error from which it does not recover. Its messages get their reports first."""
        if self._closed:
            return
        LOGGER.warning("a Kafka producer failed for good and is replaced")
        old, self._producer = self._producer, Producer(self._config)
        self.known = set()
        if old is not None:
            with contextlib.suppress(KafkaException):
                old.purge()
            self._old.append(old)

    def send(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        report: Report,
        *,
        key: bytes | None = None,
        headers: Headers = (),
    ) -> None:
        """Send one message. `report` is called once: with an error, and then the message may still be stored; or with
        the message, which has the place and the time at which it was stored."""

        def ended(error: KafkaError | None, message: Message | None) -> None:
            self.end()
            if error is not None:
                self.mind(error)
            report(error, message)

        def produce(reported: Callable[[KafkaError | None, Message], None]) -> None:
            try:
                self.producer().produce(topic, value, key, partition, reported, headers=list(headers))
            except (KafkaException, BufferError) as e:
                ended(cause(e), None)

        def reported(error: KafkaError | None, message: Message) -> None:
            ended(failure(error, message), message)

        def first_reported(error: KafkaError | None, message: Message) -> None:
            if failure(error, message) is REPEATED and not self._closed:
                produce(reported)
            else:
                reported(error, message)

        self.begin()
        produce(first_reported)

    async def one(
        self, topic: str, partition: int, value: bytes | None, *, key: bytes | None = None, headers: Headers = ()
    ) -> tuple[KafkaError | None, Message | None]:
        """Send one message like `send`, and wait for its report. Cancelling takes nothing back."""
        done: asyncio.Future[tuple[KafkaError | None, Message | None]] = self._loop.create_future()

        def report(error: KafkaError | None, message: Message | None) -> None:
            if not done.done():
                done.set_result((error, message))

        self.send(topic, partition, value, report, key=key, headers=headers)
        return await done

    async def close(self) -> None:
        """Wait for messages on their way, up to their own timeouts; then end."""
        until = self._loop.time() + 1.0
        while self._due > 0 and self._loop.time() < until:  # noqa: ASYNC110 - reports come by looking for them
            await asyncio.sleep(_SHORT)
        self._closed = True
        producer, self._producer = self._producer, None
        if producer is not None and self._due > 0:
            with contextlib.suppress(KafkaException):
                producer.purge()
            self._serve(producer)
        for timer in (self._timer, self._resting):
            if timer is not None:
                timer.cancel()
        if producer is not None:
            held = [producer]
            del producer
            await _end(held)
        await self._background.wait()


async def _end(held: list[Producer]) -> None:
    """End the only producer in `held`, whose last reference that is: ending waits for what its threads do."""

    def end() -> None:
        with contextlib.suppress(KafkaException):  # one that has failed for good reports it here, too
            held[0].flush(0.0)
        held.clear()

    await asyncio.to_thread(end)


def failure(error: KafkaError | None, message: Message) -> KafkaError | None:
    """The error that a report means, if any."""
    return REPEATED if error is None and message.offset() is None else error
