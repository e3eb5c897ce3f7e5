"""In all the trouble of the simulation, a look that was stored is decided on as it was."""

from __future__ import annotations

from unittest import mock

from eventwagon.policy.plan import Plan, plan
from eventwagon.policy.record import decode_look, encode_look
from eventwagon.policy.seen import Seen
from eventwagon.runtime import observer
from tests.simulation import check, simulate
from tests.simulation.scenario import draw


def test_all_looks_of_a_simulation_are_decided_on_again() -> None:
    looks, others = 0, list[tuple[Plan, Plan]]()

    def both(seen: Seen) -> Plan:
        nonlocal looks
        looks += 1
        decided = plan(seen)
        if decided.facts or looks % 10 == 0:
            again = plan(decode_look(encode_look(seen)))
            if again != decided:
                others.append((decided, again))
        return decided

    with mock.patch.object(observer, "plan", both):
        for seed in range(10):
            assert not check(simulate(draw(seed)))
    assert looks > 1000
    assert not others
