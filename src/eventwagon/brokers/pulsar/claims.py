"""Who has which message of one channel in hand, within this process. Pure: times are given, nothing is awaited.

The server gives a message to one consumer and knows no more of it until it is acknowledged, or until that consumer goes.
What the contract asks for beyond that is kept here: claims that end, delays, attempts. `lost` is what the server has
taken back because the connection broke: it is not given out, unless the server sends it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any

import msgspec

from ...broker import Delivery
from ...event import Event

Key = tuple[int, int, int]
"""Ledger, entry, place in a foreign batch (else -1)."""

_REMEMBERED = 20_000  # settled messages, in case that the server sends one again


class Hold(msgspec.Struct, gc=False):
    """A message that came and is not settled: claimed until `due`, or `back`: to be had from then."""

    key: Key
    event: Event
    handle: Any
    attempt: int
    due: float
    back: bool
    seen: float
    lost: bool = False


class Claims:
    """The messages of one channel that this process has. `attempts`: what is known of some from before."""

    def __init__(self, attempts: Mapping[Key, int] | None = None) -> None:
        self._holds: dict[Key, Hold] = {}
        self._fresh: deque[Hold] = deque()  # stale where not in _holds, or lost
        self._again: list[tuple[float, Key, Hold]] = []  # a heap; the same
        self._claims_due = inf  # no claim ends before
        self._claimed = 0
        self._attempts = dict(attempts or {})
        self._settled: dict[Key, Any] = {}  # keeps its order: the oldest are forgotten

    def arrive(self, key: Key, event: Event, handle: Any, attempt: int, now: float) -> Any:
        """The server sent it. Returns the handle to acknowledge anew when it was settled already, else None."""
        if key in self._settled:
            self._settled[key] = handle
            return handle
        hold = self._holds.get(key)
        if hold is None:
            if self._attempts:
                attempt = max(attempt, self._attempts.pop(key, 1))
            self._holds[key] = hold = Hold(key, event, handle, attempt, now, True, now)
            self._fresh.append(hold)
            return None
        hold.seen = now
        hold.handle = handle
        if hold.lost:
            hold.lost = False
            if hold.back:
                heappush(self._again, (hold.due, key, hold))
        return None

    def take(self, limit: int, now: float, due: float) -> list[Delivery]:
        """Claim up to `limit` until `due`: those that are due again, then those that came first."""
        if self._claims_due <= now:
            self._expire(now)
        got: list[Delivery] = []
        again, fresh, holds = self._again, self._fresh, self._holds
        while len(got) < limit and again and again[0][0] <= now:
            _, key, old = heappop(again)
            if holds.get(key) is old and old.back and not old.lost:
                holds[key] = hold = Hold(key, old.event, old.handle, old.attempt, due, False, old.seen)
                got.append(Delivery(old.event, old.attempt, hold))
        while len(got) < limit and fresh:
            hold = fresh.popleft()
            if holds.get(hold.key) is hold and hold.back and not hold.lost:
                hold.back = False
                hold.due = due
                got.append(Delivery(hold.event, hold.attempt, hold))
        if got:
            self._claimed += len(got)
            self._claims_due = min(self._claims_due, due)
        return got

    def settle(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """They are done. Returns the handles to acknowledge."""
        handles = []
        for delivery in deliveries:
            token: Hold = delivery.token
            if token.key in self._settled:
                continue
            hold = self._holds.pop(token.key, None)
            if hold is not None and not hold.back:
                self._claimed -= 1
            handle = token.handle if hold is None else hold.handle
            self._settled[token.key] = handle
            handles.append(handle)
        while len(self._settled) > _REMEMBERED:
            del self._settled[next(iter(self._settled))]
        return handles

    def release(self, deliveries: Sequence[Delivery], now: float, due: float, tried: bool) -> None:
        """Give them back, to be had from `due`; a claim that ran out is left alone."""
        if self._claims_due <= now:
            self._expire(now)
        for delivery in deliveries:
            token: Hold = delivery.token
            hold = self._holds.get(token.key)
            if hold is token and not hold.back:
                self._give_back(hold, due, hold.attempt + tried)

    def extend(self, deliveries: Sequence[Delivery], now: float, due: float) -> None:
        """Their claims end at `due`; a claim that ran out is left alone."""
        if self._claims_due <= now:
            self._expire(now)
        for delivery in deliveries:
            token: Hold = delivery.token
            hold = self._holds.get(token.key)
            if hold is token and not hold.back:
                hold.due = due
                self._claims_due = min(self._claims_due, due)

    def disconnected(self, since: float) -> None:
        """The connection broke: the server gives all that came before `since` to somebody, perhaps to us."""
        for hold in self._holds.values():
            if hold.seen <= since:
                hold.lost = True
        self._fresh = deque(hold for hold in self._fresh if not hold.lost)
        self._again = [one for one in self._again if not one[2].lost]  # any part of a sorted order is one
        self._again.sort()

    def forget(self, now: float, after: float) -> None:
        """Drop what was lost and has not come again for `after` seconds: another has it."""
        for hold in [one for one in self._holds.values() if one.lost and one.back and one.due + after <= now]:
            del self._holds[hold.key]

    def next_due(self) -> float:
        """When something may be had again: a time, or infinity."""
        return min(self._claims_due, self._again[0][0] if self._again else inf)

    def claimed(self, now: float) -> int:
        """How many are in hand."""
        if self._claims_due <= now:
            self._expire(now)
        return self._claimed

    def is_settled(self, key: Key) -> bool:
        """Whether it was settled here, of late."""
        return key in self._settled

    def newest_settled(self) -> Key | None:
        """The one that was settled last."""
        return next(reversed(self._settled), None)

    def attempts(self) -> dict[Key, int]:
        """What a later consumer should know: the attempts of those that were tried."""
        return {hold.key: hold.attempt for hold in self._holds.values() if hold.attempt > 1 and hold.back}

    def _expire(self, now: float) -> None:
        self._claims_due = inf
        for hold in [one for one in self._holds.values() if not one.back]:
            if hold.due <= now:
                self._give_back(hold, hold.due, hold.attempt + 1)
            else:
                self._claims_due = min(self._claims_due, hold.due)

    def _give_back(self, hold: Hold, due: float, attempt: int) -> None:
        back = Hold(hold.key, hold.event, hold.handle, attempt, due, True, hold.seen, hold.lost)
        self._holds[hold.key] = back
        self._claimed -= 1
        if not back.lost:
            heappush(self._again, (due, hold.key, back))
