"""Objects that Python has passed to the C++ client's threads, and the wait until the threads have dropped them before
the process ends.

If a thread of the client calls back, or just drops such an object, while the interpreter shuts down, the process
aborts: the interpreter ends the thread by unwinding it, and C++ answers that with an abort.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakSet

import psutil

T = TypeVar("T")

_DROPPED = 10.0  # seconds for objects to be dropped: longer than any call under way may take
_ENDED = 0.5  # seconds for the threads to end, which have nothing left to report by then
_LOOK = 0.005

_native_refs: WeakSet[object] = WeakSet()


def native_ref(callback: T) -> T:
    """Track it until the client has dropped it. Pass a new object for each call: objects are distinguished by
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
    # threads that another library started meanwhile look the same; then this is a short and useless wait
    _until(lambda: _native_threads() <= _threads_before, _ENDED)


_threads_before = _native_threads()
atexit.register(_let_go)
