"""Dead letters by order: looked at, published again, or deleted. `connection.dead` is one of these.

Letters are settled out of order with what a broker can do anyway: a consumer of the channel claims letter after letter,
works on those that are meant, 500 at most at a time, and holds the others; at the end it gives them back, without an
attempt. It stops as soon as it has met as many as were counted. If nothing comes any more, it gives them back before
that, for a while: two calls with different filters may each hold what the other one looks for.

For each 500 the order of things is: publish them, write into the manifest how many are about to be settled (else they
would count as lost), settle them. A process that dies in between leaves letters that were published and are still
there: at most one such batch is published twice, with the same ids. What it has claimed can be received again after
`_CLAIM` seconds; another call waits for it so long.

A wagon's removal moves its letters to the train's own channel. While one is under way nothing is done. If it begins in
the middle, what has been published and moved is settled there at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from ..contracts.broker import Delivery, Subscription
from ..contracts.facts import DeadLettersDropped, DeadLettersRetried
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest
from ..errors import BrokerError, ChannelGone, DeadLettersChanged, EventRefused, Unavailable, UsageError
from ..event import DEAD, Channel, wagon_name
from ..policy.letters import (
    RETRIES,
    DeadFilter,
    DeadLetter,
    DeadPreview,
    Death,
    Mark,
    alive,
    mark_of,
    newest,
    previewed,
    read,
    retriable,
    taken,
)
from ..values import whole
from .in_time import in_time
from .publish_queue import fitting
from .runtime import Runtime
from .switcher import Switcher
from .tasks import to_the_end
from .train_state import TrainState

_BATCH = 500
_CLAIM = 30.0
"""Seconds for which letters are claimed; extended while the work goes on."""
_POLL = 1.0
_PATIENCE = _CLAIM + 15.0
"""Seconds to wait for letters that somebody else has claimed, or a process that died."""


T = TypeVar("T")
_Deliveries = list[Delivery]  # below, `list` is a method


class DeadDone(msgspec.Struct, frozen=True, kw_only=True):
    """What `retry` or `drop` has done."""

    count: int
    """Letters that were published and settled, or settled."""
    refused: int
    """Letters that the broker refuses to take as events: they stay."""
    left: int
    """Letters that could not be received, since somebody else holds them, or has settled them."""


class _Chosen(NamedTuple):
    """The letters that are meant."""

    letters: dict[Mark, DeadLetter]
    """Without their data."""
    deaths: set[Death]
    """Of these letters and of their copies. What dies from now on is another letter."""
    places: list[Channel]


class _Order:
    """One call of `retry` or `drop`: what it is to do, and how far it is."""

    def __init__(
        self, chosen: _Chosen, letters: dict[Mark, DeadLetter], fact: DeadLettersRetried | DeadLettersDropped
    ) -> None:
        self.letters = letters
        self.deaths = {death for death in chosen.deaths if death[:2] in letters}
        self.places = chosen.places
        self.publishes = isinstance(fact, DeadLettersRetried)
        self.published: set[Mark] = set()
        """A copy that is met later is only settled."""
        self.settled: set[Mark] = set()
        self.refused: set[Mark] = set()
        self.fact: DeadLettersRetried | DeadLettersDropped | None = fact
        """For the journal, with the first that are settled."""


class DeadLetters:
    """The dead letters of a train. All its methods raise UsageError, Unavailable and StorageBroken.

    The same letters may be handled by several processes at once: each letter is claimed by one of them."""

    def __init__(
        self,
        runtime: Runtime,
        state: TrainState,
        switcher: Switcher,
        *,
        here: Callable[[], object],
        asked: Callable[[str, str | None], tuple[str, str]],
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._state = state
        self._switcher = switcher
        self._here = here
        self._asked = asked
        """The checked reason, and who asks."""

    async def list(self, where: DeadFilter | None = None) -> AsyncIterator[DeadLetter]:
        """The dead letters, or those that are meant: first those of live wagons, then those of removed ones. One that a
        crash has stored twice, or that moves meanwhile, may come twice, with the same id and channel."""
        self._here()
        if where is not None:
            _check(where)
        for channel in self._channels(await self._manifest()):
            async for letter in self._in(channel):
                if where is None or where.takes(letter):
                    yield letter

    async def preview(self, where: DeadFilter, *, retries: int = RETRIES) -> DeadPreview:
        """Count the letters that are meant, and what `retry` would do with them: those that died again after so many
        `retries` are left out, as are those whose data was cut. Changes nothing."""
        self._here()
        _check(where)
        retries = whole("retries", retries)
        return previewed((await self._find(where)).letters, where, retries)

    async def retry(self, preview: DeadPreview, why: str = "by hand", *, by: str | None = None) -> DeadDone:
        """Publish the letters of this preview again, with their ids, times, attributes and data, to the active wagon:
        to the channel in which they died. Each is settled once it is published.

        Raises DeadLettersChanged, and does nothing, if the set of letters has changed since the preview; UsageError if
        the active wagon lacks one of the channels; and what `publish` raises, after which some may be published. Call
        it again with a new preview to go on: no letter is lost by an error or a crash, and up to 500 of them may then
        be published twice, with the same ids. `why` and `by` are for the journal."""
        why, by = self._ready(preview, why, by)
        chosen = await self._found(preview)
        good = {mark: each for mark, each in chosen.letters.items() if retriable(each, preview.retries)}
        active = self._state.snapshot.manifest.active
        if active is None:
            raise Unavailable(f"train {self._train} has no active wagon yet")
        if lacking := [name for name in preview.channels if name not in active.channels]:
            raise UsageError(
                f"{wagon_name(self._train, active.number)} has no channel {', '.join(lacking)}: let the train run with "
                "code that has it, or retry the others alone (by channel)"
            )
        which = str(preview.filter)
        fact = DeadLettersRetried(train=self._train, count=len(good), which=which, because=why, by=by)
        return await self._carry_out(_Order(chosen, good, fact))

    async def drop(self, preview: DeadPreview, why: str = "by hand", *, by: str | None = None) -> DeadDone:
        """Delete the letters of this preview, all of them: they can't be got back. Raises DeadLettersChanged, and does
        nothing, if the set of letters has changed since the preview. `why` and `by` are for the journal."""
        why, by = self._ready(preview, why, by)
        chosen, which = await self._found(preview), str(preview.filter)
        fact = DeadLettersDropped(train=self._train, count=preview.count, which=which, because=why, by=by)
        return await self._carry_out(_Order(chosen, chosen.letters, fact))

    # --- which they are --------------------------------------------------------------------------

    def _channels(self, manifest: Manifest) -> Sequence[Channel]:
        """The train's own comes last, so that a letter which moves meanwhile is not missed."""
        return [*map(manifest.dead_letters, manifest.wagons), Channel(self._train, 0, DEAD)]

    async def _in(self, channel: Channel) -> AsyncIterator[DeadLetter]:
        with suppress(ChannelGone):
            async for event in self._runtime.broker.read(channel):
                yield read(event)

    async def _find(self, where: DeadFilter) -> _Chosen:
        manifest = await self._manifest()
        chosen = _Chosen({}, set(), [])
        for channel in self._channels(manifest):
            before = len(chosen.deaths)
            async for letter in self._in(channel):
                if where.takes(letter):
                    newest(chosen.letters, _light(letter))
                    chosen.deaths.add(letter.death)
            if len(chosen.deaths) > before:
                chosen.places.append(channel)
        return chosen

    async def _manifest(self) -> Manifest:
        return (await self._answer(self._state.refresh)).manifest

    async def _found(self, preview: DeadPreview) -> _Chosen:
        """The letters that the preview has counted. Raises DeadLettersChanged."""
        chosen = await self._find(preview.filter)
        now = previewed(chosen.letters, preview.filter, preview.retries)
        if (now.digest, now.retried) != (preview.digest, preview.retried):
            raise DeadLettersChanged(
                f"the dead letters of train {self._train} with {preview.filter} have changed since they were counted: "
                f"there were {preview.count:,}, now there are {now.count:,}. Nothing was done: look again"
            )
        manifest = self._state.snapshot.manifest
        for wagon in manifest.in_state(State.REMOVING, State.FAILED):
            if manifest.dead_letters(wagon) in chosen.places:
                raise Unavailable(
                    f"{wagon_name(self._train, wagon.number)} is being removed, and its dead letters are moved: try "
                    "again in a moment"
                )
        return chosen

    def _ready(self, preview: DeadPreview, why: str, by: str | None) -> tuple[str, str]:
        self._here()
        if type(preview) is not DeadPreview:
            raise UsageError("give what `preview` has returned")
        return self._asked(why, by)

    # --- what is done with them ------------------------------------------------------------------

    async def _carry_out(self, order: _Order) -> DeadDone:
        own = Channel(self._train, 0, DEAD)
        for channel in order.places:
            if channel != own:
                await self._work_on(channel, order)
        await self._work_on(own, order)  # last: a removal may have moved some to it meanwhile
        settled, refused = len(order.settled), len(order.refused)
        return DeadDone(count=settled, refused=refused, left=len(order.letters) - settled - refused)

    async def _work_on(self, channel: Channel, order: _Order) -> None:
        """Claim the channel's letters until those that are meant were met, and work on these."""
        if not (missing := await self._missing(channel, order)):
            return
        with suppress(ChannelGone):  # its letters were moved
            async with self._runtime.broker.consume(channel, visibility=_CLAIM) as subscription:
                held: _Deliveries = []
                try:
                    await self._meet(channel, subscription, held, missing, order)
                finally:
                    if held:
                        with suppress(BrokerError):  # then their claims expire
                            await self._answer(partial(subscription.release, held, tried=False, cleared=True))

    async def _missing(self, channel: Channel, order: _Order) -> int:
        """How many of the letters that are meant are still there."""
        count = 0
        async for letter in self._in(channel):
            count += letter.death in order.deaths and letter.mark not in order.refused
        return count

    async def _meet(
        self, channel: Channel, subscription: Subscription, held: _Deliveries, missing: int, order: _Order
    ) -> None:
        """`held` gets what is to be given back."""
        clock = asyncio.get_running_loop().time
        poll = min(_POLL, self._runtime.settings.publish_timeout / 2)
        pause = 0.0
        met = extended = clock()
        ready: _Deliveries = []
        try:
            while missing > 0 and clock() - met < _PATIENCE:
                # no more than one batch: what a killed process had claimed comes back one by one
                got = await self._received(subscription, _BATCH - len(ready), poll, held)
                before = len(ready)
                for delivery in got:
                    letter = read(delivery.event)
                    is_meant = letter.death in order.deaths and letter.mark not in order.refused
                    (ready if is_meant else held).append(delivery)
                if len(ready) > before or (got and not pause):  # what was given back and comes again is no progress
                    met = clock()
                if ready and (len(ready) >= min(_BATCH, missing) or not got):
                    held += await self._work(channel, subscription, ready, order)
                    missing -= len(ready)
                    ready = []
                elif not got:  # somebody else has them, or has settled them by now
                    missing = await self._missing(channel, order)
                    if held and missing > 0:  # they may wait for these, as this call waits for theirs
                        await self._answer(partial(subscription.release, held, tried=False, cleared=True))
                        held.clear()
                        pause = min(2 * pause or poll, _CLAIM / 4)  # claims of dead processes end meanwhile
                        await asyncio.sleep(pause * (0.5 + self._runtime.rng.random()))
                if clock() - extended > _CLAIM / 4 and (held or ready):
                    extended = clock()
                    await self._answer(partial(subscription.extend, [*held, *ready]))
        finally:
            held += ready

    async def _received(
        self, subscription: Subscription, count: int, poll: float, held: _Deliveries
    ) -> Sequence[Delivery]:
        """What the broker hands out. A task that is cancelled meanwhile waits for the answer and adds it to `held`, so
        that it is given back; otherwise these claims would have to expire."""
        got: _Deliveries = []

        async def receive() -> None:
            got.extend(await self._answer(partial(subscription.receive, count, poll)))

        try:
            await to_the_end(receive, self._runtime.settings.publish_timeout)
        except asyncio.CancelledError:
            held += got
            raise
        return got

    async def _work(
        self, channel: Channel, subscription: Subscription, deliveries: Sequence[Delivery], order: _Order
    ) -> _Deliveries:
        """Publish these letters, and settle them. Returns those that stay."""
        if order.publishes:
            await self._publish([read(d.event) for d in deliveries], order)
        done, stay = list[Delivery](), list[Delivery]()
        for delivery in deliveries:
            (stay if read(delivery.event).mark in order.refused else done).append(delivery)
        if done:
            fact, order.fact = order.fact, None
            await self._answer(lambda: self._state.apply(lambda m: taken(m, channel.wagon, len(done), fact)))
            await self._answer(partial(subscription.settle, done))
            order.settled.update(read(d.event).mark for d in done)
        return stay

    async def _publish(self, letters: Sequence[DeadLetter], order: _Order) -> None:
        new = {each.mark: each for each in letters if each.mark not in order.published}
        left = [alive(each, order.letters[mark]) for mark, each in new.items()]
        while left:
            part = fitting(left, self._runtime.settings.publish_batch)
            count, refused = len(part), 0
            try:
                await self._switcher.publish(
                    part, deadline=asyncio.get_running_loop().time() + self._runtime.settings.publish_timeout
                )
            except EventRefused as e:
                count, refused = e.accepted, 1
            marks = [mark_of(event) for event in left]
            order.published.update(marks[:count])
            order.refused.update(marks[count : count + refused])
            left = left[count + refused :]

    async def _answer(self, call: Callable[[], Awaitable[T]]) -> T:
        """Raises Unavailable if there is no answer in time."""
        return await in_time(call, self._runtime.settings.publish_timeout, f"train {self._train}")


def _light(letter: DeadLetter) -> DeadLetter:
    """The letter without the event's data: many are held at once."""
    return letter._replace(event=msgspec.structs.replace(letter.event, data=b""))


def _check(where: DeadFilter) -> None:
    if type(where) is not DeadFilter:
        raise UsageError("say which dead letters are meant with a DeadFilter, such as DeadFilter(channel='ship')")
