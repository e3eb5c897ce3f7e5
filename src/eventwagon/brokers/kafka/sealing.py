"""How a topic is sealed, so that it can be proven.

The topic's `max.message.bytes` is set to 1: then not even an empty record fits. The cluster's reply proves nothing, since
each leader learns of it by itself: so a marked record, the probe, is written to each partition until its leader refuses
one. Where there are copies, what a leader has taken may not be in all of them yet and would not be counted: so a size is
set first that takes the probe and no CloudEvent; a probe that was acknowledged then stands after all that was taken. All of that by the same leaders: if one changed, once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from confluent_kafka import KafkaError

from ..._kafka.admin import Admin
from ..._kafka.sender import Sender
from ..._kafka.trouble import absent
from ...errors import Unavailable
from .publishing import LIMIT, PROBES_ONLY, SEALED
from .wire import PROBE_HEADERS

_LARGER = b"x" * 64  # makes a probe that is refused by then
_REFUSED = KafkaError.MSG_SIZE_TOO_LARGE

Found = Callable[[int, int], None]
"""A probe stands at this partition and offset: it is no event."""


class Gone(Exception):
    """The topic does not exist: nothing is left to seal."""


async def seal(admin: Admin, sender: Sender, topic: str, partitions: int, copies: int, found: Found) -> None:
    """Returns when every partition has refused a write. Raises Gone, Unavailable, StorageBroken."""
    places = [(topic, p) for p in range(partitions)]
    deadline = asyncio.get_running_loop().time() + 3 * admin.options.timeout
    sealed = await admin.option(topic, LIMIT) == str(SEALED)
    while True:
        epochs = await admin.epochs(places)
        if copies > 1 and not sealed:
            await _limit(admin, topic, PROBES_ONLY)
            await _each(partitions, lambda p: until_refused(admin, sender, topic, p, found, _LARGER))
            await _each(partitions, lambda p: take(admin, sender, topic, p, found))
        await _limit(admin, topic, SEALED)
        await _each(partitions, lambda p: until_refused(admin, sender, topic, p, found))
        if copies == 1 or await admin.epochs(places) == epochs:
            return
        sealed = False  # another leader took over meanwhile: what the one before it has shown is not shown of this one
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(f"Kafka at {admin.options.servers}: leaders of topic {topic} change too often: try again")


async def until_refused(
    admin: Admin, sender: Sender, topic: str, partition: int, found: Found, data: bytes | None = None
) -> None:
    """Probe until the partition's leader refuses one for its size."""
    deadline = asyncio.get_running_loop().time() + admin.options.timeout
    pause = 0.002
    while await probe(admin, sender, topic, partition, found, data):
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"Kafka at {admin.options.servers}: partition {partition} of topic {topic} still takes writes "
                f"{admin.options.timeout:g} s after {LIMIT} was lowered: try again"
            )
        await asyncio.sleep(pause)
        pause = min(0.1, pause * 2)


async def take(admin: Admin, sender: Sender, topic: str, partition: int, found: Found) -> None:
    """One probe, unless the topic is sealed already."""
    await probe(admin, sender, topic, partition, found)


async def probe(
    admin: Admin, sender: Sender, topic: str, partition: int, found: Found, data: bytes | None = None
) -> bool:
    """Write one probe; whether the leader took it. Raises Gone, Unavailable, StorageBroken."""
    error, message = await sender.one(topic, partition, data, headers=PROBE_HEADERS)
    if error is None:
        assert message is not None  # noqa: S101
        offset = message.offset()
        assert offset is not None  # noqa: S101
        found(partition, offset)
        return True
    if error.code() == _REFUSED:
        return False
    if absent(error):
        raise Gone
    raise admin.trouble(error, "WRITE", f"topic {topic}")


async def _limit(admin: Admin, topic: str, most: int) -> None:
    if not await admin.alter(topic, LIMIT, str(most)):
        raise Gone


async def _each(partitions: int, step: Callable[[int], Awaitable[None]]) -> None:
    done = await asyncio.gather(*(step(partition) for partition in range(partitions)), return_exceptions=True)
    for one in done:
        if one is not None:
            raise one
