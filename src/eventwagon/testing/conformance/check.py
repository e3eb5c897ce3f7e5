"""Checks, and the few helpers that every suite needs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

D = TypeVar("D")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

Make = Callable[[], AbstractAsyncContextManager[D]]
"""Makes a driver, not yet entered. It may be called several times within one check: each driver is another process's
view of the same store. (It may return the same object if the driver lives in one process and may be entered again.)"""


class CheckFailed(AssertionError):
    """The driver does not do what its contract says."""


class Undeclared(Exception):
    """The check does not apply: the driver does not declare that it can do this. Skip it visibly."""


class Check(Generic[D]):
    """One thing that must hold. `str(check)` is a short id, `name` the sentence."""

    def __init__(
        self,
        identity: str,
        name: str,
        requires: tuple[str, ...],
        start: Callable[[Check[D], Make[D]], Awaitable[None]],
    ) -> None:
        self.identity = identity
        self.name = name
        self.requires = requires
        """The capabilities without which the check does not apply."""
        self._start = start

    def __str__(self) -> str:
        return self.identity

    def __repr__(self) -> str:
        return f"<Check {self.identity}>"

    async def run(self, make: Make[D]) -> None:
        """Run the check on the driver from `make`. Raises CheckFailed, Undeclared, or whatever the driver raises."""
        await self._start(self, make)


Body = Callable[[T], Awaitable[None]]


class Suite(Generic[T]):
    """Collects the bodies of checks: async functions that take a trial. Their docstrings are the checks' sentences."""

    def __init__(self) -> None:
        self.bodies: list[tuple[Body[T], tuple[str, ...]]] = []

    def check(self, *requires: str) -> Callable[[Body[T]], Body[T]]:
        """Register the function as a check that needs these capabilities."""

        def take(body: Body[T]) -> Body[T]:
            self.bodies.append((body, requires))
            return body

        return take


def identity(body: Callable[..., object]) -> str:
    """The function's name, which is `str(check)`."""
    return body.__name__


def sentence(body: Callable[..., object]) -> str:
    """The function's docstring in one line, which is `check.name`."""
    return " ".join((inspect.getdoc(body) or identity(body)).split())


def holds(condition: object, otherwise: str) -> None:
    """Raise CheckFailed unless it holds."""
    if not condition:
        raise CheckFailed(otherwise)


def same(found: object, expected: object, what: str) -> None:
    """Raise CheckFailed unless both are equal."""
    if found != expected:
        raise CheckFailed(f"{what}: expected {expected!r}, found {found!r}")


async def refused(awaitable: Awaitable[object], *errors: type[E], what: str) -> E:
    """The error of one of these types that the awaitable raises. Raises CheckFailed if it raises none."""
    try:
        await awaitable
    except errors as error:
        return error
    raise CheckFailed(f"{what}: expected {' or '.join(e.__name__ for e in errors)}, and nothing was raised")


async def soon(awaitable: Awaitable[T], patience: float, what: str) -> T:
    """The awaitable's result. Raises CheckFailed if there is none within `patience` seconds."""
    try:
        async with asyncio.timeout(patience) as limit:
            return await awaitable
    except TimeoutError:
        if not limit.expired():
            raise
        raise CheckFailed(f"{what}: nothing within {patience:g} s") from None


async def together(*awaitables: Awaitable[T]) -> list[T]:
    """The results of all. If one fails, the others are cancelled first, so that no check leaves a task behind."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_one(a)) for a in awaitables]
    return [task.result() for task in tasks]


async def _one(awaitable: Awaitable[T]) -> T:
    return await awaitable
