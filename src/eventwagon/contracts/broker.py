"""The seam to the broker, which stores the events. Contracts only; the drivers are in `drivers/`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, runtime_checkable

import msgspec

from ..event import Channel, Event


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker can do. Its driver declares it, and the conformance suite checks it."""

    fences: bool
    """After `seal` the broker itself refuses every write, in one step with the write."""
    bounds: bool
    """A channel's `capacity` is exact for all publishers together."""
    totals: bool
    """`Depth.published` and `Depth.settled` are exact totals since the channel was created."""
    durable: bool
    """Accepted events survive the end of this process."""
    shared: bool
    """Other processes reach the same channels."""
    ordered: bool = True
    """Events are delivered in the order in which they were published, until one is given back."""
    reclaims: bool = False
    """`Broker.reclaim` gives back an ended process's claimed events at once. On other brokers it does nothing: the
    server gives them back by itself, or their visibility time ends first."""
    losses: bool = False
    """`Depth.lost` counts events that disappeared without being settled. On other brokers a falling total counts as a
    loss."""


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a channel, in figures. A figure that the broker does not know is None, never a guess.

    `published` and `settled` are totals since the channel was created. `waiting` events can be received now or after a
    pause; `in_flight` events were received and are not settled. The times are those of the oldest and newest waiting
    event, in seconds since the epoch; None if none waits. `lost` is the total of events that disappeared without being
    settled, by the server's retention or because somebody deleted them: they are neither in `published` nor in
    `settled`. An `exhausted` channel can take no more events, ever; those that it has are delivered. `publish` to one
    raises Sealed for an ingress, ChannelGone for an inner channel. The events of an `undeliverable` channel can be read
    and are never delivered again: the server has lost what records its claims, or somebody made the channel anew.
    `trouble` says what threatens the channel on the server, and what to do; empty if no threat is known.
    """

    published: int | None = None
    settled: int | None = None
    waiting: int | None = None
    in_flight: int | None = None
    oldest_at: float | None = None
    newest_at: float | None = None
    lost: int = 0
    exhausted: bool = False
    undeliverable: bool = False
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

    If the settled totals of `first` equal the published totals of `later`, no event was outstanding at any instant
    between: totals only grow, and no channel settles more than was published to it. Emitted events are stored before
    their event is settled (I6), so none can follow. An unknown figure proves nothing.
    """
    settled = [d.settled for d in first if d.settled is not None]
    published = [d.published for d in later if d.published is not None]
    return len(settled) == len(first) and len(published) == len(later) and sum(settled) == sum(published)


Severity = Literal["fine", "unknown", "costs", "loses"]
"""What a finding means. `fine`: nothing to do. `unknown`: it can't be read. `costs`: it costs throughput, memory or
money, may stop a train, or loses events with a single disk or in a power cut. `loses`: events are lost in the ordinary
life of such a server: a restart, a failover, a full memory, retention."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One setting or other condition of a server, and what it means for events.

    `what` is the setting as its server calls it, with its value (`maxmemory-policy=allkeys-lru`); `means` is the
    consequence, in one sentence; `todo` is what to do, with the command if there is one; empty if there is nothing to
    do. None of them holds a secret.
    """

    severity: Severity
    what: str
    means: str
    todo: str = ""


def told_together(found: Mapping[str, Sequence[Finding]]) -> list[Finding]:
    """The findings about several servers, topics or the like: once if a finding holds for all of them, otherwise with
    the names of those for which it holds."""
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
    """One event delivered to one consumer. `attempt` counts from 1; `token` is the driver's own.

    A `suspect` is an event whose claim expired before it was settled or released: its consumer may have died of it. It
    stays one until it is settled or released as tried.
    """

    event: Event
    attempt: int
    token: Any
    suspect: bool = False


class Subscription(Protocol):
    """A consumer attached to one channel. Many consumers in many processes may be attached; each event goes to one at a
    time.

    Its methods belong to the event loop that entered it.
    """

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """Return up to `limit` events, claimed for this consumer for the visibility time: at least one, or [] after
        `timeout` s.

        With `capabilities.ordered`, new events come in the order in which they were published. A released event comes
        again, with a higher attempt if it was tried. An event whose claim has expired comes again as a suspect with the
        same attempt: nobody knows whether it was handled, and most events of a dead process had nothing to do with its
        death.

        A suspect comes alone: a batch is either one suspect or has none. Suspects with more attempts come first,
        because an event that killed a process will do so again: the sooner it is dead, the fewer events wait for it.
        While both suspects and other events are due, a consumer gets them in turn, a suspect first. Raises ChannelGone,
        Unavailable.
        """
        ...

    async def alone(self, delivery: Delivery) -> bool:
        """State that this process is about to handle the event and no others but those of which it states the same, in
        one batch: if its claim expires, that is an attempt.

        Durable when it returns True: after the claim has expired the event comes again with attempt + 1. Released as
        tried it has attempt + 1 too, not + 2; with `tried=False` it keeps the attempt with which it was delivered, and
        stays a suspect unless it is cleared. False: the claim has already expired and nothing was changed; do not
        handle the event. Idempotent; the visibility time goes on. Raises ChannelGone, Unavailable.
        """
        ...

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        """The events are done: they are never delivered again. Idempotent, and allowed even if the claim has expired:
        each event counts as settled once, however many consumers settle it. Raises ChannelGone, Unavailable."""
        ...

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        """Give the events back, to be delivered after `delay` s with attempt + 1, and no longer as suspects: their
        consumer lives. With `tried=False` the attempt does not count, and a suspect stays one unless it is `cleared`:
        it was handled, and its process lives. An expired claim is not touched. Idempotent. Raises ChannelGone,
        Unavailable."""
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """Extend the claims: their visibility time starts again. An expired claim is not touched. Idempotent."""
        ...


