"""The seam to what keeps the events. Contracts only; the drivers are in `drivers/`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from ..event import Channel, Event


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker can do. Declared by its driver, and held against it by the conformance suite."""

    fences: bool
    """After `seal` the broker itself refuses every write, in one step with the write."""
    bounds: bool
    """A channel's `capacity` is exact, whoever publishes."""
    totals: bool
    """`Depth.published` and `Depth.settled` are exact totals since the channel was created."""
    durable: bool
    """What `publish` accepted survives the end of this process."""
    shared: bool
    """Other processes reach the same channels."""
    ordered: bool = True
    """Events come in the order of their publishing, until one is given back."""
    reclaims: bool = False
    """`Broker.reclaim` gives back at once what an ended process has claimed. Elsewhere it does nothing: the server does
    so by itself, or the visibility time ends first."""
    losses: bool = False
    """`Depth.lost` counts what went without being settled. Elsewhere a total that falls is taken for a loss."""


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a channel. A figure that the broker does not know is None, never a guess.

    `published` and `settled` are totals since it was created; `waiting` can be received now or after a pause;
    `in_flight` was received and is not settled. Times are of the oldest and newest event that waits, in seconds
    since the epoch, None when none waits. `lost` is the total of events that went without being settled, by the
    server's retention or somebody's hand: they are neither in `published` nor in `settled`. `trouble` says what
    threatens the channel on the server, and what to do; empty where nothing is known to.
    """

    published: int | None = None
    settled: int | None = None
    waiting: int | None = None
    in_flight: int | None = None
    oldest_at: float | None = None
    newest_at: float | None = None
    lost: int = 0
    trouble: str = ""


def outstanding(depths: Sequence[Depth]) -> int | None:
    """Published and not settled, over these channels; None while any figure is unknown."""
    total = 0
    for depth in depths:
        if depth.published is None or depth.settled is None:
            return None
        total += depth.published - depth.settled
    return total


def proven_empty(first: Sequence[Depth], later: Sequence[Depth]) -> bool:
    """Were all channels of a sealed wagon empty at one instant? `first` was read before `later`.

    If the settled totals of the first look meet the published totals of the later one, nothing was outstanding at any
    instant between (totals only grow, and no channel settles more than was published to it), and since what a handler
    emits is stored before its event is settled (I6), nothing can come. An unknown figure proves nothing.
    """
    settled = [d.settled for d in first if d.settled is not None]
    published = [d.published for d in later if d.published is not None]
    return len(settled) == len(first) and len(published) == len(later) and sum(settled) == sum(published)


Severity = Literal["fine", "unknown", "costs", "loses"]
"""What a finding means. `fine`: nothing to do. `unknown`: it can't be read. `costs`: throughput, memory or money, a
train that stands still, or what a single disk or a power cut takes along. `loses`: events are lost in the ordinary life
of such a server: a restart, a failover, a full memory, retention."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of a server, or something else that holds there, and what it means for events.

    `what` is the setting as its server calls it, with its value (`maxmemory-policy=allkeys-lru`); `means`, what follows
    from it, in one sentence; `todo`, what to do, with the command where there is one; empty where there is nothing.
    None of them holds a secret.
    """

    severity: Severity
    what: str
    means: str
    todo: str = ""


def told_together(found: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """What holds of several servers, topics or the like, by their names: said once where it holds of all of them, else
    with the names of those of which it does."""
    holders = dict[Finding, list[str]]()
    for name, findings in found.items():
        for finding in dict.fromkeys(findings):
            holders.setdefault(finding, []).append(name)
    return [
        finding
        if len(names) == len(found)
        else msgspec.structs.replace(finding, what=f"{finding.what} ({_some(names)})")
        for finding, names in holders.items()
    ]


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One event handed to one consumer. `attempt` counts from 1; `token` is the driver's own.

    A `suspect` has had a claim that ran out before it was settled or released: its consumer may have died of it. It
    stays one until it is settled or released as tried.
    """

    event: Event
    attempt: int
    token: Any
    suspect: bool = False


