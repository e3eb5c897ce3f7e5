"""Where in AWS a train is kept, and the names of its queues. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from ...contracts.address import Address
from ...event import Channel

_KNOWN = ("endpoint", "table", "poll", "resend")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_PREFIX = re.compile(r"[a-z][a-z0-9_-]{0,15}")
_TABLE = re.compile(r"[a-zA-Z0-9_.-]{3,255}")
_QUEUE_NAME = 80  # characters that SQS allows
_TRAIN_TAG = "eventwagon-train"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A region, a prefix of queue names, a table. Times are in seconds. Credentials come from AWS's usual chain."""

    region: str | None = None
    """None: the one that the environment or the profile names."""
    prefix: str = "eventwagon"
    """Queues and rows of the table begin with it: several installations may share an account and a table."""
    endpoint: str | None = None
    """The address of all services, instead of AWS (an emulator)."""
    table: str = "eventwagon"
    poll: float = 1.0
    """Seconds between two reads of a watched manifest."""
    resend: float = 120.0
    """An event in the table whose queue has shown no message for this many seconds is sent again. Longer than SQS needs
    for correct approximate counts (about a minute)."""

    def __str__(self) -> str:
        at = f" at {self.endpoint}" if self.endpoint else ""
        return f"table {self.table} in {self.region or 'the default region'}{at}"

    def tags(self, train: str) -> dict[str, str]:
        """Tags that say to which train a queue, service or mapping belongs. Names alone may be equal: prefix `a` with
        train `b-c`, and prefix `a-b` with train `c`."""
        return {"eventwagon-prefix": self.prefix, "eventwagon-table": self.table, _TRAIN_TAG: train}

    def stranger(self, tags: Mapping[str, str], train: str) -> str:
        """The owner that these tags name, if it is not this train at this place; otherwise empty. Earlier releases
        wrote only the train."""
        if _TRAIN_TAG not in tags:
            return "was not made by eventwagon"
        whose = {name: tags.get(name, value) for name, value in self.tags(train).items()}
        if whose == self.tags(train):
            return ""
        prefix, table, of = whose.values()
        return f"belongs to train {of} with prefix {prefix} and table {table}"

    def queue(self, channel: Channel) -> str:
        """The name of the channel's queue. Queue names have no dots, so those of inner channels end in a digest."""
        name = f"{self.prefix}-{channel.train}" + (f"_v{channel.wagon}" if channel.wagon else "")
        if not channel.name:
            return name
        digest = blake2b(str(channel).encode(), digest_size=4).hexdigest()
        return f"{f'{name}-{channel.name}'[: _QUEUE_NAME - 9]}-{digest}"


def parse(url: str) -> Place:
    """Parse `sqs://eu-west-1/prefix?table=…&endpoint=http://…`; region and prefix are optional. Raises UsageError."""
    return place_of(Address.of(url))


def place_of(address: Address, *others: str, path: str | None = None) -> Place:
    """The place that a URL names. `others` are options beyond those of a place; `path` replaces its path if that has
    more than the prefix. Raises UsageError."""
    options = address.only(*_KNOWN, *others)
    if "@" in address.host:
        raise address.wrong(
            "no keys in the URL; AWS credentials come from the environment, a profile or the instance's role"
        )
    region, prefix = address.host, (address.path if path is None else path).strip("/")
    if region and not _REGION.fullmatch(region):
        raise address.wrong(f"{region!r} is no region; write {address.scheme}://eu-west-1/prefix")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise address.wrong(f"prefix {prefix!r}: use 1 to 16 of a-z, 0-9, '_' and '-', beginning with a letter")
    table = options.get("table", "eventwagon")
    if not _TABLE.fullmatch(table):
        raise address.wrong(f"table={table!r}: use 3 to 255 letters, digits, '_', '-' and '.'")
    return Place(
        region=region or None,
        prefix=prefix or "eventwagon",
        endpoint=address.http("endpoint", "", example="http://127.0.0.1:5000") or None,
        table=table,
        poll=address.seconds("poll", 1.0, least=0.05, most=60),
        resend=address.seconds("resend", 120.0, least=1, most=86_400),
    )