class Broker(Protocol):
    """Stores the events of wagons. An asynchronous context manager: its owner enters it once, before use.

    Its methods may be called concurrently, from the event loop that entered it.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What the broker can do; it never changes."""
        ...

    async def __aenter__(self) -> Broker: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        """Create the channel; it accepts writes when this returns (proven, if the broker's reply alone proves nothing).

        `capacity` is the most events that it ever accepts: settled events make no room. None: a new channel has no
        bound. Idempotent: an existing channel keeps its events, totals and seal. A `capacity` replaces its own; with
        None it keeps its own. Raises Unavailable, StorageBroken.
        """
        ...

    async def unbound(self, channel: Channel) -> None:
        """Lift the bound: the channel then accepts any number of events. Idempotent; an absent channel is no error and
        is not created. Without `capabilities.bounds` there is nothing to do. Raises Unavailable, StorageBroken."""
        ...

    async def warm(self, channel: Channel) -> None:
        """Do the work for which the first publish to this channel would have to wait: connect, look it up. Stores and
        creates nothing. Idempotent. May raise what `publish` raises; a driver need not notice that the channel is
        absent or sealed."""
        ...

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        """Store the events, in this order; durable when it returns. Without events it does nothing.

        Raises ChannelFull and Sealed (the first `accepted` events were stored), ChannelGone (nothing was stored),
        PublishUncertain (unknown), Unavailable and StorageBroken (nothing was stored), EventRefused or its subclass
        EventTooLarge (one of the events can never be stored; nothing of this call was stored, so the caller can publish
        the others without it).
        """
        ...

    async def seal(self, channel: Channel) -> None:
        """Accept no more events. With `capabilities.fences`, no publish from any process can succeed after this has
        returned (I4). Consumers go on. Idempotent; an absent channel counts as sealed. Raises Unavailable,
        StorageBroken."""
        ...

    def consume(
        self, channel: Channel, *, visibility: float, owner: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        """Attach a consumer; it is attached when entered. After leaving, its events stay claimed until their visibility
        time ends, unless they were released or reclaimed. `owner` names the process for `reclaim` and must never be
        used by another process; without it nobody can reclaim. Raises ChannelGone on entering."""
        ...

    async def reclaim(self, channel: Channel, owner: str) -> int:
        """The process of this name has certainly ended: all events in the channel that its consumers have claimed and
        neither settled nor released can be received at once, as if these claims had expired. The claims of others are
        not touched. Returns the number of these events.

        Idempotent: an absent channel, and an owner without claims, are no errors. Without `capabilities.reclaims` it
        does nothing. Raises Unavailable, StorageBroken.
        """
        ...

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        """The figures of each channel, in one call to the broker if it can. An absent channel has Depth() (all
        unknown)."""
        ...

    def read(self, channel: Channel) -> AsyncIterator[Event]:
        """Browse the unsettled events, oldest first, without consuming. Raises ChannelGone."""
        ...

    async def delete(self, channel: Channel) -> None:
        """Delete the channel with its events. Idempotent: an absent channel is no error. A later publish raises
        ChannelGone (or Sealed) and creates nothing, however stale the publisher. Raises Unavailable."""
        ...

    async def channels(self, train: str) -> Sequence[Channel]:
        """All existing channels of the train, in any order. Used to find leftovers."""
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A broker or a registry whose server settings can be read; not all are one. `eventwagon doctor` uses it."""

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """The server settings that matter to events: of the whole server, and of these channels (which may have been
        deleted meanwhile). Correct settings are included, as `fine`.

        It only reads. A setting that this user may not read, or that the server does not know, is a finding `unknown`
        that names the missing right, and no error. Call it once entered. Idempotent. Raises Unavailable, StorageBroken.
        """
        ...


@runtime_checkable
class Named(Protocol):
    """A broker whose channels have names on the server, under which other clients can use them. Not every broker is
    one."""

    def name_of(self, channel: Channel) -> str:
        """The channel's name on the server: a key, a topic. Pure; usable before the broker is entered."""
        ...


@runtime_checkable
class Troubled(Protocol):
    """A broker that can say why calls in progress take long."""

    @property
    def trouble(self) -> str:
        """What the calls wait for; empty if nothing is wrong."""
        ...
