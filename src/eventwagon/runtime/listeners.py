"""The listeners of one process as one. An error of one listener is logged and reaches nobody else."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import BuiltinFunctionType, FunctionType, MethodType

from ..contracts.facts import Fact, Listener
from .bulkhead import Bulkhead, passes


class Telling:
    """All listeners as one. What one of them raises is logged; the others and the caller go on."""

    def __init__(self, train: str, listeners: Sequence[Listener]) -> None:
        self._listeners = list(listeners)
        self._bulkhead = Bulkhead(train)

    def __call__(self, fact: Fact) -> None:
        for listener in self._listeners:
            try:
                found: object = listener(fact)
                if inspect.iscoroutine(found):
                    found.close()
                    raise TypeError("it is a coroutine function, which nobody awaits")
            except BaseException as e:
                if passes(e):
                    raise
                self._bulkhead.report(f"a listener ({_named(listener)})", e)


def _named(listener: object) -> str:
    """Only functions and methods are asked for their names: what another object does when asked is anybody's guess."""
    if type(listener) is MethodType:
        return _named(listener.__func__)
    if type(listener) is FunctionType or type(listener) is BuiltinFunctionType:
        return listener.__qualname__
    return type(listener).__qualname__
