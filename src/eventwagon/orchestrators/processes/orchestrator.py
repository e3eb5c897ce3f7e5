"""The orchestrator's side: starts the units' processes, supervises them, and ends them."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Self

import msgspec

from ...backoff import pause_after
from ...contracts.orchestrator import PLACE, Deployment, WagonSpec
from ...display.redaction import shown
from ...errors import StorageBroken, Unavailable, UsageError
from ...event import wagon_name
from ..removals import UnitRemovals
from .child import MARGIN, SENT_HOME, TAKEN
from .logs import keep_newest, last_lines
from .process import Launch, UnitProcess
from .records import ProcessState, Stillness, UnitFiles, Want, held, is_alive, kill, mark, sweep, take, units_on_disk

_BEAT = 0.25
"""Seconds between two signs of life of an orchestrator, and between two checks of its processes and their logs."""
_SWEEP = 10.0
_SILENT = 5.0
"""After so many seconds without a sign of life, a process no longer counts as ready, and an orchestrator no longer as
in charge."""
_PAUSES = (0.2, 30.0)
_STEADY = 10.0
"""A process that ran for so many seconds counts as healthy: if it ends, the next one starts without a pause."""
_POLL = 0.02
_KILL_PATIENCE = 10.0

_Key = tuple[str, int]


class Processes:
    """Gives each unit a process of its own, which is started as `launch` says and follows the unit's `want` (see
    `Follower`).

    All orchestrators of a train on a machine share the directory. One is in charge of each unit; when it is gone, or
    silent for five seconds, another takes over. Processes end with the orchestrator that started them; one that does
    not is ended by another. One that gives no sign of life for `hung_after` s, or does not begin within `start_timeout`
    s, is killed and started again. `grace` is for leaving this object, in seconds. `words` are the user's own text: if
    it contains `{revision}`, a wagon must have one.
    """

    def __init__(
        self, launch: Launch, words: Sequence[str], *, grace: float, start_timeout: float, hung_after: float
    ) -> None:
        self._revised = next((word for word in words if PLACE in word), "")
        self._directory = launch.directory
        self._logs = launch.logs
        self._launch = launch
        self._grace = grace
        self._start_timeout = start_timeout
        self._hung_after = hung_after
        self._name = f"orchestrator-{os.getpid()}-{os.urandom(4).hex()}"
        self._own: dict[_Key, UnitProcess] = {}
        self._failures: Counter[_Key] = Counter()
        self._crashes: dict[_Key, tuple[int, str]] = {}
        """How many processes of a unit, started here, ended by themselves, and why the last one did."""
        self._not_before: dict[_Key, float] = {}
        self._removals = UnitRemovals()
        self._still = Stillness()
        self._seen: set[_Key] = set()
        self._closing = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Create the directory if it is missing. Raises StorageBroken."""
        try:
            for directory in (self._directory, *([self._logs] if self._logs else [])):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = take(self._owner(self._name))
        except OSError as e:
            raise StorageBroken(f"{self._directory}: can't be used for the units' processes: {e}") from e
        assert lock is not None  # noqa: S101 - nobody else has this name
        async with AsyncExitStack() as stack:
            stack.callback(os.close, lock)
            stack.callback(self._owner(self._name).unlink, missing_ok=True)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(tasks.create_task(self._beat()).cancel)
            stack.push_async_callback(self._end_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    # --- the contract ---------------------------------------------------------------------

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure. It also replaces a process that has crashed or hangs, after a pause that doubles. So
        call it repeatedly, as observers do."""
        if spec.workers is None:
            raise UsageError(f"{wagon_name(spec.train, spec.number)}: a process of its own needs a number of workers")
        if self._revised and not spec.revision:
            raise UsageError(
                f"{wagon_name(spec.train, spec.number)} has no revision to fill in for {PLACE} in {self._revised}: "
                "`eventwagon switch --revision` says which new wagons have"
            )
        key = spec.train, spec.unit
        if self._removals.postpone(spec):
            return
        self._reap()
        files = self._files(key)
        try:
            want = files.want()
            if want is not None and want.owner != self._name and self._in_charge(want.owner):
                return
            if want is not None and want.owner == self._name and spec.is_behind(want.spec.number):
                return
            trouble = want.trouble if want else ""
            new = Want(owner=self._name, spec=spec, names=self._names(spec), trouble=trouble)
            if new != want:
                files.write(new)
            self._look_after(key, files, new)
        except OSError as e:
            raise Unavailable(f"{files.want_path}: {e}") from e

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments. Reads the state that the processes write, whoever started them."""
        self._reap()
        return {unit: self._deployment((name, unit)) for name, unit in units_on_disk(self._directory, train)}

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove. A process that has not ended two seconds after the grace is killed. Raises
        Unavailable if even that has no effect."""
        key = train, unit
        try:
            with self._removals.removing(key):
                await self._end(key, self._files(key), grace)
        except OSError as e:
            raise Unavailable(f"{self._directory}: {e}") from e
        self._forget(key)
        if (spec := self._removals.postponed(key)) is not None:
            await self.ensure(spec)

    # --- what a driver may add ------------------------------------------------------------

    def _names(self, spec: WagonSpec) -> Mapping[str, str]:
        """The broker's names of the channels, if the process needs them."""
        return {}

    async def _end_left_over(self, files: UnitFiles, grace: float) -> None:
        """After the unit's process has ended, end what it started and left behind. Idempotent."""

    # --- seeing ---------------------------------------------------------------------------

    def _files(self, key: _Key) -> UnitFiles:
        return UnitFiles(self._directory, *key, self._logs)

    def _owner(self, name: str) -> Path:
        return self._directory / f"{name}.alive"

    def _in_charge(self, owner: str) -> bool:
        """Whether that orchestrator runs and gives signs of life."""
        path = self._owner(owner)
        if not held(path):
            self._still.forget(owner)
            return False
        return self._still.seconds(owner, mark(path), _now()) < _SILENT

    def _deployment(self, key: _Key) -> Deployment:
        files = self._files(key)
        want, state = files.want(), files.state()
        found = self._as_found(key, want, state, files)
        if want is None or want.owner != self._name:
            return found
        crashes, why = self._crashes.get(key, (0, ""))
        return msgspec.structs.replace(found, crashes=crashes, crashed_because=why)

    def _as_found(self, key: _Key, want: Want | None, state: ProcessState | None, files: UnitFiles) -> Deployment:
        wanted = want.spec.workers_now or 0 if want is not None and want.leave is None else 0
        number = want.spec.number if want is not None else key[1]
        if state is None or not files.running():
            revision, because = (want.spec.revision, want.trouble) if want is not None else ("", "")
            if want is None or want.spec.workers != 0:
                because = because or "its process is being started"
            return Deployment(
                number=number, ready=False, workers=wanted, attached=0, revision=revision, trouble=because
            )
        silent = self._still.seconds(("beat", key), files.beat(), _now())
        trouble = state.trouble
        if silent > _SILENT:
            trouble = f"its process {state.pid} has given no sign of life for {silent:.0f} s"
        elif not state.begun:
            trouble = (want.trouble if want else "") or "its process loads its program"
        return state.deployment(
            number=state.number or number,
            ready=state.ready and silent <= _SILENT,
            workers=max(state.workers, wanted),
            attached=(state.workers if state.attached is None else state.attached) if state.begun else 0,
            trouble=trouble,
        )

    # --- starting and looking after -------------------------------------------------------

    def _look_after(self, key: _Key, files: UnitFiles, want: Want) -> None:
        own = self._own.get(key)
        if own is not None or files.running():
            self._replace_hung(key, files)
            return
        if want.spec.workers == 0 or _now() < self._not_before.get(key, 0.0):
            return
        if not files.forget_state():
            return
        if self._logs is not None:
            keep_newest(self._logs, key[0])
        self._still.forget(("beat", key), ("orphan", key))
        try:
            self._own[key] = UnitProcess(self._launch, files, self._name, want.spec.revision)
        except OSError as e:
            self._failed(key, f"its process can't be started: {e}")

    def _replace_hung(self, key: _Key, files: UnitFiles) -> None:
        """Kill a process that gives no sign of life, or has outlived the orchestrator that started it. The next call of
        `ensure` starts another."""
        state, own = files.state(), self._own.get(key)
        now = _now()
        if own is not None:
            still = self._still.seconds(("beat", key), files.beat(), now)
            limit = self._hung_after if state is not None and state.begun else self._start_timeout
            if still > limit:
                own.hung = f"its process gave no sign of life for {still:.0f} s and was killed"
                own.kill()
        elif state is not None:
            still = self._still.seconds(("beat", key), files.beat(), now)
            limit = self._hung_after if state.begun else self._start_timeout
            orphaned = 0.0
            if not held(self._owner(state.owner)):
                orphaned = self._still.seconds(("orphan", key), state.pid, now)
            if still > limit or orphaned > self._grace + MARGIN:
                kill(state)

    def _reap(self) -> None:
        """Handle own processes that have ended."""
        for key, own in list(self._own.items()):
            if (code := own.ended()) is not None:
                del self._own[key]
                self._ended(key, own, code)

    def _ended(self, key: _Key, own: UnitProcess, code: int) -> None:
        self._still.forget(("beat", key), ("orphan", key))
        if code == SENT_HOME:
            self._called_back(key)
        if code in (TAKEN, SENT_HOME) or key in self._removals:
            return
        if own.seconds > _STEADY:
            self._failures[key] = 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = last_lines(self._files(key).log_path, since=own.log_began)
        why = own.hung or (f"its process {how}: {said}" if said else f"its process {how}")
        self._crashes[key] = self._crashes.get(key, (0, ""))[0] + 1, why
        self._failed(key, why)

    def _called_back(self, key: _Key) -> None:
        """Start again a process that ended because no workers were wanted, if they were wanted again while it was
        ending."""
        files = self._files(key)
        want = files.want()
        is_wanted = want is not None and bool(want.spec.workers) and want.leave is None and want.owner == self._name
        if want is not None and is_wanted and not (self._closing or key in self._removals):
            self._look_after(key, files, want)

    def _failed(self, key: _Key, trouble: str) -> None:
        self._failures[key] += 1
        pause = pause_after(self._failures[key], *_PAUSES)
        self._not_before[key] = _now() + pause
        files = self._files(key)
        want = files.want()
        if want is not None and want.owner == self._name:
            with suppress(OSError):
                files.write(msgspec.structs.replace(want, trouble=trouble))

    def _forget(self, key: _Key) -> None:
        for known in (self._failures, self._not_before, self._crashes):
            known.pop(key, None)
        self._still.forget(("beat", key), ("orphan", key))

    def _sweep(self) -> None:
        """Remove the files that killed processes left, and forget wagons that another orchestrator has removed."""
        sweep(self._directory)
        standing = {*units_on_disk(self._directory, None), *self._own}
        for key in {*self._failures, *self._not_before, *self._crashes, *self._seen} - standing:
            self._forget(key)
        self._seen = standing

    async def _beat(self) -> None:
        """Give a sign of life of this orchestrator, and pass on its processes' output."""
        swept = float("-inf")
        while True:
            with suppress(OSError):
                os.utime(self._owner(self._name))
                if _now() > swept + _SWEEP:
                    swept = _now()
                    self._sweep()
            self._reap()
            for own in self._own.values():
                own.pass_on()
            await asyncio.sleep(_BEAT)

    # --- ending ---------------------------------------------------------------------------

    async def _end(self, key: _Key, files: UnitFiles, grace: float) -> None:
        """Ask the process to leave, wait, then kill it. Its state is polled, since it need not be a child of this
        process."""
        until = _now() + grace + MARGIN
        killed_at: float | None = None
        while True:
            self._reap()
            if key not in self._own and not files.running():
                await self._end_left_over(files, max(0.0, until - MARGIN - _now()))
                if files.clear():
                    return
            else:
                want = files.want()
                if want is not None and want.leave is None:
                    files.write(msgspec.structs.replace(want, owner=self._name, leave=grace))
                if _now() > until:
                    killed_at = killed_at or _now()
                    self._kill(key, files, killed_at)
            await asyncio.sleep(_POLL)

    def _kill(self, key: _Key, files: UnitFiles, since: float) -> None:
        own, state = self._own.get(key), files.state()
        if own is not None:
            own.kill()
        elif state is not None and is_alive(state):
            kill(state)
        if _now() > since + _KILL_PATIENCE:
            who = f"process {state.pid}" if state else "an unknown process"
            raise Unavailable(
                f"{files.lock_path} is held by {who}, which can't be ended, or is not the one that wrote "
                f"{files.state_path}"
            )

    async def _end_all(self) -> None:
        """End all own processes at once, and remove the files of the wagons that this orchestrator is in charge of."""
        self._closing = True
        until = _now() + self._grace + MARGIN
        for own in self._own.values():
            own.release()
        try:
            while self._own:
                self._reap()
                if _now() > until:
                    for own in self._own.values():
                        own.kill()
                await asyncio.sleep(_POLL)
        finally:
            for own in self._own.values():  # cancelled meanwhile
                own.kill()
                own.wait()
            self._own.clear()
        with suppress(OSError):
            for key in units_on_disk(self._directory, None):
                files = self._files(key)
                want = files.want()
                ours = want is not None and (want.owner == self._name or not self._in_charge(want.owner))
                if ours and files.run() is None:  # otherwise something still runs that the next one must find
                    files.clear()
            sweep(self._directory)


def _now() -> float:
    return asyncio.get_running_loop().time()


def default_directory(url: str) -> Path:
    """The default directory of the records of the trains at this URL. Its name is visible in process lists, so it is
    built only from those parts of the URL that are not secret."""
    url = shown(url)
    # a relative path means a different train elsewhere
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        url = f"{Path.cwd()} {url}"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "eventwagon" / blake2b(url.encode(), digest_size=8).hexdigest()
