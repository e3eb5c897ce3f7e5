"""What the settings of a cluster and its topics mean for the events in them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from ...contracts.broker import Finding, told_together
from .admin import Admin, harms

_RIGHTS = "kafka-acls.sh --add --allow-principal … --operation DescribeConfigs"
_SIZE = "max.message.bytes"


class InspectedTopic(msgspec.Struct, frozen=True):
    """A topic, and the settings that it needs in addition to those of every topic (see `Admin.unsuitable`)."""

    name: str
    needed: Mapping[str, str] = {}
    partitions: int = 0
    """How many the URL gives to a new ingress; 0: this topic is none."""


async def inspect(admin: Admin, topics: Sequence[InspectedTopic]) -> list[Finding]:
    """The findings about the cluster, and about those of the topics that exist. Raises Unavailable, StorageBroken."""
    servers = await admin.brokers()
    each = await asyncio.gather(*map(admin.server_configuration, servers))
    found = told_together(
        {f"broker {number}": list(findings_of_server(config)) for number, config in zip(servers, each, strict=True)}
    )
    told = await asyncio.gather(*(_topic(admin, topic, len(servers)) for topic in topics))
    by_topic = {topic.name: one for topic, one in zip(topics, told, strict=True) if one is not None}
    if by_topic:
        found += await _age(admin, next(iter(by_topic)))
    return found + told_together(by_topic)


async def _age(admin: Admin, topic: str) -> list[Finding]:
    if await admin.knows_newest_times(topic):
        return [Finding(severity="fine", what="Kafka 3.0 or later", means="it is supported")]
    means = "older than 3.0, which is not supported: which events it loses was not tried"
    return [Finding(severity="loses", what="an old Kafka", means=means, todo="upgrade the brokers")]


def findings_of_server(config: Mapping[str, str] | None) -> Iterator[Finding]:
    """What a broker's configuration means for events; None: it was refused."""
    if config is None:
        what = "the brokers' settings"
        means = "this user may not read them: can't see whether topics can be deleted or are created automatically"
        yield Finding(severity="unknown", what=what, means=means, todo=f"{_RIGHTS} --cluster")
        return
    if config.get("delete.topic.enable", "true") == "false":
        yield Finding(
            severity="costs",
            what="delete.topic.enable=false",
            means="the topics of drained wagons can't be removed, and their number grows without end",
            todo="delete.topic.enable=true in the brokers' server.properties, and a restart",
        )
    else:
        yield Finding(severity="fine", what="delete.topic.enable=true", means="drained wagons can be removed")
    if config.get("auto.create.topics.enable", "false") == "true":
        yield Finding(
            severity="costs",
            what="auto.create.topics.enable=true",
            means="a foreign producer that still writes to a removed wagon creates its topic again, and nobody reads "
            "its events (eventwagon itself creates no topic that way)",
            todo="auto.create.topics.enable=false in the brokers' server.properties, and a restart",
        )
    else:
        yield Finding(severity="fine", what="auto.create.topics.enable=false", means="a removed topic stays removed")


async def _topic(admin: Admin, topic: InspectedTopic, brokers: int) -> list[Finding] | None:
    metadata = await admin.describe(topic.name)
    if metadata is None:
        return None
    config = await admin.configuration(topic.name)
    copies = min((len(p.replicas) for p in metadata.partitions.values()), default=0)
    in_sync = min((len(p.isrs) for p in metadata.partitions.values()), default=0)
    found = list(findings_of_topic(config, topic.needed, copies, in_sync, brokers))
    return [*found, *_partitions(len(metadata.partitions), topic.partitions)]


def _partitions(found: int, asked: int) -> Iterator[Finding]:
    """What the number of an ingress's partitions means, if the URL asks for that many."""
    what = f"partitions={found}"
    if not asked or 1 == asked < found:
        return
    if found == asked:
        means = "in order, read by one process at a time" if found == 1 else f"{found} processes share the reading"
        yield Finding(severity="fine", what=what, means=means)
        return
    means = f"the URL says partitions={asked}, which counts only for wagons that a process with that URL opens"
    todo = f"partitions={asked} in the URL of all observers and publishers, if the next wagons are to have it"
    yield Finding(severity="costs", what=what, means=means, todo=todo)


