"""The workers of one process for one train: they prefetch, hand out, handle and settle events.

    LocalWorkers
     ├─ WorkerPool            one shared, or one for each wagon: the workers' tasks
     │   ├─ Dispatcher        hand out: from which channel the next event comes
     │   └─ HandlerRunner     handle: handlers, deadlines, what came of each event
     └─ WagonConsumer         one for each wagon: its claims, attaching and leaving
         ├─ Prefetcher        prefetch: one for each channel, fetched ahead of the workers
         └─ Settler           settle: one for each channel, the way back to the broker

References point one way: an owner knows what it owns, a consumer its pool, a dispatcher the prefetchers of the pool's
wagons, a prefetcher the settler of its channel. The stages know no owners. They tell them something through callbacks,
and read what they need of one another in three small states (`worker_states`): a prefetcher reads in PoolState how
many events the workers need, and wakes them there. `prefetch` lists the ten steps of one event.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from ..breaker import Circuit
from ..contracts.metering import ProcessFigures
from ..contracts.orchestrator import WagonSpec
from .admission import OTHERS_FIRST, Gate
from .circuits import Circuits
from .dispatch import Dispatcher
from .handler_runner import HandlerRunner
from .runtime import Runtime
from .standstills import Standstills
from .threads import Threads
from .wagon_consumer import WagonConsumer
from .worker_pool import WorkerPool
from .worker_states import PoolState


class LocalWorkers:
    """The workers of one process for one train. Enter it before use; leaving ends every worker, gracefully.

    `shared` is the number of workers that all wagons share, or None if each wagon has its own. `slo`: the promise to
    new events in seconds that a shared pool works by. `circuits`: the circuits of an earlier LocalWorkers that this one
    follows. `most`: handlers that run at a time, for all wagons together; None: any number.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        shared: int | None,
        slo: float | None = None,
        circuits: Circuits | None = None,
        most: int | None = None,
    ) -> None:
        self.has_peers = True
        """Other processes work for the train, too: no event waits here if one of them could take it. Written by
        Membership."""
        self._runtime = runtime
        self._slo = slo
        self._shared = shared
        self._circuits = circuits or Circuits(runtime.train, runtime.settings, runtime.tell, runtime.rng)
        self._circuits.on_change = self._circuit_changed
        alike = circuits is not None  # those that follow are in the same process
        self._gate = Gate(others_first_for=0.0 if alike else OTHERS_FIRST, most=most)
        self._threads = Threads()
        self._standstills = Standstills()
        self._pool: WorkerPool | None = None
        """The shared one, if any."""
        self._consumers: dict[int, WagonConsumer] = {}
        """By the wagon's number."""
        self._paused: frozenset[int] = frozenset()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.callback(self._threads.end)
            self._standstills.start()
            stack.callback(self._standstills.end)
            stack.callback(self._circuits.end)
            if self._shared is not None:
                self._pool = self._new_pool(self._slo, is_shared=True)
                self._pool.resize(self._shared)
                stack.callback(self._pool.close)
            stack.push_async_callback(self._end_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def held(self) -> int:
        """Workers that take nothing because a handler goes on in its thread after its attempt was ended."""
        return self._gate.held

    @property
    def figures(self) -> ProcessFigures:
        """What the workers do now. From any thread."""
        parts = {id(part): part for budget in self._runtime.budgets.values() for part in budget.parts}
        workers = sum(c.workers for c in list(self._consumers.values()))
        return ProcessFigures(
            workers=workers if self._pool is None else self._pool.state.size,
            busy=self._gate.busy,
            budgets={part.name: (part.used, part.held) for part in parts.values()},
        )

    def resize(self, shared: int, floors: int) -> None:
        """Set the number of shared workers in this process, and how many of them the floors of draining wagons may
        take. A worker that handles an event finishes it first. Idempotent; has no effect if each wagon has its own
        workers."""
        if self._pool is not None:
            self._pool.set_floors(floors)
            if shared != self._pool.state.target:
                self._pool.resize(shared)

    def pause(self, numbers: frozenset[int]) -> None:
        """Pause exactly these wagons: nothing of them is handed out any more. What was fetched is given back, handlers
        in flight finish. Idempotent."""
        if numbers != self._paused:
            self._paused = numbers
            for number, consumer in self._consumers.items():
                consumer.pause(number in numbers)

    async def serve(self, spec: WagonSpec) -> WagonConsumer:
        """Attach to those channels of the wagon that have handlers. Their events are handled from then on, until the
        consumer is ended. Raises ChannelGone, Unavailable, and UsageError if the wagon is for other code."""
        number = spec.number
        consumer = WagonConsumer(
            self._runtime,
            self._tasks,
            self._circuits,
            self._pool or self._new_pool(None, is_shared=False),
            spec,
            paused=number in self._paused,
            has_peers=lambda: self.has_peers,
        )
        await consumer.attach()
        self._consumers[number] = consumer
        consumer.pause(number in self._paused)  # it may have come meanwhile
        consumer.on_left = lambda: self._consumers.pop(number, None)
        return consumer

    def _new_pool(self, slo: float | None, *, is_shared: bool) -> WorkerPool:
        runtime, state = self._runtime, PoolState(is_shared=is_shared)
        dispatcher = Dispatcher(runtime, state, slo=slo)
        runner = HandlerRunner(
            runtime,
            state,
            gate=self._gate,
            threads=self._threads,
            standstills=self._standstills,
            circuits=self._circuits,
            on_handled=None if slo is None else dispatcher.learn,
        )
        return WorkerPool(runtime, self._tasks, state, dispatcher, runner)

    def _circuit_changed(self, circuit: Circuit) -> None:
        for consumer in self._consumers.values():
            consumer.circuit_changed(circuit)

    async def _end_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for consumer in list(self._consumers.values()):
                tasks.create_task(consumer.end(self._runtime.settings.grace))
