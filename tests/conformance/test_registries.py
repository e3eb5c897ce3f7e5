"""Our registries against the suite."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventwagon.contracts.registry import Registry
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.drivers.sqlite.registry import SQLiteRegistry
from eventwagon.testing.conformance import Check, registry_checks
from eventwagon.testing.virtual_time import VirtualClock, run

IN_VIRTUAL_TIME = registry_checks(ttl=5.0, patience=600.0, clock=VirtualClock())


@pytest.mark.parametrize("check", IN_VIRTUAL_TIME, ids=str)
def test_memory(check: Check[Registry]) -> None:
    registry = MemoryRegistry()
    run(check.run(lambda: registry))


@pytest.mark.parametrize("check", registry_checks(), ids=str)
def test_sqlite(check: Check[Registry], tmp_path: Path) -> None:
    asyncio.run(check.run(lambda: SQLiteRegistry(tmp_path)))


def test_every_check_has_a_name_of_its_own() -> None:
    assert len({str(check) for check in IN_VIRTUAL_TIME}) == len(IN_VIRTUAL_TIME)
    assert all(check.name.endswith(".") for check in IN_VIRTUAL_TIME)
