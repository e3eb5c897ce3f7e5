"""Counts what clients ask of a server: requests by name, and bytes, on the way through a proxy.

A stream that is not understood raises `NotUnderstood`: nothing is left out of the counts in silence.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha1
from typing import Protocol

import msgspec

from eventwagon.drivers.redis import once, registry, scripts, timetable
from eventwagon.drivers.redis.client import Script
from tests.servers.proxy import Flow, Heard

_LONGEST = 512 * 1024 * 1024
_WORDS_MOST = 1_000_000

KAFKA_REQUESTS = {
    0: "Produce", 1: "Fetch", 2: "ListOffsets", 3: "Metadata", 8: "OffsetCommit", 9: "OffsetFetch",
    10: "FindCoordinator", 17: "SaslHandshake", 18: "ApiVersions", 19: "CreateTopics", 20: "DeleteTopics",
    21: "DeleteRecords", 22: "InitProducerId", 23: "OffsetForLeaderEpoch", 32: "DescribeConfigs", 33: "AlterConfigs",
    36: "SaslAuthenticate", 37: "CreatePartitions", 42: "DeleteGroups", 44: "IncrementalAlterConfigs",
    60: "DescribeCluster", 71: "GetTelemetrySubscriptions", 75: "DescribeTopicPartitions",
}  # fmt: skip
"""https://kafka.apache.org/protocol#protocol_api_keys; others are named by their number."""


class NotUnderstood(Exception):
    """Bytes that are no request of the protocol."""


class Requests(Protocol):
    """Reads one connection's requests."""

    def names(self, chunk: bytes) -> Iterator[str]:
        """The names of the requests that this chunk completes. Raises NotUnderstood."""


class RedisRequests:
    """Of the protocol RESP: arrays of words, as all client libraries send them. Scripts have the names they have in
    the drivers."""

    def __init__(self) -> None:
        self._left = b""

    def names(self, chunk: bytes) -> Iterator[str]:
        """See Requests."""
        data, at = self._left + chunk, 0
        while (found := self._one(data, at)) is not None:
            words, at = found
            yield _name(words)
        self._left = data[at:]

    def _one(self, data: bytes, at: int) -> tuple[list[bytes], int] | None:
        """The words of the request that begins there and where the next begins; None: it is not complete."""
        if (head := _number(data, at, b"*", _WORDS_MOST)) is None:
            return None
        count, at = head
        words = []
        for _ in range(count):
            if (size := _number(data, at, b"$", _LONGEST)) is None:
                return None
            length, at = size
            if len(data) < at + length + 2:
                return None
            if data[at + length : at + length + 2] != b"\r\n":
                raise NotUnderstood(f"a word of {length} bytes does not end there")
            words.append(data[at : at + length])
            at += length + 2
        return words, at


def _number(data: bytes, at: int, mark: bytes, most: int) -> tuple[int, int] | None:
    """The number of a line that begins with the mark, and where the next line begins; None: it is not complete."""
    if at >= len(data):
        return None
    if data[at : at + 1] != mark:
        raise NotUnderstood(f"{data[at : at + 20]!r} does not begin with {mark.decode()}")
    end = data.find(b"\r\n", at)
    if end < 0:
        if len(data) - at > len(str(most)) + 2:
            raise NotUnderstood(f"{data[at : at + 20]!r} has no end")
        return None
    digits = data[at + 1 : end]
    if not digits.isdigit() or int(digits) > most:
        raise NotUnderstood(f"{data[at:end][:20]!r} is no length")
    return int(digits), end + 2


def _name(words: list[bytes]) -> str:
    verb = words[0].decode("ascii", "replace").upper() if words else ""
    if not verb.isalpha():
        raise NotUnderstood(f"{verb!r} is no command")
    if verb == "EVALSHA" and len(words) > 1:
        return _scripts().get(words[1].decode("ascii", "replace"), "other script")
    if verb == "EVAL" and len(words) > 1:
        return _scripts().get(sha1(words[1], usedforsecurity=False).hexdigest(), "other script")
    return verb


_known: dict[str, str] = {}


def _scripts() -> Mapping[str, str]:
    """The drivers' names of their scripts, by the name that the server has for them."""
    if not _known:
        for module in (scripts, registry, once, timetable):
            for name, value in vars(module).items():
                if isinstance(value, Script):
                    _known[value.sha] = f"script {name.strip('_').lower()}"
    return _known


class KafkaRequests:
    """Of Kafka's protocol: a length, then a header that begins with the kind of request."""

    def __init__(self) -> None:
        self._left = b""

    def names(self, chunk: bytes) -> Iterator[str]:
        """See Requests."""
        data, at = self._left + chunk, 0
        while len(data) >= at + 8:
            length, key, version = struct.unpack_from(">ihh", data, at)
            if not 8 <= length <= _LONGEST or not 0 <= key < 200 or not 0 <= version < 50:
                raise NotUnderstood(f"length {length}, key {key}, version {version}: no request")
            if len(data) < at + 4 + length:
                break
            yield KAFKA_REQUESTS.get(key, f"request {key}")
            at += 4 + length
        self._left = data[at:]


class Counts(msgspec.Struct):
    """What was asked since counting began."""

    requests: dict[str, int] = {}
    sent: int = 0
    """Bytes to the server."""
    received: int = 0
    """Bytes from the server."""

    def since(self, before: Counts) -> Counts:
        """What came since `before` was taken."""
        left = Counter(self.requests)
        left.subtract(before.requests)
        return Counts(
            {name: count for name, count in sorted(left.items()) if count},
            self.sent - before.sent,
            self.received - before.received,
        )


class Hearing:
    """Hears all connections of a proxy. `listener` is what the proxy wants."""

    def __init__(self, protocol: Callable[[], Requests]) -> None:
        self._protocol = protocol
        self._requests: Counter[str] = Counter()
        self._sent = self._received = 0
        self.failure: NotUnderstood | None = None
        """What was not understood first: the counts are worth nothing then."""

    def listener(self) -> Heard:
        """What hears one connection."""
        reading = self._protocol()

        def heard(flow: Flow, chunk: bytes) -> None:
            if flow == "answers":
                self._received += len(chunk)
                return
            self._sent += len(chunk)
            try:
                self._requests.update(reading.names(chunk))
            except NotUnderstood as e:
                self.failure = self.failure or e

        return heard

    @property
    def counts(self) -> Counts:
        """Until now. Raises NotUnderstood."""
        if self.failure is not None:
            raise self.failure
        return Counts(dict(self._requests), self._sent, self._received)


class Miscounted(Exception):
    """The server has counted something else."""


def check(counts: Counts, *, sent: int, received: int) -> None:
    """Compare with the bytes that the server itself has counted in the same seconds. What is under way at either end
    may differ. Raises Miscounted."""
    for what, here, there in (("received", counts.sent, sent), ("sent", counts.received, received)):
        if abs(here - there) > 4096 + 0.02 * there:
            raise Miscounted(f"the server {what} {there:,} bytes, counted were {here:,}: a client went another way")
