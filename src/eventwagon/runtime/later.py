"""Events for later, as one process adds, lists and cancels them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from ..backoff import Backoff
from ..contracts.timetable import Timetable, Waiting, key
from ..display.text import said
from ..errors import (
    EventwagonError,
    PublishError,
    PublishTimeout,
    PublishUncertain,
    Unavailable,
    UsageError,
)
from ..event import Event
from ..times import When
from .observed import unobserved
from .runtime import Runtime
from .train_state import TrainState, no_publishing

_PAUSES = (0.05, 1.0)
"""The first and the longest pause in seconds before a call that failed is repeated."""


class Later:
    """One train's timetable in one process. All methods raise UsageError if the broker and the registry have none."""

    def __init__(self, runtime: Runtime, state: TrainState) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._state = state

    @property
    def timetable(self) -> Timetable:
        """The timetable. Raises UsageError if there is none."""
        return checked_timetable(self._runtime.timetable, type(unobserved(self._runtime.broker)).__name__)

    async def keep(self, when: When, event: Event, deadline: float) -> bool:
        """Keep the event until it is due, by the timetable's clock; durable when it returns. Returns False and keeps
        nothing if it is due already. `deadline` is on the event loop's clock. Raises UsageError, TrainPaused,
        TrainRemoved, PublishTimeout, StorageBroken, EventTooLarge."""
        timetable, trouble = self.timetable, "no answer"
        backoff, kept = Backoff(*_PAUSES), None
        try:
            async with asyncio.timeout_at(deadline) as limit:
                while True:
                    if (refusal := no_publishing(self._state.snapshot.manifest)) is not None:
                        raise refusal
                    try:
                        if kept is None:
                            now = await timetable.now(self._train)
                            if (due := when.due(now)) <= now:
                                return False
                            kept = msgspec.structs.replace(event, time=due)
                        await timetable.add(self._train, [kept])
                        return True
                    except (Unavailable, PublishUncertain) as e:
                        trouble = str(e)
                    except EventwagonError:
                        raise
                    except Exception as e:
                        self._runtime.bulkhead.report("keeping an event for later", e)
                        raise PublishError(f"train {self._train}: {said(e)}: the event may be kept for later") from e
                    await asyncio.sleep(backoff.next())
        except TimeoutError:
            if not limit.expired():
                raise
            what = "no event was kept for later" if kept is None else "it is not certain that the event is kept"
            raise PublishTimeout(f"train {self._train}: {what}: {trouble}") from None

    async def cancel(self, event_id: str) -> bool:
        """See Connection.cancel."""
        channels = {*self._state.snapshot.manifest.channels, *self._runtime.handlers}
        channels |= {name for w in self._state.snapshot.manifest.wagons for name in w.channels}
        return await self.timetable.cancel(self._train, [key(event_id, name) for name in sorted({"", *channels})])

    async def waiting(self) -> Waiting:
        """How many events wait, and when the next is due."""
        return await self.timetable.waiting(self._train)

    async def ticks(self) -> Mapping[str, float]:
        """The latest tick of each schedule that has one."""
        return await self.timetable.latest_of_all(self._train)

    async def entries(self) -> AsyncIterator[Event]:
        """The events that wait."""
        async for event in self.timetable.entries(self._train):
            yield event


def checked_timetable(timetable: Timetable | None, broker: str) -> Timetable:
    """The timetable. Raises UsageError if it is None."""
    if timetable is None:
        raise UsageError(
            f"{broker} and its registry can't keep events for later: use SQLite, Redis, Valkey, Kafka or SQS, or keep "
            "the manifest in one of them (the URL's option registry=redis://…)"
        )
    return timetable


async def store_emitted(runtime: Runtime, events: Sequence[Event]) -> None:
    """Keep what handlers have emitted for later: the `time` of each says how many seconds after now it is due."""
    timetable = checked_timetable(runtime.timetable, type(unobserved(runtime.broker)).__name__)
    now = await timetable.now(runtime.train)
    await timetable.add(runtime.train, [msgspec.structs.replace(e, time=now + e.time) for e in events])
    runtime.pulse.news()
