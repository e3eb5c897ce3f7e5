"""For tests: a train under test (`running`), virtual time (`run`, `in_virtual_time`), and the conformance suites of
drivers (`eventwagon.testing.conformance`).

    from eventwagon import testing
    from shop import orders

    @testing.in_virtual_time
    async def test_an_order_is_shipped():
        async with testing.running(orders) as train:
            await train.publish({"id": 7})
            await train.idle()
            assert train.handled() == [{"id": 7}]

The pytest fixture `running_train` is `running`; a test that uses it needs no decorator and no other plugin.
"""

from ..runtime.context import FakeContext
from .kit import DeadLetter, NotIdle, PlannedFailure, RunningTrain, RunTrain, UnexpectedDeath, running
from .patient_loop import in_virtual_time, run
from .virtual_time import Deadlock

__all__ = [
    "DeadLetter",
    "Deadlock",
    "FakeContext",
    "NotIdle",
    "PlannedFailure",
    "RunTrain",
    "RunningTrain",
    "UnexpectedDeath",
    "in_virtual_time",
    "run",
    "running",
]