class Subscription(Protocol):
    """A consumer attached to one channel. Many may be attached, in many processes: each event goes to one at a time.

    Its methods belong to the event loop that entered it.
    """

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """Up to `limit` events, claimed for this consumer for the visibility time; at least one, or [] after `timeout`
        s.

        Where `capabilities.ordered`, events never received come in the order of their publishing. An event that was
        released comes again, with a higher attempt if it was tried. An event whose claim ran out comes again as a
        suspect with the same attempt: nobody knows that it was handled, and most of what a dead process had in hand
        had nothing to do with its death.

        A suspect comes alone: a batch is either one suspect or has none. Those with more attempts
        come first, since what killed once will kill again: the sooner it is dead, the fewer it keeps waiting. While
        both suspects and other events are due, a consumer gets them in turn, a suspect first. Raises ChannelGone,
        Unavailable.
        """
        ...

    async def alone(self, delivery: Delivery) -> bool:
        """It is about to be handled with nothing else in this process: if its claim runs out, that is an attempt.

        Durable when it returns True: after the claim has run out the event comes again with attempt + 1. Released as
        tried it has attempt + 1 too, not + 2; with `tried=False` it has the attempt that it was delivered with, and
        stays a suspect unless it is cleared. False: the claim has run out already and is left alone; do not handle it.
        Idempotent, and the visibility time goes on. Raises ChannelGone, Unavailable."""
        ...

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        """They are done: never delivered again. Idempotent, and right even when the claim ran out meanwhile: each event
        is counted as settled once, whoever settles it. Raises ChannelGone, Unavailable."""
        ...

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        """Give them back, to be delivered after `delay` s with attempt + 1, and no longer as suspects: their consumer
        lives. With `tried=False` the attempt does not count, and a suspect stays one, unless it is `cleared`: it
        was handled, and its process lives.
        A claim that ran out is left alone. Idempotent. Raises ChannelGone, Unavailable."""
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Still working: the visibility time begins anew. A claim that ran out is left alone. Idempotent."""
        ...


class Broker(Protocol):
    """Where wagons keep their events. An asynchronous context manager: entered once, by its owner, before use.

    Its methods may be called concurrently, from the event loop that entered it.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; fixed."""
        ...

    async def __aenter__(self) -> Broker: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        """Make the channel; it takes writes when this returns (proven, where the broker's reply alone proves nothing).

        `capacity` is the most events that it ever takes: settling makes no room; None: a new channel has no bound.
        Idempotent: an existing channel keeps its events, totals and seal, and takes over a `capacity`; with None it
        keeps its own. Raises Unavailable, StorageBroken.
        """
        ...

    async def unbound(self, channel: Channel) -> None:
        """Take the bound off: from now on the channel takes any number of events. Idempotent; an absent channel is
        success, and is not made. Without `capabilities.bounds` there is nothing to do. Raises Unavailable,
        StorageBroken."""
        ...

    async def warm(self, channel: Channel) -> None:
        """Do now what the first publish to this channel would have to wait for: connect, look it up. Stores and makes
        nothing. Idempotent. May raise what `publish` raises; a driver need not notice that the channel is absent or
        sealed."""
        ...

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        """Store them, in this order; durable when it returns. With none nothing happens.

        Raises ChannelFull and Sealed (their `accepted` first ones were stored), ChannelGone (nothing was stored),
        PublishUncertain (unknown), Unavailable and StorageBroken (nothing was stored), EventRefused or its subclass
        EventTooLarge (one of them can never be stored; nothing of this call was stored, so the caller can publish the
        others without it).
        """
        ...

    async def seal(self, channel: Channel) -> None:
        """Take no more events. Where `capabilities.fences`, no publish can succeed after this returned, from any
        process (I4). Consumers go on. Idempotent; an absent channel counts as sealed. Raises Unavailable,
        StorageBroken."""
        ...

    def consume(
        self, channel: Channel, *, visibility: float, owner: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        """Attach a consumer; attached when entered. On leaving, what it has in hand stays claimed until its visibility
        time ends, unless it was released or reclaimed. `owner` names the process for `reclaim`, unlike any other, ever;
        without one nobody can reclaim. Raises ChannelGone on entering."""
        ...

    async def reclaim(self, channel: Channel, owner: str) -> int:
        """The process of this name has certainly ended: what its consumers have claimed in the channel and neither
        settled nor released can be received at once, as if these claims had run out. Those of others are untouched.
        Returns how many events that are.

        Idempotent: an absent channel, and an owner that claims nothing, are success. Without `capabilities.reclaims`
        it does nothing. Raises Unavailable, StorageBroken.
        """
        ...

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        """What stands in each; in one go where the broker can. An absent channel has Depth() (all unknown)."""
        ...

    def read(self, channel: Channel) -> AsyncIterator[Event]:
        """Browse what is not settled, oldest first, without consuming. Raises ChannelGone."""
        ...

    async def delete(self, channel: Channel) -> None:
        """Remove it with all it holds. Idempotent: absent is success. A later publish raises ChannelGone (or Sealed)
        and creates nothing, however stale the publisher. Raises Unavailable."""
        ...

    async def channels(self, train: str) -> Sequence[Channel]:
        """All channels of the train that exist, in any order: how leftovers are found."""
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A broker or a registry whose server's settings can be read. Not all are one. `eventwagon doctor` asks."""

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """What of the server's settings matters to events: for all of it, and for what these channels (which may be
        gone meanwhile) have of their own. Settings that are as they should be are told too, as `fine`.

        Reads only: it makes, changes and wakes nothing. A setting that this user may not read, or that the server does
        not know, is a finding `unknown` that names the missing right, and no error. Once entered. Idempotent.
        Raises Unavailable, StorageBroken.
        """
        ...


@runtime_checkable
class Named(Protocol):
    """A broker whose channels other clients of its server can use too, under a name of the server's. Not all have
    one."""

    def name_of(self, channel: Channel) -> str:
        """What the channel is called there: a key, a topic. Pure; usable before the broker is entered."""
        ...


@runtime_checkable
class Troubled(Protocol):
    """A broker that can say why calls take long that are under way."""

    @property
    def trouble(self) -> str:
        """What they wait for; empty while there is nothing to be said."""
        ...
