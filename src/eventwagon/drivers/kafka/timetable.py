"""Events for later in Kafka: one compacted topic of one partition for each train, `TRAIN.0later`.

Adding an event is one record. A process that claims, cancels or lists them reads the whole topic once and then follows
it; see later.py for what the records mean. Times are the topic's, in milliseconds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from confluent_kafka import KafkaError

from ...background import Background
from ...backoff import Backoff
from ...contracts.timetable import Due, Waiting, decode, encode, key_of
from ...display.text import count
from ...errors import EventTooLarge, StorageBroken, Unavailable
from ...event import Event
from . import later
from .admin import COMPACTED
from .compacted import CompactedLog
from .errors import absent
from .following import LogClient, LogClock, LogGone, unacknowledged
from .later import CLOCK, Add, Entry, Later, Tick, Until, claim_of, hold_of
from .names import Names
from .options import BATCH, LOGGER
from .publishing import LIMIT
from .reader import offset_of

_BATCH = 1_048_588  # bytes of a batch that every topic must take
_FRAME = 512  # bytes of a record besides its value, generously
_STALE = (
    6 * 3600.0
)  # s after which a log that was not read up to its end is read anew: compaction may have overtaken it
_ABSENT = 2.0  # s until a topic that was not there is looked for again
_TIDY = 30.0  # s between two deletions of litter
_LOOK = 60.0  # s between two checks of the topic's configuration
_HOLD = 5000  # ms for which an event is held while it is cancelled
_SEGMENT = {"segment.ms": "3600000"}  # only closed segments are compacted
_MOST, _BYTES = 1000, 8_000_000  # records that are sent, and the bytes of those that are read, at a time
_PAGE = 200


class KafkaTimetable:
    """Timetables in the cluster of a broker or a registry, which opens and closes it. `client` returns that driver's
    client; `cache`: the most bytes of a train's events that are held in memory."""

    def __init__(self, client: Callable[[], LogClient], names: Names, cache: int) -> None:
        self._client = client
        self._names = names
        self._cache = cache
        self._trains: dict[str, _Train] = {}

    async def close(self) -> None:
        """Stop following all topics."""
        trains, self._trains = self._trains, {}
        for train in trains.values():
            await train.close()

    def _of(self, train: str) -> _Train:
        client = self._client()
        found = self._trains.get(train)
        if found is None:
            found = self._trains[train] = _Train(client, train, self._names.later(train), self._cache)
        return found

    async def now(self, train: str) -> float:
        return await self._of(train).now()

    async def add(self, train: str, events: Sequence[Event]) -> None:
        if events:
            await self._of(train).add(events)

    async def claim(self, train: str, *, limit: int, most_bytes: int, lease: float) -> Due:
        return await self._of(train).claim(limit, most_bytes, lease)

    async def remove(self, train: str, keys: Sequence[str], *, until: float) -> None:
        await self._of(train).remove(keys, round(until * 1000))

    async def cancel(self, train: str, keys: Sequence[str]) -> bool:
        return await self._of(train).cancel(keys)

    async def waiting(self, train: str) -> Waiting:
        return await self._of(train).waiting()

    def entries(self, train: str) -> AsyncIterator[Event]:
        return self._of(train).entries()

    async def latest(self, train: str, series: str) -> float | None:
        return (await self._of(train).latest_of_all()).get(series)

    async def latest_of_all(self, train: str) -> Mapping[str, float]:
        return await self._of(train).latest_of_all()

    async def tick(self, train: str, series: str, at: float, event: Event | None) -> bool:
        return await self._of(train).tick(series, at, event)

    async def clear(self, train: str) -> int:
        return await self._of(train).clear()


class _Followed:
    """The log of a train, and what it says."""

    def __init__(self, client: LogClient, topic: str, clock: LogClock, room: int) -> None:
        self.rule = Later(room)
        self.log = CompactedLog(client, topic, self.rule, clock)
        self.read_at = time.time()
        """When it was last known to be read up to its end."""
        self.tidy_at = time.monotonic() + _TIDY
        self.look_at = time.monotonic() + _LOOK
        self.trouble = ""


