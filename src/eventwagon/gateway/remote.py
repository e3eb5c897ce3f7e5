"""The handlers of a train, carried out by remote consumers: programs that receive deliveries and settle them."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from ..cloudevents import document, holds_json
from ..errors import EventwagonError, Reject, Retry, Snooze, UsageError
from ..event import Event
from ..runtime.budgets import Part, Watcher
from ..runtime.context import Context
from ..runtime.middleware import Next
from ..train import Train

_logger = logging.getLogger("eventwagon.gateway")

LEASE_MOST = 43_200.0
"""The longest lease, in seconds. The handler's timeout ends it in any case."""
_UNCLAIMED = 1.0
"""Seconds for which an event is kept for a consumer after the one that asked for it has gone. Then it goes back to the
broker, where another process may take it."""
_LEAST_WAIT = 0.1
"""Seconds that a consumer waits in any case, since an event begins only when one asks."""
_GATHER = 0.005
"""Seconds for which an answer waits for further deliveries after the first."""
_TO_SETTLE = 30.0
"""Seconds after which a consumer is told that its event is not settled yet."""
_REMEMBERED = 10_000
"""How many receipts that are over are remembered, with what became of them."""
_CLOSE = 0.05
"""Seconds before the end of the handler's timeout that count as its end: the worker's own began a bit earlier."""
_ROOM_MOST = 1000
"""More room than any prefetcher asks for."""

Emit = Callable[[Context], None]
"""Emits what a consumer emits. Raises UsageError or EventwagonError: then nothing may be emitted."""


class Result(msgspec.Struct, omit_defaults=True):
    """What became of one receipt of a request. `error`: why it was not done. `already`: an earlier request did it."""

    receipt: str
    done: bool
    error: str = ""
    already: bool = False
    lease: float | None = None

    def __post_init__(self) -> None:
        self.error = self.error.encode("utf-8", "backslashreplace").decode()


class Verb(NamedTuple):
    """What a consumer can say about a delivery that ends it: the past form, and what the middleware raises."""

    done: str
    outcome: Callable[[str], Exception | None]


SETTLE = Verb("settled", lambda _: None)
RELEASE = Verb("released", lambda _: Snooze(0.0, "released by its consumer"))
REJECT = Verb("rejected", lambda reason: Reject(reason or "by its consumer"))
_DONE = ("settled", "released", "rejected", "failed")
_ENDING = "the gateway ends, and has given it back: it comes again"
_CUT_SHORT = (
    "its handling was ended here before the consumer had answered, neither by its lease nor by the handler's timeout: "
    "the broker has lost it or its claim, its wagon is gone, or the workers have stopped. Unless it is lost, it comes "
    "again"
)
FAIL = Verb("failed", lambda reason: Retry(None, reason or "its consumer could not handle it"))


class _Lent:
    """One event on its way to a consumer, or with one."""

    def __init__(self, context: Context, timeout: float, option: str) -> None:
        loop = asyncio.get_running_loop()
        self.context = context
        self.until = loop.time() + timeout
        """When the handler's timeout ends, in the loop's time."""
        self.too_long = f"its handler's timeout of {timeout:g} s ({option}) has ended it, and no lease is longer"
        """Why it is over after that."""
        self.receipt = ""
        """Empty until it is in an answer."""
        self.asked = self.lease = 0.0
        """The seconds that were asked for, and those that it got."""
        self.timer: asyncio.TimerHandle | None = None
        """Ends the lease; or, while no consumer asks, the wait for one."""
        self.verb: Verb | None = None
        """What the consumer has said."""
        self.outcome: asyncio.Future[Exception | None] = loop.create_future()
        """What the middleware raises; None: it returns."""
        self.over: asyncio.Future[str] = loop.create_future()
        """Why what the consumer said was not done; empty: it was."""
        self.has_passed = False
        """The middleware has returned or raised what the consumer said."""
        self.is_settled = False
        self.because = ""
        """Why it became a dead letter though the consumer has settled it; or why its consumer has it no longer."""


class _Receiver:
    """One request for deliveries that is waiting. `most`: the bytes of data after which it takes no more."""

    def __init__(self, channel: str | None, limit: int, most: int) -> None:
        self.channel = channel
        self.held: list[_Lent] = []
        self.stirred = asyncio.Event()
        """Something was found, or it must wait no longer."""
        self.has_gone = False
        self._limit = limit
        self._most = most

    @property
    def free(self) -> int:
        """How many more events it takes."""
        return 0 if self.has_gone or self._most <= 0 else self._limit - len(self.held)

    def takes(self, channel: str) -> bool:
        """It takes events of this channel."""
        return self.channel is None or self.channel == channel

    def take(self, lent: _Lent) -> None:
        self.held.append(lent)
        self._most -= lent.context.event.size
        self.stirred.set()

    def leave(self) -> None:
        """Its client has gone. Idempotent."""
        self.has_gone = True
        self.stirred.set()


