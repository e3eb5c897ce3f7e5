"""Reads one train again and again, for all browsers together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from ..contracts.facts import Entry, WagonRemoved
from ..contracts.lifecycle import State
from ..display.text import said
from ..errors import EventwagonError
from ..policy.figures import figures_of
from ..policy.onlooking import Onlooking
from ..runtime.bulkhead import Bulkhead, is_ours
from ..views.journal import Row, row_of
from ..views.source import Outside
from ..views.train import Found, read, view_of
from .curves import Curves
from .paces import Paces
from .picture import Measures, past_of, point_of, refusal_after, train_of, unreadable
from .shapes import Card, Past, Refusal, TrainShape, Trouble, Verdict

_TAIL = 100
"""The newest entries of the journal, which are read each time. If more were written since, all are read."""
_JOURNAL = 5.0
"""Seconds for which the journal is not read again while the manifest does not change: only refusals come meanwhile."""
_ROWS = 1_000
"""Entries of the journal that are kept."""
_PAST = 1_000
"""Removed wagons that are kept."""
_PATIENCE = 10.0
"""Seconds for one reading."""


T = TypeVar("T")


class Log(Generic[T]):
    """A list that only grows at its end, of which the newest are kept: readers know how far they have come."""

    def __init__(self, most: int) -> None:
        self.rows = deque[T](maxlen=most)
        self.place = (0, 0)
        """How often it began anew, and how many there were since."""

    def append(self, row: T) -> None:
        """One more."""
        self.rows.append(row)
        self.place = self.place[0], self.place[1] + 1

    def clear(self) -> None:
        """Begin anew."""
        self.rows.clear()
        self.place = self.place[0] + 1, 0

    def since(self, place: tuple[int, int] | None) -> tuple[bool, list[T]]:
        """Whether a reader who came to this place must begin anew, and what it does not know yet."""
        kept = list(self.rows)
        if place is None or place[0] != self.place[0] or self.place[1] - place[1] > len(kept):
            return True, kept
        return False, kept[len(kept) - (self.place[1] - place[1]) :]


class TrainWatch:
    """One train: its newest picture, its curves, and the end of its journal."""

    def __init__(self, name: str, source: Outside, url: str) -> None:
        self.name = name
        self.source = source
        self.train: TrainShape | None = None
        """The newest picture; None before the first one."""
        self.found: Found | None = None
        self.trouble: Trouble | None = None
        self.curves = Curves()
        self.journal = Log[Row](_ROWS)
        self.past = Log[Past](_PAST)
        self._url = url
        self._bulkhead = Bulkhead("dashboard")
        self._onlooking = Onlooking()
        self._paces = Paces()
        self._refusal: Refusal | None = None
        self._last: Entry | None = None
        """The newest entry of the journal that was read."""
        self._verdict: Verdict | None = None
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._journal_read = float("-inf")
        self._journal_at = -1
        """The manifest's version when the journal was read."""

    async def look(self, *, journal: bool, fresh: float = 0.0) -> None:
        """Read the train, with its journal if asked, unless the last reading is younger than `fresh` seconds. What goes
        wrong becomes the train's trouble. One reading at a time: others wait for it."""
        async with self._looking:
            clock = asyncio.get_running_loop().time
            if clock() - self._looked < fresh and not (journal and self._is_journal_due(clock())):
                return
            try:
                async with asyncio.timeout(_PATIENCE):
                    found = await read(self.source)
                    if journal and (self._is_journal_due(clock()) or found.snapshot.version != self._journal_at):
                        await self._read_journal()
                        self._journal_read, self._journal_at = clock(), found.snapshot.version
                    self._take(found)
            except EventwagonError as e:
                self.failed(str(e))
            except TimeoutError:
                self.failed(f"no answer within {_PATIENCE:g} s")
            except BaseException as e:  # a driver of another package may raise anything: the others are shown
                if is_ours(e):
                    raise
                self._bulkhead.report(f"a reading of train {self.name}", e)
                self.failed(said(e))
            else:
                self.trouble = None
            self._looked = clock()

    def _is_journal_due(self, now: float) -> bool:
        return now - self._journal_read >= _JOURNAL

    def failed(self, why: str) -> None:
        """It can't be read now."""
        now = time.time()
        self.trouble = Trouble(why, now if self.trouble is None else self.trouble.since)
        self._verdict = self._dated(unreadable(why), now)

    def _take(self, found: Found) -> None:
        manifest, settings = found.snapshot.manifest, self.source.train.settings
        wagons = manifest.in_state(State.ACTIVE, State.DRAINING)
        depths = {
            w.number: [found.depths[w.number][name] for name in ("", *w.channels)]
            for w in wagons
            if w.number not in found.unread and {"", *w.channels} <= found.depths[w.number].keys()
        }
        steady = asyncio.get_running_loop().time()
        seen = self._onlooking.see(
            settings,
            self.source.broker.capabilities,
            manifest,
            depths,
            found.members,
            now=found.at,
            steady=steady,
        )
        figures = figures_of(seen)
        if settings.declared().get("limit") != manifest.declared.get("limit"):  # a limit of the user's own
            figures = msgspec.structs.replace(figures, pressures={}, promise=None)
        view = view_of(found, self._url)
        paces = self._paces.look({w.number: found.depths[w.number] for w in wagons}, steady)
        measures = Measures(seen, figures, self._onlooking.history.of(0), paces)
        train = train_of(found, view, measures, self.source.every_member)
        verdict = self._dated(train.verdict, found.at)
        self.curves.add(point_of(train))
        self._verdict = verdict
        self.found = found
        self.train = msgspec.structs.replace(
            train,
            verdict=verdict,
            refusal=self._refusal,
            point=self.curves.last,  # the same as before between two points: readers tell by its time
        )

    def rest(self) -> None:
        """Nobody looks any more: what was read gets too old to be shown. The curves stay."""
        self.train = self.found = self.trouble = None

    def _dated(self, verdict: Verdict, now: float) -> Verdict:
        before = self._verdict
        goes_on = before is not None and (before.level, before.word) == (verdict.level, verdict.word)
        return msgspec.structs.replace(verdict, since=before.since if before is not None and goes_on else now)

    @property
    def is_complete(self) -> bool:
        """Whether its journal was read too, or it can't be read."""
        return self._last is not None or self.trouble is not None

    def card(self) -> Card | None:
        """The train at a glance; None before anything is known of it."""
        full = self.full()
        return None if full is None else Card(**{name: getattr(full, name) for name in Card.__struct_fields__})

    def full(self) -> TrainShape | None:
        """The newest picture. If the train can't be read now, the last one, with the trouble; None before anything is
        known of it."""
        if self.trouble is None:
            return self.train
        known = self.train or TrainShape(train=self.name, verdict=unreadable(self.trouble.why))
        verdict = self._verdict or known.verdict
        return msgspec.structs.replace(known, verdict=verdict, trouble=self.trouble, point=None)

    async def _read_journal(self) -> None:
        entries = [entry async for entry in self.source.journal(last=_TAIL)]
        known = self._known(entries)
        if known is None:
            if len(entries) == _TAIL:
                entries = [entry async for entry in self.source.journal()]
            self.journal.clear()
            self.past.clear()
            self._refusal = None
            known = 0
        for entry in entries[known:]:
            self._append(entry)
        self._last = entries[-1] if entries else None

    def _known(self, entries: Sequence[Entry]) -> int | None:
        """How many of the entries are known already; None if it can't be told."""
        if self._last is None:
            return None
        return next((n for n in range(len(entries), 0, -1) if entries[n - 1] == self._last), None)

    def _append(self, entry: Entry) -> None:
        self.journal.append(row_of(entry))
        self._refusal = refusal_after(self._refusal, entry)
        if isinstance(entry.fact, WagonRemoved):
            past = past_of(self.name, entry, entry.fact)
            if all(each.number != past.number for each in self.past.rows):  # twice where the registry stepped back
                self.past.append(past)
