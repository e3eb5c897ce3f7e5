"""A real train on SQLite, in a thread of the tests' process, and `eventwagon dashboard` as a process beside it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from eventwagon import Connection, Context, Reject, Train, Volume, Wait, Workers
from tests.servers.ports import free_port

T = TypeVar("T")
PATIENCE = 60.0
TOKEN = "let-me-steer-this-train"  # noqa: S105 - of a server that lives as long as a test


def orders(name: str = "orders", *, limit: int = 200, each: int = 4) -> Train:
    """A train whose events take as long as they say, in seconds; those that are text are rejected."""
    train = Train(
        name,
        limit=Volume(limit) | Wait(5.0),
        workers=Workers(each=each),
        spares=1,
        observe_every=0.1,
        member_ttl=2.0,
        grace=1.0,
    )

    @train.on(name)
    async def price(order: float | str, ctx: Context) -> None:
        if isinstance(order, str):
            raise Reject(order)
        await asyncio.sleep(order)
        await ctx.emit("ship", 0.0)

    @train.on("ship")
    async def ship(order: float) -> None:
        await asyncio.sleep(order)

    return train


class Stage:
    """Trains that run, and the dashboard that shows them. A context manager; what it started is gone on leaving."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.url = f"sqlite:///{directory}/trains"
        self.port = free_port()
        self._log = directory / "dashboard.log"
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._trains = AsyncExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """The page's."""
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.stop_dashboard()
        self.do(self._trains.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    # --- trains ---------------------------------------------------------------------------------

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it on the trains' loop."""
        return self.start(work).result(PATIENCE)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """The same, without waiting for its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, train: Train, *, work: bool = True) -> Connection:
        """Run it until the stage is left."""

        async def enter() -> Connection:
            connection = await self._trains.enter_async_context(train.connect(self.url, listeners=()))
            await self._trains.enter_async_context(connection.running(work=work))
            return connection

        return self.do(enter())

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for it, on the trains' loop. Raises TimeoutError."""

        async def wait() -> None:
            async with asyncio.timeout(PATIENCE):
                while not true():
                    await asyncio.sleep(0.02)

        self.start(wait()).result(PATIENCE + 5)

    def until_true(self, true: Callable[[], bool]) -> None:
        """Wait for it, in the tests' thread, where it may `do` things. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.05)

    # --- the dashboard --------------------------------------------------------------------------

    def start_dashboard(self, *, token: str | None = TOKEN) -> str:
        """Start it, always at the same port, and return its address once it answers."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENTWAGON_")}
        if token is not None:
            environment["EVENTWAGON_DASHBOARD_TOKEN"] = token
        command = [sys.executable, "-m", "eventwagon", "dashboard", "--url", self.url, "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*command, *self._options], env=environment, stdout=log, stderr=log)
        self.until(self._answers)
        return self.address

    def stop_dashboard(self) -> None:
        """End it; nothing if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE / 2)
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the dashboard has ended: {self._log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"{self.address}api/session", timeout=1) as answer:  # noqa: S310 - our own
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False
