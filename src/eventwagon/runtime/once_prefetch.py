"""Prefetch with `once=`: an event is handed out only while its claim in the record of handled events holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..contracts.broker import Delivery
from ..contracts.once import Standing
from .once import OnceGuard
from .prefetch import Prefetcher


class OncePrefetcher(Prefetcher):
    """Gives back what it has fetched if the claim is over: the process was suspended, or the record out of reach, for
    so long that others may handle the event by now."""

    def take(self, *, late: bool = False) -> Delivery | None:
        once = self._once
        while (delivery := super().take(late=late)) is not None and not once.holds(delivery):
            self.settler.give_back(delivery)
        return delivery

    def take_others(self, first: Delivery, *, late: bool = False) -> Sequence[Delivery]:
        once, held = self._once, list[Delivery]()
        for delivery in super().take_others(first, late=late):
            if once.holds(delivery):
                held.append(delivery)
            else:
                self.settler.give_back(delivery)
        return held

    def lost(self, claims: Mapping[int, Standing]) -> None:
        """Others have claimed or handled these events (by identity). If one of them waits here, nothing that waits
        here is handed out: what others have handled is settled, the rest given back."""
        here = (*self.buffer, *self.aside)
        if not (self.forming or self._suspects or any(id(delivery) in claims for delivery in here)):
            return
        once, handled = self._once, list[Delivery]()
        for delivery in self._clear():
            if claims.get(id(delivery)) is Standing.HANDLED:
                handled.append(delivery)
            else:
                self.settler.give_back(delivery)
        once.skip(handled)
        for delivery in handled:
            self.settler.not_tried(delivery)
            self.settler.skip(delivery)
        if handled:
            self._runtime.tell(once.fact(handled))
        self.source.room.set()

    @property
    def _once(self) -> OnceGuard:
        assert self.source.once is not None  # noqa: S101 - for the type checker: its maker has looked
        return self.source.once