def findings_of_topic(
    config: Mapping[str, str] | None, needed: Mapping[str, str], copies: int, in_sync: int, brokers: int
) -> Iterator[Finding]:
    """What a topic's configuration (None: it was refused) and its replicas mean for events."""
    yield from _replicas(copies, in_sync, brokers)
    if config is None:
        means = "this user may not read them: retention, min.insync.replicas and unclean elections can't be seen"
        what = "the topics' settings"
        yield Finding(severity="unknown", what=what, means=means, todo=f"{_RIGHTS} --topic …")
        return
    if copies > 1:
        yield _in_sync(config.get("min.insync.replicas", "1"), copies)
    yield _elections(config)
    yield from _retention(config, needed)


def _replicas(copies: int, in_sync: int, brokers: int) -> Iterator[Finding]:
    what = f"replication factor {copies}"
    if copies < 2 and brokers < 2:
        means = "one broker has all events: they are lost with its disk, and everything stops while it is away"
        yield Finding(severity="costs", what=what, means=means, todo="three brokers, and replication=3 in the URL")
    elif copies < 2:
        means = "each topic is on one broker only: its events are lost with that broker's disk"
        todo = "replication=3 in the URL; for topics that exist kafka-reassign-partitions.sh"
        yield Finding(severity="loses", what=what, means=means, todo=todo)
    else:
        yield Finding(severity="fine", what=what, means=f"{copies} brokers have each event")
    if in_sync < copies:
        means = (
            f"only {in_sync} of {copies} copies are up to date: if another broker fails, events may be lost or "
            "everything stops"
        )
        yield Finding(severity="costs", what="replicas out of sync", means=means, todo="look after the brokers")


def _elections(config: Mapping[str, str]) -> Finding:
    if config.get("unclean.leader.election.enable", "false") == "true":
        return Finding(
            severity="loses",
            what="unclean.leader.election.enable=true",
            means="a broker that lacks the latest events may become the leader; these are lost then",
            todo="kafka-configs.sh --alter --topic … --add-config unclean.leader.election.enable=false, or for all "
            "brokers",
        )
    means = "only a broker that has all events may become the leader"
    return Finding(severity="fine", what="unclean.leader.election.enable=false", means=means)


def _retention(config: Mapping[str, str], needed: Mapping[str, str]) -> Iterator[Finding]:
    is_kept = True
    for setting, harm, right in harms(config, needed):
        is_size = setting.startswith(_SIZE)
        is_kept = is_kept and is_size
        todo = f"kafka-configs.sh --alter --topic … --add-config {right}"
        yield Finding(severity="costs" if is_size else "loses", what=setting, means=f"it {harm}", todo=todo)
    if is_kept:
        policy = needed.get("cleanup.policy", "delete")
        means = "only eventwagon deletes records" + (", and Kafka those replaced" if policy == "compact" else "")
        what = f"retention.ms=-1, retention.bytes=-1, cleanup.policy={policy}"
        yield Finding(severity="fine", what=what, means=means)


def _in_sync(least: str, copies: int) -> Finding:
    number = int(least) if least.isdecimal() else 1
    what = f"min.insync.replicas={number}"
    todo = "kafka-configs.sh --alter --topic … --add-config min.insync.replicas="
    if number < 2:
        means = (
            "an event counts when one broker has it: if that broker's disk fails, the event is lost, even if there are "
            "copies"
        )
        return Finding(severity="loses", what=what, means=means, todo=f"{todo}2, or for all brokers")
    if number > copies:
        means = f"more than there are copies ({copies}): no event is ever accepted"
        return Finding(severity="costs", what=what, means=means, todo=f"{todo}{max(1, copies - 1)}")
    if number == copies:
        means = f"as many as there are copies: publishing stops while one of {copies} brokers is away"
        return Finding(severity="costs", what=what, means=means, todo="one copy more: replication=3 in the URL")
    return Finding(severity="fine", what=what, means=f"an event counts when {number} brokers have it")
