"""The error of a process that may open no more files and connections."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Unavailable

NONE_LEFT = "this process has no file descriptor left: raise `ulimit -n` and start it again"
_LACKS = (errno.EMFILE, errno.ENFILE)


def is_lack(error: BaseException | None) -> bool:
    """Whether this error or one of its causes says that no file can be opened."""
    for _ in range(10):
        if isinstance(error, OSError) and error.errno in _LACKS:
            return True
        error = error and (error.__cause__ or error.__context__)
    return False


def open_one() -> None:
    """Raise OSError if no file can be opened now."""
    os.close(os.open(os.devnull, os.O_RDONLY))


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Raise Unavailable, beginning with `what`, where a bare OSError says that no file can be opened."""
    try:
        yield
    except OSError as e:
        if e.errno not in _LACKS:
            raise
        raise Unavailable(f"{what}: {NONE_LEFT} ({e.strerror})") from e
