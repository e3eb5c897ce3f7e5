"""An observer's last looks, kept so that they can be run again: they are logged at DEBUG and in the report of a
defect."""

from __future__ import annotations

import logging
from collections import deque

from ..policy.record import encode_look
from ..policy.seen import Seen
from .bulkhead import Bulkhead, Seldom, log_safely

_logger = logging.getLogger("eventwagon.looks")

_LOOKS_MOST = 20
_BYTES_MOST = 4_000_000
"""Roughly the most memory for all looks. The newest is kept however large it is."""
_REPORT_MOST = 100_000
"""Characters of the looks in one line of a log."""


class Looks:
    """One observer's last looks, oldest first; each line of the log begins with `train`."""

    def __init__(self, train: str, bulkhead: Bulkhead) -> None:
        self._train = train
        self._bulkhead = bulkhead
        self._kept: deque[tuple[Seen, int]] = deque()
        self._size = 0
        self._seldom = Seldom()

    def keep(self, seen: Seen) -> None:
        """Remember this look, and forget old ones, so that number and size stay bounded."""
        size = _bytes(seen)
        self._kept.append((seen, size))
        self._size += size
        while len(self._kept) > _LOOKS_MOST or (self._size > _BYTES_MOST and len(self._kept) > 1):
            self._size -= self._kept.popleft()[1]

    def log_newest(self, what: str) -> None:
        """Write the newest look to the log at DEBUG; `what` says what was decided."""
        if self._kept and _logger.isEnabledFor(logging.DEBUG):
            self._log(logging.DEBUG, what, 1)

    def report(self) -> None:
        """Write the last looks to the log at ERROR, to report a defect: at most once a minute."""
        if self._kept and self._seldom.due("report") is not None:
            what = "the last looks, for the report; `eventwagon why --look FILE` replays them"
            self._log(logging.ERROR, what, len(self._kept))

    def _log(self, level: int, what: str, count: int) -> None:
        self._bulkhead.call("writing a look to the log", lambda: self._write(level, what, count))

    def _write(self, level: int, what: str, count: int) -> None:
        words: list[str] = []
        left = _REPORT_MOST
        for seen, _ in list(self._kept)[-count:][::-1]:  # the newest first: it matters most
            word = encode_look(seen)
            left -= len(word)
            if left < 0:
                break
            words.insert(0, word)
        text = " ".join(words) or f"the look is left out, it takes more than {_REPORT_MOST:,} characters"
        log_safely(_logger, level, "%s: %s: %s", self._train, what, text)


def _bytes(seen: Seen) -> int:
    """Roughly the memory that the look takes beyond what all looks share."""
    told = sum(1 + len(m.attachments) + len(m.deployed) for m in seen.members)
    samples = sum(len(r.samples) for r in seen.readings.values())
    return 500 * (told + len(seen.readings) + len(seen.deployments)) + 100 * len(seen.leftovers) + 8 * samples
