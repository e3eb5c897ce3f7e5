"""The names of topics. A part that begins with a digit after the dot is ours: no channel name can."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...event import Channel

CLAIMS = "0claims"
LATER = "0later"


class Names:
    """The topics of one installation: all begin with its `prefix`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def topic(self, channel: Channel) -> str:
        """The channel's topic."""
        return f"{self._prefix}{channel}"

    def claims(self, channel: Channel) -> str:
        """The claims log of the wagon that the channel belongs to."""
        base = f"{channel.train}_v{channel.wagon}" if channel.wagon else channel.train
        return f"{self._prefix}{base}.{CLAIMS}"

    def later(self, train: str) -> str:
        """The topic of the train's events for later."""
        return f"{self._prefix}{train}.{LATER}"

    def channels_in(self, topics: Iterable[str], train: str) -> list[Channel]:
        """The train's channels among all topics."""
        form = re.compile(
            rf"{re.escape(self._prefix + train)}(?:_v([1-9]\d*)(?:\.([a-z][a-z0-9_-]*))?|\.([a-z][a-z0-9_-]*))"
        )
        found = [match for name in topics if (match := form.fullmatch(name))]
        return [Channel(train, int(m[1] or 0), m[2] or m[3] or "") for m in found]

    def claims_in(self, topics: Iterable[str], train: str) -> list[Channel]:
        """For each claims log of the train: its wagon's ingress, which may or may not exist."""
        form = re.compile(rf"{re.escape(self._prefix + train)}(?:_v([1-9]\d*))?\.{CLAIMS}")
        return [Channel(train, int(m[1] or 0)) for name in topics if (m := form.fullmatch(name))]
