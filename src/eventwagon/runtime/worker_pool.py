"""The workers' tasks: keeps their number, and lets each take one event after the other."""

from __future__ import annotations

import asyncio
from contextvars import copy_context

from .bulkhead import is_ours, passes
from .dispatch import Dispatcher
from .handler_runner import OUTCOMES, HandlerRunner, Worker
from .outcomes import HANDLED
from .prefetch import WagonPrefetch
from .runtime import Runtime
from .worker_states import PAUSES, ChannelState, PoolState, WagonState

_TURN = 0.002
"""Seconds after which a worker whose handlers never wait lets others run."""


class WorkerPool:
    """Workers that serve the same wagons: one wagon's own, or those that all wagons of the process share.

    It owns the workers' tasks and their number. A worker asks the dispatcher for its next event and has the runner
    handle it.
    """

    def __init__(
        self,
        runtime: Runtime,
        tasks: asyncio.TaskGroup,
        state: PoolState,
        dispatcher: Dispatcher,
        runner: HandlerRunner,
    ) -> None:
        self.state = state
        self.runtime = runtime
        self._tasks = tasks
        self._dispatcher = dispatcher
        self._runner = runner
        self._context = copy_context()
        """The context in which each event is handled."""

    # --- their number ----------------------------------------------------------------------------

    def resize(self, target: int) -> None:
        """Bring the number of workers to `target`: up at once; down as workers finish their current event.
        Idempotent."""
        self.state.target = target
        self._fill()
        self.state.wake_all()
        for wagon in self._dispatcher.wagons:
            wagon.rescaled(target)

    def set_floors(self, floors: int) -> None:
        """Set how many of these workers the floors of draining wagons may take together. Idempotent."""
        self._dispatcher.set_floors(floors)

    def rescale(self, workers: int | None) -> None:
        """A spec has changed: the order of ages may be different, and so may the number of a wagon's own `workers`. The
        owner of a shared pool resizes it. Idempotent."""
        self._dispatcher.sort()
        if not self.state.is_shared and workers is not None and workers != self.state.target:
            self.resize(workers)

    def close(self) -> None:
        """End all workers. Handlers that still run in their threads are not waited for. Idempotent."""
        self.state.closed = True
        self.resize(0)
        self._runner.close()

    def _fill(self) -> None:
        state = self.state
        while state.size < state.target and not state.closed and not self.runtime.bulkhead.interrupted:
            task = self._tasks.create_task(self._work(), context=self._context.copy())
            self._runner.add(task)
            state.size += 1
            task.add_done_callback(self._ended)  # it may be cancelled before it has begun

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A worker has ended: replace it if there are too few now. Idempotent."""
        if not self._runner.remove(task):
            return
        self.state.size -= 1
        if not self.state.closed and self.state.size < self.state.target:
            asyncio.get_running_loop().call_soon(self._fill)

    # --- their wagons ----------------------------------------------------------------------------

    def join(self, wagon: WagonPrefetch) -> None:
        """Work for this wagon, too. Call it once for each wagon."""
        self._dispatcher.add(wagon)

    def part(self, wagon: WagonState, because: str) -> None:
        """Stop working for it, and cut short the handlers that run for it. Idempotent."""
        self._dispatcher.remove(wagon)
        self._runner.cut_short(wagon, because)
        if not self.state.is_shared:
            self.close()

    def cut_channel(self, source: ChannelState, because: str) -> None:
        """Cut short the handlers that run for this channel of a wagon. Idempotent."""
        self._runner.cut_channel(source, because)

    def drop_choice(self, wagon: WagonState) -> None:
        """The wagon was paused or resumed: choose again. Idempotent."""
        self._dispatcher.drop_choice(wagon)

    def give_up(self, wagon: WagonState) -> None:
        """Stop running the handlers that were cut short for it and go on all the same. Idempotent."""
        self._runner.give_up(wagon)

    # --- their work ------------------------------------------------------------------------------

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: this runs as a task
        state, worker = self.state, self._runner.worker(task)
        try:
            stained = False
            while not stained and state.size <= state.target:
                try:
                    stained = await self._turns(worker)
                except BaseException as e:
                    if passes(e):
                        self._interrupt()
                    if is_ours(e):
                        raise
                    self.runtime.bulkhead.report("a worker", e)  # the pool keeps its size
                    self._runner.drop(worker)
                    await asyncio.sleep(PAUSES[0])
        finally:
            self._ended(task)

    async def _turns(self, worker: Worker) -> bool:
        """Take one event after the other, until there are more workers than there should be. Returns True if a handler
        has changed context variables: another worker takes this one's place, so that no event sees another event's
        variables."""
        loop, state, dispatcher, runner = asyncio.get_running_loop(), self.state, self._dispatcher, self._runner
        gate, task = runner.gate, worker.task
        clean = list(self._context.items())
        count = len(clean)
        yielded = loop.time()
        ended: float | None = None
        """The loop's time, if the last event was handled just now."""
        while state.size <= state.target:
            now, ended = loop.time() if ended is None else ended, None
            if now - yielded > _TURN:
                await asyncio.sleep(0)
                yielded = loop.time()
                continue  # meanwhile it may have been asked to end
            if gate.closed:
                await gate.opened()
                continue
            prefetcher = dispatcher.next(now)
            if prefetcher is None:
                waiter = state.idle()
                for wagon in dispatcher.wagons:
                    wagon.worker_free(own=not state.is_shared)
                await waiter
                yielded = loop.time()
                continue
            if gate.bounded and gate.full:
                await gate.room()
                continue
            delivery = prefetcher.take(late=dispatcher.late)
            if delivery is None:  # it was given back while all were busy
                await prefetcher.fetch_one()
                continue
            settler = prefetcher.settler
            if prefetcher.forming is not None:
                worker.others = prefetcher.take_others(delivery, late=dispatcher.late)
            if delivery.suspect:
                await runner.handle_suspects(worker, settler, delivery)
            elif (outcome := runner.start(worker, settler, delivery, now)) is not None:
                if outcome is HANDLED or isinstance(outcome, OUTCOMES):
                    ended = runner.finish(worker, settler, delivery, now, outcome, at_once=True)
                else:
                    runner.finish(worker, settler, delivery, now, await outcome, at_once=False)
                if worker.because or task.cancelling():
                    await runner.after_cut(worker, settler.source)
                    ended = None
            if len(known := copy_context()) != count or (count and any(known.get(v) is not old for v, old in clean)):
                return True
        return False

    def _interrupt(self) -> None:
        """The program is interrupted: the other workers' tasks end with this one and can settle nothing more. Their
        events come again when the process has ended, so leaving does not wait for them."""
        self.runtime.bulkhead.interrupted = True
        for wagon in self._dispatcher.wagons:
            wagon.wagon.quiet.set()
