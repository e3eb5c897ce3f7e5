"""The suite for orchestrators, in two parts: `orchestrator_workers` and `orchestrator_units`."""

from __future__ import annotations

from collections.abc import Sequence

from . import orchestrator_units, orchestrator_workers
from .check import Body, Check, Make, Undeclared, identity, sentence
from .orchestrator_trial import Harness, OrchestratorTrial


def orchestrator_checks(*, moment: float = 0.3, patience: float = 10.0) -> Sequence[Check[Harness]]:
    """Every check of the orchestrator's contract, driven through a Harness.

    `moment`: seconds within which something that must not happen would show. `patience`: a check fails if something
    that must happen takes more seconds than this.
    """

    def make_check(body: Body[OrchestratorTrial], requires: tuple[str, ...]) -> Check[Harness]:
        async def start(check: Check[Harness], make: Make[Harness]) -> None:
            async with make() as harness:
                missing = [name for name in check.requires if not getattr(harness, name, None)]
                if missing:
                    raise Undeclared(f"{type(harness).__name__} does not declare {', '.join(missing)}: {check.name}")
                await body(OrchestratorTrial(harness, moment, patience))

        return Check(identity(body), sentence(body), requires, start)

    return [
        make_check(body, requires)
        for one in (orchestrator_workers.suite, orchestrator_units.suite)
        for body, requires in one.bodies
    ]
