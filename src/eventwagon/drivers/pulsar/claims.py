"""The claims on one channel's messages within this process. Pure: times are given, nothing is awaited.

The server gives a message to one consumer and learns nothing more until the message is acknowledged or that consumer is
gone. The contract's other promises are kept here: claims that expire, delays, attempts, suspicion. A `lost` message was
taken back by the server because the connection broke: it is not handed out unless the server sends it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any, Literal

import msgspec

from ...contracts.broker import Delivery
from ...event import Event

Key = tuple[int, int, int]
"""Ledger, entry, place in a foreign batch (else -1)."""

_REMEMBERED = 20_000  # settled messages, in case the server sends one again


class Hold(msgspec.Struct, gc=False):
    """A message that was delivered and is not settled: claimed until `due`, or, if `back`, available from then on."""

    key: Key
    event: Event
    handle: Any
    attempt: int
    due: float
    back: bool
    seen: float
    lost: bool = False
    suspect: bool = False
    alone: bool = False
    """If this claim expires, that counts as an attempt."""


class Claims:
    """The messages of one channel that this process has. `known`: attempt and suspicion of some that it had before."""

    def __init__(self, known: Mapping[Key, tuple[int, bool]] | None = None) -> None:
        self._holds: dict[Key, Hold] = {}
        self._fresh: deque[Hold] = deque()  # stale where not in _holds, or lost
        self._again: list[tuple[float, Key, Hold]] = []  # a heap, with the same stale entries
        self._suspects: list[tuple[int, float, Key, Hold]] = []  # a heap by `-attempt`, with the same stale entries
        self._claims_due = inf  # no claim expires before
        self._claimed = 0
        self._known = dict(known or {})
        self._settled: dict[Key, Any] = {}  # keeps its order: the oldest are forgotten

    def arrive(self, key: Key, event: Event, handle: Any, attempt: int, now: float, *, suspect: bool = False) -> Any:
        """The server sent a message. Returns the handle to acknowledge again if it was settled already, else None."""
        if key in self._settled:
            self._settled[key] = handle
            return handle
        hold = self._holds.get(key)
        if hold is None:
            if self._known:
                attempt, suspect = self._known.pop(key, (attempt, suspect))
            self._holds[key] = hold = Hold(key, event, handle, attempt, now, True, now, suspect=suspect)
            if attempt > 1 or suspect:
                self._wait(hold)
            else:
                self._fresh.append(hold)
            return None
        hold.seen = now
        hold.handle = handle
        if hold.lost:
            hold.lost = False
            if hold.back:
                self._wait(hold)
        return None

    def take(
        self, limit: int, now: float, due: float, suspects: Literal["first", "last", "none"] = "last"
    ) -> list[Delivery]:
        """Claim until `due` one suspect, or up to `limit` others: first those that are due again, then the oldest."""
        if self._claims_due <= now:
            self._expire(now)
        if suspects == "first" and (suspect := self._take_suspect(now, due)):
            return suspect
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
        elif suspects == "last":
            return self._take_suspect(now, due)
        return got

    def _take_suspect(self, now: float, due: float) -> list[Delivery]:
        later: list[tuple[int, float, Key, Hold]] = []
        got: list[Delivery] = []
        while self._suspects and not got:
            entry = heappop(self._suspects)
            _, since, key, old = entry
            if self._holds.get(key) is not old or not old.back or old.lost:
                continue
            if since > now:
                later.append(entry)
                continue
            hold = Hold(key, old.event, old.handle, old.attempt, due, False, old.seen, suspect=True)
            self._holds[key] = hold
            got.append(Delivery(old.event, old.attempt, hold, True))
            self._claimed += 1
            self._claims_due = min(self._claims_due, due)
        for entry in later:
            heappush(self._suspects, entry)
        return got

    def has_suspects(self) -> bool:
        """Whether it has any, available now or later."""
        return bool(self._suspects)

    def stands(self, delivery: Delivery, now: float) -> bool:
        """Whether its claim has not expired."""
        if self._claims_due <= now:
            self._expire(now)
        hold: Hold = delivery.token
        return self._holds.get(hold.key) is hold and not hold.back

    def settle(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """Settle them. Returns the handles to acknowledge."""
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

    def release(
        self, deliveries: Sequence[Delivery], now: float, due: float, *, tried: bool, cleared: bool = False
    ) -> None:
        """Give them back, available from `due` on. An expired claim is left alone."""
        if self._claims_due <= now:
            self._expire(now)
        for delivery in deliveries:
            token: Hold = delivery.token
            hold = self._holds.get(token.key)
            if hold is token and not hold.back:
                suspect = hold.suspect and not (tried or cleared)
                self._give_back(hold, due, hold.attempt + tried, suspect=suspect)

    def extend(self, deliveries: Sequence[Delivery], now: float, due: float) -> None:
        """Their claims end at `due`. An expired claim is left alone."""
        if self._claims_due <= now:
            self._expire(now)
        for delivery in deliveries:
            token: Hold = delivery.token
            hold = self._holds.get(token.key)
            if hold is token and not hold.back:
                hold.due = due
                self._claims_due = min(self._claims_due, due)

    def disconnected(self, since: float) -> None:
        """The connection broke: the server delivers all messages that came before `since` to another consumer, perhaps
        to this one."""
        for hold in self._holds.values():
            if hold.seen <= since:
                hold.lost = True
        self._fresh = deque(hold for hold in self._fresh if not hold.lost)
        self._again = [one for one in self._again if not one[2].lost]  # a part of a sorted list is sorted
        self._again.sort()
        self._suspects = [one for one in self._suspects if not one[3].lost]
        self._suspects.sort()

    def forget(self, now: float, after: float) -> None:
        """Drop lost messages that have not come again for `after` seconds: another process has them."""
        for hold in [one for one in self._holds.values() if one.lost and one.back and one.due + after <= now]:
            del self._holds[hold.key]

    def next_due(self) -> float:
        """When something may be available again: a time, or infinity."""
        suspects = min((one[1] for one in self._suspects), default=inf)
        return min(self._claims_due, self._again[0][0] if self._again else inf, suspects)

    def claimed(self, now: float) -> int:
        """The number of claimed messages."""
        if self._claims_due <= now:
            self._expire(now)
        return self._claimed

    def is_settled(self, key: Key) -> bool:
        """Whether it was settled here recently."""
        return key in self._settled

    def settled(self) -> set[tuple[int, int]]:
        """Ledger and entry of recently settled messages."""
        return {key[:2] for key in self._settled}

    def newest_settled(self) -> Key | None:
        """The one that was settled last."""
        return next(reversed(self._settled), None)

    def known(self) -> dict[Key, tuple[int, bool]]:
        """What a later consumer of this process should know: attempt and suspicion of unclaimed messages. Of the others
        it is unknown whether they were given back."""
        return {hold.key: (hold.attempt, hold.suspect) for hold in self._holds.values() if hold.back and not hold.lost}

    def _expire(self, now: float) -> None:
        self._claims_due = inf
        for hold in [one for one in self._holds.values() if not one.back]:
            if hold.due <= now:
                self._give_back(hold, hold.due, hold.attempt + hold.alone, suspect=True)
            else:
                self._claims_due = min(self._claims_due, hold.due)

    def _give_back(self, hold: Hold, due: float, attempt: int, *, suspect: bool) -> None:
        back = Hold(hold.key, hold.event, hold.handle, attempt, due, True, hold.seen, hold.lost, suspect)
        self._holds[hold.key] = back
        self._claimed -= 1
        if not back.lost:
            self._wait(back)

    def _wait(self, hold: Hold) -> None:
        if hold.suspect:
            heappush(self._suspects, (-hold.attempt, hold.due, hold.key, hold))
        else:
            heappush(self._again, (hold.due, hold.key, hold))
