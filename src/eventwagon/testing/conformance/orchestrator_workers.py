"""Checks of orchestrators: the running workers follow the spec, and no handler in flight is ended for it."""

from __future__ import annotations

import asyncio

import msgspec

from ...event import Channel
from .check import Suite, holds, same, soon
from .orchestrator_trial import OrchestratorTrial

suite: Suite[OrchestratorTrial] = Suite()


@suite.check()
async def ensure_makes_ready(t: OrchestratorTrial) -> None:
    """A wagon that was ensured is listed, becomes ready with the requested number of workers, and handles events."""
    spec = await t.harness.spec(1, workers=2)
    await t.orchestrator.ensure(spec)
    holds(await t.deployment(spec) is not None, "a wagon that was ensured is not listed")
    await t.until_ready(spec)
    await t.harness.give(spec, 3)
    await t.until_at_work(1, 2)
    await t.harness.let_go()
    await t.until_finished(1, 3)


@suite.check()
async def ensure_is_idempotent(t: OrchestratorTrial) -> None:
    """Ensuring again, also while events are handled, changes nothing: no more workers, no ended handlers."""
    spec = await t.ready(workers=2, held=2)
    await t.harness.give(spec, 4)
    for _ in range(3):
        await t.orchestrator.ensure(spec)
    await asyncio.sleep(t.moment)
    same(await t.harness.at_work(1), 2, "handlers in flight")
    await t.until_ready(spec)
    same(list(await t.orchestrator.deployments(spec.train)), [1], "wagons")
    same(await t.harness.ended(1), 0, "handlers ended")


@suite.check()
async def rescale_up(t: OrchestratorTrial) -> None:
    """With more workers requested, more events are handled at once, and handlers in flight go on."""
    spec = await t.ready(workers=1, held=1)
    await t.harness.give(spec, 4)
    more = msgspec.structs.replace(spec, workers=3)
    await t.orchestrator.ensure(more)
    await t.until_at_work(1, 3)
    await t.until_ready(more)
    same(await t.harness.ended(1), 0, "handlers ended")


@suite.check()
async def rescale_down(t: OrchestratorTrial) -> None:
    """With fewer workers requested, no handler in flight is ended; surplus workers take no more events."""
    spec = await t.ready(workers=3, held=3)
    await t.harness.give(spec, 1)
    await t.orchestrator.ensure(msgspec.structs.replace(spec, workers=1))
    await asyncio.sleep(t.moment)
    same((await t.harness.at_work(1), await t.harness.ended(1)), (3, 0), "handlers in flight, and ended")
    await t.harness.let_go()
    await t.until_finished(1, 4)
    same(await t.harness.ended(1), 0, "handlers ended")


@suite.check()
async def told_of_the_cut_off(t: OrchestratorTrial) -> None:
    """A wagon that is cut off from ingestion keeps its workers and their handlers in flight."""
    spec = await t.ready(workers=2, held=1)
    await t.orchestrator.ensure(msgspec.structs.replace(spec, cut_off_at=1.75e9))
    await asyncio.sleep(t.moment)
    same((await t.harness.at_work(1), await t.harness.ended(1)), (1, 0), "handlers in flight, and ended")
    await t.until_ready(spec)


@suite.check()
async def remove_waits(t: OrchestratorTrial) -> None:
    """Removing waits for handlers in flight within the grace; when it returns, no worker runs and the unit is not
    listed."""
    spec = await t.ready(workers=2, held=2)
    removing = asyncio.create_task(t.orchestrator.remove(spec.train, 1, grace=600.0))
    try:
        await asyncio.sleep(t.moment)
        holds(not removing.done(), "remove returned with handlers in flight and grace left")
        same((await t.harness.at_work(1), await t.harness.ended(1)), (2, 0), "handlers in flight, and ended")
        await t.harness.let_go()
        await soon(removing, t.patience, "remove, when the handlers have ended")
    finally:
        removing.cancel()
    same((await t.harness.finished(1), await t.harness.ended(1)), (2, 0), "handlers finished, and ended")
    same(await t.deployment(spec), None, "what is listed")


