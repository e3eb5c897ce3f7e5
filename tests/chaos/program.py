"""The train under chaos, and what each of its processes runs: `python -m tests.chaos.program ROLE …`.

Each process appends what it knows, one event a line (with the time where that counts), to a file of its own: a kill
leaves whole lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from eventwagon.contracts.facts import Fact, WagonOpened, log
from eventwagon.contracts.lifecycle import LIVE
from eventwagon.errors import PublishError, Reject, Unavailable
from eventwagon.event import new_ids
from eventwagon.limits import Volume
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.runtime.context import Context
from eventwagon.train import Train
from eventwagon.workers import Workers

T = TypeVar("T")

NOTES = "EVENTWAGON_CHAOS_NOTES"
"""The directory of the processes' files."""
NAME = "EVENTWAGON_CHAOS_TRAIN"
"""The train's name: one of its own for each run, since runs may share a server."""
VOLUME = "EVENTWAGON_CHAOS_VOLUME"
"""Events in a wagon."""
URL = "EVENTWAGON_URL"
TARGET = "tests.chaos.program:chaos"

chaos = Train(
    os.environ.get(NAME, "chaos"),
    limit=Volume(int(os.environ.get(VOLUME, "80"))),
    workers=Workers(total=6),
    spares=2,
    wagons=10,
    attempts=8,
    backoff=0.05,
    backoff_most=0.5,
    visibility=1.5,
    member_ttl=1.5,
    grace=1.5,
    provision_timeout=15.0,
    handler_timeout=10.0,
    keep=1_000_000,
)


class Notes:
    """A file of one process, to which whole lines are appended."""

    def __init__(self, kind: str) -> None:
        path = Path(os.environ[NOTES]) / f"{kind}-{os.getpid()}-{time.time_ns()}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, *lines: str) -> None:
        """Append; in the file when this returns, whatever happens to the process."""
        os.write(self._descriptor, "".join(f"{line}\n" for line in lines).encode())


_notes: dict[str, Notes] = {}


def _note(kind: str, line: str) -> None:
    if kind not in _notes:
        _notes[kind] = Notes(kind)
    _notes[kind].add(line)


def note_opened(fact: Fact) -> None:
    """A listener: no number may be opened twice."""
    if isinstance(fact, WagonOpened):
        _note("opened", str(fact.number))


@chaos.on(chaos.name)
async def take(payload: dict[str, Any], ctx: Context) -> None:
    """Handle an event; poisoned ones go to the dead letters."""
    await asyncio.sleep(payload.get("seconds", 0.0))
    if payload.get("poison"):
        raise Reject("poisoned")
    ctx.emit("confirm", {"of": ctx.event.id})
    _note("taken", ctx.event.id)


@chaos.on("confirm")
def confirm(payload: dict[str, str]) -> None:
    """The second link of the chain."""
    _note("confirmed", payload["of"])


async def publish(url: str, callers: int = 4) -> None:
    """Publish until asked to end: each id is noted before the publish, and again when it has returned."""
    ending = _asked_to_end()
    tried, accepted = Notes("tried"), Notes("accepted")
    async with _insisting(lambda: chaos.connect(url, listeners=())) as train, asyncio.TaskGroup() as tasks:
        Notes("begun")

        async def call(number: int) -> None:
            count = number
            while not ending.is_set():
                event_id = new_ids(1, time.time())[0]
                payload: dict[str, Any] = {"poison": True} if count % 50 == 49 else {"seconds": 0.002 * (count % 4)}
                count += 1
                tried.add(f"{event_id} {time.monotonic()}")
                try:
                    await train.publish(payload, id=event_id, timeout=20.0)
                except PublishError as e:
                    logging.getLogger("chaos").warning("%s", e)
                    continue
                accepted.add(f"{event_id} {time.monotonic()}")
                wagons = len(train.manifest.in_state(*LIVE))
                pause = 0.05 if wagons < chaos.settings.wagons else 2.0  # a slow machine's workers catch up some time
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await ending.wait()

        for number in range(callers):
            tasks.create_task(call(number))


async def observe(url: str, processes: str, *, isolated: bool) -> None:
    """Observe until asked to end, or the train is; `isolated`: wagons have processes of their own."""
    orchestrator = None
    if isolated:
        orchestrator = Subprocess(TARGET, url=url, directory=processes, grace=2.0, hung_after=8.0, start_timeout=30.0)
    async with (
        _insisting(lambda: chaos.connect(url, orchestrator=orchestrator, listeners=(log, note_opened))) as train,
        _insisting(lambda: train.running(work=False)),
    ):
        await _until_asked(train.stopped())


async def work(url: str) -> None:
    """Work until asked to end, or the train is."""
    async with _insisting(lambda: chaos.connect(url)) as train, _insisting(lambda: train.running(observe=False)):
        await _until_asked(train.stopped())


@asynccontextmanager
async def _insisting(make: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
    """Enter it, again and again while a server is down: what else would start the process again."""
    async with AsyncExitStack() as stack:
        while True:
            try:
                entered = await stack.enter_async_context(make())
                break
            except Unavailable as e:
                logging.getLogger("chaos").warning("not yet: %s", e)
                await asyncio.sleep(0.1)
        yield entered


async def _until_asked(stopped: Any) -> None:
    Notes("begun")
    ending = _asked_to_end()
    waits = [asyncio.ensure_future(ending.wait()), asyncio.ensure_future(stopped)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()


def _asked_to_end() -> asyncio.Event:
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    return ending


def _end_with_parent() -> None:
    """In a thread: stdin ends when the run does, however it ends."""
    while os.read(0, 64):
        pass
    os._exit(1)


def main(arguments: list[str]) -> None:
    """One process."""
    role, processes = arguments
    url = os.environ.pop(URL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # says every request
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # all stacks to stderr, for the report of a hang
    threading.Thread(target=_end_with_parent, daemon=True).start()
    match role:
        case "publisher":
            asyncio.run(publish(url))
        case "observer":
            asyncio.run(observe(url, processes, isolated=bool(processes)))
        case "worker":
            asyncio.run(work(url))


if __name__ == "__main__":
    main(sys.argv[1:])