class _Train:
    """The timetable of one train in this process. Everything but adding goes one after the other."""

    def __init__(self, client: LogClient, train: str, topic: str, room: int) -> None:
        self._client = client
        self._train = train
        self._topic = topic
        self._room = room
        self._clock = LogClock()
        self._turn = asyncio.Lock()
        self._making = asyncio.Lock()
        self._asking = asyncio.Lock()
        """For the time."""
        self._followed: _Followed | None = None
        self._is_there = False
        """The topic exists, and is suitable, as far as this process knows."""
        self._absent_until = 0.0
        """The next claim looks for it only then."""
        self._background = Background()
        self._attaching: asyncio.Task[_Followed | None] | None = None
        self._missed: set[str] = set()
        """Keys of events that waited in a topic that was deleted."""
        most = client.options.max_message_bytes
        self._most = max(BATCH, most) - _FRAME
        self._needed = {**COMPACTED, LIMIT: f">={max(_BATCH, most)}"}

    async def close(self) -> None:
        """Stop following the topic."""
        self._background.cancel()
        await self._background.wait()
        self._leave()

    def _leave(self) -> None:
        followed, self._followed = self._followed, None
        if followed is not None:
            followed.log.leave()

    # --- the topic --------------------------------------------------------------------------

    async def _ensure(self) -> None:
        """Create the topic, unless it exists. Raises Unavailable, and StorageBroken if it loses events."""
        if not self._is_there:
            async with self._making:
                if not self._is_there:
                    await self._make()

    async def _make(self) -> None:
        client = self._client
        if not await client.admin.create(self._topic, 1, {**self._needed, **_SEGMENT}):
            await client.admin.check(self._topic, self._needed)
        deadline, backoff = time.monotonic() + client.options.timeout, Backoff(0.005, 0.25)
        while (found := await client.admin.describe_to(client.sender, self._topic)) is None or any(
            partition.leader < 0 for partition in found.partitions.values()
        ):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"Kafka at {client.options.servers}: topic {self._topic} was created and is not usable yet"
                )
            await asyncio.sleep(backoff.next())
        self._is_there = True

    async def _caught_up(self) -> _Followed | None:
        """The log, read up to its end as of now; None if there is none. Raises Unavailable; StorageBroken, once, if
        somebody deleted it while events waited there."""
        if self._followed is not None and not 0 <= time.time() - self._followed.read_at < _STALE:
            self._leave()
        for _ in range(2):
            if self._followed is None:
                self._followed = await self._attached()
            if (followed := self._followed) is None or await self._synced(followed):
                break
            self._lose(followed)
        else:
            raise Unavailable(
                f"Kafka at {self._client.options.servers}: topic {self._topic} can't be followed now: try again"
            )
        self._is_there = self._is_there and self._followed is not None
        if self._missed:
            self._tell_missed(self._followed)
        return self._followed

    def _lose(self, followed: _Followed) -> None:
        """The topic is gone, it seems; what waited there is looked for in the one that is there next."""
        self._missed |= {entry.key for entry in followed.rule.entries()}
        self._leave()

    async def _synced(self, followed: _Followed) -> bool:
        """Read the log up to its end as of now. Returns False if it is gone, or another one by now."""
        place, read = (self._topic, 0), followed.log.next
        end = (await self._client.admin.ends([place]))[place]
        if end is None or end < read:
            return False
        try:
            if time.monotonic() > followed.look_at:
                await self._look(followed)
            await self._read_to(followed, end)
        except LogGone:
            return False
        followed.read_at = time.time()
        return True

    def _tell_missed(self, followed: _Followed | None) -> None:
        missed, self._missed = self._missed, set()
        lost = [key for key in missed if followed is None or followed.rule.get(key) is None]
        if lost:
            raise StorageBroken(
                f"Kafka at {self._client.options.servers}: topic {self._topic} was deleted by somebody while "
                f"{count(len(lost), 'event')} waited there for their time: they are lost"
            )

    async def _read_to(self, followed: _Followed, end: int) -> None:
        """Wait for the log's records before `end`. If they don't come, it is read anew at the next call: the last may
        be the mark of a foreign transaction, which nobody gets to read, and a consumer may get nothing more of a topic
        that was made anew. Raises Unavailable, LogGone."""
        try:
            await followed.log.sync(end)
        except Unavailable:
            self._leave()
            raise

    async def _attached(self) -> _Followed | None:
        """The log, read up to its end as of now. It goes on being read if the caller is cancelled."""
        if self._attaching is None:
            self._attaching = self._background.start(self._attach())
            self._attaching.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may ask again
        try:
            followed = await asyncio.shield(self._attaching)
        except asyncio.CancelledError:  # the next caller gets it
            raise
        except BaseException:
            self._attaching = None
            raise
        self._attaching = None
        return followed

    async def _attach(self) -> _Followed | None:
        followed = _Followed(self._client, self._topic, self._clock, self._room)
        try:
            await followed.log.attach()
            await self._look(followed)
            await self._client.admin.describe_to(self._client.sender, self._topic)
        except BaseException as e:
            followed.log.leave()
            if isinstance(e, LogGone):
                return None
            raise
        return followed

    async def _look(self, followed: _Followed) -> None:
        """Check whether the topic is still the same, and still keeps its records. Raises LogGone."""
        followed.look_at = time.monotonic() + _LOOK
        if await self._client.admin.identity(self._topic) != followed.log.identity:
            raise LogGone(f"topic {self._topic} was deleted, and made anew by somebody")
        trouble = await self._client.admin.unsuitable(self._topic, self._needed)
        if trouble and trouble != followed.trouble:
            LOGGER.warning("%s", trouble)
        followed.trouble = trouble

    async def _made(self) -> _Followed:
        """The log, as `_caught_up`; the topic is created if need be."""
        deadline, backoff = time.monotonic() + self._client.options.timeout, Backoff(0.005, 0.25)
        while True:
            await self._ensure()
            if (followed := await self._caught_up()) is not None:
                return followed
            if time.monotonic() > deadline:
                raise Unavailable(f"train {self._train}: topic {self._topic} was created and is not visible yet")
            await asyncio.sleep(backoff.next())

    # --- writing ----------------------------------------------------------------------------

    async def _send(self, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Append these records (key, value) without reading the log; the topic is created if need be. Raises
        Unavailable (some may be stored), StorageBroken."""
        left, client = rows, self._client
        deadline, backoff = time.monotonic() + client.options.timeout, Backoff(0.005, 0.25)
        while left:
            await self._ensure()
            found = await asyncio.gather(*(self._one(*row) for row in left))
            errors = [error for error in found if error is not None]
            if not errors:
                return
            if not all(map(absent, errors)):
                error = next(error for error in errors if not absent(error))
                if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    await client.admin.check(self._topic, self._needed)
                raise unacknowledged(client.admin, self._topic, error)
            self._is_there = False
            if time.monotonic() > deadline:
                raise unacknowledged(client.admin, self._topic, errors[0])
            left = [row for row, error in zip(left, found, strict=True) if error is not None]
            await asyncio.sleep(backoff.next())

    async def _one(self, key: bytes, value: bytes | None) -> KafkaError | None:
        sent = time.monotonic()
        error, message = await self._client.sender.one(self._topic, 0, value, key=key)
        if error is None and message is not None:
            self._clock.wrote(message.timestamp()[1], sent, time.monotonic())
        return error

    async def _append(self, followed: _Followed, rows: Iterable[tuple[bytes, bytes | None]]) -> list[bool]:
        """Append these records (key, value) to the log that is followed; returns their results. Raises Unavailable
        (some may be stored), StorageBroken."""
        results, left = list[bool](), list(rows)
        try:
            async with asyncio.timeout(2 * self._client.options.timeout):
                while left:
                    some, left = left[:_MOST], left[_MOST:]
                    appended = [followed.log.append(key, value) for key, value in some]
                    for result in await asyncio.gather(*appended, return_exceptions=True):
                        if isinstance(result, BaseException):
                            raise result
                        results.append(result)
        except LogGone as e:
            self._lose(followed)
            raise Unavailable(f"train {self._train}: {e}: try again") from None
        except TimeoutError:
            self._leave()
            raise Unavailable(
                f"Kafka at {self._client.options.servers}: topic {self._topic} could not be read in time; what was "
                "written may be done: try again"
            ) from None
        return results

    async def _clock_of(self, followed: _Followed) -> int:
        """The topic's time now, in ms."""
        if self._clock.is_old:
            await self._append(followed, [(CLOCK, None)])
        return self._clock.now()

    # --- the timetable ----------------------------------------------------------------------

    async def now(self) -> float:
        """The topic's time; the topic is created if need be."""
        if self._clock.is_old:
            async with self._asking:
                if self._clock.is_old:
                    await self._send([(CLOCK, None)])
        return self._clock.now() / 1000

    async def add(self, events: Sequence[Event]) -> None:
        """See Timetable."""
        rows = [(self._client.key(), later.encode(self._row(event))) for event in events]
        for event, (_, value) in zip(events, rows, strict=True):
            self._check(event, value)
        for part in _parts(rows):
            await self._send(part)

    def _row(self, event: Event) -> Add:
        return Add(key_of(event), math.ceil(event.time * 1000), encode(event))

    def _check(self, event: Event, value: bytes) -> None:
        if len(value) > self._most:
            raise EventTooLarge(
                f"event {event.id} takes {len(value):,} bytes; to be kept for later it may take up to "
                f"{self._most:,} (max_message_bytes): send a reference to the data"
            )

    async def claim(self, limit: int, most_bytes: int, lease: float) -> Due:
        """See Timetable."""
        async with self._turn:
            absent = not self._is_there and self._followed is None and time.monotonic() < self._absent_until
            followed = None if absent else await self._caught_up()
            if followed is None:
                if not absent:
                    self._absent_until = time.monotonic() + _ABSENT
                now = time.time()
                return Due(events=(), keys=(), until=now, now=now, next_at=None)
            await self._tidy(followed)
            now = await self._clock_of(followed) if len(followed.rule) else self._clock.now()
            until = now + math.ceil(min(lease * 1000, later.LONGEST))
            ready = followed.rule.ready(now, limit, most_bytes)
            claims = ((claim_of(entry.name), later.encode(Until(until, bool(entry.claimed)))) for entry in ready)
            granted = await self._append(followed, claims)
            ours = [entry for entry, mine in zip(ready, granted, strict=True) if mine]
            found = [(entry.key, data) async for entry, data in self._read(followed, ours)]
            events = [decode(data, kept_as=key) for key, data in found]
            return Due(
                events=events,
                keys=[key for key, _ in found],
                until=until / 1000,
                now=max([now / 1000, *(event.time for event in events)]),
                next_at=_seconds(followed.rule.next_at()),
            )

    async def _tidy(self, followed: _Followed) -> None:
        """Delete litter, now and then."""
        if time.monotonic() > followed.tidy_at:
            followed.tidy_at = time.monotonic() + _TIDY
            await self._append(followed, followed.rule.to_tidy(_MOST))

    async def remove(self, keys: Sequence[str], until: int) -> None:
        """See Timetable. If the claim ends meanwhile, and another process claims an event, it is removed all the same:
        it was published. One that is added again has another record."""
        async with self._turn:
            if (followed := await self._caught_up()) is not None:
                kept = map(followed.rule.get, dict.fromkeys(keys))
                await self._delete(followed, [entry for entry in kept if entry and entry.claimed == until])

    async def _delete(self, followed: _Followed, entries: Sequence[Entry]) -> bool:
        """Say that these events are gone. Returns whether one of them was there and had never been claimed."""
        rows = [row for entry in entries for row in followed.rule.to_delete(entry)]
        return any(await self._append(followed, rows))

    async def cancel(self, keys: Sequence[str]) -> bool:
        """See Timetable. Each is held first: from then on nobody can claim it."""
        async with self._turn:
            if (followed := await self._caught_up()) is None:
                return False
            kept = [entry for entry in map(followed.rule.get, dict.fromkeys(keys)) if entry]
            if not kept:
                return False
            hold = later.encode(Until(await self._clock_of(followed) + _HOLD))
            held = await self._append(followed, ((hold_of(entry.name), hold) for entry in kept))
            return await self._delete(followed, [entry for entry, ours in zip(kept, held, strict=True) if ours])

    async def waiting(self) -> Waiting:
        """See Timetable."""
        async with self._turn:
            followed = await self._caught_up()
            if followed is None or not len(followed.rule):
                return Waiting(count=0, next_at=None, now=self._clock.now() / 1000)
            with suppress(StorageBroken):  # a process that may only read goes by its own clock
                await self._clock_of(followed)
            next_at = _seconds(followed.rule.next_at())
            return Waiting(count=len(followed.rule), next_at=next_at, now=self._clock.now() / 1000)

    async def entries(self) -> AsyncIterator[Event]:
        """See Timetable."""
        async with self._turn:
            followed = await self._caught_up()
            left = followed.rule.entries() if followed else []
        while left and followed:
            some, left = left[:_PAGE], left[_PAGE:]
            async for entry, data in self._read(followed, some):
                yield decode(data, kept_as=entry.key)

    async def _read(self, followed: _Followed, entries: Sequence[Entry]) -> AsyncIterator[tuple[Entry, bytes]]:
        """These with their events, in order; those that are not in memory are read again. Raises Unavailable."""
        for part in _in_reach(entries):
            far = sorted(entry.offset for entry in part if entry.data is None)
            messages = await self._client.reader.these(self._topic, 0, far) if far else []
            read = {offset_of(message): later.event_in(message.value() or b"") for message in messages}
            for entry in part:
                data = entry.data if entry.data is not None else read.get(entry.offset)
                if data is not None:
                    yield entry, data
                elif followed.rule.get(entry.key) is entry:  # it was not removed meanwhile
                    LOGGER.warning("topic %s: the event at offset %d can't be read now", self._topic, entry.offset)

    async def latest_of_all(self) -> Mapping[str, float]:
        """See Timetable."""
        async with self._turn:
            followed = await self._caught_up()
            return {name: tick.at for name, tick in followed.rule.series.items()} if followed else {}

    async def tick(self, series: str, at: float, event: Event | None) -> bool:
        """See Timetable. The event is in the same record."""
        async with self._turn:
            followed = await self._made()
            before = followed.rule.series.get(series)
            if before is not None and not at > before.at:
                return False
            kept = None if event is None or before is None else self._row(event)
            value = later.encode(Tick(series, at, kept))
            if event is not None:
                self._check(event, value)
            name = self._client.key()
            (recorded,) = await self._append(followed, [(name, value)])
            recorded = recorded or followed.rule.series[series].name == name  # if the client has sent it twice
            if not recorded:
                await self._append(followed, [(name, None)])
            return recorded

    async def clear(self) -> int:
        """Delete the topic."""
        async with self._turn:
            followed = await self._caught_up()
            if followed is None:
                return 0
            self._leave()
            admin, options = self._client.admin, self._client.options
            await admin.delete(self._topic)
            self._is_there = False
            deadline = time.monotonic() + options.timeout
            while await admin.describe(self._topic) is not None:
                if time.monotonic() > deadline:
                    raise Unavailable(f"Kafka at {options.servers}: topic {self._topic} was deleted and still exists")
                await asyncio.sleep(0.02)
            return len(followed.rule)


def _parts(rows: Sequence[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """What is sent at a time."""
    part: list[tuple[bytes, bytes]] = []
    size = 0
    for row in rows:
        size += len(row[1])
        if part and (size > _BYTES or len(part) == _MOST):
            yield part
            part, size = [], len(row[1])
        part.append(row)
    if part:
        yield part


def _in_reach(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """What is read again at a time: up to so many bytes."""
    part: list[Entry] = []
    size = 0
    for entry in entries:
        size += entry.size if entry.data is None else 0
        if part and size > _BYTES:
            yield part
            part, size = [], entry.size if entry.data is None else 0
        part.append(entry)
    if part:
        yield part


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
