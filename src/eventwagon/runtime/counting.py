"""What this process's workers did in each channel of each wagon, for the train's ledger. Without a ledger there are
none."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..contracts.broker import Delivery
from ..contracts.ledger import ChannelCounts
from ..contracts.manifest import Manifest, Wagon
from ..event import Channel
from ..policy.digest import digest_of, together, written
from ..policy.sketch import Sketcher


class ChannelCounter:
    """The counter of one channel. `handled` and `settled` are called once for each batch."""

    __slots__ = ("_channel", "_dead", "_digest", "_handlings", "_settled", "_waits", "retried", "snoozed")

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._settled = self._dead = self._digest = 0
        self._waits = Sketcher()
        self._handlings = Sketcher()
        self.retried = 0
        """Written by Settler, as is the next."""
        self.snoozed = 0

    @property
    def mark(self) -> tuple[int, int, int]:
        """Changes whenever the figures do, except for the times alone."""
        return self._settled, self.retried, self.snoozed

    def settled(self, deliveries: Collection[Delivery], dead: int) -> None:
        """The broker has settled these; `dead` of them are among the dead letters."""
        self._settled += len(deliveries)
        self._dead += dead
        self._digest = together(self._digest, digest_of((d.event.id for d in deliveries), self._channel))

    def handled(self, seconds: Sequence[float], waits: Sequence[float]) -> None:
        """Handlings took so long; events waited so long for their first."""
        self._handlings.add(seconds)
        self._waits.add(waits)

    def of(self, wagon: int, opened_at: float) -> ChannelCounts:
        """The figures as they are now."""
        return ChannelCounts(
            wagon=wagon,
            opened_at=opened_at,
            channel=self._channel,
            settled=self._settled,
            dead=self._dead,
            retried=self.retried,
            snoozed=self.snoozed,
            digest=written(self._digest),
            waits=self._waits.sketch,
            handlings=self._handlings.sketch,
        )


class Counters:
    """Those of one process. They outlast the wagons' consumers, until the wagons are gone from the manifest."""

    def __init__(self) -> None:
        self._of: dict[Channel, ChannelCounter] = {}

    def of(self, channel: Channel) -> ChannelCounter:
        """The counter of this channel, a new one if there is none."""
        found = self._of.get(channel)
        if found is None:
            found = self._of[channel] = ChannelCounter(channel.name)
        return found

    def marks(self, manifest: Manifest) -> dict[Channel, tuple[int, int, int]]:
        """The marks of the counts that have figures. Those of wagons that are gone are dropped."""
        for channel in [c for c in self._of if c.wagon < manifest.next_number and manifest.wagon(c.wagon) is None]:
            del self._of[channel]
        return {channel: counter.mark for channel, counter in self._of.items() if any(counter.mark)}

    def said(self, wagon: Wagon) -> tuple[ChannelCounts, ...]:
        """The counts of this wagon that have figures."""
        return tuple(
            counter.of(wagon.number, wagon.opened_at)
            for channel, counter in self._of.items()
            if channel.wagon == wagon.number and any(counter.mark)
        )
