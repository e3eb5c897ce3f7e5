"""Our brokers against the suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from eventwagon.contracts.broker import Broker
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.runtime.observed import Metering, observed
from eventwagon.testing.conformance import Check, Undeclared, broker_checks
from eventwagon.testing.virtual_time import VirtualClock, run

IN_VIRTUAL_TIME = broker_checks(visibility=30.0, patience=600.0, clock=VirtualClock())


@pytest.mark.parametrize("check", IN_VIRTUAL_TIME, ids=str)
@pytest.mark.parametrize("fences", [True, False])
def test_memory(check: Check[Broker], fences: bool) -> None:
    broker = MemoryBroker(fences=fences)
    try:
        run(check.run(lambda: broker))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


class _Deaf:
    """A meter that is told of everything."""

    def __init__(self) -> None:
        self.calls = 0

    def called(self, *told: object) -> None:
        self.calls += 1

    def handled(self, *told: object) -> None: ...

    def heard(self, *told: object) -> None: ...

    def looked(self, *told: object) -> None: ...

    def joined(self, *told: object) -> Callable[[], None]:
        return lambda: None


@pytest.mark.parametrize("check", IN_VIRTUAL_TIME, ids=str)
def test_memory_while_it_is_measured(check: Check[Broker]) -> None:
    meter, broker = _Deaf(), MemoryBroker()
    measured = observed(broker, Metering(meter, "measured"))
    try:
        run(check.run(lambda: measured))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))
    assert meter.calls


@pytest.mark.parametrize("check", broker_checks(), ids=str)
def test_sqlite(check: Check[Broker], tmp_path: Path) -> None:
    asyncio.run(check.run(lambda: SQLiteBroker(tmp_path)))


def test_every_check_has_a_name_of_its_own() -> None:
    assert len({str(check) for check in IN_VIRTUAL_TIME}) == len(IN_VIRTUAL_TIME)
    assert all(check.name.endswith(".") for check in IN_VIRTUAL_TIME)
