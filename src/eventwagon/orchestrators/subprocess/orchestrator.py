"""The orchestrator's side: starts units' processes, looks after them, and ends them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Self

import msgspec

from ...errors import StorageBroken, Unavailable, UsageError
from ...orchestrator import PLACE, Deployment, WagonSpec
from .child import MARGIN, SENT_HOME, TAKEN
from .logs import keep_newest, last_lines
from .process import Launch, Process
from .records import Stillness, WagonFiles, Want, held, is_alive, kill, mark, sweep, take, wagons_on_disk

_BEAT = 0.25
"""Seconds between two signs of life of an orchestrator, and two looks at its processes' ends and logs."""
_SWEEP = 10.0
_SILENT = 5.0
"""Seconds without a sign of life after which a process does not count as ready, and an orchestrator not as in charge."""
_PAUSES = (0.2, 30.0)
_STEADY = 10.0
"""A process that lived this long was well: the next is not held back."""
_POLL = 0.02
_KILL_PATIENCE = 10.0

_Key = tuple[str, int]
"""A train's name and the number of a unit of workers."""


class Subprocess:
    """Gives each wagon a process of its own, that runs the handlers of `target` (`module:attribute` or
    `path/to/file.py:attribute`) on the broker at `url`. What one wagon's handlers do to their process (crash it, fill its
    memory, keep its only interpreter busy) touches no other wagon.

    All orchestrators of a train on a machine share `directory` (a local disk; default: one under `~/.local/state` for each
    URL). One is in charge of each wagon; when it is gone or says nothing for five seconds another takes over. Processes
    end with the orchestrator that started them; one that does not is ended by another. A process that gives no sign of
    life for `hung_after` s (say a handler that never yields), or that does not load its program within `start_timeout` s,
    is killed and started again.

    Where the target contains `{revision}`, that of the wagon is filled in: `/srv/app-{revision}/app.py:signups`. A process
    finds it in `EVENTWAGON_REVISION` too.

    What processes print goes to stderr, the wagon's name before each line, or with `logs` to a file per wagon in that
    directory (bounded; those of the newest wagons stay). `grace` is for leaving this object, in seconds. The URL, and
    `environment`, are handed over in the environment, never on a command line. Raises UsageError.
    """

    def __init__(
        self,
        target: str,
        *,
        url: str,
        directory: str | os.PathLike[str] | None = None,
        logs: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
        grace: float = 30.0,
        start_timeout: float = 120.0,
        hung_after: float = 60.0,
    ) -> None:
        if ":" not in target:
            raise UsageError(f"target {target!r}: write module:attribute, say app:signups, or path/to/file.py:signups")
        if url.startswith("memory:"):
            raise UsageError(f"{url}: other processes don't reach what is kept in this one's memory")
        self._directory = Path(directory).absolute() if directory is not None else _default_directory(url)
        self._logs = Path(logs).absolute() if logs is not None else None
        self._launch = Launch(target, url, self._directory, self._logs, dict(environment or {}), python)
        self._grace = grace
        self._start_timeout = start_timeout
        self._hung_after = hung_after
        self._name = f"orchestrator-{os.getpid()}-{os.urandom(4).hex()}"
        self._own: dict[_Key, Process] = {}
        self._failures: Counter[_Key] = Counter()
        self._not_before: dict[_Key, float] = {}
        self._removing: Counter[_Key] = Counter()
        self._again: dict[_Key, WagonSpec] = {}
        self._still = Stillness()
        self._seen: set[_Key] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Make the directory where it is missing. Raises StorageBroken."""
        try:
            for directory in (self._directory, *([self._logs] if self._logs else [])):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = take(self._owner(self._name))
        except OSError as e:
            raise StorageBroken(f"{self._directory}: can't be used for the wagons' processes: {e}") from e
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
        """See Orchestrator.ensure. It also looks after the process that runs: what has crashed or hangs is replaced,
        after a pause that doubles. So call it again and again, as observers do."""
        if spec.workers is None:
            raise UsageError(f"{spec.train} wagon {spec.number}: a process of its own needs a number of workers")
        if PLACE in self._launch.target and not spec.revision:
            raise UsageError(
                f"{spec.train} wagon {spec.number} has no revision to fill in for {PLACE} in {self._launch.target}: "
                "`eventwagon switch --revision` says which new wagons have"
            )
        key = spec.train, spec.unit
        if self._removing[key]:
            self._again[key] = spec
            return
        self._reap()
        files = self._files(key)
        try:
            want = files.want()
            if want is not None and want.owner != self._name and self._in_charge(want.owner):
                return
            if want is not None and want.owner == self._name and want.spec.number > spec.number:
                return  # out of date: it serves a later wagon by now
            new = Want(owner=self._name, spec=spec, trouble=want.trouble if want else "")
            if new != want:
                files.write(new)
            if spec.workers or files.running():
                self._look_after(key, files)
        except OSError as e:
            raise Unavailable(f"{files.want_path}: {e}") from e

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments. Reads what the processes say of themselves, whoever started them."""
        self._reap()
        return {number: self._deployment((name, number)) for name, number in wagons_on_disk(self._directory, train)}

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove. A process that has not ended within the grace and two seconds is killed. Raises
        Unavailable where even that has no effect."""
        key = train, unit
        self._removing[key] += 1
        try:
            await self._end(key, self._files(key), grace)
        except OSError as e:
            raise Unavailable(f"{self._directory}: {e}") from e
        finally:
            self._removing[key] -= 1
            if not self._removing[key]:
                del self._removing[key]
        self._forget(key)
        if not self._removing[key] and (spec := self._again.pop(key, None)) is not None:
            await self.ensure(spec)

    # --- seeing ---------------------------------------------------------------------------

    def _files(self, key: _Key) -> WagonFiles:
        return WagonFiles(self._directory, *key, self._logs)

    def _owner(self, name: str) -> Path:
        return self._directory / f"{name}.alive"

    def _in_charge(self, owner: str) -> bool:
        """Whether that orchestrator lives and gives signs of life."""
        path = self._owner(owner)
        if not held(path):
            self._still.forget(owner)
            return False
        return self._still.seconds(owner, mark(path), _now()) < _SILENT

    def _deployment(self, key: _Key) -> Deployment:
        files = self._files(key)
        want, state = files.want(), files.state()
        wanted = want.spec.hands or 0 if want is not None and want.leave is None else 0
        number = want.spec.number if want is not None else key[1]
        revision = want.spec.revision if want is not None else ""
        if state is None or not files.running():
            because = (want.trouble if want else "") or "its process is being started"
            if want is not None and want.spec.workers == 0:
                because = ""
            return Deployment(number=number, ready=False, workers=wanted, revision=revision, trouble=because)
        silent = self._still.seconds(("beat", key), files.beat(), _now())
        trouble = state.trouble
        if silent > _SILENT:
            trouble = f"its process {state.pid} has given no sign of life for {silent:.0f} s"
        elif not state.begun:
            trouble = (want.trouble if want else "") or "its process loads its program"
        return Deployment(
            number=state.number or number,
            ready=state.ready and silent <= _SILENT,
            workers=max(state.workers, wanted),
            revision=revision,
            trouble=trouble,
            handled=state.handled,
            failed=state.failed,
        )

    # --- starting and looking after -------------------------------------------------------

    def _look_after(self, key: _Key, files: WagonFiles) -> None:
        own = self._own.get(key)
        if own is not None or files.running():
            self._replace_hung(key, files)
            return
        if _now() < self._not_before.get(key, 0.0):
            return
        if not files.forget_state():
            return
        if self._logs is not None:
            keep_newest(self._logs, key[0])
        self._still.forget(("beat", key), ("orphan", key))
        try:
            want = files.want()
            self._own[key] = Process(self._launch, files, self._name, want.spec.revision if want else "")
        except OSError as e:
            self._failed(key, f"its process can't be started: {e}")

    def _replace_hung(self, key: _Key, files: WagonFiles) -> None:
        """Kill what gives no sign of life, and what has outlived the orchestrator that started it. The next call starts
        another."""
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
        """Take notice of own processes that have ended."""
        for key, own in list(self._own.items()):
            if (code := own.ended()) is not None:
                del self._own[key]
                self._ended(key, own, code)

    def _ended(self, key: _Key, own: Process, code: int) -> None:
        self._still.forget(("beat", key), ("orphan", key))
        if code in (TAKEN, SENT_HOME) or self._removing[key]:
            return
        if own.seconds > _STEADY:
            self._failures[key] = 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = last_lines(self._files(key).log_path)
        self._failed(key, own.hung or (f"its process {how}: {said}" if said else f"its process {how}"))

    def _failed(self, key: _Key, trouble: str) -> None:
        self._failures[key] += 1
        pause = min(_PAUSES[1], _PAUSES[0] * 2.0 ** min(20, self._failures[key] - 1))
        self._not_before[key] = _now() + pause
        files = self._files(key)
        want = files.want()
        if want is not None and want.owner == self._name:
            with suppress(OSError):
                files.write(msgspec.structs.replace(want, trouble=trouble))

    def _forget(self, key: _Key) -> None:
        for known in (self._failures, self._not_before):
            known.pop(key, None)
        self._still.forget(("beat", key), ("orphan", key))

    def _sweep(self) -> None:
        """Remove what killed ones left, and forget wagons that another orchestrator has removed."""
        sweep(self._directory)
        standing = {*wagons_on_disk(self._directory, None), *self._own}
        for key in {*self._failures, *self._not_before, *self._seen} - standing:
            self._forget(key)
        self._seen = standing

    async def _beat(self) -> None:
        """Say that this orchestrator lives, pass on what its processes say."""
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

    async def _end(self, key: _Key, files: WagonFiles, grace: float) -> None:
        """Ask it to leave, wait, kill. It is looked at again and again: it need not be a child of this process."""
        until = _now() + grace + MARGIN
        killed_at: float | None = None
        while True:
            self._reap()
            if key not in self._own and not files.running():
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

    def _kill(self, key: _Key, files: WagonFiles, since: float) -> None:
        own, state = self._own.get(key), files.state()
        if own is not None:
            own.kill()
        elif state is not None and is_alive(state):
            kill(state)
        if _now() > since + _KILL_PATIENCE:
            who = f"process {state.pid}" if state else "an unknown process"
            raise Unavailable(
                f"{files.lock_path} is held by {who}, which can't be ended, or is not the one that wrote {files.state_path}"
            )

    async def _end_all(self) -> None:
        """End the own processes, all at once, and remove the files of the wagons that this orchestrator is in charge of."""
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
            for key in wagons_on_disk(self._directory, None):
                files = self._files(key)
                want = files.want()
                if want is not None and (want.owner == self._name or not self._in_charge(want.owner)):
                    files.clear()
            sweep(self._directory)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _default_directory(url: str) -> Path:
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):  # relative: means another train elsewhere
        url = f"{Path.cwd()} {url}"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "eventwagon" / blake2b(url.encode(), digest_size=8).hexdigest()
