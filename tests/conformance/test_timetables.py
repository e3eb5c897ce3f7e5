"""Our timetables against the suite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventwagon.drivers.memory import MemoryBroker, MemoryRegistry
from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.drivers.sqlite.registry import SQLiteRegistry
from eventwagon.testing.conformance import Check, timetable_checks
from eventwagon.testing.virtual_time import VirtualClock, run

IN_VIRTUAL_TIME = timetable_checks(lease=5.0)
CHECKS = timetable_checks(lease=1.0)


@pytest.mark.parametrize("kind", [MemoryBroker, MemoryRegistry])
@pytest.mark.parametrize("check", IN_VIRTUAL_TIME, ids=str)
def test_memory(check: Check[Any], kind: type[MemoryBroker | MemoryRegistry]) -> None:
    store = kind(clock=VirtualClock())
    run(check.run(lambda: store))


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_sqlite(check: Check[Any], tmp_path: Path) -> None:
    asyncio.run(check.run(lambda: SQLiteBroker(tmp_path)))


def test_broker_and_registry_share_it(tmp_path: Path) -> None:
    check = next(check for check in CHECKS if str(check) == "another_process_sees_the_same")
    stores: Iterator[Any] = iter([SQLiteBroker(tmp_path), SQLiteRegistry(tmp_path)])
    asyncio.run(check.run(lambda: next(stores)))
