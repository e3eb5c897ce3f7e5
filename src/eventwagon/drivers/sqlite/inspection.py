"""What a directory and its file system mean for the events in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from ...contracts.broker import Finding
from .place import file_system, open_to_others

_PASSING = {
    "overlay": "inside a container: files there are lost with the container",
    "aufs": "inside a container: files there are lost with the container",
    "tmpfs": "memory: files there are lost at the next boot",
    "ramfs": "memory: files there are lost at the next boot",
}
_LITTLE = 1 << 30
"""Bytes of free disk space below which the findings say that little is left."""


def inspect(directory: Path) -> list[Finding]:
    """Findings about the directory, or about where it would be created. Blocks."""
    return list(_inspect(directory, file_system(directory)))


def _inspect(directory: Path, kind: str | None) -> Iterator[Finding]:
    yield Finding(
        severity="fine",
        what=f"SQLite {apsw.sqlite_lib_version()}",
        means="3.51.3 or later is needed, and comes with apsw",
    )
    if kind is None:
        yield Finding(
            severity="unknown",
            what=f"file system of {directory}",
            means="unknown: on a network file system events would be lost or damaged",
            todo="use a local disk",
        )
    elif kind in _PASSING:
        yield Finding(
            severity="loses",
            what=f"file system {kind} of {directory}",
            means=_PASSING[kind],
            todo="use a directory on a disk, in a container on a volume",
        )
    else:
        means = "local, by its name; its locks hold between processes"
        yield Finding(severity="fine", what=f"file system {kind} of {directory}", means=means)
    yield _rights(directory)
    yield from _room(directory)


def _rights(directory: Path) -> Finding:
    if hint := open_to_others(directory):
        said, _, todo = hint.rpartition(": ")
        return Finding(severity="costs", what=f"rights on {directory}", means=said, todo=todo)
    return Finding(
        severity="fine", what=f"rights on {directory}", means="no other user of the machine may look into it"
    )


def _room(directory: Path) -> Iterator[Finding]:
    if not hasattr(os, "statvfs"):
        return
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        found = os.statvfs(directory)
    except OSError:
        return
    left = found.f_bavail * found.f_frsize
    what, means = (
        f"space on {directory}",
        f"{left / 2**30:.1f} GiB are left; a full disk takes no events, and loses none",
    )
    if left < _LITTLE:
        yield Finding(severity="costs", what=what, means=means, todo="free some")
    else:
        yield Finding(severity="fine", what=what, means=means)
