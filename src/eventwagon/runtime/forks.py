"""Whether this process is a fork that a handler made. Such a copy must not go on in its parent's place, with its
parent's event loop, claims and files."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

_count = 0


def _forked() -> None:
    global _count
    _count += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def forks() -> int:
    """How often this process and the ones before it were forked."""
    return _count


def leave(error: BaseException | None) -> NoReturn:
    """End this copy as its handler meant: with the code of SystemExit, else with 1 after an error and 0 without."""
    code = 1 if error is not None else 0
    if issubclass(type(error), SystemExit):
        given = getattr(error, "code", None)
        code = given if isinstance(given, int) else 0 if given is None else 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)
