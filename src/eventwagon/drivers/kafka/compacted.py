"""A log that Kafka compacts: of the records under one key only the latest need be left. So records may be missing
anywhere, which is no loss; the state must be the same without them."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from ...errors import BrokerError
from .following import FollowedLog, LogClient, LogClock, LogGone, fail
from .options import LOGGER


class KeyedRule(Protocol):
    """A state, and what records under keys do to it. Deterministic: no clock, no randomness."""

    def apply(self, offset: int, time: int, key: bytes, value: bytes) -> Any:
        """Apply the next record: its offset, when the log took it in ms, its key and its value, which is empty for one
        that forgets the key. Returns the result. Raises nothing, whoever wrote the record."""
        ...


class CompactedLog(FollowedLog):
    """One compacted log, as far as this process has read it. Attach it before use."""

    def __init__(self, client: LogClient, topic: str, rule: KeyedRule, clock: LogClock) -> None:
        super().__init__(client, topic, clock)
        self._rule = rule
        self._follows = False
        self._sent = 0
        """Appends that are not acknowledged yet."""
        self._results: dict[int, Any] = {}
        """By offset, while there are any: what was applied meanwhile, for it may be one of them."""

    async def attach(self) -> int:
        self.next = await super().attach()
        self._follows = True
        return self.next

    def _lacks_beginning(self, first: int) -> None:
        LOGGER.warning(
            "Kafka at %s: the records of topic %s before offset %d were deleted, by retention or by somebody's hand: "
            "what they kept is lost; see to it that cleanup.policy is compact",
            self._client.options.servers,
            self.topic,
            first,
        )

    def _take(self, offset: int, key: bytes, value: bytes, at: int, now: float) -> None:
        if offset < self.next or self._left:
            return
        self._leave_if_missing(offset)
        if not self._left:
            self.clock.read(at, now)
            self._apply(offset, key, value, at)

    def _ended(self, end: int) -> None:
        self._leave_if_missing(end)

    def _leave_if_missing(self, end: int) -> None:
        """Leave the log if nothing was read from the next record up to `end`."""
        if end > self.next and self._follows:  # what is missing is too young to be compacted, unless this process slept
            LOGGER.debug(
                "topic %s: nothing came between offsets %d and %d: it is read anew", self.topic, self.next, end
            )
            self.leave()

    def append(self, key: bytes, record: bytes | None) -> asyncio.Future[Any]:
        """Append this record; None says that the key is forgotten. The future has the result once the record is in the
        log and applied. Cancelling takes nothing back. It raises LogGone or Unavailable; then the record may still be
        applied."""
        done: asyncio.Future[Any] = self._loop.create_future()
        if self._left:
            done.set_exception(LogGone(f"topic {self.topic} is left"))
            return done
        self._mine[done] = done
        self._sent += 1

        def stored(offset: int) -> None:
            self._mine.pop(done, None)
            if offset >= self.next:
                self._mine[offset] = done
            elif offset not in self._results:
                fail(done, LogGone(f"topic {self.topic} went back to offset {offset}: it was made anew, or cut"))
            elif not done.done():
                done.set_result(self._results[offset])
            ended()

        def failed(error: BrokerError) -> None:
            self._mine.pop(done, None)
            fail(done, error)
            ended()

        def ended() -> None:
            self._sent -= 1
            if not self._sent:
                self._results.clear()

        self._send(key, record, stored, failed)
        return done

    def _apply(self, offset: int, key: bytes, value: bytes, at: int) -> None:
        self.next = offset + 1
        result = self._rule.apply(offset, at, key, value)
        if self._sent:
            self._results[offset] = result
        if (done := self._mine.pop(offset, None)) is not None and not done.done():
            done.set_result(result)
        if self._waiting:
            self._wake()
