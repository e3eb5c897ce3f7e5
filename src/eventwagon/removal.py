"""The end of a wagon: its workers, its dead letters, its record, its channels. Every part may be repeated (I7)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from .broker import Broker
from .errors import ChannelGone
from .event import DEAD, Channel, Event
from .facts import EventsRescued, OrphanRemoved, WagonRemoved
from .manifest import Wagon
from .orchestrator import Orchestrator
from .settings import Settings
from .steps import Plan, RemoveLeftover, removed
from .switcher import Switcher

_MOVE_BATCH = 500


class Remover:
    """Removes wagons that are drained or failed, and what was left of those that are gone."""

    def __init__(
        self, train: str, settings: Settings, broker: Broker, switcher: Switcher, orchestrator: Orchestrator | None
    ) -> None:
        self._train = train
        self._settings = settings
        self._broker = broker
        self._switcher = switcher
        self._orchestrator = orchestrator

    async def remove(self, wagon: Wagon) -> None:
        """Remove a drained or failed wagon. In this order, each part repeatable: workers, dead letters, record, late events, channels, manifest."""
        manifest = self._switcher.snapshot.manifest
        if self._orchestrator is not None:
            await self._orchestrator.remove(self._train, wagon.number, grace=self._settings.grace)
        (last,) = await self._broker.depth([manifest.dead_letters(wagon)])
        if last.published is not None:  # it goes last: once it is gone, the record was written
            dead = await self._move_dead_letters(manifest.dead_letters(wagon))
            await self._switcher.note(WagonRemoved(train=self._train, wagon=wagon, dead=dead))
        await self._rescue(manifest.ingress(wagon))
        for channel in (*manifest.working_channels(wagon), manifest.dead_letters(wagon)):
            await self._broker.delete(channel)
        await self._switcher.settle(lambda m: Plan(removed(m, wagon.number)))

    async def _move_dead_letters(self, channel: Channel) -> int:
        """Into the train's own channel, where they stay. After a crash some may stand there twice, with the same id."""
        kept = Channel(self._train, 0, DEAD)
        moved = 0
        async for batch in self._batches(channel):
            await self._broker.create(kept)
            await self._broker.publish(kept, batch)
            moved += len(batch)
        return moved

    async def _rescue(self, ingress: Channel) -> None:
        """What a stale publisher still managed to leave there is published anew, not lost. A look again before the end:
        where the broker refuses writes to a sealed channel nothing is ever found."""
        count = 0
        async for batch in self._batches(ingress):
            await self._switcher.publish(batch, timeout=self._settings.publish_timeout)
            count += len(batch)
        if count:
            await self._switcher.note(EventsRescued(train=self._train, number=ingress.wagon, count=count))

    async def leftover(self, task: RemoveLeftover) -> None:
        """Remove what belongs to no wagon in the manifest. Idempotent."""
        if self._orchestrator is not None:
            await self._orchestrator.remove(self._train, task.number, grace=self._settings.grace)
        for channel in task.channels:
            if not channel.name:
                await self._broker.seal(channel)
                await self._rescue(channel)
            elif channel.name == DEAD:
                await self._move_dead_letters(channel)
            await self._broker.delete(channel)
        what = ", ".join(map(str, task.channels)) or f"workers of wagon_{task.number}"
        await self._switcher.note(OrphanRemoved(train=self._train, what=what))

    async def _batches(self, channel: Channel) -> AsyncIterator[list[Event]]:
        batch: list[Event] = []
        try:
            async for event in self._broker.read(channel):
                batch.append(event)
                if len(batch) >= _MOVE_BATCH:
                    yield batch
                    batch = []
        except ChannelGone:
            pass  # a step repeated after it was done
        if batch:
            yield batch
