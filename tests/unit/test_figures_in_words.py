"""Figures as people read them, in reasons and records."""

from __future__ import annotations

import pytest

from eventwagon.contracts.ledger import ChannelRecord, WagonRecord
from eventwagon.limits import Volume
from eventwagon.policy.reconcile import summary
from tests.unit.plans import reading


@pytest.mark.parametrize(
    ("taken", "why"),
    [(150, "150 of 300 events taken"), (300, "300 of 300 events taken"), (1500, "1,500 events taken, over 300")],
)
def test_a_volume_says_how_much_of_it_is_taken(taken: int, why: str) -> None:
    """Where the broker can't count, a wagon takes more than its limit."""
    assert Volume(300).measure(reading(1, taken)).why == why


def test_a_record_writes_numbers_as_reasons_do() -> None:
    channel = ChannelRecord(name="", published=2468, settled=2467, lost=1000)
    record = WagonRecord(train="t", number=1, opened_at=1.0, channels=(channel,))
    assert summary(record).startswith("in 2,468, settled 2,467")