@suite.check()
async def remove_has_an_end(t: OrchestratorTrial) -> None:
    """A handler that does not end within the grace is ended, not earlier; then remove returns."""
    loop = asyncio.get_running_loop()
    spec = await t.ready(workers=1, held=1)
    began = loop.time()
    await soon(t.orchestrator.remove(spec.train, 1, grace=t.moment), t.moment + t.patience, "remove after its grace")
    holds(loop.time() - began > t.moment * 0.8, "a handler was ended before its grace was over")
    same((await t.harness.at_work(1), await t.harness.ended(1)), (0, 1), "handlers in flight, and ended")
    same(await t.deployment(spec), None, "what is listed")


@suite.check()
async def remove_is_idempotent(t: OrchestratorTrial) -> None:
    """Removing a unit that is absent, removed, being removed or not ready yet succeeds."""
    spec = await t.harness.spec(1, workers=1)
    await t.orchestrator.remove(spec.train, 1, grace=0.0)
    await t.orchestrator.ensure(spec)
    await soon(t.orchestrator.remove(spec.train, 1, grace=0.0), t.patience, "remove right after ensure")
    same(await t.deployment(spec), None, "what is listed")
    await t.ready(2)
    both = asyncio.gather(*(t.orchestrator.remove(spec.train, 2, grace=600.0) for _ in range(2)))
    await soon(both, t.patience, "two removes at once")
    await t.orchestrator.remove(spec.train, 2, grace=0.0)
    same(dict(await t.orchestrator.deployments(spec.train)), {}, "what is listed")


@suite.check()
async def ensure_after_remove(t: OrchestratorTrial) -> None:
    """A wagon that was removed and is ensured again gets workers again: the latest request counts."""
    spec = await t.ready()
    await t.orchestrator.remove(spec.train, 1, grace=600.0)
    await t.orchestrator.ensure(spec)
    await t.until_ready(spec)
    await t.harness.give(spec, 1)
    await t.until_at_work(1, 1)


@suite.check()
async def wagons_apart(t: OrchestratorTrial) -> None:
    """Each wagon has its own workers; removing one leaves the others and their handlers in flight (I8)."""
    held = 1 if getattr(t.harness, "ends", True) else 0
    first, second = await t.ready(1, workers=1, held=held), await t.ready(2, workers=2, held=2)
    same(sorted(await t.orchestrator.deployments(first.train)), [1, 2], "wagons")
    same(dict(await t.orchestrator.deployments("no_such_train")), {}, "wagons of another train")
    await t.orchestrator.remove(first.train, 1, grace=0.0)
    await t.orchestrator.remove("no_such_train", 2, grace=0.0)
    await asyncio.sleep(t.moment)
    same((await t.harness.at_work(2), await t.harness.ended(2)), (2, 0), "handlers in flight, and ended")
    same(list(await t.orchestrator.deployments(first.train)), [2], "wagons left")
    await t.until_ready(second)


@suite.check()
async def trouble_is_told(t: OrchestratorTrial) -> None:
    """A wagon whose workers can't attach is not ready and gives the reason; it can be removed."""
    spec = await t.harness.spec(1, workers=1)
    spec = msgspec.structs.replace(spec, channels=(Channel(spec.train, 99),))
    await t.orchestrator.ensure(spec)

    async def troubled() -> bool:
        found = await t.deployment(spec)
        holds(found is not None and not found.ready, f"expected a wagon that is not ready, found {found}")
        return bool(found and found.trouble)

    await t.until("a wagon that tells its trouble", troubled)
    await soon(t.orchestrator.remove(spec.train, 1, grace=0.0), t.patience, "removing a wagon in trouble")
    same(await t.deployment(spec), None, "what is listed")


@suite.check("outlives")
async def leftovers_are_found(t: OrchestratorTrial) -> None:
    """If an orchestrator ends and leaves units running, another one lists them, and brings them to their spec or
    removes them."""
    spec = await t.harness.spec(1, workers=1)
    async with t.harness.another() as gone:
        await gone.ensure(spec)
    await t.until_ready(spec)
    await t.orchestrator.ensure(msgspec.structs.replace(spec, workers=2))
    await t.until_ready(msgspec.structs.replace(spec, workers=2))
    await t.orchestrator.remove(spec.train, 1, grace=600.0)
    same(dict(await t.orchestrator.deployments(spec.train)), {}, "what is listed")
