"""What Python has handed to the C++ client's threads, and the wait until they have let go of it before the process
ends.

A thread of the client that calls back, or only drops what it was given, while the interpreter is being torn down takes
the process with it: the interpreter ends such a thread by unwinding it, which C++ answers with an abort."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

import psutil

T = TypeVar("T")

_DROPPED = 10.0  # seconds for it to be dropped: longer than any call that is under way may take
_ENDED = 0.5  # seconds for the threads to end, which have no more to say by then
_LOOK = 0.005

_native_refs: WeakSet[object] = WeakSet()


def native_ref(callback: T) -> T:
    """Know of it until the client has dropped it. Give a new object for each call: it is told from others by its
    identity."""
    _native_refs.add(callback)
    return callback


def _native_threads() -> int:
    return psutil.Process().num_threads() - threading.active_count()


def _until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(_LOOK)


def _let_go() -> None:
    _until(lambda: not _native_refs, _DROPPED)
    # threads that another library began meanwhile look the same: with one of those this is a short wait for nothing
    _until(lambda: _native_threads() <= _threads_before, _ENDED)


_threads_before = _native_threads()
atexit.register(_let_go)
