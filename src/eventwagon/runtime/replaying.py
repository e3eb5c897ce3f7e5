"""Replays by order: counted, requested, cancelled. `connection.replays` is one of these; observers do the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from ..contracts.manifest import Manifest
from ..contracts.replay import EventSource, PastEvents, Replay
from ..errors import Unavailable, UsageError
from ..event import wagon_name
from ..policy.edits import Edit
from ..policy.replays import cancelled, of_number, requested
from ..values import check_revision, real, shown, whole
from .feeding import meant
from .runtime import Runtime
from .train_state import TrainState

_MOST_IDS = 1000
"""The most ids in one request: they are kept in the manifest, which every process reads."""
_SLOWEST, _FASTEST = 0.01, 1e6
_OUTCOMES = ("handled", "dead")


class Replays:
    """The replays of a train: past events, handled once more in wagons of their own. All its methods raise UsageError,
    Unavailable and StorageBroken."""

    def __init__(
        self,
        runtime: Runtime,
        state: TrainState,
        source: EventSource | None,
        *,
        here: Callable[[], object],
        asked: Callable[[str, str | None], tuple[str, str]],
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._state = state
        self._source = source
        self._here = here
        self._asked = asked
        """The checked reason, and who asks."""

    async def preview(self, of: PastEvents) -> int:
        """How many events are meant. Reads all that are kept of that channel of the wagon. Changes nothing."""
        self._here()
        count = 0
        async for events in meant(self._past(of), of):
            count += len(events)
        return count

    async def request(
        self,
        of: PastEvents,
        why: str = "by hand",
        *,
        revision: str | None = None,
        rate: float | None = None,
        by: str | None = None,
    ) -> Replay:
        """Have these events handled once more: observers open a wagon for them, publish them to it, and remove it in
        the end. The active wagon goes on as it is. One replay runs at a time; the others wait for it. It goes on
        whatever becomes of this process, until it is over or is cancelled.

        The events keep their ids, times, data and attributes. `revision`: the code that handles them; default: that of
        new wagons. `rate`: the most events per second that are published. `why` and `by` are for the journal. Raises
        UsageError if there are no such events. Not idempotent: each call is a replay of its own.
        """
        why, by = self._asked(why, by)
        if revision is not None:
            check_revision(revision)
        if rate is not None:
            rate = real("rate", rate)
            if not _SLOWEST <= rate <= _FASTEST:
                raise UsageError(f"rate={shown(rate)}: give events per second, from {_SLOWEST:g} to {_FASTEST:,.0f}")
        count = await self.preview(of)
        if of.channel not in ("", *self._state.snapshot.manifest.channels):
            raise UsageError(
                f"train {self._train} has no channel {shown(of.channel)} now: let it run with code that has it"
            )
        if not count:
            raise UsageError(f"nothing to replay: {wagon_name(self._train, of.wagon)} has no such events ({words(of)})")
        made = Replay(
            number=0, of=of, count=count, why=why, at=self._runtime.clock(), by=by, revision=revision, rate=rate
        )
        number = 0

        def edit(m: Manifest) -> Edit:
            nonlocal number
            number = m.next_number
            return requested(m, made, words(of))

        async with asyncio.timeout(self._runtime.settings.publish_timeout):
            await self._state.apply(edit)
        return msgspec.structs.replace(made, number=number)

    async def cancel(self, number: int, why: str = "by hand", *, by: str | None = None) -> bool:
        """Publish nothing more of this replay; what was published is handled. Returns False if it is over already.
        Idempotent."""
        why, by = self._asked(why, by)
        number = whole("number", number)
        self._here()
        before = (await self._state.refresh()).manifest
        if number >= before.next_number:
            raise UsageError(f"train {self._train} has had no replay {number}")
        await self._state.apply(lambda m: cancelled(m, number, why, by))
        return of_number(before, number) is not None

    @property
    def standing(self) -> Sequence[Replay]:
        """Those that are not over: the first one runs, the others wait. As this process last saw them."""
        self._here()
        return self._state.snapshot.manifest.replays

    async def wait(self, number: int) -> None:
        """Return once this replay is over: its events are handled or dead, its wagons removed."""
        self._here()
        await self._state.until(lambda m: number < m.next_number and of_number(m, number) is None)

    def _past(self, of: PastEvents) -> EventSource:
        if type(of) is not PastEvents:
            raise UsageError("say which events are meant with a PastEvents, such as PastEvents(wagon=7)")
        if len(of.ids) > _MOST_IDS:
            raise UsageError(f"{len(of.ids):,} ids are more than {_MOST_IDS:,}: replay them in parts, or by time")
        if of.outcome not in (None, *_OUTCOMES):
            raise UsageError(f"outcome={shown(of.outcome)}: give one of {', '.join(_OUTCOMES)}")
        if self._source is None:
            raise Unavailable(f"train {self._train} has no archive: past events are kept only with archive=")
        return self._source


def words(of: PastEvents) -> str:
    """The filter in words."""
    given = {name: getattr(of, name) for name in of.__struct_fields__}
    return ", ".join(f"{name}={shown(value)}" for name, value in given.items() if value not in (None, (), ""))
