"""Loopback ports that nobody else takes, also while a server of ours is down between a kill and its next start.

They come from below the range that the system hands out to clients, in blocks: a process holds its block by a file
lock."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FIRST, _LAST, _BLOCK = 12_000, 32_000, 100
_DIRECTORY = Path(tempfile.gettempdir()) / f"eventwagon-test-ports-{os.getuid()}"
_held: list[int] = []
"""The lock files' descriptors: open until this process ends."""


def _block() -> Iterator[int]:
    _DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    starts = list(range(_FIRST, _LAST, _BLOCK))
    random.SystemRandom().shuffle(starts)
    for start in starts:
        descriptor = os.open(_DIRECTORY / str(start), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        _held.append(descriptor)
        yield from range(start, start + _BLOCK)
    raise RuntimeError(f"no free port between {_FIRST} and {_LAST}")


_ports = _block()


def free_port() -> int:
    """A port that nothing listens on and that no other process of these tests will take. Each is given once."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError  # the blocks raise when they are used up
