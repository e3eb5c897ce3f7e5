"""A unit's supervisor: it runs the wanted number of copies of the command, for the wanted wagon."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import count, islice

import msgspec

from ....backoff import pause_after
from ....contracts.orchestrator import Deployment
from ....display.text import as_line
from ....errors import Unavailable
from .. import MARGIN, SENT_HOME, Follower, Run, Want, follow
from .replicas import CommandSpec, Replica, end_left_over, known_to_command

PLAN = "EVENTWAGON_COMMAND"
_PAUSES = (0.2, 30.0)
_STEADY = 10.0
"""A copy that ran for so many seconds counts as healthy: if it ends, the next one starts without a pause."""
_POLL = 0.02
_logger = logging.getLogger("eventwagon.supervisor")


def main(arguments: Sequence[str]) -> int:
    """Supervise a unit until it must leave, its parent has ended, or SIGTERM. Returns the exit code."""
    train, unit, directory = arguments
    plan = msgspec.json.decode(os.environ.pop(PLAN), type=CommandSpec)
    return follow(train, unit, directory, lambda follower: Supervisor(follower, plan).run())


class Supervisor:
    """Runs one unit's copies of the command."""

    def __init__(self, follower: Follower, plan: CommandSpec) -> None:
        self._follower = follower
        self._plan = plan
        self._replicas: list[Replica] = []
        self._failures: dict[int, int] = {}
        self._not_before: dict[int, float] = {}
        self._trouble = ""
        self._watches: dict[Replica, asyncio.Task[None]] = {}
        self._run = Run(token=os.urandom(16).hex())

    async def run(self) -> int:
        """Run until it must leave, or is scaled to zero. Returns the exit code."""
        follower, code = self._follower, 0
        async with follower.attending(self._plan.grace), asyncio.TaskGroup() as tasks:
            cleaning = tasks.create_task(self._end_left_over(self._plan.grace))
            async for want in follower.looks():
                if not cleaning.done():
                    follower.say(ready=False, trouble="copies of the command that were left over are ended first")
                    continue
                self._look(want, tasks)
                if not self._replicas and not want.spec.workers:
                    code = SENT_HOME
                    break
            follower.end_within(follower.grace + MARGIN)
            if not cleaning.done():
                cleaning.cancel()
                await self._end_left_over(follower.grace)
            await self._end_all()
        return code

    async def _end_left_over(self, grace: float) -> None:
        """End the copies of an earlier supervisor that was killed. From then on every copy is recorded before it is
        started."""
        files = self._follower.files
        while (before := files.run()) is not None and before.token != self._run.token:
            try:
                await end_left_over(before, grace=grace)
            except Unavailable as e:
                _logger.error("%s", as_line(str(e)))  # noqa: TRY400 - no traceback: it says what is wrong
            else:
                break
        files.write(self._run)

    def _look(self, want: Want, tasks: asyncio.TaskGroup) -> None:
        """Start and end copies until they are as wanted, and report the state."""
        self._reap()
        spec, now = want.spec, asyncio.get_running_loop().time()
        wanted = spec.workers or 0
        current = known_to_command(spec, want.names)
        for replica in self._replicas:
            if replica.serves != current:
                replica.ask_to_end()
        for replica in [c for c in self._replicas if not c.asked][wanted:]:
            replica.ask_to_end()
        if all(c.serves == current for c in self._replicas):
            standing = sum(not c.asked or bool(c.failed) for c in self._replicas)
            used = {c.index for c in self._replicas}
            for index in islice((n for n in count(1) if n not in used), max(0, wanted - standing)):
                if now >= self._not_before.get(index, 0.0):
                    self._start(want, index, tasks)
        self._say(want, wanted)

    def _start(self, want: Want, index: int, tasks: asyncio.TaskGroup) -> None:
        try:
            replica = Replica(self._plan, want.spec, want.names, index, self._run.token)
            if self._plan.stop:
                stops = tuple(c.stop_words(self._plan.grace) for c in (*self._replicas, replica))
                self._follower.files.write(msgspec.structs.replace(self._run, stops=stops))
            replica.start()
        except OSError as e:
            self._failed(index, f"the command can't be started: {e}")
            return
        self._replicas.append(replica)
        self._watches[replica] = tasks.create_task(replica.watch())

    def _reap(self) -> None:
        """Handle copies that have ended."""
        now = asyncio.get_running_loop().time()
        for replica in [c for c in self._replicas if c.ended()]:
            self._replicas.remove(replica)
            replica.close()
            self._watches.pop(replica).cancel()
            if now - replica.began > _STEADY and not replica.failed:
                self._failures.pop(replica.index, None)
            if replica.failed or not replica.asked:
                self._failed(replica.index, replica.failed or replica.why_ended())

    def _failed(self, index: int, trouble: str) -> None:
        self._failures[index] = self._failures.get(index, 0) + 1
        pause = pause_after(self._failures[index], *_PAUSES)
        self._not_before[index] = asyncio.get_running_loop().time() + pause
        self._trouble = trouble

    def _say(self, want: Want, wanted: int) -> None:
        serving = [c for c in self._replicas if not c.asked]
        waiting = next((c for c in serving if not c.is_ready), None)
        is_ready = sum(c.is_ready for c in serving)
        ready = 0 < wanted == len(serving) and waiting is None
        if (enough := want.spec.enough) is not None:
            ready = 0 < min(wanted, enough) <= is_ready
        if ready:
            self._trouble = ""
        because = self._trouble
        if waiting is not None and not because and not ready:
            because = (
                f"copy {waiting.index} of the command is not ready: {waiting.not_ready_because or 'it has just begun'}"
            )
        if len(serving) < wanted and not because and not ready:
            because = "copies for another wagon, revision or channels are ending first"
        number, revision = want.spec.number, want.spec.revision
        if not serving and self._replicas:
            number, revision = self._replicas[0].number, self._replicas[0].revision
        channels = tuple(c.name for c in want.spec.channels if c.name) if ready else None
        found = Deployment(
            number=number,
            ready=ready,
            workers=len(self._replicas),
            attached=is_ready,
            revision=revision,
            channels=channels,
        )
        self._follower.say(ready=ready, trouble=because, found=found)

    async def _end_all(self) -> None:
        for replica in self._replicas:
            replica.ask_to_end(kill_after=self._follower.grace)
        while self._replicas:
            self._reap()
            await asyncio.sleep(_POLL)
        await end_left_over(self._run, grace=0.0)  # left its group: it was never a copy, and has had the grace
        with suppress(OSError):
            self._follower.files.run_path.unlink(missing_ok=True)
