"""One connection for each open file; each turn carries out all waiting operations in one transaction.

Operations are passed on from the event loop, carried out in one of a few threads (`threads.py`), and answered on the
loop. While one turn is made durable the next one's
operations gather: a group commit without a timer.
"""

from __future__ import annotations

import asyncio
import os
import queue
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import apsw

from ...errors import EventwagonError, PublishUncertain, StorageBroken, Unavailable
from .op import CLOCK_SLACK, DeadFile, NeedsWrite, Op, Parked, Turn
from .place import Place
from .storage import Format, Sync, connect, explain, install, moved, own_fault, remove_dead, upgrade
from .threads import Threads, threads_here

R = TypeVar("R")

IDLE = 3.0  # seconds without work, after which the connection ends
CALM = 2.0  # seconds without a change, after which changes of other processes are checked for less often
CALM_POLL = 0.05
_SURELY = 1.0
"""Seconds after which SQLite itself is asked for changes, whatever the log's time says."""
_TICK = 50_000_000
"""Nanoseconds in which a file's time may stay the same although it is written to again, and more."""


Answer = tuple[Op[Any], Any, Exception | None]


class Files:
    """The open files of one driver. Handles grow with the files in use, not with those that were ever used. Belongs to
    the event loop and the process that made it."""

    def __init__(
        self, place: Place, form: Format, turn: type[Turn], *, sync: Sync, clock: Callable[[], float], poll: float
    ) -> None:
        self.place, self.form, self.turn = place, form, turn
        self.sync, self.clock, self.poll = sync, clock, poll
        self._actors: dict[str, Actor] = {}
        self._ending: set[Actor] = set()
        self._threads: Threads | None = None
        """While it is open."""
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Accept operations from now on."""
        if self._threads is None:
            self._threads = await self._stack.enter_async_context(threads_here())

    def submit(self, path: str, op: Op[R]) -> Actor:
        """Pass the operation to the file's actor; `op.future` gets the answer. Raises Unavailable when closed."""
        if self._threads is None:
            raise Unavailable(f"{path}: its broker or registry is not open (enter it first; it can't be used after)")
        actor = self._actors.get(path)
        if actor is None:
            actor = self._actors[path] = Actor(path, self, self._threads)
        actor.submit(op)
        return actor

    async def call(self, path: str, op: Op[R]) -> R:
        """Pass it on and wait for the answer."""
        self.submit(path, op)
        return await op.future

    async def close(self) -> None:
        """Finish accepted operations and refuse parked ones. Idempotent."""
        self._threads = None
        for actor in list(self._actors.values()):
            self.retire(actor)
        while self._ending:
            await asyncio.shield(next(iter(self._ending)).ended)
        await self._stack.aclose()

    def retire(self, actor: Actor) -> None:
        """Let the actor end: a later operation on the file gets a new one."""
        if self._actors.get(actor.key) is actor:
            del self._actors[actor.key]
            self._ending.add(actor)
            actor.stop()

    def gone(self, actor: Actor) -> None:
        """The actor has ended."""
        self._ending.discard(actor)


