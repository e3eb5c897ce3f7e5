"""A round trip through the broker, in a channel of its own: it leaves no trace in the wagon's totals or capacity."""

from __future__ import annotations

import asyncio
import time

from ..contracts.broker import Broker
from ..errors import Unavailable
from ..event import Channel, Event, new_ids

PROBE = "0probe"
"""No user's channel can have this name."""


async def probe(broker: Broker, train: str, number: int, *, timeout: float = 5.0) -> None:
    """Create the wagon's probe channel, publish to it, receive and settle the event, delete the channel.

    It proves that this process can store events durably beside the wagon's own and receives what is stored there. With
    consumers attached to the wagon's channels, that is what READY means. If a killed process left a probe channel, the
    next one uses it; otherwise it goes with the wagon's leftovers. Raises EventwagonError.
    """
    channel = Channel(train, number, PROBE)
    now = time.time()
    event = Event(new_ids(1, now)[0], "eventwagon.probe", f"/eventwagon/{train}", now, b"{}")
    try:
        async with asyncio.timeout(timeout):
            await broker.create(channel)
            try:
                async with broker.consume(channel, visibility=timeout) as subscription:
                    await broker.publish(channel, [event])
                    while True:
                        deliveries = await subscription.receive(100, timeout)
                        await subscription.settle(deliveries)
                        if any(d.event.id == event.id for d in deliveries):
                            return
            finally:
                await broker.delete(channel)
    except TimeoutError:
        raise Unavailable(f"a round trip through {channel} took more than {timeout:g} s") from None
