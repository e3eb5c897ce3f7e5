"""The suite for orchestrators: units of workers that sleep, move to another wagon, or run other code."""

from __future__ import annotations

import asyncio

import msgspec

from .check import Suite, same
from .orchestrator_trial import OrchestratorTrial

suite: Suite[OrchestratorTrial] = Suite()


@suite.check()
async def scaled_to_zero(t: OrchestratorTrial) -> None:
    """With no workers requested, none runs once handlers in flight have finished; requested again, they come back."""
    spec = await t.ready(workers=2, held=1)
    nothing = msgspec.structs.replace(spec, workers=0)
    await t.orchestrator.ensure(nothing)
    await asyncio.sleep(t.moment)
    same((await t.harness.at_work(1), await t.harness.ended(1)), (1, 0), "handlers in flight, and ended")
    await t.harness.let_go()
    await t.until_finished(1, 1)

    async def gone() -> bool:
        await t.orchestrator.ensure(nothing)
        found = await t.deployment(spec)
        return found is None or (not found.ready and not found.workers)

    await t.until("a wagon scaled to zero", gone)
    await t.harness.give(spec, 2)
    await asyncio.sleep(t.moment)
    same(await t.harness.finished(1), 1, "handlers finished, of a wagon scaled to zero")

    async def back() -> bool:
        await t.orchestrator.ensure(spec)  # repeatedly, as observers do: the old workers may still be ending
        return await t.harness.finished(1) >= 3

    await t.until("handlers that finish after it was asked for again", back)
    await t.until_ready(spec)


@suite.check("idles")
async def idle_workers_take_nothing(t: OrchestratorTrial) -> None:
    """Idle workers are ready and take no events; told to work, they take events, and told to be idle, they finish their
    handlers."""
    spec = await t.harness.spec(1, workers=2)
    idle = msgspec.structs.replace(spec, idle=True)
    await t.orchestrator.ensure(idle)
    await t.until_ready(idle)
    await t.harness.give(spec, 3)
    await asyncio.sleep(t.moment)
    same(await t.harness.at_work(1), 0, "handlers in flight")
    await t.orchestrator.ensure(spec)
    await t.until_at_work(1, 2)
    await t.orchestrator.ensure(idle)
    await asyncio.sleep(t.moment)
    same((await t.harness.at_work(1), await t.harness.ended(1)), (2, 0), "handlers in flight, and ended")
    await t.harness.let_go()
    await t.until_finished(1, 2)
    await asyncio.sleep(t.moment)
    same(await t.harness.finished(1), 2, "handlers finished")


@suite.check()
async def ensure_moves_a_unit(t: OrchestratorTrial) -> None:
    """A unit that is moved to another wagon leaves the previous one, and is ready only when it serves the new one."""
    spec = await t.ready(1, workers=2)
    warm = getattr(t.harness, "warm", False)
    before = await t.harness.incarnation(1) if warm else None
    after = await t.moved(spec, 2)
    await t.until_ready(after)
    same(list(await t.orchestrator.deployments(spec.train)), [1], "units")
    await t.harness.give(spec, 1)
    await t.harness.give(after, 3)
    await t.until_at_work(2, 2)
    await asyncio.sleep(t.moment)
    same(await t.harness.at_work(1), 0, "handlers of the wagon before")
    if warm:
        same(await t.harness.incarnation(1), before, "the workers")
    await t.harness.let_go()
    await t.until_finished(2, 3)
    same(await t.harness.finished(1), 0, "handlers finished of the wagon before")
    await t.orchestrator.remove(spec.train, 1, grace=600.0)
    same(dict(await t.orchestrator.deployments(spec.train)), {}, "what is listed")


@suite.check()
async def moving_ends_no_handler(t: OrchestratorTrial) -> None:
    """A unit that is moved to another wagon finishes the handlers of the previous one."""
    spec = await t.ready(1, workers=2, held=1)
    after = await t.moved(spec, 2)
    await asyncio.sleep(t.moment)
    same((await t.harness.at_work(1), await t.harness.ended(1)), (1, 0), "handlers in flight, and ended")
    await t.harness.let_go()
    await t.until_finished(1, 1)
    await t.until_ready(after)


@suite.check("revision")
async def revision_is_told(t: OrchestratorTrial) -> None:
    """A wagon for other code gets workers that run this code, and the deployment says so."""
    spec = msgspec.structs.replace(await t.harness.spec(1, workers=1), revision=t.harness.revision)
    await t.orchestrator.ensure(spec)
    await t.until_ready(spec)
    found = await t.deployment(spec)
    same(found and found.revision, t.harness.revision, "the revision")


@suite.check("warm")
async def a_unit_moves_only_on(t: OrchestratorTrial) -> None:
    """An out-of-date spec, of an observer that has not seen that the unit serves another wagon, changes nothing."""
    spec = await t.ready(1, workers=2)
    after = await t.moved(spec, 2)
    await t.until_ready(after)
    await t.orchestrator.ensure(spec)
    await asyncio.sleep(t.moment)
    await t.until_ready(after)
    await t.harness.give(after, 2)
    await t.until_at_work(2, 2)
