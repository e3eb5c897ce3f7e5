"""The broker: the file of each operation, and the subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from ...contracts.broker import Capabilities, Delivery, Depth, Finding, Subscription
from ...descriptors import needed
from ...errors import BrokerError, ChannelGone
from ...event import Channel, Event
from .actor import Actor, Files
from .inspection import inspect
from .ledger import SQLiteLedger
from .once import SQLiteOnce
from .op import Op, Parked
from .place import Place
from .schema import OWN, WAGON
from .timetable import SQLiteTimetable
from .turn import WagonTurn

R = TypeVar("R")

_FULL = 2  # of PRAGMA synchronous
_FILE = re.compile(r"(?:v(\d+)|own)\.db(?:-wal|-shm)?")


class SQLiteBroker:
    """Wagons in SQLite files: DIRECTORY/<train>/v<N>.db has all channels of a wagon, own.db the train's own.

    `sync="full"` survives a power failure; "normal" only the end of the process, and is faster. `clock` gives seconds
    since the epoch. `poll` is how often (s) events of other processes are checked for; this one's own arrive at once.
    The directory must be on a local disk. Belongs to the process that entered it: not usable after a fork.
    """

    capabilities = Capabilities(fences=True, bounds=True, totals=True, durable=True, shared=True, reclaims=True)

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        sync: Literal["full", "normal"] = "full",
        clock: Callable[[], float] = time.time,
        poll: float = 0.02,
    ) -> None:
        self.directory = Path(directory).absolute()
        self._root = str(self.directory)
        self._place_on_disk = Place(self.directory)
        self._wagons = Files(self._place_on_disk, WAGON, WagonTurn, sync=sync, clock=clock, poll=poll)
        self._own = Files(self._place_on_disk, OWN, WagonTurn, sync=sync, clock=clock, poll=poll)
        self.timetable = SQLiteTimetable(self._place_on_disk, sync=sync, clock=clock, poll=poll)
        self.once = SQLiteOnce(self._place_on_disk, sync=sync, clock=clock, poll=poll)
        self.ledger = SQLiteLedger(directory, clock=clock)
        """Beside the events; whoever uses it enters it."""

    async def __aenter__(self) -> SQLiteBroker:
        """Check the directory; a missing one is created with the first channel. Raises StorageBroken."""
        await asyncio.to_thread(self._place_on_disk.check, make=False)
        await self._wagons.open()
        await self._own.open()
        await self.timetable.open()
        await self.once.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish operations in progress, refuse waiting ones. Idempotent."""
        await self._wagons.close()
        await self._own.close()
        await self.timetable.close()
        await self.once.close()

    def _place(self, channel: Channel) -> tuple[Files, str]:
        if channel.wagon:
            return self._wagons, f"{self._root}/{channel.train}/v{channel.wagon}.db"
        return self._own, f"{self._root}/{channel.train}/own.db"

    def submit(self, channel: Channel, op: Op[R]) -> Actor:
        """Pass the operation to the channel's file."""
        files, path = self._place(channel)
        return files.submit(path, op)

    async def call(self, channel: Channel, op: Op[R]) -> R:
        """Carry out the operation on the channel's file."""
        self.submit(channel, op)
        return await op.future

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        lasting = not channel.wagon
        await self.call(
            channel,
            Op(lambda turn: turn.create(channel, capacity, lasting), absent=_absent(channel), creates=True),
        )

    async def unbound(self, channel: Channel) -> None:
        await self.call(channel, Op(lambda turn: turn.unbound(channel), absent=lambda: None, writes=True))

    async def warm(self, channel: Channel) -> None:
        """Opens the channel's file."""
        op = Op(lambda turn: turn.publish(channel, ()), absent=_absent(channel), writes=True)
        await self.call(channel, op)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        await self.call(
            channel,
            Op(lambda turn: turn.publish(channel, events), absent=_absent(channel), writes=True, uncertain=True),
        )

    async def seal(self, channel: Channel) -> None:
        await self.call(channel, Op(lambda turn: turn.seal(channel), absent=lambda: None, writes=True))

    @asynccontextmanager
    async def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> AsyncIterator[Subscription]:
        await self.call(channel, Op(lambda turn: turn.standing(channel), absent=_absent(channel)))
        yield SQLiteSubscription(self, channel, visibility, _hash(owner))

    async def reclaim(self, channel: Channel, owner: str) -> int:
        if not owner:
            return 0
        return await self.call(
            channel, Op(lambda turn: turn.reclaim(channel, _hash(owner)), absent=lambda: 0, writes=True)
        )

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        by_file: dict[str, list[Channel]] = {}
        for channel in channels:
            by_file.setdefault(self._place(channel)[1], []).append(channel)
        groups = list(by_file.values())
        answers = await self._all([(group[0], _depths(group)) for group in groups])
        found: dict[Channel, Depth] = {}
        for group, answer in zip(groups, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            found.update(zip(group, answer, strict=True))
        return [found[channel] for channel in channels]

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        after = 0
        while True:
            events, after = await self._page(channel, after)
            if not events:
                return
            for event in events:
                yield event

    async def _page(self, channel: Channel, after: int) -> tuple[list[Event], int]:
        return await self.call(channel, Op(lambda turn: turn.page(channel, after), absent=_absent(channel)))

    async def delete(self, channel: Channel) -> None:
        await self.call(channel, Op(lambda turn: turn.delete(channel), absent=lambda: None, writes=True, removes=True))

    async def channels(self, train: str) -> Sequence[Channel]:
        """All channels of the train. A file without channels (left by a crash), or one that can't be read, counts as an
        ingress: `delete` removes it, or reports its fault."""
        folder = self.directory / train
        wagons = [Channel(train, wagon) for wagon in await asyncio.to_thread(_wagons_on_disk, folder)]
        answers = await self._all([(wagon, _names()) for wagon in wagons])
        left = await asyncio.to_thread(_wagons_on_disk, folder)
        found: list[Channel] = []
        for wagon, names in zip(wagons, answers, strict=True):
            if isinstance(names, BaseException) and not isinstance(names, BrokerError):
                raise names
            if names and not isinstance(names, BaseException):
                found += [Channel(train, wagon.wagon, name) for name in names]
            elif wagon.wagon in left and wagon.wagon:
                found.append(wagon)
        return found

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable."""
        found = await asyncio.to_thread(inspect, self.directory)
        nothing: list[str] = []
        reading = Op(
            lambda turn: [str(turn.db.pragma(name)) for name in ("journal_mode", "synchronous")], absent=lambda: nothing
        )
        answers = await self._all([(channel, reading) for channel in channels[:1]])
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            if answer:
                found.append(_written(*answer))
        return found

    async def _all(self, ops: list[tuple[Channel, Op[R]]]) -> list[R | BaseException]:
        """The answers or errors of the operations, each on its channel's file."""
        for channel, op in ops:
            self.submit(channel, op)
        return await asyncio.gather(*(op.future for _, op in ops), return_exceptions=True)


class SQLiteSubscription:
    """A consumer of one channel."""

    def __init__(self, broker: SQLiteBroker, channel: Channel, visibility: float, owner: int) -> None:
        self._broker = broker
        self._channel = channel
        self._visibility = visibility
        self._owner = owner
        self._suspect_first = True

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        channel, visibility, owner, at_once = self._channel, self._visibility, self._owner, timeout <= 0
        suspect_first = self._suspect_first

        def run(turn: WagonTurn) -> list[Delivery] | Parked:
            got = turn.receive(channel, limit, visibility, owner, suspect_first=suspect_first)
            return [] if at_once and isinstance(got, Parked) else got

        op: Op[list[Delivery]] = Op(run, absent=_absent(channel), patient=True, undo=self._give_back)
        actor = self._broker.submit(channel, op)
        timer = asyncio.get_running_loop().call_later(timeout, actor.expire, op, list) if not at_once else None
        try:
            got = await op.future
        except asyncio.CancelledError:
            if op.future.done() and not op.future.cancelled() and op.future.exception() is None:
                self._give_back(op.future.result())  # answered at the moment when the caller was cancelled
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if got:
            self._suspect_first = not got[0].suspect
        return got

    def _give_back(self, deliveries: list[Delivery]) -> None:
        """Give back events received for a caller that was cancelled meanwhile. If the broker is closed, their
        visibility time ends."""
        if deliveries:
            op = self._release(deliveries, 0.0, tried=False)
            op.future.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody waits for it
            with contextlib.suppress(BrokerError):
                self._broker.submit(self._channel, op)

    def _release(self, deliveries: Sequence[Delivery], delay: float, *, tried: bool, cleared: bool = False) -> Op[None]:
        channel, tokens = self._channel, [d.token for d in deliveries]
        return Op(
            lambda turn: turn.release(channel, tokens, delay, tried=tried, cleared=cleared),
            absent=_absent(channel),
            writes=True,
        )

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        channel, tokens = self._channel, [d.token for d in deliveries]
        await self._broker.call(
            channel, Op(lambda turn: turn.settle(channel, tokens), absent=_absent(channel), writes=True)
        )

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        await self._broker.call(self._channel, self._release(deliveries, delay, tried=tried, cleared=cleared))

    async def alone(self, delivery: Delivery) -> bool:
        channel, token = self._channel, delivery.token
        return await self._broker.call(
            channel, Op(lambda turn: turn.alone(channel, token), absent=_absent(channel), writes=True)
        )

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        channel, tokens, visibility = self._channel, [d.token for d in deliveries], self._visibility
        await self._broker.call(
            channel, Op(lambda turn: turn.extend(channel, tokens, visibility), absent=_absent(channel), writes=True)
        )


def _absent(channel: Channel) -> Callable[[], Any]:
    def refuse() -> NoReturn:
        raise ChannelGone(f"channel {channel} does not exist (any more)")

    return refuse


def _hash(owner: str) -> int:
    """64 bits that stand for the owner's name in a claim, and 0 for none."""
    digest = hashlib.blake2b(owner.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True) if owner else 0


def _written(journal: str, synchronous: str) -> Finding:
    what = f"journal_mode={journal}, synchronous={synchronous}"
    if journal != "wal":
        means, todo = "several processes would block or damage each other", "use a directory on a local disk"
        return Finding(severity="loses", what=what, means=means, todo=todo)
    if int(synchronous) >= _FULL:
        return Finding(severity="fine", what=f"{what} (full)", means="accepted events are on disk")
    return Finding(
        severity="costs",
        what=f"{what} (normal)",
        means="a killed process loses nothing; a power cut loses the events that the disk had not written yet",
        todo="leave sync=normal out of the URL, if that is too much: publishing one by one is slower then",
    )


def _wagons_on_disk(folder: Path) -> list[int]:
    with needed(f"{folder} can't be listed"):
        try:
            names = [entry.name for entry in os.scandir(folder)]
        except (FileNotFoundError, NotADirectoryError):
            return []
    return sorted({int(match[1] or 0) for match in map(_FILE.fullmatch, names) if match})


def _depths(group: list[Channel]) -> Op[list[Depth]]:
    return Op(lambda turn: [turn.depth(channel) for channel in group], absent=lambda: [Depth() for _ in group])


def _names() -> Op[list[str]]:
    nothing: list[str] = []
    return Op(lambda turn: turn.names(), absent=lambda: nothing)
