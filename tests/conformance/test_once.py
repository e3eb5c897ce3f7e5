"""Our records of handled events against the suite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventwagon.contracts.once import Standing
from eventwagon.drivers.memory import MemoryBroker, MemoryRegistry
from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.drivers.sqlite.registry import SQLiteRegistry
from eventwagon.testing.conformance import Check, once_checks
from eventwagon.testing.virtual_time import VirtualClock, run

IN_VIRTUAL_TIME = once_checks(brief=5.0)
CHECKS = once_checks(brief=0.3)


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


def test_a_claim_from_before_the_clock_went_back_is_void(tmp_path: Path) -> None:
    now = 1.7e9

    async def main() -> None:
        nonlocal now
        async with SQLiteBroker(tmp_path, clock=lambda: now) as broker:
            await broker.once.claim("orders", [b"1" * 16], holder="one", lease=30.0)
            await broker.once.record("orders", [b"2" * 16], window=100.0)
            now -= 3600.0
            found = await broker.once.claim("orders", [b"1" * 16, b"2" * 16], holder="two", lease=30.0)
            assert list(found) == [Standing.OURS, Standing.HANDLED]

    asyncio.run(main())
