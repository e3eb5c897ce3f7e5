"""Manifests, members and the journal of each train in two Kafka topics: `TRAIN.0manifest`, which has a second partition
for the members, and `TRAIN.0journal`."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self

from ...contracts import facts
from ...contracts import manifest as manifests
from ...contracts.broker import Finding
from ...contracts.facts import Entry
from ...contracts.manifest import Manifest
from ...contracts.registry import Changes, Member, Snapshot, decode_members, encode_member, out_of_date
from ...display.text import count
from ...errors import BrokenManifest, BrokerError, StorageBroken, Unavailable
from ...event import Channel
from .admin import LOG_TIME
from .check_ins import PARTITION, CheckIns
from .cluster import cluster_of
from .following import LogClient, LogGone
from .inspection import InspectedTopic, inspect
from .log import Log
from .manifests import Manifests, MemberCheckIn, ProposalResult, Replace, encode
from .names import Names
from .options import LOGGER, Options
from .timetable import KafkaTimetable

_EVERY = 500  # records from one snapshot to the next
_POLL = 0.25  # s between two checks whether a watched train exists now
_PAGE = 2000  # journal entries in one read
_CACHE = 32 * 1024 * 1024  # bytes of events for later in memory
_MANIFEST = ".0manifest"
_JOURNAL = ".0journal"


class KafkaRegistry:
    """Trains in a Kafka cluster (3.0 or later).

    `servers`: host:port,host:port. `replication`: copies of new topics, -1 for the cluster's default. `timeout` in s.
    `topic_prefix`, `oauth_cb`: as for KafkaBroker. `config`: options of librdkafka. Members' times use the cluster's
    clock. Raises UsageError.

    A process needs READ, WRITE, DESCRIBE and CREATE on the topics, and DELETE (to trim them).
    """

    def __init__(
        self,
        servers: str,
        *,
        replication: int = -1,
        timeout: float = 10.0,
        topic_prefix: str = "",
        oauth_cb: Callable[[str], tuple[Any, ...]] | None = None,
        config: dict[str, str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = Options(
            servers,
            1,
            replication,
            timeout=timeout,
            topic_prefix=topic_prefix,
            config=config or {},
            oauth_cb=oauth_cb,
        ).checked()
        self._prefix = topic_prefix
        self._client: LogClient | None = None
        self._opened = AsyncExitStack()
        self.timetable = KafkaTimetable(lambda: self._have, Names(topic_prefix), _CACHE)
        self._trains: dict[str, asyncio.Task[_Train | None]] = {}
        self._told: set[str] = set()
        """Trains with processes of an earlier release."""

    @classmethod
    def from_url(cls, url: str, *, clock: Callable[[], float] = time.time) -> Self:
        """`kafka://host:9092,host2:9092?replication=3&sasl.username=…`. Raises UsageError."""
        o = Options.from_url(url)
        return cls(
            o.servers,
            replication=o.replication,
            timeout=o.timeout,
            topic_prefix=o.topic_prefix,
            config=dict(o.config),
            clock=clock,
        )

    async def __aenter__(self) -> Self:
        """Does nothing yet: it connects with the first call."""
        cluster = await self._opened.enter_async_context(cluster_of(self._options))
        self._client = LogClient(cluster)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish sending, for up to 1 s; then end all threads and connections that no other train uses."""
        async with self._opened:
            await self.timetable.close()
            client, self._client = self._client, None
            for task in self._trains.values():
                task.cancel()
            for found in await asyncio.gather(*self._trains.values(), return_exceptions=True):
                if isinstance(found, _Train):
                    found.log.leave()
            self._trains.clear()
            if client is not None:
                client.close()

    async def read(self, train: str) -> Snapshot:
        standing = await self._train(train)
        return await standing.newest() if standing else _none(train)

    async def replace(
        self,
        train: str,
        manifest: Manifest,
        *,
        expect: int,
        entries: Sequence[Entry] = (),
        keep: int = 10_000,
        beyond: int = 0,
    ) -> Snapshot:
        standing = await self._train(train, make=expect == 0)
        if standing is None:
            raise out_of_date(train, 0, expect)
        outcome = await standing.propose(Replace(expect, manifests.encode(manifest)))
        if not outcome.taken:
            raise out_of_date(train, outcome.version, expect)
        await self.append(train, entries, keep=keep)
        return Snapshot(manifest, outcome.version)

    @asynccontextmanager
    async def watch(self, train: str) -> AsyncIterator[AsyncIterator[Snapshot]]:
        yield Changes(partial(self._wait, train))

    async def _wait(self, train: str, seen: int) -> Snapshot:
        """The first manifest whose version is newer than `seen`."""
        if seen < 0:
            return await self.read(train)
        while (standing := await self._train(train)) is None:  # noqa: ASYNC110 - nobody tells of topics
            await asyncio.sleep(_POLL)
        return await standing.after(seen)

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        standing = await self._train(train, make=ttl > 0)
        if standing is None:
            return
        op = MemberCheckIn(member.name, encode_member(member), max(0, round(ttl * 1000)))
        if standing.check_ins is None:
            await standing.propose(op)
        else:
            await standing.check_ins.write(op)

    async def members(self, train: str) -> Sequence[Member]:
        standing = await self._train(train)
        if standing is None:
            return []
        if standing.check_ins is None:
            await standing.catch_up()
            return decode_members(standing.rule.live.alive(standing.log.now))
        found = await standing.check_ins.alive()
        if earlier := standing.rule.live.alive(standing.log.now):
            self._tell_of_earlier(train)
        return decode_members([*found, *earlier])

    def _tell_of_earlier(self, train: str) -> None:
        if train not in self._told:
            self._told.add(train)
            LOGGER.warning(
                "%s: a process of an earlier release works for this train, and does not see those of this release: "
                "end it",
                train,
            )

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        if not entries:
            return
        topic, client = self._prefix + train + _JOURNAL, self._have
        lines = [facts.encode_entry(entry) for entry in entries]
        end = await self._write(topic, lines)
        if end is None:
            if not await client.admin.create(topic, 1, {}):
                await client.admin.check(topic, {})
            end = await self._write(topic, lines, patient=True)
        if end is not None and end > keep:
            await client.admin.trim(topic, end - keep)

    async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        topic, client = self._prefix + train + _JOURNAL, self._have
        place = (topic, 0)
        starts, ends = await asyncio.gather(client.admin.starts([place]), client.admin.ends([place]))
        at, end = starts[place], ends[place]
        if at is None or end is None:
            return
        if last is not None:
            at = max(at, end - last)
        while at < end:
            some = await client.reader.range(topic, 0, at, end, _PAGE)
            if not some:
                return
            for message in some:
                yield facts.decode_entry(message.value() or b"")
            at = (some[-1].offset() or 0) + 1

    async def delete(self, train: str) -> None:
        if (task := self._trains.pop(train, None)) is not None:
            standing = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(standing, _Train):
                standing.log.leave()
        admin = self._have.admin
        for topic in (self._prefix + train + _JOURNAL, self._prefix + train + _MANIFEST):
            await admin.delete(topic)
        deadline = time.monotonic() + self._options.timeout
        while await admin.describe(self._prefix + train + _MANIFEST) is not None:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"Kafka at {self._options.servers}: the topics of {train} were deleted and still exist"
                )
            await asyncio.sleep(0.02)

    async def trains(self) -> Sequence[str]:
        names = await self._have.admin.names()
        form = re.compile(rf"{re.escape(self._prefix)}([a-z][a-z0-9_-]*){re.escape(_MANIFEST)}")
        trains = sorted(match[1] for name in names if (match := form.fullmatch(name)))
        found = await asyncio.gather(*map(self._exists, trains))
        return [train for train, exists in zip(trains, found, strict=True) if exists]

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable. The topics of the channels' trains."""
        topics = [
            topic
            for train in dict.fromkeys(channel.train for channel in channels)
            for topic in (
                InspectedTopic(self._prefix + train + _MANIFEST, LOG_TIME),
                InspectedTopic(self._prefix + train + _JOURNAL),
            )
        ]
        return await inspect(self._have.admin, topics) + await self._without_manifest()

    async def _without_manifest(self) -> list[Finding]:
        """The trains that have a journal and no manifest: somebody deleted it, since a removal deletes it last."""
        names = set(await self._have.admin.names())
        form = re.compile(rf"{re.escape(self._prefix)}([a-z][a-z0-9_-]*){re.escape(_JOURNAL)}")
        trains = sorted(match[1] for name in names if (match := form.fullmatch(name)))
        topics = Names(self._prefix)
        return [
            Finding(
                severity="costs",
                what=f"no topic {self._prefix}{train}{_MANIFEST}",
                means=f"the manifest of train {train} was deleted: nothing can be decided for it, and the events of "
                f"{count(len([c for c in topics.channels_in(names, train) if c.wagon]), 'channel')} wait",
                todo="end all processes of the train and start them again: they found it anew and publish these events "
                "again",
            )
            for train in trains
            if f"{self._prefix}{train}{_MANIFEST}" not in names
        ]

    async def _exists(self, train: str) -> bool:
        try:
            return bool((await self.read(train)).version)
        except (BrokenManifest, StorageBroken):  # which hides neither it nor the others
            return True

    async def _write(self, topic: str, lines: Sequence[bytes], *, patient: bool = False) -> int | None:
        """Add these to the journal. Returns the offset after the last one; None if there is no such topic."""
        client = self._have
        deadline = time.monotonic() + self._options.timeout
        while await client.admin.describe_to(client.sender, topic) is None:
            if not patient:
                return None
            if time.monotonic() > deadline:
                raise Unavailable(f"Kafka at {self._options.servers}: topic {topic} was created and is not visible yet")
            await asyncio.sleep(0.02)
        found = await asyncio.gather(*(client.sender.one(topic, 0, line) for line in lines))
        for error, _ in found:
            if error is not None:
                raise client.admin.trouble(error, "WRITE", f"topic {topic}")
        message = found[-1][1]
        return None if message is None else (message.offset() or 0) + 1

    async def _train(self, train: str, *, make: bool = False) -> _Train | None:
        """The train's log, followed; None if there is none and none should be created."""
        task = self._trains.get(train)
        if task is None:
            task = self._trains[train] = asyncio.create_task(self._attach(train, False))
        try:
            found = await asyncio.shield(task)
            if found is None and make:
                again = self._trains.get(train)
                if again is task or again is None:
                    again = self._trains[train] = asyncio.create_task(self._attach(train, True))
                task = again
                found = await asyncio.shield(again)
        except BrokerError:
            if self._trains.get(train) is task:
                del self._trains[train]
            raise
        if found is None and self._trains.get(train) is task:
            del self._trains[train]
        return found

    async def _attach(self, train: str, make: bool) -> _Train | None:
        topic, client = self._prefix + train + _MANIFEST, self._have
        if make:
            await client.admin.create(topic, PARTITION + 1, LOG_TIME)
        standing = _Train(client, train, topic)
        deadline = time.monotonic() + self._options.timeout
        while True:
            try:
                await standing.log.attach()
            except LogGone as e:
                if not make:
                    return None
                if time.monotonic() > deadline:
                    raise Unavailable(f"Kafka at {self._options.servers}: {e}, though it was made") from None
                await asyncio.sleep(0.02)
            else:
                if wrong := await client.admin.unsuitable(topic, LOG_TIME):
                    if not standing.rule.version:  # nothing is stored there yet that somebody may need
                        standing.log.leave()
                        raise StorageBroken(wrong)
                    LOGGER.warning("%s", wrong)
                found = await client.admin.describe_to(client.sender, topic)
                if found is not None and len(found.partitions) > PARTITION:
                    standing.check_ins = CheckIns(client, topic)
                return standing

    @property
    def _have(self) -> LogClient:
        if self._client is None:
            raise RuntimeError("a KafkaRegistry is entered before use: async with registry: …")
        return self._client


