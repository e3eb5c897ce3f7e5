"""How a topic is sealed, so that this can be proven.

The topic's `max.message.bytes` is set to 1: then not even an empty record fits. The cluster's reply proves nothing,
because each leader learns of the change by itself. So a marked record, the probe, is written to each partition until
its leader refuses one.

Before that, a size is set that a probe fits into and the marker that ends a transaction, but no CloudEvent. There are
two reasons. A topic that accepts no marker leaves an open transaction open for ever: its producer hangs, and consumers
see nothing after its first event. So the last step waits until no transaction is open. And if there are replicas,
records that a leader has accepted may not be in all of them yet, and would not be counted: an acknowledged probe comes
after all of them. The same leaders must do all of that: if one changed, it is done again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

from confluent_kafka import KafkaError

from ...backoff import Backoff
from ...display.text import plain
from ...errors import BrokerError, Unavailable
from .admin import Admin
from .errors import absent
from .offsets import Place
from .publishing import LIMIT, PROBES_ONLY, SEALED
from .reader import Reader
from .sender import Sender
from .wire import PROBE_HEADERS

_LARGER = b"x" * 64  # makes a probe that is refused by then
_PATIENCE = 0.5  # s for which a seal waits for transactions: the caller tries again
_REFUSED = KafkaError.MSG_SIZE_TOO_LARGE

Found = Callable[[int, int], None]
"""Called with the partition and offset of a probe: that record is no event."""


class TopicGone(Exception):
    """The topic does not exist: nothing is left to seal."""


async def seal(admin: Admin, sender: Sender, topic: str, partitions: int, copies: int, found: Found) -> None:
    """Seal the topic: returns when every partition has refused a write. Raises TopicGone, Unavailable,
    StorageBroken."""
    places = [(topic, p) for p in range(partitions)]
    deadline = asyncio.get_running_loop().time() + 3 * admin.options.timeout
    was_sealed = sealed = await admin.option(topic, LIMIT) == str(SEALED)
    while True:
        epochs = await admin.epochs(places)
        if not sealed:
            await _limit(admin, topic, PROBES_ONLY)
            await _each(partitions, lambda p: until_refused(admin, sender, topic, p, found, _LARGER))
            if copies > 1:
                await _each(partitions, lambda p: take(admin, sender, topic, p, found))
            await until_none_is_open(admin, topic, places)
        await _limit(admin, topic, SEALED)
        await _each(partitions, lambda p: until_refused(admin, sender, topic, p, found))
        slipped_in = not was_sealed and await open_transactions(admin, places)  # of records as small as a probe
        if not slipped_in and (copies == 1 or await admin.epochs(places) == epochs):
            return
        sealed = False  # or another leader took over: what its predecessor has shown does not hold for it
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(f"Kafka at {admin.options.servers}: leaders of topic {topic} change too often: try again")


async def open_transactions(admin: Admin, places: Sequence[Place]) -> dict[Place, int]:
    """The partitions with an open transaction, and the offset of its first record."""
    ends = await admin.ends(places)  # first: what is written between the two looks is in no transaction
    stable = await admin.ends(places, stable=True)
    return {
        at: first for at, end in ends.items() if end is not None and (first := stable[at]) is not None and first < end
    }


async def until_none_is_open(admin: Admin, topic: str, places: Sequence[Place]) -> None:
    """Wait briefly for open transactions to end. Raises Unavailable, which says whose they are."""
    loop = asyncio.get_running_loop()
    deadline, backoff = loop.time() + min(_PATIENCE, admin.options.timeout), Backoff(0.01, 0.1)
    while standing := await open_transactions(admin, places):
        if loop.time() > deadline:
            (_, partition), first = min(standing.items())
            servers = admin.options.servers
            raise Unavailable(
                f"Kafka at {servers}: topic {topic}, partition {partition}: another producer's transaction is open "
                f"{await _whose(admin, topic, partition, first)}: the seal waits for its end, since a sealed topic "
                f"does not let it end; new events are refused by now. {how_to_end(admin, topic, partition)}"
            )
        await asyncio.sleep(backoff.next())


def how_to_end(admin: Admin, topic: str, partition: int) -> str:
    """How a person finds whose transaction is open, and when it ends by itself."""
    return (
        f"kafka-transactions.sh --bootstrap-server {admin.options.servers} describe-producers --topic {topic} "
        f"--partition {partition} names its producer; it ends by its transaction.timeout.ms"
    )


async def _whose(admin: Admin, topic: str, partition: int, first: int) -> str:
    """What the first record tells about the transaction."""
    options = admin.options.consumer(wait=5, queued=1024, logger=admin.causes)
    reader = Reader(admin, {**options, "isolation.level": "read_uncommitted"})
    try:
        async with asyncio.timeout(_PATIENCE):
            found = await reader.range(topic, partition, first, first + 1, 1)
    except (BrokerError, TimeoutError):
        found = []
    finally:
        await reader.close()
    said = f"from offset {first} on"
    for message in found:
        at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC).isoformat(timespec="seconds")
        said += f", begun about {at}"
        headers: list[tuple[str, bytes | None]] = message.headers() or []  # type: ignore[assignment]
        source = next((value for name, value in headers if name == "ce_source" and value), None)
        if source is not None:
            said += f", of source {plain(source.decode('utf-8', 'backslashreplace'), 100)}"
    return said


async def until_refused(
    admin: Admin, sender: Sender, topic: str, partition: int, found: Found, data: bytes | None = None
) -> None:
    """Probe until the partition's leader refuses one for its size."""
    deadline = asyncio.get_running_loop().time() + admin.options.timeout
    backoff = Backoff(0.002, 0.1)
    while await probe(admin, sender, topic, partition, found, data):
        if asyncio.get_running_loop().time() > deadline:
            raise Unavailable(
                f"Kafka at {admin.options.servers}: partition {partition} of topic {topic} still takes writes "
                f"{admin.options.timeout:g} s after {LIMIT} was lowered: try again"
            )
        await asyncio.sleep(backoff.next())


async def take(admin: Admin, sender: Sender, topic: str, partition: int, found: Found) -> None:
    """Write one probe, unless the topic is sealed already."""
    await probe(admin, sender, topic, partition, found)


async def probe(
    admin: Admin, sender: Sender, topic: str, partition: int, found: Found, data: bytes | None = None
) -> bool:
    """Write one probe. Returns whether the leader accepted it. Raises TopicGone, Unavailable, StorageBroken."""
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
        raise TopicGone
    raise admin.trouble(error, "WRITE", f"topic {topic}")


async def _limit(admin: Admin, topic: str, most: int) -> None:
    if not await admin.alter(topic, LIMIT, str(most)):
        raise TopicGone


async def _each(partitions: int, step: Callable[[int], Awaitable[None]]) -> None:
    done = await asyncio.gather(*(step(partition) for partition in range(partitions)), return_exceptions=True)
    for one in done:
        if one is not None:
            raise one
