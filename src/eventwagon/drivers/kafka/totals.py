"""What claims logs and topics say together, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ...event import ARCHIVE, DEAD, Channel
from .admin import Admin
from .claims import ChannelClaims
from .offsets import Place
from .publishing import Topic
from .wagon import KafkaWagon


class ClaimedTopic(NamedTuple):
    """A channel's topic, and the wagon whose claims are about it."""

    wagon: KafkaWagon
    topic: Topic

    @property
    def channel(self) -> Channel:
        return self.topic.channel

    @property
    def claims(self) -> ChannelClaims:
        """As read until now: a snapshot that is read replaces the object."""
        return self.wagon.channel(self.channel.name)

    @property
    def places(self) -> list[Place]:
        """All of its partitions."""
        return [(self.topic.name, p) for p in range(self.topic.partitions)]

    @property
    def id_to_record(self) -> str:
        """The topic's id, if the claims are to record it and do not yet."""
        return self.topic.identity if is_guarded(self.channel) and not self.claims.topic else ""


class Totals(NamedTuple):
    """Of several channels."""

    settled: dict[Channel, int]
    ends: dict[Place, int | None]
    """The end of each partition, read after `settled`: if both sums are equal, every event was settled in between. None
    if there is no such topic."""
    remade: dict[Channel, ClaimedTopic]
    """Those whose topic is not the one that the claims are about: somebody made it anew, or its end was lost."""


async def sync(admin: Admin, wagons: Iterable[KafkaWagon]) -> None:
    """Read these wagons' claims logs up to their ends as of now. Raises Unavailable, LogGone."""
    logs = {(wagon.log.topic, 0): wagon.log for wagon in wagons}
    for place, end in (await admin.ends(logs)).items():
        if end is not None:
            await logs[place].sync(end)


async def totals_of(admin: Admin, topics: Sequence[ClaimedTopic]) -> Totals:
    """What the claims logs and the topics say, as of now. Raises Unavailable, LogGone."""
    await sync(admin, (one.wagon for one in topics))
    settled = {one.channel: one.claims.settled for one in topics}
    reach = {one.channel: one.claims.reach() for one in topics}
    ends = await admin.ends(place for one in topics for place in one.places)
    remade = {one.channel: one for one in topics if _is_another(one, reach[one.channel], ends)}
    return Totals(settled, ends, remade)


def _is_another(one: ClaimedTopic, reach: Mapping[int, int], ends: Mapping[Place, int | None]) -> bool:
    """Whether the claims are not about this topic: new events would pass for settled ones. `reach`: as the claims told
    before the `ends` were read."""
    if not is_guarded(one.channel) or any(ends[place] is None for place in one.places):
        return False
    if one.claims.topic and one.topic.identity and one.claims.topic != one.topic.identity:
        return True
    return any(reach.get(place[1], 0) > (ends[place] or 0) for place in one.places)


def is_guarded(channel: Channel) -> bool:
    """Whether its topic must stay the one for which the claims were made: of channels whose events the wagon handles.
    A probe's topic is made again and again."""
    return bool(channel.wagon) and channel.name not in (DEAD, ARCHIVE) and not channel.name.startswith("0")