class _Room(Part):
    """As many events of a channel may begin as consumers ask for."""

    def __init__(self, remote: RemoteHandlers, channel: str, name: str) -> None:
        super().__init__(f"a consumer that receives from {name}", math.inf)
        self.until = math.inf
        self.busy = 0
        """Handlings under way."""
        self.lent = 0
        """How many of them have come to the remote handler. Written by RemoteHandlers."""
        self._remote = remote
        self._channel = channel

    @property
    def ahead(self) -> int:
        return max(1, self._free())

    def begin(self, events: int, watcher: Watcher | None = None) -> None:
        super().begin(events, watcher)
        self.busy += 1

    def end(self) -> None:
        self.busy -= 1
        self.changed()

    def changed(self) -> None:
        """Consumers ask for more events, or fewer."""
        self._tell_change()

    def _free(self) -> int:
        return self._remote.asked(self._channel) - (self.busy - self.lent)

    def _room(self, now: float) -> float:
        return self._free()


class RemoteHandlers:
    """Gives the events of a train's workers to remote consumers instead of its handlers.

    Make it before the train is connected. Attempts, dead letters and the number of workers stay those of the train; a
    worker waits for as long as a consumer has its event. An event begins only when a consumer asks for it. Undo
    handlers run in this process. Raises UsageError for a train whose handlers take batches.
    """

    def __init__(self, train: Train) -> None:
        for handler in train.handlers.values():
            if handler.batch is not None:
                raise UsageError(
                    f"handler {handler.name} takes batches, and consumers get single events: leave batch= out"
                )
        self.train = train
        self._receivers: list[_Receiver] = []
        """Those that take more, in the order in which they came."""
        self._waiting: deque[_Lent] = deque()
        """Events that no consumer asks for any more."""
        self._out: dict[str, _Lent] = {}
        """By receipt: what consumers have."""
        self._said: dict[int, _Lent] = {}
        """By the event's identity: those of which a consumer has said what became of them."""
        self._past: dict[str, str] = {}
        """By receipt, for those that are over: what became of them."""
        self._rooms: dict[str, _Room] = {}
        self._is_ending = False
        self._given_back = 0
        """Deliveries that were out when it began to end, and were not settled."""
        train.middleware(self._lend)
        for handler in train.handlers.values():
            handler.elsewhere = self

    @property
    def figures(self) -> Mapping[str, int]:
        """How many requests wait for deliveries, and how many deliveries are out."""
        return {"receiving": len(self._receivers), "out": len(self._out)}

    @property
    def is_ending(self) -> bool:
        """It gives out nothing more."""
        return self._is_ending

    def end(self) -> None:
        """Give out nothing more. What is out may still be settled. Idempotent."""
        if self._is_ending:
            return
        self._is_ending = True
        for receiver in self._receivers:
            receiver.stirred.set()
        while self._waiting:
            _resolve(self._waiting.popleft(), Snooze(0.0, "the gateway is ending"))
        if self._out:
            _logger.info(
                "%s: it ends; deliveries that are out, with up to %g s (grace) to be settled: %d",
                self.train.name,
                self.train.settings.grace,
                len(self._out),
            )

    # --- the runtime's side ----------------------------------------------------------------------

    def room(self, channel: str) -> Part:
        """See Elsewhere."""
        room = self._rooms[channel] = _Room(self, channel, channel or self.train.name)
        return room

    def asked(self, channel: str) -> int:
        """How many events of the channel consumers ask for now; a thousand and more is as good as all."""
        count = 0
        for receiver in () if self._is_ending else self._receivers:
            count += receiver.free if receiver.takes(channel) else 0
            if count >= _ROOM_MOST:
                break
        return count

    def died(self, event: Event, because: str) -> None:
        """See Elsewhere."""
        if (lent := self._said.get(id(event))) is not None and lent.verb is SETTLE:
            lent.because = because

    def settled(self, event: Event) -> None:
        """See Elsewhere."""
        if (lent := self._said.get(id(event))) is not None:
            lent.is_settled = True

    def ended(self, event: Event) -> None:
        """See Elsewhere."""
        if (lent := self._said.pop(id(event), None)) is None:
            return
        if lent.because:
            self._close(lent, f"it became a dead letter: {lent.because}")
        elif lent.verb is SETTLE and not lent.is_settled:
            self._close(lent, "it could not be settled: unless the broker has lost it, it comes again")
        else:
            self._close(lent, "")

    async def _lend(self, context: Context, call_next: Next) -> None:
        """The innermost middleware, which does not go on to the handler: it waits for a consumer."""
        if context.undone is not None:
            await call_next()
            return
        room, own = self._rooms.get(context.channel), self.train.handlers[context.channel].options.timeout
        if own is None:
            lent = _Lent(context, self.train.settings.handler_timeout, "handler_timeout")
        else:
            lent = _Lent(context, own, "timeout of its @train.on")
        if room is not None:
            room.lent += 1
        try:
            self._offer(lent)
            outcome = await lent.outcome
            lent.has_passed = True
            if outcome is not None:
                raise outcome
        finally:
            if room is not None:
                room.lent -= 1
            self._drop(lent)

    def _offer(self, lent: _Lent) -> None:
        """Give it to the first consumer that asks for it, or keep it for a moment."""
        if self._is_ending:
            _resolve(lent, Snooze(0.0, "the gateway is ending"))
            return
        for receiver in self._receivers:
            if receiver.free and receiver.takes(lent.context.channel):
                receiver.take(lent)
                if not receiver.free:
                    self._receivers.remove(receiver)
                return
        self._waiting.append(lent)
        lent.timer = asyncio.get_running_loop().call_later(
            _UNCLAIMED, _resolve, lent, Snooze(0.0, "no consumer has received it")
        )

    def _drop(self, lent: _Lent) -> None:
        """The handling has ended, whatever came of it."""
        if lent.timer is not None:
            lent.timer.cancel()
        with suppress(ValueError):
            self._waiting.remove(lent)
        if not lent.outcome.done():
            lent.outcome.cancel()
        if lent.verb is None:
            self._close(lent, lent.because or self._why_cut_short(lent))
        elif lent.context.is_part:  # its message is settled after the last of its events
            self._close(lent, "" if lent.has_passed else self._why_cut_short(lent))

    def _why_cut_short(self, lent: _Lent) -> str:
        """Why its handling was ended, as far as this process knows."""
        if asyncio.get_running_loop().time() >= lent.until - _CLOSE:
            return lent.too_long
        return _ENDING if self._is_ending else _CUT_SHORT

    def _close(self, lent: _Lent, error: str) -> None:
        """It is over: what the consumer said was done, or why not."""
        if lent.over.done():
            return
        lent.over.set_result(error)
        if self._out.pop(lent.receipt, None) is None:
            return
        self._past[lent.receipt] = error or (lent.verb.done if lent.verb is not None else "")
        if len(self._past) > _REMEMBERED:
            del self._past[next(iter(self._past))]
        if self._is_ending:
            self._given_back += bool(error) and not (lent.verb is not None and lent.because)  # a dead letter is over
            if not self._out:
                self._tell_last()

    def _tell_last(self) -> None:
        if self._given_back:
            _logger.warning(
                "%s: no delivery is out any more; not settled, so that they come again: %d",
                self.train.name,
                self._given_back,
            )
        else:
            _logger.info("%s: no delivery is out any more; the consumers have answered for all", self.train.name)

    # --- the consumers' side ---------------------------------------------------------------------

    async def receive(
        self, *, channel: str | None, limit: int, wait: float, lease: float, most: int, receiving: Receiving
    ) -> list[Delivered]:
        """Up to `limit` deliveries of some `most` bytes, as soon as there is one; none after `wait` seconds. `channel`:
        of this one only; empty: the ingress; None: of any. Each is the consumer's for `lease` seconds, and at most
        until the handler's timeout. If `receiving` is left meanwhile, nothing is lent. Raises UsageError."""
        if channel is not None and channel not in self.train.handlers:
            there = ", ".join(repr(name) for name in self.train.handlers)
            raise UsageError(f"channel: train {self.train.name!r} has no channel {channel[:60]!a}; there are: {there}")
        receiver = receiving.receiver = _Receiver(channel, limit, most)
        if receiving.has_gone:
            receiver.leave()
        waiting, self._waiting = self._waiting, deque()
        for lent in waiting:
            if receiver.takes(lent.context.channel) and receiver.free and not lent.outcome.done():
                if lent.timer is not None:
                    lent.timer.cancel()
                receiver.take(lent)
            else:
                self._waiting.append(lent)
        if receiver.free and not self._is_ending:
            self._receivers.append(receiver)
            self._rooms_changed(channel)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(wait, _LEAST_WAIT)):
                    while not (receiver.stirred.is_set() or self._is_ending):
                        await receiver.stirred.wait()
            if receiver.held and receiver.free and not self._is_ending:
                await asyncio.sleep(_GATHER)
        except BaseException:
            receiver.leave()
            raise
        finally:
            if receiver in self._receivers:
                self._receivers.remove(receiver)
            if receiver.has_gone:
                for lent in receiver.held:
                    if not lent.outcome.done():
                        self._offer(lent)
                receiver.held.clear()
        return [self._delivered(lent, lease) for lent in receiver.held if not lent.outcome.done()]

    def _rooms_changed(self, channel: str | None) -> None:
        for name, room in self._rooms.items():
            if channel is None or channel == name:
                room.changed()

    def _delivered(self, lent: _Lent, lease: float) -> Delivered:
        context = lent.context
        lent.receipt = secrets.token_urlsafe(24)
        self._out[lent.receipt] = lent
        self._begin_lease(lent, lease)
        event = context.event
        return Delivered(
            receipt=lent.receipt,
            channel=context.channel,
            wagon=context.wagon,
            attempt=context.attempt,
            lease=lent.lease,
            event=document(event, inline=holds_json(event)),
        )

    def _begin_lease(self, lent: _Lent, lease: float) -> None:
        loop = asyncio.get_running_loop()
        if lent.timer is not None:
            lent.timer.cancel()
        lent.asked = lease
        lent.lease = round(max(0.0, min(lease, lent.until - loop.time())), 3)
        lent.timer = loop.call_later(lent.lease, self._expire, lent)

    def _expire(self, lent: _Lent) -> None:
        if lent.verb is not None or lent.outcome.done():
            return
        if asyncio.get_running_loop().time() >= lent.until - _CLOSE:
            lent.because = lent.too_long
            _resolve(lent, Retry(None, f"the consumer has not settled it: {lent.too_long}"))
            return
        lent.because = f"its lease of {lent.lease:g} s has run out"
        why = f"the consumer has not answered within its lease of {lent.lease:g} s: it may have died, or takes longer"
        _resolve(lent, Retry(None, why))

    def extend(self, receipt: str, lease: float | None) -> Result:
        """Let the lease begin anew, with so many seconds; None: as many as before."""
        lent = self._out.get(receipt)
        if lent is None or lent.verb is not None or lent.outcome.done():
            return Result(receipt, done=False, error=self._why_over(receipt, lent))
        self._begin_lease(lent, lent.asked if lease is None else lease)
        return Result(receipt, done=True, lease=lent.lease)

    async def say(self, receipt: str, verb: Verb, reason: str = "", emit: Emit | None = None) -> Result:
        """The consumer says what became of a delivery. Returns once that is done: what it emits is stored, and the
        event settled or given back. With `emit` that raises nothing has happened, and the lease goes on."""
        lent = self._out.get(receipt)
        if lent is not None and lent.verb is verb:  # said twice at the same time
            return msgspec.structs.replace(await self._until_over(receipt, lent), already=True)
        if lent is None or lent.verb is not None or lent.outcome.done():
            is_done = self._past.get(receipt) == verb.done
            error = "" if is_done else self._why_over(receipt, lent)
            return Result(receipt, done=is_done, error=error, already=is_done)
        if emit is not None:
            try:
                with lent.context.together():
                    emit(lent.context)
            except EventwagonError as e:
                return Result(receipt, done=False, error=str(e))
        lent.verb = verb
        if not lent.context.is_part:
            self._said[id(lent.context.event)] = lent
        _resolve(lent, verb.outcome(reason))
        return await self._until_over(receipt, lent)

    async def _until_over(self, receipt: str, lent: _Lent) -> Result:
        await asyncio.wait([lent.over], timeout=_TO_SETTLE)
        if not lent.over.done():
            return Result(receipt, done=False, error=f"not done within {_TO_SETTLE:g} s; it is tried on: ask again")
        error = lent.over.result()
        return Result(receipt, done=not error, error=error)

    def _why_over(self, receipt: str, lent: _Lent | None) -> str:
        if lent is not None:
            return f"it is being {lent.verb.done}" if lent.verb is not None else lent.because or _CUT_SHORT
        became = self._past.get(receipt)
        if became is None:
            return "this receipt is not known: it is long over, or another gateway gave it"
        return f"it was {became} already" if became in _DONE else became


class Receiving:
    """One request, which its client may leave."""

    def __init__(self) -> None:
        self.receiver: _Receiver | None = None
        self.has_gone = False

    def leave(self) -> None:
        """The client has gone. Idempotent."""
        self.has_gone = True
        if self.receiver is not None:
            self.receiver.leave()


class Delivered(msgspec.Struct):
    """A delivery, as a consumer gets it. `lease`: for how many seconds it is the consumer's."""

    receipt: str
    channel: str
    wagon: int
    attempt: int
    lease: float
    event: Mapping[str, object]


def emitting(emits: Sequence[tuple[str, Event | bytes]]) -> Emit:
    """What emits these: to each channel an event as it is, or data in JSON, which must fit the channel's handler."""

    def emit(context: Context) -> None:
        for channel, what in emits:
            context.emit(channel, msgspec.json.decode(what) if isinstance(what, bytes) else what)

    return emit


def _resolve(lent: _Lent, outcome: Exception | None) -> None:
    if not lent.outcome.done():
        lent.outcome.set_result(outcome)
