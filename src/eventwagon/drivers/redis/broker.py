"""The broker: the keys of a channel, and what the server's answers mean."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from typing import Any

from ...contracts.broker import Capabilities, Depth, Finding, Subscription
from ...errors import (
    ChannelFull,
    ChannelGone,
    Displaced,
    EventTooLarge,
    PublishUncertain,
    Sealed,
    StorageBroken,
)
from ...event import Channel, Event
from ...seldom import Seldom, counted_in
from . import scripts
from .client import Client
from .entries import event_time, pack, unpack
from .errors import Lost, NotSent
from .inspection import inspect
from .members import Strangers, split, told
from .once import RedisOnce
from .server import Server
from .subscription import RedisSubscription, gone
from .timetable import RedisTimetable
from .wire import Answers

_logger = logging.getLogger("eventwagon")
_MOST = 1000
_BYTES = 1 << 20
"""The most events and bytes in one script call: the server does nothing else meanwhile."""
_LARGE = 1 << 20
_PAGE = 200
_PAGE_BYTES = 4 << 20
_DEPTHS = 100
_MANY_BACK = 1000
_LISTED = re.compile(r"(0|[1-9][0-9]{0,15})\.([a-z0-9_-]{0,48})")
_RELISTED = 20
"""The most channels of a train that are named in a minute because they were listed again."""
_REMEMBERED = 1000
"""The most batches that are stored and unconfirmed."""


class _Batch:
    """The progress of a publish, so that a repetition goes on from there and stores nothing twice."""

    __slots__ = ("confirmed", "sent")

    def __init__(self) -> None:
        self.confirmed = 0
        """How many of its events enough replicas have."""
        self.sent: asyncio.Task[Answers] | None = None
        """The call with the events after those. A caller that is cancelled does not end it."""


class RedisBroker:
    """Wagons in Redis Streams. `server` says where and how, or use `from_url`. `clock` gives seconds since the epoch,
    as for all drivers; claims and delays use the server's clock.

    Accepted events are as durable as the server's configuration makes them (`appendonly`, `appendfsync`), and a
    failover may lose events that were not replicated yet; see docs/brokers/redis.md. Belongs to the event loop that
    entered it.
    """

    capabilities = Capabilities(fences=True, bounds=True, totals=True, durable=True, shared=True, reclaims=True)

    def __init__(self, server: Server | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.server = server or Server()
        self._client = Client(self.server)
        self.timetable = RedisTimetable(self._client)
        self.once = RedisOnce(self._client)
        self._largest: int | None = None
        self._displaced: set[Channel | str] = set()
        """Channels whose stream's key holds something else, and keys that were left alone or can't be read: logged
        once."""
        self._strangers = Strangers(self.server.where)
        self._relisted = Seldom(_RELISTED)
        self.batches: dict[tuple[Channel, bytes], _Batch] = {}
        """With `wait`: the batches that were sent and are not confirmed, by their content, oldest first."""

    @classmethod
    def from_url(cls, url: str, *, clock: Callable[[], float] = time.time) -> RedisBroker:
        """`redis://[user:password@]host:port/db?prefix=eventwagon&timeout=5&wait=0&cluster=false`, or `rediss://` for
        TLS. Raises UsageError."""
        return cls(Server.from_url(url), clock=clock)

    async def __aenter__(self) -> RedisBroker:
        """Connect. Raises Unavailable, StorageBroken (wrong password, too old a server)."""
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__()

    def name_of(self, channel: Channel) -> str:
        """See Named. The key of its stream."""
        base = f"{channel.train}_v{channel.wagon}" if channel.wagon else channel.train
        return f"{self.server.prefix}:{{{base}}}" + (f".{channel.name}" if channel.name else "")

    def _keys(self, channel: Channel) -> list[str]:
        stream = self.name_of(channel)
        return [stream, f"{stream}:meta", f"{stream}:back", f"{stream}:taken"]

    def _listing(self, train: str) -> str:
        return f"{self.server.prefix}:{{{train}}}:channels"

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        # Listed first: a crash in between leaves a listed channel without content, which `delete` removes, and never
        # one that nobody finds. (Both can't be one step: in a cluster they are on different nodes.)
        what, listing = f"creating {channel}", self._listing(channel.train)
        try:
            await self._client.run(f"{what}: listing it in {listing}", scripts.LIST, [listing], [_name(channel)])
        except Displaced as e:  # not what is in the channel's own place
            raise StorageBroken(str(e)) from None
        arguments = ["" if capacity is None else capacity, channel.name]
        made = await self._client.surely(what, scripts.CREATE, self._keys(channel), arguments)
        if made == b"broken":
            raise StorageBroken(self._broken(channel))

    async def unbound(self, channel: Channel) -> None:
        with suppress(Displaced):
            await self._client.surely(f"lifting the bound of {channel}", scripts.UNBOUND, self._keys(channel)[1:2])

    async def warm(self, channel: Channel) -> None:
        """Nothing to do: all channels use the server's connections, which exist."""

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        keys = self._keys(channel)[:2]
        sizes = [e.size for e in events]
        if sizes and max(sizes) > _LARGE:
            await self._check(max(sizes))
        if not self.server.wait:
            await self._store(channel, keys, events, sizes, _Batch())
            return
        mark = channel, _digest(events)
        batch = self.batches[mark] = self.batches.pop(mark, _Batch())
        if len(self.batches) > _REMEMBERED:
            del self.batches[next(iter(self.batches))]
        try:
            await self._store(channel, keys, events, sizes, batch)
        except asyncio.CancelledError:  # a caller that retries must wait for it, not store it again
            raise
        except BaseException:
            self.batches.pop(mark, None)
            raise
        self.batches.pop(mark, None)

    async def _store(
        self, channel: Channel, keys: list[str], events: Sequence[Event], sizes: Sequence[int], batch: _Batch
    ) -> None:
        for start, end in _parts(sizes):
            if start >= batch.confirmed:
                arguments = pack(events[start:end], max(sizes[start:end]))
                await self._store_part(channel, keys, arguments, batch)
                batch.confirmed, batch.sent = end, None

    async def _send(self, channel: Channel, keys: list[str], arguments: list[bytes | int], batch: _Batch) -> Answers:
        """Store these events. Raises NotSent, Lost."""
        script = scripts.EMIT if channel.name else scripts.PUBLISH
        if not self.server.wait:
            return await self._client.send(script, keys, arguments, stores=True)
        if batch.sent is None:
            batch.sent = self._client.spawn(self._client.send(script, keys, arguments, stores=True))
            batch.sent.add_done_callback(lambda sent: sent.cancelled() or sent.exception())  # the caller may be gone
        return await asyncio.shield(batch.sent)

    async def _store_part(self, channel: Channel, keys: list[str], arguments: list[bytes | int], batch: _Batch) -> None:
        """One script call, unless it was made already."""
        what, before = f"publishing to {channel}", batch.confirmed
        try:
            answers = await self._send(channel, keys, arguments, batch)
        except NotSent as e:
            error = self._client.explain(e, what)
            raise PublishUncertain(f"{error}; {before} events were stored") if before else error from e.__cause__
        except Lost as e:
            raise PublishUncertain(f"{self._client.explain(e, what)}; events may have been stored") from e.__cause__
        answer = answers[0]
        if isinstance(answer, Exception):
            error = self._client.explain(answer, what)
            if isinstance(error, EventTooLarge):
                raise error
            if isinstance(error, Displaced):
                raise ChannelGone(str(error))
            raise PublishUncertain(f"{error}; {before} events were stored") if before else error
        status, count = answer[0], answer[1]
        if status == b"gone":
            raise gone(channel)
        if status == b"sealed":
            raise Sealed(f"channel {channel} is sealed: publish to the train's active wagon", accepted=before)
        if status == b"unknown":
            raise Sealed(
                f"channel {channel} takes no more events: the hash {keys[1]} is gone, or holds something else, and it "
                "says whether the channel is sealed",
                accepted=before,
            )
        if status == b"unbounded":
            raise Sealed(self._unbounded(channel), accepted=before)
        if status == b"broken":
            raise ChannelGone(self._broken(channel))
        await self._client.confirmed(answers, what)
        if status == b"exhausted":
            why = f"{what}: {self._exhausted(channel)}"
            if not channel.name:
                raise Sealed(why, accepted=before + count)
            if before + count:
                raise PublishUncertain(f"{why}; {before + count} events were stored")
            raise ChannelGone(why)
        if status == b"full":
            raise ChannelFull(
                f"channel {channel} holds its {answer[2].decode()} events: {count} of {len(arguments) - 2} were stored",
                accepted=before + count,
            )

    @property
    def trouble(self) -> str:
        """See Troubled."""
        return self._client.unconfirmed

    async def _check(self, largest: int) -> None:
        if self._largest is None:
            self._largest = await self._limit()
        if largest > self._largest:
            raise EventTooLarge(
                f"{self.server.where}: an event of {largest} bytes is larger than the server's proto-max-bulk-len="
                f"{self._largest}"
            )

    async def _limit(self) -> int:
        try:
            answer = await self._client.command("asking", "", "CONFIG", "GET", "proto-max-bulk-len")
        except StorageBroken:  # not permitted: use the server's default, and what it says itself
            return 512 << 20
        return int(answer[1]) if len(answer) == 2 else 512 << 20

    async def seal(self, channel: Channel) -> None:
        with suppress(Displaced):
            await self._client.surely(f"sealing {channel}", scripts.SEAL, self._keys(channel)[1:2])

    @asynccontextmanager
    async def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> AsyncIterator[Subscription]:
        keys = self._keys(channel)
        known = await self._client.run(f"attaching to {channel}", scripts.ATTACH, keys, [channel.name])
        if known is None:
            raise gone(channel)
        with self._client.notifier.listening(f"{keys[0]}:bell") as next_notice:
            yield RedisSubscription(self._client, channel, keys, visibility, owner, known, next_notice)

    async def reclaim(self, channel: Channel, owner: str) -> int:
        what, keys, name = f"reclaiming in {channel}", self._keys(channel), owner.encode("utf-8", "surrogatepass")
        count, some = 0, scripts.MOST if owner else 0
        with suppress(Displaced, ChannelGone):
            while some == scripts.MOST:
                some = int(await self._client.run(what, scripts.RECLAIM, keys, [name]))
                count += some
        return count

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        unlisted, answers = await asyncio.gather(self._unlisted(channels), self._figures(channels))
        found = {channel: self._depth(channel, answer) for channel, answer in answers.items()}
        for channel in unlisted:
            if found[channel] != Depth():
                await self._list_again(channel)
        return [found[channel] for channel in channels]

    async def _unlisted(self, channels: Sequence[Channel]) -> list[Channel]:
        """The channels that are missing from their train's list: it was evicted, or deleted by hand. None if its key
        holds something else, since figures don't depend on it."""
        missing: list[Channel] = []
        for train in dict.fromkeys(channel.train for channel in channels):
            own = list(dict.fromkeys(channel for channel in channels if channel.train == train))
            listing = self._listing(train)
            what = f"looking for the channels of {train} in {listing}"
            try:
                found = await self._client.command(what, listing, "SMISMEMBER", listing, *map(_name, own))
            except Displaced as e:
                self._warn_once(listing, "train %s: no wagon can be made or removed: %s", train, e)
                continue
            self._displaced.discard(listing)
            missing += [channel for channel, listed in zip(own, found, strict=True) if not listed]
        return missing

    async def _list_again(self, channel: Channel) -> None:
        """Put these channels on the list again. One that is deleted at the same moment is not on it in the end. One
        that is created at that moment may not be on it either, until its depth is requested again."""
        what, listing = f"listing {channel} again", self._listing(channel.train)
        if not await self._client.run(what, scripts.LIST, [listing], [_name(channel)]):
            return
        if not await self._stands(what, channel):
            await self._client.command(what, listing, "SREM", listing, _name(channel))
        elif (left_out := self._relisted.left_out(listing)) is not None:
            why = (
                f"{self.server.where}: channel {channel} existed and was not listed; it is listed again. The key "
                f"{listing} was evicted (set maxmemory-policy to noeviction) or changed by hand"
            )
            _logger.warning("%s", counted_in(why, left_out))

    def _warn_once(self, displaced: Channel | str, message: str, *arguments: object) -> None:
        """Log it, but not again until that channel or key was found in order."""
        if displaced not in self._displaced:
            self._displaced.add(displaced)
            _logger.warning(message, *arguments)

    async def _figures(self, channels: Sequence[Channel]) -> dict[Channel, object]:
        """What DEPTH answers for each of them."""
        groups: dict[object, list[Channel]] = {}
        for number, channel in enumerate(channels):
            place = (channel.train, channel.wagon) if self.server.cluster else number // _DEPTHS
            groups.setdefault(place, []).append(channel)

        async def ask(group: list[Channel]) -> Sequence[object]:
            keys = [key for channel in group for key in self._keys(channel)]
            what = f"asking for the depth of {group[0]}" + (f" and {len(group) - 1} more" if group[1:] else "")
            found: Sequence[object] = await self._client.run(what, scripts.DEPTH, keys, [_MANY_BACK])
            return found

        answers = await asyncio.gather(*(ask(group) for group in groups.values()))
        pairs = (zip(group, found, strict=True) for group, found in zip(groups.values(), answers, strict=True))
        return {channel: answer for each in pairs for channel, answer in each}

    def _depth(self, channel: Channel, answer: object) -> Depth:
        if not isinstance(answer, list):  # its stream is gone
            if answer:
                self._warn_once(channel, "%s: channel %s is lost: %s", self.server.where, channel, _text(answer))
            return Depth()
        self._displaced.discard(channel)
        total, length, *rest = answer
        if len(rest) == 1:
            trouble = (
                f"{self.server.where}: {_text(rest[0])}. Its events wait: a key that holds something else must be "
                "deleted by hand; what is gone is made again once workers attach"
            )
            return Depth(published=total, settled=total - length, trouble=trouble)
        flying, known, oldest, newest, exhausted, strays, unbounded = rest
        waiting = max(0, length - flying)
        trouble = self._strayed(channel, strays) if strays else ""
        if exhausted:
            trouble = self._exhausted(channel)
        elif unbounded and not channel.name:
            trouble = self._unbounded(channel)
        return Depth(
            published=total,
            settled=total - length,
            waiting=waiting,
            in_flight=length - waiting,
            oldest_at=event_time(oldest) if known and waiting else None,
            newest_at=event_time(newest) if waiting else None,
            exhausted=bool(exhausted),
            trouble=trouble,
        )

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        keys = self._keys(channel)
        after = b"0-0"
        while True:
            entries = await self._client.run(f"reading {channel}", scripts.PAGE, keys, [after, _PAGE, _PAGE_BYTES])
            if entries == b"gone":
                raise gone(channel)
            if not entries:
                return
            for event in unpack(str(channel), entries):
                yield event
            after = entries[-1][0]

    async def delete(self, channel: Channel) -> None:
        what = f"deleting {channel}"
        self.batches = {mark: batch for mark, batch in self.batches.items() if mark[0] != channel}
        for left in await self._client.run(what, scripts.DELETE, self._keys(channel)):
            key = _text(left)
            self._warn_once(
                key,
                "%s: %s: the key %s is left alone: another program, or a person, has put it in the place of the "
                "channel's own",
                self.server.where,
                what,
                key,
            )
        await self._client.command(
            what, self._listing(channel.train), "SREM", self._listing(channel.train), _name(channel)
        )

    async def channels(self, train: str) -> Sequence[Channel]:
        """All channels of the train. A listed name without a stream (after a crash between the two steps of `create`
        or `delete`, say) is not one: it has no events, and `delete` removes it from the list."""
        what, listing = f"listing the channels of {train}", self._listing(train)
        listed, strangers = await self._listed(train, what)
        self._strangers.tell(listing, strangers)
        standing = await asyncio.gather(*(self._stands(what, channel) for channel in listed))
        return [channel for channel, stands in zip(listed, standing, strict=True) if stands]

    async def _listed(self, train: str, what: str) -> tuple[list[Channel], list[bytes]]:
        """The channels on the train's list, and members of the list that are no channels' names."""
        listing = self._listing(train)
        names = await self._client.command(f"{what} in {listing}", listing, "SMEMBERS", listing)
        return split(names, lambda name: _channel(train, name))

    async def _stands(self, what: str, channel: Channel) -> bool:
        """Whether there is a stream, so that its events can be read."""
        return bool(await self._client.run(what, scripts.STANDS, self._keys(channel)[:2]))

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable. Channels have no settings of their own; the keys of their trains may hold something else."""
        found = await inspect(self._client)
        for train in dict.fromkeys(channel.train for channel in channels):
            listed, strangers = await self._listed(train, f"listing the channels of {train}")
            found += told(self._listing(train), strangers)
            found += [
                finding
                for channel, answer in (await self._figures(listed)).items()
                for finding in self._threats(channel, answer)
            ]
        return found

    def _threats(self, channel: Channel, answer: object) -> Iterator[Finding]:
        what, todo = f"channel {channel}", "look who writes to eventwagon's keys"
        if isinstance(answer, list):
            if why := self._depth(channel, answer).trouble:
                yield Finding(severity="costs", what=what, means=why, todo=todo)
        elif answer:
            means = f"its events are lost: {_text(answer)}"
            yield Finding(severity="loses", what=what, means=means, todo=f"{todo}, and delete the key by hand")

    def _exhausted(self, channel: Channel) -> str:
        return (
            f"{self.server.where}: the stream {self.name_of(channel)} has had an entry with the last id that there is, "
            f"{scripts.LAST_ID}, which another program gave it: it takes no more events"
        )

    def _unbounded(self, channel: Channel) -> str:
        return (
            f"{self.server.where}: the field capacity of the hash {self.name_of(channel)}:meta is no number: another "
            f"program, or a person, wrote it. Channel {channel} takes no more events; those that it has are handled"
        )

    def _strayed(self, channel: Channel, count: int) -> str:
        return (
            f"{self.server.where}: events of the stream {self.name_of(channel)} were out of reach of all workers: "
            "another program, or a person, has moved its consumer group's place (XGROUP SETID), deleted the group's "
            "consumers, read with NOACK, acknowledged without deleting, or deleted the key beside it. "
            f"Found and delivered again after the visibility time: {count:,}"
        )

    def _broken(self, channel: Channel) -> str:
        return (
            f"{self.server.where}: the stream of channel {channel} is gone while the rest of it stands: it was deleted "
            "by hand, or evicted because the server's memory was full (set maxmemory-policy to noeviction)"
        )


def _parts(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where to cut events of these sizes into calls that don't hold up the server's other clients for long."""
    start = total = 0
    for end, size in enumerate(sizes):
        if end > start and (total + size > _BYTES or end - start == _MOST):
            yield start, end
            start, total = end, 0
        total += size
    if start < len(sizes):
        yield start, len(sizes)


def _digest(events: Sequence[Event]) -> bytes:
    """A digest of a batch's content. Ids alone would not do: an event may be a dead letter twice, of two channels."""
    found = blake2b(digest_size=16)
    for part in pack(events, 0)[1:]:
        assert isinstance(part, bytes)  # noqa: S101 - for mypy
        found.update(len(part).to_bytes(8))
        found.update(part)
    return found.digest()


def _text(answer: Any) -> str:
    return str(answer.decode(errors="backslashreplace"))


def _name(channel: Channel) -> str:
    return f"{channel.wagon}.{channel.name}"


def _channel(train: str, name: str) -> Channel | None:
    """The reverse of `_name`; None for any other text."""
    found = _LISTED.fullmatch(name)
    return Channel(train, int(found[1]), found[2]) if found else None
