"""Events that wait in a spool, in memory and on a disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from eventwagon.errors import Unavailable
from eventwagon.event import Event
from eventwagon.runtime.spool import Spool

EVENTS = [
    Event(f"e{n}", "x", "s", 1e9 + n / 7, bytes(range(n % 256)), "\u00e4" if n % 2 else None, "text/plain", {"a": "\n"})
    for n in range(600)
]


@pytest.mark.parametrize("in_memory", [2**20, 1000])
def test_events_come_back_as_they_were_in_any_order(in_memory: int) -> None:
    with Spool(in_memory) as spool:
        places = [spool.add(event, n) for n, event in enumerate(EVENTS)]
        again = [spool.take(place) for place in reversed(places)]
        places.append(spool.add(EVENTS[0], 7))
        assert spool.take(places[-1]) == (EVENTS[0], 7)
    assert again == [(event, n) for n, event in reversed([*enumerate(EVENTS)])]


def test_where_no_file_can_be_written_others_may_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "away"))
    with Spool(1000) as spool, pytest.raises(Unavailable, match="can't be written"):
        for event in EVENTS:
            spool.add(event, 1)
