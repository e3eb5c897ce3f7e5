"""Whether the train's registry and broker answer this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import EventwagonError, Unavailable

_LONG = 3.0
"""Seconds without an answer after which they count as out of reach: a connection that breaks is made again sooner."""
_OLD = 30.0
"""Seconds after which a failure says nothing any more, if nothing was asked since."""


class Reach:
    """What the calls that each process makes all the time say of the registry, which most often is the broker, too: its
    check-ins, and the watch of the manifest. For one event loop at a time."""

    def __init__(self, over: Callable[[float], None] = lambda seconds: None) -> None:
        """`over` is told after how many seconds out of reach they answer again."""
        self._over = over
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked: dict[object, float] = {}
        """The calls under way: since when (the loop's time)."""
        self._answered = float("-inf")
        self._failing: tuple[float, float, str] | None = None
        """Since when calls fail; when the last one did, and why."""

    @contextmanager
    def asking(self) -> Iterator[None]:
        """While a call waits for its answer. Whatever it raises is passed on."""
        call, since = object(), self._now()
        self._asked[call] = since
        try:
            yield
        except (Unavailable, TimeoutError) as e:
            self.failed(str(e) or "no answer in time", since)
            raise
        except EventwagonError:  # a refusal is an answer, too
            self.answered()
            raise
        except asyncio.CancelledError:
            if self._now() - since >= _LONG:  # its caller has waited long enough
                self.failed("no answer in time", since)
            raise
        else:
            self.answered()
        finally:
            del self._asked[call]

    def answered(self) -> None:
        """There was an answer."""
        now = self._now()
        away = self._away(now)
        self._answered, self._failing = now, None
        if away is not None:
            self._over(away[0])

    def failed(self, why: str, since: float | None = None) -> None:
        """A call failed that began at `since` (the loop's time; None: now)."""
        now = self._now()
        begun = now if since is None else max(since, self._answered)
        self._failing = begun if self._failing is None else self._failing[0], now, why

    @property
    def trouble(self) -> str:
        """Why they are out of reach; empty while they answer, or nothing was asked. From any thread."""
        away = self._away(self._loop.time()) if self._loop is not None else None
        if away is None:
            return ""
        seconds, why = away
        return f"the broker or the registry has not answered for {seconds:.0f} s{why and f': {why}'}"

    def _away(self, now: float) -> tuple[float, str] | None:
        """For how many seconds they have been out of reach, and why, if that is known. From any thread."""
        failing = self._failing
        if failing is not None:
            first, last, why = failing
            if last - first >= _LONG and now - last < _OLD:  # one failure is not enough: the next call may succeed
                return now - first, why
        since = max(min(list(self._asked.values()), default=now), self._answered)
        return (now - since, "") if now - since >= _LONG else None

    def _now(self) -> float:
        self._loop = asyncio.get_running_loop()
        return self._loop.time()
