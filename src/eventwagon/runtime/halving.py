"""Finds which of many items a broker refuses: by halves, so that the others are stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


async def by_halves(
    items: Sequence[_Item],
    store: Callable[[Sequence[_Item]], Awaitable[object]],
    alone: Callable[[_Item, BaseException], Awaitable[object]],
    *,
    is_cause: Callable[[BaseException], bool],
) -> None:
    """Store these items in one call. If that fails, try each half of them; an item that fails by itself is given to
    `alone` with its error. Errors of which `is_cause` says that they have nothing to do with the items are raised, as
    are those of `alone`."""
    try:
        await store(items)
        return
    except (Exception, BaseExceptionGroup) as e:
        if not is_cause(e):
            raise
        error = e
    if len(items) == 1:
        await alone(items[0], error)
        return
    half = len(items) // 2
    for some in (items[:half], items[half:]):
        await by_halves(some, store, alone, is_cause=is_cause)
