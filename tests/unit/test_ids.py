"""The ids of new events: UUIDs that sort by time, and none of them twice, whoever asks."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from eventwagon.event import Event, born, new_ids, uuid7
from eventwagon.runtime.ids import NewIds

NOW = 1_750_000_000.123


def test_ids_are_version_7_uuids_of_their_time() -> None:
    ids = NewIds()
    for name in [ids.next(NOW) for _ in range(200)] + new_ids(200, NOW):
        assert UUID(name).version == 7
        assert UUID(name).variant == "specified in RFC 4122"
        assert born(Event(name, "t", "s", 0.0, b"")) == NOW


def test_the_random_part_is_where_it_was() -> None:
    """Ids of children are made of it: those of an earlier version must stay the same."""
    assert uuid7(0x0123456789AB, bytes(range(0xF0, 0xFA))) == "01234567-89ab-7f0f-92f3-f4f5f6f7f8f9"
    assert uuid7(0, bytes(10)) == "00000000-0000-7000-8000-000000000000"


def test_threads_share_them() -> None:
    ids = NewIds()
    with ThreadPoolExecutor(8) as threads:
        drawn = [
            name for some in threads.map(lambda _: [ids.next(NOW) for _ in range(500)], range(16)) for name in some
        ]
    assert len(set(drawn)) == len(drawn) == 8000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_uses_none_of_its_parents() -> None:
    ids = NewIds()
    ids.next(NOW)
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, "\n".join(ids.next(NOW) for _ in range(30)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        forks = set(pipe.read().split())
    assert len(forks) == 30
    assert forks.isdisjoint({ids.next(NOW) for _ in range(64)})
