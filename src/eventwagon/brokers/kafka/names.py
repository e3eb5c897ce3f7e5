"""Topics' names. What begins with a digit after the dot is ours: no channel's name can."""

from __future__ import annotations

import re

from ...event import Channel

CLAIMS = "0claims"


def claims_topic(channel: Channel) -> str:
    """The claims log of the wagon that the channel belongs to."""
    return f"{_base(channel)}.{CLAIMS}"


def _base(channel: Channel) -> str:
    return f"{channel.train}_v{channel.wagon}" if channel.wagon else channel.train


def channels_in(names: list[str], train: str) -> list[Channel]:
    """The train's channels among all topics."""
    form = re.compile(rf"{re.escape(train)}(?:_v([1-9]\d*)(?:\.([a-z][a-z0-9_-]*))?|\.([a-z][a-z0-9_-]*))")
    found = [match for name in names if (match := form.fullmatch(name))]
    return [Channel(train, int(m[1] or 0), m[2] or m[3] or "") for m in found]


def claims_in(names: list[str], train: str) -> list[Channel]:
    """For each claims log of the train: its wagon's ingress, which may or may not exist."""
    form = re.compile(rf"{re.escape(train)}(?:_v([1-9]\d*))?\.{CLAIMS}")
    return [Channel(train, int(m[1] or 0)) for name in names if (m := form.fullmatch(name))]
