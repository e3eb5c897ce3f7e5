"""Reads a file descriptor without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .errors import UsageError

_BLOCK = 1 << 18


@asynccontextmanager
async def blocks(source: int) -> AsyncIterator[Callable[[], asyncio.Future[bytes]]]:
    """Yield a function that reads the next block of the file descriptor, as soon as there is data, without blocking the
    event loop; b"" at the end. The result raises UsageError if reading fails.

    It reads in a daemon thread and below Python's buffers, so that an interrupted command does not wait for a silent
    terminal or pipe.
    """
    loop = asyncio.get_running_loop()
    wanted = threading.Semaphore(0)
    waiters: list[asyncio.Future[bytes]] = []

    def deliver(block: bytes, error: OSError | None) -> None:
        waiter = waiters.pop(0)
        if waiter.done():
            return
        if error:
            waiter.set_exception(UsageError(f"the input can't be read: {error.strerror}"))
        else:
            waiter.set_result(block)

    def work() -> None:
        while True:
            wanted.acquire()
            if ended:
                return
            block, error = b"", None
            try:
                block = os.read(source, _BLOCK)
            except OSError as e:
                error = e
            try:
                loop.call_soon_threadsafe(deliver, block, error)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def read() -> asyncio.Future[bytes]:
        waiters.append(loop.create_future())
        wanted.release()
        return waiters[-1]

    ended = False
    threading.Thread(target=work, name="eventwagon-input", daemon=True).start()
    try:
        yield read
    finally:
        ended = True
        wanted.release()
