"""The lease fence, for brokers that can't refuse writes to a sealed channel.

A process publishes only while it holds a lease, which it takes on a manifest that it read after checking in. Its
check-in names the first wagon to which it may publish, by the turn in which wagons became active, and outlives the
lease and any send that began under it. So once no check-in names a wagon or an earlier one, no process whose clock runs
can publish to that wagon any more.

A process that is paused between checking its lease and sending still can. What it publishes is found before the channel
is deleted (`keep_drained`): that is probable, not proven.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from ..contracts.registry import Member, Snapshot
from ..errors import EventwagonError, PublishUncertain, Unavailable
from .runtime import Runtime
from .train_state import TrainState


class Lease:
    """One process's lease on publishing to one train. It lasts as long as the setting `lease` says, which is also the
    longest that a send may take. Its times are the event loop's; it trusts no wall clock."""

    def __init__(self, runtime: Runtime, state: TrainState) -> None:
        self._train = runtime.train
        self._name = f"{runtime.name}/publish"
        self._seconds = runtime.settings.lease
        self._state = state
        self._until = float("-inf")
        self._said = 0
        self._sending: list[int] = []

    async def hold(self) -> None:
        """Have a lease with at least half of its time left. Raises Unavailable if there is none to be had."""
        loop = asyncio.get_running_loop()
        while loop.time() > self._until - self._seconds / 2:
            try:
                await self._renew()
            except EventwagonError as e:
                if loop.time() > self._until - self._seconds / 4:
                    raise Unavailable(f"the lease on publishing can't be renewed: {e}") from e
                return

    async def _renew(self) -> None:
        """Check in, then read. In the other order neither side would see a switch between the two."""
        began = asyncio.get_running_loop().time()
        await self._check_in(self._said)
        snapshot = await self._state.refresh()
        self._until = began + self._seconds
        await self._say(snapshot)

    async def _say(self, snapshot: Snapshot) -> None:
        active = snapshot.manifest.active
        to = min(self._sending, default=active.turn if active else 0)
        if to != self._said:  # lower where the registry stepped back
            await self._check_in(to)
            self._said = to

    async def _check_in(self, to: int) -> None:
        member = Member(name=self._name, roles=("publish",), publishing_to=to)
        await self._state.registry.check_in(self._train, member, ttl=2 * self._seconds)

    @asynccontextmanager
    async def sending(self, turn: int) -> AsyncIterator[None]:
        """Around a send to the wagon of that turn: a send that takes too long is cut off. Raises PublishUncertain then,
        and Unavailable if the lease has expired."""
        if asyncio.get_running_loop().time() >= self._until:
            raise Unavailable("the lease on publishing has run out")
        self._sending.append(turn)
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except TimeoutError:
            raise PublishUncertain(f"no answer within the lease of {self._seconds:g} s") from None
        finally:
            self._sending.remove(turn)

    async def follow(self) -> None:
        """While the lease is held, check in at once when the train has switched, so that the seal need not wait for
        it."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds / 2):
                    await self._state.next_change.wait()
            if asyncio.get_running_loop().time() < self._until:
                with suppress(EventwagonError):  # the next send asks again
                    await self._renew()
            else:
                await self._state.next_change.wait()

    async def give_up(self) -> None:
        """This process publishes no more: nobody needs to wait for its lease."""
        self._until = float("-inf")
        if self._said:
            with suppress(EventwagonError):
                await self._state.registry.check_in(self._train, Member(name=self._name), ttl=0)
