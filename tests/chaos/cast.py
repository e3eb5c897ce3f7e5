"""The processes of a chaos run: started, struck, replaced. Only those that the run started, each told by its pid and
the time of its creation."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil

from .plan import Role, Strike
from .program import NOTES, URL

_AT_START = 0.15
"""So many of the blows (of those with `back` from 0 to 1) may also hit who has not yet begun; were it all of them, a
slow machine would never get anywhere."""


class Actor:
    """One process. `popen` is None where another of the run's processes started it."""

    def __init__(
        self, role: Role, name: str, pid: int, popen: subprocess.Popen[bytes] | None = None, begun: bool = False
    ) -> None:
        self.role = role
        self.name = name
        self.pid = pid
        self.popen = popen
        self.begun = begun
        """It is at work: connected, past its start."""
        self.process = psutil.Process(pid)
        self.created = self.process.create_time()

    def send(self, number: signal.Signals) -> bool:
        """Signal it; False where it is gone. psutil holds the creation time against the pid's present one before."""
        try:
            self.process.send_signal(number)
        except psutil.Error:
            return False
        return True

    def reap(self, timeout: float | None = None) -> None:
        """Wait for the end of one that the run started. Raises subprocess.TimeoutExpired."""
        if self.popen is not None:
            self.popen.wait(timeout)
            if self.popen.stdin is not None:
                self.popen.stdin.close()

    def alive(self) -> bool:
        """It has not ended."""
        if self.popen is not None:
            return self.popen.poll() is None
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


class Cast:
    """All that run. Times in seconds on one monotonic clock."""

    def __init__(self, train: str, url: str, directory: Path, environment: dict[str, str], *, isolated: bool) -> None:
        self._train = train
        self._url = url
        self._directory = directory
        self._environment = environment
        self._notes = Path(environment[NOTES])
        self._processes = str(directory / "processes") if isolated else ""
        self._isolated = isolated
        self.actors: dict[str, Actor] = {}
        self.known: set[tuple[int, float]] = set()
        """Pid and creation time of every process that ever ran."""
        self.kills: Counter[str] = Counter()
        self.stops: Counter[str] = Counter()
        self._stopped: list[tuple[float, Actor]] = []
        self._missing: list[tuple[float, Role, str]] = []
        self._unexpected: list[str] = []

    def start(self, role: Role, name: str) -> None:
        """Start one; its output goes to a file of its name."""
        with (self._directory / f"{name}.out").open("ab") as out:
            popen = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.program", role, self._processes],
                stdin=subprocess.PIPE,  # ends with this process, and the program with it
                stdout=out,
                stderr=out,
                env={**os.environ, **self._environment, URL: self._url},
            )
        actor = Actor(role, name, popen.pid, popen)
        self.actors[name] = actor
        self.known.add((actor.pid, actor.created))

    def of(self, role: Role) -> list[Actor]:
        """Those that live, in the order of their names; wagons' own processes are workers too."""
        actors = [a for a in self.actors.values() if a.role == role and a.alive()]
        if role == "worker" and self._isolated:
            actors += self._wagons()
        return sorted(actors, key=lambda a: a.name)

    def _wagons(self) -> list[Actor]:
        """The wagons' own processes: children of ours, or of one of ours that was killed."""
        from eventwagon.orchestrators.processes.records import UnitFiles, is_alive, units_on_disk

        found = []
        for train, number in units_on_disk(Path(self._processes), self._train):
            state = UnitFiles(Path(self._processes), train, number).state()
            if state is not None and is_alive(state):
                with contextlib.suppress(psutil.Error):
                    found.append(Actor("worker", f"wagon_{number}", state.pid, begun=state.begun))
                    self.known.add((state.pid, state.created))
        return found

    def strike(self, blow: Strike, now: float) -> None:
        """Carry it out, if there is anybody to strike: as a rule only who is at work."""
        actors = [a for a in self.of(blow.role) if all(a.pid != other.pid for _, other in self._stopped)]
        if blow.back > _AT_START:
            for actor in actors:
                actor.begun = actor.begun or any(self._notes.glob(f"begun-{actor.pid}-*"))
            actors = [actor for actor in actors if actor.begun]
        if not actors:
            return
        actor = actors[min(len(actors) - 1, int(blow.which * len(actors)))]
        if blow.stop is not None:
            if actor.send(signal.SIGSTOP):
                self.stops[actor.role] += 1
                self._stopped.append((now + blow.stop, actor))
        elif actor.send(signal.SIGKILL):
            self.kills[actor.role] += 1
            if actor.popen is not None:
                actor.reap()
                self._missing.append((now + blow.back, actor.role, actor.name))

    def mend(self, now: float) -> None:
        """Continue and replace those whose time has come. Notice those that ended by themselves."""
        for due, actor in list(self._stopped):
            if due <= now:
                self._stopped.remove((due, actor))
                actor.send(signal.SIGCONT)
        for due, role, name in list(self._missing):
            if due <= now:
                self._missing.remove((due, role, name))
                self.start(role, name)
        waiting = {name for _, _, name in self._missing}
        for name, actor in list(self.actors.items()):
            if name not in waiting and not actor.alive():
                code = actor.popen.returncode if actor.popen else None
                self._unexpected.append(f"{name} ended by itself with exit code {code}")
                actor.reap()
                self.start(actor.role, name)

    def heal(self) -> None:
        """Continue and replace all."""
        self.mend(float("inf"))

    def unexpected(self) -> list[str]:
        """What ended by itself: a defect, whatever else holds."""
        return list(self._unexpected)

    def end(self, role: Role) -> None:
        """Ask those of the role to end; who has ended is no longer missed."""
        for name, actor in list(self.actors.items()):
            if actor.role == role:
                actor.send(signal.SIGTERM)
                del self.actors[name]
                self._ended(actor)

    def _ended(self, actor: Actor) -> None:
        assert actor.popen is not None
        try:
            actor.reap(30)
        except subprocess.TimeoutExpired:
            self._unexpected.append(f"{actor.name} had not ended 30 s after it was asked to")
            actor.send(signal.SIGKILL)
            actor.reap()
        else:
            if actor.popen.returncode not in (0, -signal.SIGTERM):  # the latter: it had hardly begun
                self._unexpected.append(f"{actor.name} ended with exit code {actor.popen.returncode}")

    def traces(self) -> None:
        """Have everybody write its stacks to its output."""
        for actor in self.actors.values():
            if actor.alive():
                actor.send(signal.SIGUSR1)

    def kill_all(self) -> None:
        """Whatever happened: nothing of ours goes on."""
        for actor in self.actors.values():
            actor.send(signal.SIGKILL)
            actor.reap()
        for actor in self._wagons() if self._isolated else []:
            actor.send(signal.SIGKILL)
