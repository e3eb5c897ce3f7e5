"""Probes among dead letters. Nobody consumes dead letters, so nobody else finds the probes that a killed writer left
before them, or that a rebuilt claims log does not know: they would count as letters."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from confluent_kafka import Message

from ...errors import BrokerError
from .offsets import Place
from .options import LOGGER
from .proposals import Void, runs_of
from .reader import Reader, Spot
from .totals import ClaimedTopic
from .wagon import KafkaWagon
from .wire import decode

_AT_A_TIME = 5  # records that are looked at, one after the other, at the beginning of a partition
_AGAIN = 60.0  # s after which a record that was not found is looked for again


class DeadLetterProbes:
    """Finds and voids them."""

    def __init__(self) -> None:
        self._seen: WeakKeyDictionary[KafkaWagon, dict[int, tuple[int, float]]] = WeakKeyDictionary()
        """By partition of its dead letters: the first offset that was not settled, and until when nobody needs to look
        again whether a probe is there."""

    async def void(self, dead: Sequence[ClaimedTopic], ends: Mapping[Place, int | None], reader: Reader) -> bool:
        """Void the probes with which these topics of dead letters begin. Returns whether anything was read."""
        for turn in range(_AT_A_TIME):
            now = asyncio.get_running_loop().time()
            firsts = self._unseen(dead, ends, now)
            if not firsts:
                return turn > 0
            await self._look_at(firsts, reader, now)
        return True

    def _unseen(
        self, dead: Sequence[ClaimedTopic], ends: Mapping[Place, int | None], now: float
    ) -> dict[Spot, ClaimedTopic]:
        """The first unsettled record of each partition, except where it is known to be a letter."""
        firsts = dict[Spot, ClaimedTopic]()
        for one in dead:
            for topic, p in one.places:
                first = one.claims.partition(p).first_unsettled()
                seen, until = self._seen.get(one.wagon, {}).get(p, (-1, 0.0))
                if first < (ends[topic, p] or 0) and (first != seen or now >= until):
                    firsts[topic, p, first] = one
        return firsts

    async def _look_at(self, firsts: Mapping[Spot, ClaimedTopic], reader: Reader, now: float) -> None:
        found: Mapping[Spot, Message] = {}
        try:
            found = await reader.single(list(firsts))
            probes = [spot for spot, message in found.items() if decode(message) is None]
            for one in {firsts[spot] for spot in probes}:
                offsets = [(p, first) for topic, p, first in probes if topic == one.topic.name]
                await one.wagon.propose(Void(one.channel.name, runs_of(offsets)))
        except BrokerError as e:  # without the right to write, leave it to others
            LOGGER.debug("the probes in channels of dead letters are left for later: %s", e)
        for spot, one in firsts.items():
            message = found.get(spot)
            is_letter = message is not None and decode(message) is not None
            self._seen.setdefault(one.wagon, {})[spot[1]] = spot[2], math.inf if is_letter else now + _AGAIN