class _Train:
    """One train, as far as this process has read it."""

    def __init__(self, client: LogClient, train: str, topic: str) -> None:
        self.train = train
        self.rule = Manifests()
        self.log = Log(client, topic, self.rule, every=_EVERY, applied=self._applied)
        self.check_ins: CheckIns | None = None
        """None: an earlier release made the topic, with one partition; check-ins are in the manifest's log."""
        self._client = client
        self._decoded = _none(train)
        self._told = 0
        self._watchers: set[asyncio.Future[None]] = set()

    async def catch_up(self) -> None:
        """Wait until all present records of the log are applied."""
        place = (self.log.topic, 0)
        end = (await self._client.admin.ends([place]))[place]
        if end is None:
            raise Unavailable(self._removed)
        await self.log.sync(end)

    async def newest(self) -> Snapshot:
        """The newest manifest as of now."""
        await self.catch_up()
        return self.snapshot()

    def snapshot(self) -> Snapshot:
        """The newest manifest that was read so far."""
        if self._decoded.version != self.rule.version:
            kept = f"Kafka, topic {self.log.topic}, the last manifest there (offset {self.rule.version - 1})"
            document = manifests.decode(self.rule.document, train=self.train, kept=kept)
            self._decoded = Snapshot(document, self.rule.version)
        return self._decoded

    async def propose(self, op: Replace | MemberCheckIn) -> ProposalResult:
        """Propose it; returns the result. Raises Unavailable: then it may have been accepted all the same."""
        try:
            outcome: ProposalResult = await asyncio.shield(self.log.append(encode(op)))
        except LogGone:
            raise Unavailable(self._removed) from None
        return outcome

    @property
    def _removed(self) -> str:
        return (
            f"topic {self.log.topic} of train {self.train} was deleted: end all its processes and start them again: "
            "the first one founds the train anew and publishes what its wagons hold again"
        )

    async def after(self, version: int) -> Snapshot:
        """The first manifest seen here that is newer than `version`."""
        while self.rule.version <= version:
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.add(watcher)
            try:
                await watcher
            finally:
                self._watchers.discard(watcher)
        return self.snapshot()

    def _applied(self, outcome: ProposalResult, mine: bool) -> None:
        if self.rule.version == self._told:
            return
        self._told = self.rule.version
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)


def _none(train: str) -> Snapshot:
    return Snapshot(Manifest(train=train), 0)
