"""What a program opens before its workers handle anything, and closes after them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from ..errors import UsageError
from ..values import shown
from .bulkhead import Bulkhead, is_ours

Opening = Callable[[], AbstractAsyncContextManager[Any]]
"""Makes a context manager that is entered before workers begin. What it yields is `Context.state`."""


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
    except Exception as e:
        raise UsageError(f"lifespan: {shown(function)} is no function: its arguments can't be known") from e
    if inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(type(function).__call__):
        return asynccontextmanager(function)
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise UsageError(f"lifespan: {name} must be an async generator: `async def {name}():` with one `yield`")

    def opened() -> AbstractAsyncContextManager[Any]:
        manager: object = function()
        if isinstance(manager, AsyncGenerator):  # of a wrapper that hides what it wraps
            return asynccontextmanager(lambda: manager)()
        if not isinstance(manager, AbstractAsyncContextManager):
            raise UsageError(
                f"lifespan: {name} returned {shown(manager)}: it must be an async generator with one `yield`, or "
                "return an async context manager"
            )
        return manager

    return opened


@asynccontextmanager
async def alive(opening: Opening | None, grace: float, bulkhead: Bulkhead) -> AsyncIterator[Any]:
    """Enter it, and yield what it yields; None if there is none. It is left as if nothing had been raised, since
    workers end by cancellation, and is cancelled if that takes longer than `grace` seconds. What closing raises is
    reported. Raises what entering raises."""
    if opening is None:
        yield None
        return
    manager = opening()
    state = await manager.__aenter__()
    try:
        yield state
    finally:
        try:
            async with asyncio.timeout(grace):
                await manager.__aexit__(None, None, None)
        except BaseException as e:
            if is_ours(e):
                raise
            bulkhead.report(f"closing what its lifespan has opened (within grace={grace:g} s)", e)
