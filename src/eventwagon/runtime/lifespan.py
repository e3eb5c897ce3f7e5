"""What a program opens before its workers handle anything, and closes after them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from ..errors import UsageError
from ..values import shown

_logger = logging.getLogger("eventwagon")

Opening = Callable[[], AbstractAsyncContextManager[Any]]
"""Makes a context manager that is entered once in each process that works. What it yields is `Context.state`."""


def opening_of(function: object) -> Opening:
    """The function as an Opening. It takes no argument, and is an async generator with one `yield`, or returns an async
    context manager. Raises UsageError."""
    if not callable(function):
        raise UsageError(f"lifespan: {shown(function)} is no function: write `@train.lifespan` above `async def …():`")
    name = getattr(function, "__qualname__", shown(function))
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise UsageError(f"lifespan: {name} must take no arguments") from None
    if inspect.isasyncgenfunction(function):
        return asynccontextmanager(function)
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise UsageError(f"lifespan: {name} must be an async generator: `async def {name}():` with one `yield`")
    return function


@asynccontextmanager
async def alive(opening: Opening | None, grace: float) -> AsyncIterator[Any]:
    """Enter it, and yield what it yields; None if there is none. It is left as if nothing had been raised, since
    workers end by cancellation, and has `grace` seconds for that. Raises what entering it raises, and UsageError if it
    is no async context manager."""
    if opening is None:
        yield None
        return
    manager: object = opening()
    if not isinstance(manager, AbstractAsyncContextManager):
        raise UsageError(f"lifespan: it gave {shown(manager)}, which is no async context manager")
    state = await manager.__aenter__()
    try:
        yield state
    finally:
        try:
            async with asyncio.timeout(grace):
                await manager.__aexit__(None, None, None)
        except TimeoutError as e:
            _logger.exception("the lifespan has not closed within grace=%g s, and is left as it is", grace, exc_info=e)
        except Exception as e:
            _logger.exception("the lifespan failed to close", exc_info=e)
