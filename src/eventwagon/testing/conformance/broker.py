"""The suite for brokers, in three parts: `broker_channels`, `broker_contents` and `broker_deliveries`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ...contracts.broker import Broker
from . import broker_channels, broker_contents, broker_deliveries
from .broker_trial import BrokerSettings, BrokerTrial
from .check import Body, Check, Make, Suite, Undeclared, identity, sentence


def broker_checks(
    *, visibility: float = 0.3, patience: float = 10.0, clock: Callable[[], float] = time.time
) -> Sequence[Check[Broker]]:
    """Every check of the broker's contract.

    `visibility`: the shortest visibility time that the driver keeps reliably, in seconds (network brokers need 1 or
    more). `patience`: a check fails if something that must happen takes more seconds than this. `clock` dates the
    events.
    """
    settings = BrokerSettings(visibility, patience, clock)
    suites: list[Suite[BrokerTrial]] = [broker_channels.suite, broker_contents.suite, broker_deliveries.suite]
    return [_check(body, requires, settings) for suite in suites for body, requires in suite.bodies]


def _check(body: Body[BrokerTrial], requires: tuple[str, ...], settings: BrokerSettings) -> Check[Broker]:
    async def start(check: Check[Broker], make: Make[Broker]) -> None:
        async with make() as broker:
            missing = [name for name in check.requires if not getattr(broker.capabilities, name)]
            if missing:
                raise Undeclared(f"{type(broker).__name__} does not declare {', '.join(missing)}: {check.name}")

            @asynccontextmanager
            async def another() -> AsyncIterator[Broker]:
                if not broker.capabilities.shared:
                    yield broker
                    return
                async with make() as second:
                    yield second

            trial = BrokerTrial(broker, another, settings)
            async with AsyncExitStack() as after:
                after.push_async_callback(_clear, broker, trial.train)
                await body(trial)

    return Check(identity(body), sentence(body), requires, start)


async def _clear(broker: Broker, train: str) -> None:
    for channel in await broker.channels(train):
        await broker.delete(channel)
