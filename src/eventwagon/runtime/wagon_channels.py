"""The channels of a train's wagons: each step is done at the broker and then recorded in the manifest."""

from __future__ import annotations

import msgspec

from ..contracts.facts import BoundLifted
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, changed
from ..errors import Conflict, Displaced
from ..event import Channel
from ..policy.edits import Edit, Ensure, Lift, bootstrap, channels_added, created, numbered_past, sealed
from .runtime import Runtime
from .train_state import TrainState, train_removed


class WagonChannels:
    """Creates, seals and unbounds wagons' channels. Each step is done at the broker first, so that the manifest never
    claims what is not true. It has no state of its own."""

    def __init__(self, runtime: Runtime, state: TrainState) -> None:
        self._runtime = runtime
        self._state = state
        self._broker = runtime.broker

    async def bootstrap(self) -> None:
        """Make sure that the train has an active wagon: open the first one, or finish what a dead founder began.

        Idempotent; any number of processes may do it at once. Raises BrokerError, RegistryError, TrainRemoved.
        """
        runtime = self._runtime
        while True:
            base = self._state.snapshot
            if base.manifest.removal is not None:
                raise train_removed(self._runtime.train, base.manifest.removal)
            if base.manifest.active is not None:
                return
            start = Edit(base.manifest)
            if not base.manifest.spares:
                # one is opened; the train may have existed before, and its manifest was lost or stepped back
                start = numbered_past(base.manifest, await self._broker.channels(self._runtime.train))
            step = bootstrap(
                runtime.settings,
                start.manifest,
                tuple(name for name in runtime.handlers if name) if runtime.handlers else None,
                runtime.clock(),
                bounds=self._broker.capabilities.bounds,
                revision=runtime.revision,
                recorded=runtime.ledger is not None,
            )
            step = msgspec.structs.replace(step, facts=(*start.facts, *step.facts))
            try:
                await self._state.store(step, base=base)
                for task in step.tasks:
                    if isinstance(task, Ensure):
                        await self.create(task.number)
            except Conflict:
                await self._state.refresh()

    async def create(self, number: int) -> None:
        """Create the wagon's channels and record that they accept writes. Idempotent. Raises BrokerError."""
        manifest = self._state.snapshot.manifest
        wagon = manifest.wagon(number)
        if wagon is None or wagon.created_at is not None:
            return
        rows = [manifest.rows(wagon)] if wagon.archive else []
        for channel in (*manifest.working_channels(wagon)[1:], manifest.dead_letters(wagon), *rows):
            await self._broker.create(channel)
        await self._broker.create(manifest.ingress(wagon), capacity=wagon.capacity)
        await self._state.apply(lambda m: Edit(created(m, number, self._runtime.clock())))

    async def add(self, number: int, names: tuple[str, ...]) -> None:
        """Create inner channels that the wagon did not have yet. Idempotent. Raises BrokerError."""
        for name in names:
            await self._broker.create(Channel(self._runtime.train, number, name))
        await self._state.apply(lambda m: channels_added(m, number, names))

    async def make_anew(self, number: int, names: tuple[str, ...]) -> dict[Channel, str]:
        """Create inner channels again that have vanished. Returns those that can't be, and why.
        Idempotent. Raises BrokerError."""
        displaced: dict[Channel, str] = {}
        for name in names:
            channel = Channel(self._runtime.train, number, name)
            try:
                await self._broker.create(channel)
            except Displaced as e:
                displaced[channel] = str(e)
        return displaced

    async def seal(self, number: int) -> None:
        """Have the broker refuse further events for the wagon. Idempotent. Raises BrokerError."""
        await self._broker.seal(Channel(self._runtime.train, number))
        await self._state.apply(lambda m: sealed(m, number, self._runtime.clock()))

    async def lift(self, task: Lift) -> None:
        """Lift the bound of the wagon's ingress. Idempotent. Raises BrokerError."""
        manifest = self._state.snapshot.manifest
        wagon = manifest.wagon(task.number)
        if wagon is None or wagon.state is not State.ACTIVE:
            return
        await self._broker.unbound(manifest.ingress(wagon))

        def edit(m: Manifest) -> Edit:
            w = m.wagon(task.number)
            if w is None or w.capacity is None:
                return Edit(m)
            fact = BoundLifted(train=self._runtime.train, number=task.number, because=task.because)
            return Edit(changed(m, task.number, capacity=None), (fact,))

        await self._state.apply(edit)
