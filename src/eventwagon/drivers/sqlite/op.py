"""What an actor carries out: operations, and the turn (one transaction) that they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import apsw

R = TypeVar("R")

CLOCK_SLACK = 1.0  # seconds that a clock may seem to go back before that counts


class Parked:
    """An operation's answer "nothing yet": it waits, and is tried again after any change, and at `due` (wall clock)."""

    __slots__ = ("due",)

    def __init__(self, due: float | None = None) -> None:
        self.due = due


class NeedsWrite(Exception):
    """The turn is read-only and an operation needs to write."""


class DeadFile(Exception):
    """The file was emptied for good: it must be removed before a new one is created."""


class Turn:
    """One transaction. A driver's own turn adds what its operations share."""

    def __init__(self, db: apsw.Connection, now: float, writable: bool) -> None:
        self.db = db
        self.now = now
        self.writable = writable

    def need_write(self) -> None:
        """Called before the first write of an operation that was not declared as a writing one."""
        if not self.writable:
            raise NeedsWrite

    def flush(self) -> None:
        """Write the postponed changes; called once, before the commit."""


class Op(Generic[R]):
    """One operation: `run` does it within a turn, and decides by reading before it writes.

    A refusal (any EventwagonError) affects no other operation of the turn. `absent` answers if there is no file.
    """

    def __init__(
        self,
        run: Callable[[Any], R | Parked],
        *,
        absent: Callable[[], R | Parked],
        writes: bool = False,
        creates: bool = False,
        removes: bool = False,
        uncertain: bool = False,
        patient: bool = False,
        undo: Callable[[R], None] | None = None,
    ) -> None:
        self.run = run
        self.absent = absent
        self.writes = writes or creates
        self.creates = creates
        self.removes = removes
        """It may have emptied the file for good."""
        self.uncertain = uncertain
        """An unknown outcome of its commit is PublishUncertain."""
        self.patient = patient
        """It may be parked: operations that already wait are served before it."""
        self.undo = undo
        """Called with the answer if its caller no longer waits."""
        self.expired: Callable[[], R] | None = None
        """Set when it must not stay parked any longer: returns its answer then."""
        self.future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