class Actor:
    """One file. `submit`, `expire` and `stop` are called on the event loop; `_step` is called in one thread at a
    time."""

    def __init__(self, path: str, files: Files, threads: Threads) -> None:
        self.key = path
        self.path = Path(path)
        self._log_path = self.path.with_name(f"{self.path.name}-wal")
        self._files = files
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._queue: queue.SimpleQueue[Op[Any]] = queue.SimpleQueue()
        self._pending = 0  # on the loop: passed on and not answered
        self._stop = False
        self._db: apsw.Connection | None = None
        self._upgraded = False  # the file has all columns of its format
        self._seen: int | None = None  # PRAGMA data_version before the last check of the parked ones; None: check again
        self._log: tuple[int, int, int] | None = None
        """The log's file, size and time at the last check, if a later write will surely change them."""
        self._asked = 0.0
        """When SQLite itself was last asked for changes (monotonic)."""
        self._due: float | None = None
        self._looked = 0.0
        self._parked: list[Op[Any]] = []
        self._work = threads.begin(self._step)

    # --- on the event loop ---

    def submit(self, op: Op[Any]) -> None:
        """Accept the operation."""
        self._pending += 1
        self._queue.put(op)
        self._work.wake()

    def expire(self, op: Op[R], answer: Callable[[], R]) -> None:
        """If it is parked, answer it with `answer()` now."""
        op.expired = answer
        self._work.wake()

    def stop(self) -> None:
        """End once all accepted operations are done."""
        self._stop = True
        self._work.wake()

    def deliver(self, answers: list[Answer], idle: bool) -> None:
        """Give the answers of a turn to the callers; `idle`: nothing else is to be done."""
        for op, value, error in answers:
            self._pending -= 1
            if op.future.done():  # its caller was cancelled
                if error is None and op.undo is not None:
                    op.undo(value)
            elif error is not None:
                op.future.set_exception(error)
            else:
                op.future.set_result(value)
        if idle and not self._pending:
            self._files.retire(self)

    def _bury(self) -> None:
        self._files.gone(self)
        self.ended.set_result(None)

    # --- in the threads ---

    def _step(self) -> float | None:
        """One turn. Returns the seconds until the next one, if nothing is passed on before; None: it was the last."""
        stopping = self._stop  # before looking for operations: none comes after it
        batch = self._gather()
        try:
            answers, self._parked = self._answer(batch, self._parked)
        except Exception as e:  # noqa: BLE001 - nobody may be left waiting, whatever it was
            answers, self._parked = self._failed(batch + self._parked, e), []
        idle = not self._parked and (not batch or self._db is None)
        if answers or idle:
            self._tell(self.deliver, answers, idle)
        if not stopping:
            return self._pause()
        over = Unavailable(f"{self.path}: its broker or registry was closed meanwhile")
        self._tell(self.deliver, [(op, None, over) for op in self._parked], False)
        self._parked = []
        self._drop()
        self._tell(self._bury)
        return None

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop was closed without leaving the broker: nobody is left to answer
            self._stop = True
            self._work.wake()

    def _gather(self) -> list[Op[Any]]:
        """All waiting operations."""
        batch: list[Op[Any]] = []
        try:
            while True:
                batch.append(self._queue.get_nowait())
        except queue.Empty:
            return batch

    def _pause(self) -> float:
        """The seconds after which the parked operations are tried again; without any, those until it ends."""
        if not self._parked:
            return IDLE
        now = self._files.clock()
        pause = self._files.poll
        if now - self._looked > CALM:
            pause = max(pause, CALM_POLL)
        return pause if self._due is None else min(pause, max(0.001, self._due - now))

    def _answer(self, batch: list[Op[Any]], parked: list[Op[Any]]) -> tuple[list[Answer], list[Op[Any]]]:
        """One turn: the answers, and what stays parked."""
        answers: list[Answer] = []
        fresh, waiting = [], []
        for op in batch:
            if op.future.cancelled():
                answers.append((op, None, _CANCELLED))
            else:
                fresh.append(op)
        for op in parked:
            if op.future.cancelled():
                answers.append((op, None, _CANCELLED))
            elif op.expired is not None:
                answers.append((op, op.expired(), None))
            else:
                waiting.append(op)
        if not fresh and not (waiting and self._changed()):
            return answers, waiting
        try:
            fresh.sort(key=lambda op: op.patient)
            before = sum(not op.patient for op in fresh)
            done, still = self._turn(fresh[:before] + waiting + fresh[before:])
            return answers + done, still
        except Exception as e:  # noqa: BLE001 - whatever it was belongs to those that wait for an answer
            self._seen = None  # parked ones check again by themselves
            if not fresh:
                return answers + self._failed(waiting, e), []
            if len(fresh) == 1 or isinstance(e, _CommitFailedError) or not own_fault(e):
                return answers + self._failed(fresh, e), waiting
        for op in fresh:  # one of them is the cause: run each in its own transaction
            try:
                done, still = self._turn([op])
                answers += done
                waiting += still
            except Exception as e:  # noqa: BLE001 - as above
                answers += self._failed([op], e)
        self._seen = None
        return answers, waiting

    def _failed(self, ops: list[Op[Any]], error: Exception) -> list[Answer]:
        cause = error.cause if isinstance(error, _CommitFailedError) else error
        unknown = isinstance(error, _CommitFailedError) and isinstance(cause, apsw.IOError)
        answers: list[Answer] = []
        for op in ops:  # one exception object each: they are raised in different tasks
            told = explain(cause, self.path)
            if unknown and op.uncertain:
                told = PublishUncertain(f"{self.path}: the commit failed ({cause}): the events may have been stored")
            elif told is cause and isinstance(told, EventwagonError):
                told = type(told)(*told.args)
            if told is not cause:
                told.__cause__ = cause
            answers.append((op, None, told))
        return answers

    def _changed(self) -> bool:
        """Whether the parked operations should try again."""
        if self._db is None:
            return self._seen is None or os.path.lexists(self.path)
        now = self._files.clock()
        if (self._due is not None and now >= self._due) or now < self._looked - CLOCK_SLACK:
            return True
        if self._log is not None and self._log == self._log_now()[0] and time.monotonic() - self._asked < _SURELY:
            return False
        found, settled = self._log_now()
        self._log, self._asked = found if settled else None, time.monotonic()
        try:
            return _data_version(self._db) != self._seen or moved(self._db)
        except apsw.Error:
            return True

    def _log_now(self) -> tuple[tuple[int, int, int] | None, bool]:
        """The identity, size and time of the write-ahead log, and whether a later write surely changes them. To look at
        them costs a fraction of asking SQLite."""
        try:
            found = self._log_path.stat()
        except OSError:
            return None, False
        return (found.st_ino, found.st_size, found.st_mtime_ns), time.time_ns() - found.st_mtime_ns > _TICK

    def _turn(self, ops: list[Op[Any]]) -> tuple[list[Answer], list[Op[Any]]]:
        """Carry them out in one transaction. Raises what stops all of them; then nothing was stored."""
        writes = any(op.writes for op in ops)
        creates = any(op.creates for op in ops)
        for _ in range(5):
            try:
                answers, still = self._attempt(ops, writes, creates)
            except NeedsWrite:
                writes = True
            except DeadFile:
                self._drop()
                remove_dead(self.path, self._files.form)
            except _MovedError:
                self._drop()
            else:
                if any(op.removes for op in ops):
                    answers = self._sweep(answers)
                return answers, still
        raise Unavailable(f"{self.path} is being made and removed by others at the same time: try again")

    def _attempt(self, ops: list[Op[Any]], writes: bool, creates: bool) -> tuple[list[Answer], list[Op[Any]]]:
        if self._db is None:
            if creates:
                self._files.place.check(make=True)
            self._db = connect(self.path, self._files.form, create=creates, sync=self._files.sync)
            self._upgraded = False
        db = self._db
        now = self._looked = self._files.clock()
        self._due = None
        if db is None:
            self._seen = 0
            return self._collect(ops, lambda op: op.absent())
        try:
            self._seen, self._log = _data_version(db), None
            db.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            if moved(db):
                raise _MovedError
            if creates:
                install(db, self._files.form)
            if writes and not self._upgraded:
                upgrade(db, self._files.form)
            turn = self._files.turn(db, now, writes)
            result = self._collect(ops, lambda op: op.run(turn))
            turn.flush()
        except BaseException as e:
            self._back_out(e)
            raise
        try:
            db.execute("COMMIT")
        except apsw.Error as e:
            self._back_out(e)
            raise _CommitFailedError(e) from e
        self._upgraded = self._upgraded or writes
        return result

    def _collect(self, ops: list[Op[Any]], run: Callable[[Op[Any]], Any]) -> tuple[list[Answer], list[Op[Any]]]:
        answers: list[Answer] = []
        still: list[Op[Any]] = []
        for op in ops:
            try:
                value = run(op)
            except EventwagonError as refusal:
                answers.append((op, None, refusal))
                continue
            if isinstance(value, Parked):
                still.append(op)
                if value.due is not None and (self._due is None or value.due < self._due):
                    self._due = value.due
            else:
                answers.append((op, value, None))
        return answers, still

    def _back_out(self, error: BaseException) -> None:
        """Roll back the whole turn. After a fault of the file the connection is opened again, so that a repaired file
        works."""
        db = self._db
        if db is None:
            return
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except apsw.Error:
            self._drop()
        if isinstance(error, (apsw.Error, StorageBroken)) and not isinstance(error, apsw.BusyError):
            self._drop()

    def _drop(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except apsw.Error:
                db.close(force=True)

    def _sweep(self, answers: list[Answer]) -> list[Answer]:
        """After a deletion: remove the file if nothing is left in it. If that fails, only the deletions fail."""
        form = self._files.form
        try:
            if form.dead is None or (self._db is not None and not self._db.execute(form.dead).get):
                return answers
            remove_dead(self.path, form)
        except (apsw.Error, OSError, StorageBroken) as e:
            removing = [op for op, _, error in answers if op.removes and error is None]
            return [answer for answer in answers if answer[0] not in removing] + self._failed(removing, e)
        self._drop()  # after the unlink: closing would otherwise first write the log into a file that is being removed
        return answers


def _data_version(db: apsw.Connection) -> int:
    """Another number after each change by another connection."""
    return int(db.execute("PRAGMA data_version").get)


_CANCELLED = Unavailable("its caller was cancelled")  # nobody has ever seen it


class _MovedError(Exception):
    """The path has another file than the one that the connection holds open."""


class _CommitFailedError(Exception):
    def __init__(self, cause: apsw.Error) -> None:
        super().__init__(str(cause))
        self.cause = cause
