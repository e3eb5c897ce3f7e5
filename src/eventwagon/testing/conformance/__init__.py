"""The conformance suites: each sentence of a contract is a check, for our drivers and for yours.

    from eventwagon.testing.conformance import Undeclared, broker_checks

    @pytest.mark.parametrize("check", broker_checks(), ids=str)
    def test_broker(check):
        try:
            asyncio.run(check.run(lambda: MyBroker("my://server")))
        except Undeclared as undeclared:
            pytest.skip(str(undeclared))

They need no test framework: a check returns, or raises CheckFailed (an AssertionError) or whatever the driver raised.
"""

from .broker import broker_checks
from .broker_trial import BrokerTrial
from .check import Check, CheckFailed, Undeclared
from .once import OnceTrial, once_checks
from .orchestrator import orchestrator_checks
from .orchestrator_trial import Harness, OrchestratorTrial
from .registry import RegistryTrial, registry_checks
from .source import SourceHarness, SourceTrial, source_checks
from .timetable import TimetableTrial, timetable_checks

__all__ = [
    "BrokerTrial",
    "Check",
    "CheckFailed",
    "Harness",
    "OnceTrial",
    "OrchestratorTrial",
    "RegistryTrial",
    "SourceHarness",
    "SourceTrial",
    "TimetableTrial",
    "Undeclared",
    "broker_checks",
    "once_checks",
    "orchestrator_checks",
    "registry_checks",
    "source_checks",
    "timetable_checks",
]
