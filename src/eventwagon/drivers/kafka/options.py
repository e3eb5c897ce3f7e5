"""From a URL to the options of librdkafka's clients."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Self

import msgspec
from confluent_kafka import Consumer, KafkaException, Producer

from ...contracts.address import Address
from ...display import redaction
from ...errors import UsageError
from ...other_words import doubted
from ...values import MOST, is_a, shown

LOGGER = logging.getLogger("eventwagon.kafka")
CLIENT_LOGGER = logging.getLogger("eventwagon.kafka.client")
"""librdkafka's log. Silent by default: it repeats messages that also come back as errors."""
CLIENT_LOGGER.setLevel(logging.CRITICAL)

BATCH = 1_000_000
"""Bytes of a batch of records; a topic with a lower limit needs its own producer."""
LINGER = 0.2
"""Milliseconds for which a producer of events gathers a batch."""
_OURS = ("partitions", "replication", "max_message_bytes", "timeout", "topic_prefix", "group", "mode")
_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,100}")
_PASSED = (
    "security.protocol",
    "sasl.",
    "ssl.",
    "enable.sasl.",
    "enable.ssl.",
    "https.",
    "client.id",
    "client.rack",
    "client.dns.lookup",
    "broker.address.",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.send.buffer.bytes",
    "socket.receive.buffer.bytes",
    "compression.",
    "check.crcs",
    "enable.metrics.push",
    "debug",
    "log_level",
    "log.connection.close",
)
"""The options of librdkafka that may be given; a dot at the end: all that begin so. The others decide when an event
counts as stored, what is fetched and how long calls take, load code, or are callbacks."""
_CONSUMER = ("check.crcs", "client.rack")
_PRODUCER = ("compression.",)
_MOST_PARTITIONS = 1000
_MOST_COPIES = 1000
_LARGEST = 50_000_000  # bytes of a record: librdkafka holds 64 MiB to send, and takes answers of 100 MB


class Options(msgspec.Struct, frozen=True):
    """How to reach a cluster, and how to create topics there."""

    servers: str
    """host:port,host:port"""
    partitions: int = 1
    """Of a new channel. With more than one, events come in no order."""
    replication: int = -1
    """Copies of a new topic; -1: the cluster's default."""
    max_message_bytes: int = 1_048_588
    """The largest record of a new channel; older channels keep theirs."""
    timeout: float = 10.0
    """Seconds after which a call fails, and an unacknowledged message is no longer sent."""
    topic_prefix: str = ""
    """Begins the name of each topic."""
    group: str = ""
    """The consumer group under which the progress of channels is committed, for tools that show lag; empty: none."""
    mode: str = "binary"
    """How events are written: "binary", or "structured" where an event's data allow it."""
    config: Mapping[str, str] = {}
    """Options of librdkafka, those in _PASSED: security.protocol, sasl.username, ssl.ca.location, …"""
    oauth_cb: Callable[[str], tuple[Any, ...]] | None = None
    """As confluent_kafka's option of that name."""

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Raises UsageError, without repeating what may be secret."""
        address = Address.of(url)
        form = "write kafka://host:9092,host2:9092?option=value"
        if "@" in address.host:
            raise address.wrong(f"{form}; a user and a password go into sasl.username= and sasl.password=")
        if address.path.strip("/"):
            raise address.wrong(f"{form}: no path follows the hosts; what topics' names begin with is topic_prefix=")
        address.not_empty(*(name for name in address.options if name in _OURS or _is_passed(name)))
        if not address.host:
            raise address.wrong(f"{form}: the hosts are missing")
        servers = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.places(9092)
        )
        return cls(
            servers,
            partitions=address.whole("partitions", 1, least=-MOST),
            replication=address.whole("replication", -1, least=-MOST),
            max_message_bytes=address.whole("max_message_bytes", 1_048_588, least=-MOST),
            timeout=address.seconds("timeout", 10.0, least=-math.inf),
            topic_prefix=address.options.get("topic_prefix", ""),
            group=address.options.get("group", ""),
            mode=address.options.get("mode", "binary"),
            config={name: value for name, value in address.options.items() if name not in _OURS},
        ).checked()

    def checked(self) -> Self:
        """Returns itself; raises UsageError for impossible values."""
        where = f"kafka://{self.servers}"
        self._check_types(where)
        redaction.learn_options(self.config)
        for name, value, least, most in (
            ("partitions", self.partitions, 1, _MOST_PARTITIONS),
            ("max_message_bytes", self.max_message_bytes, 1024, _LARGEST),
        ):
            if not least <= value <= most:
                raise UsageError(f"{where}: {name}={value}; give {least} to {most}")
        if self.replication != -1 and not 1 <= self.replication <= _MOST_COPIES:
            raise UsageError(
                f"{where}: replication={self.replication}; give 1 to the number of brokers, or -1 for the cluster's own"
            )
        if not _PREFIX.fullmatch(self.topic_prefix):
            raise UsageError(
                f"{where}: topic_prefix={self.topic_prefix!r:.120}; give up to 100 letters, digits, dots, _ and -"
            )
        if not _PREFIX.fullmatch(self.group):
            raise UsageError(f"{where}: group={self.group!r:.120}; give up to 100 letters, digits, dots, _ and -")
        if self.mode not in ("binary", "structured"):
            raise UsageError(f"{where}: mode={self.mode!r:.120}; give binary or structured")
        if not 0.1 <= self.timeout <= 300:
            raise UsageError(f"{where}: timeout={self.timeout:g}; give 0.1 to 300 seconds")
        if wrong := sorted(name for name in self.config if not _is_passed(name)):
            passed = ", ".join(f"{name}*" if name.endswith(".") else name for name in _PASSED)
            raise UsageError(
                f"{where}: option {_doubted(wrong)} can't be given; known are {', '.join(_OURS)}, and of librdkafka's "
                f"{passed}: eventwagon decides the others"
            )
        if self.config and (refusal := self._refusal()):
            for text in sorted(self.config.values(), key=len, reverse=True):  # a secret under a wrong name, say
                refusal = refusal.replace(text, "***") if len(text) > 3 else refusal
            raise UsageError(f"{where}: librdkafka does not take {', '.join(self.config)}: {refusal}")
        return self

    def _check_types(self, where: str) -> None:
        """Raise UsageError for what a program, unlike a URL, can give."""
        for name in ("partitions", "replication", "max_message_bytes"):
            if not is_a(value := getattr(self, name), int) or is_a(value, bool):
                raise UsageError(f"{where}: {name}={shown(value)}; give a whole number")
        if not is_a(self.timeout, int, float) or is_a(self.timeout, bool):
            raise UsageError(f"{where}: timeout={shown(self.timeout)}; give a number of seconds")
        for name in ("topic_prefix", "group", "mode"):
            if not is_a(value := getattr(self, name), str):
                raise UsageError(f"{where}: {name}={shown(value)}; give text")
        given: object = self.config
        if not is_a(given, dict) or not all(is_a(x, str) and _is_text(x) for pair in given.items() for x in pair):
            raise UsageError(f"{where}: config: give a dict of names and values, all of them text")

    def _refusal(self) -> str:
        """What librdkafka objects to in the options of a client; nothing if it accepts them. Nothing is connected."""
        for kind, options in ((Producer, self.producer(linger=0)), (Consumer, self.consumer(wait=50))):
            try:
                kind({name: value for name, value in options.items() if name not in ("bootstrap.servers", "oauth_cb")})
            except KafkaException as e:
                return str(e.args[0].str()).strip()
        return ""

    def common(self, logger: Any = CLIENT_LOGGER) -> dict[str, Any]:
        """The options of every client. `logger` receives its log."""
        own = {k: v for k, v in self.config.items() if not k.startswith((*_CONSUMER, *_PRODUCER))}
        return {
            "client.id": "eventwagon",
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            "socket.connection.setup.timeout.ms": 5000,
            "socket.timeout.ms": max(1000, int(self.timeout * 1000)),
            "topic.metadata.refresh.fast.interval.ms": 50,
            **own,
            "bootstrap.servers": self.servers,
            "allow.auto.create.topics": False,
            "logger": logger,
            **({} if self.oauth_cb is None else {"oauth_cb": self.oauth_cb}),
        }

    def producer(self, *, linger: float, batch: int = BATCH, logger: Any = CLIENT_LOGGER) -> dict[str, Any]:
        """`linger` in ms, `batch` in bytes."""
        own = {k: v for k, v in self.config.items() if k.startswith(_PRODUCER)}
        return {
            **self.common(logger),
            "linger.ms": linger,
            "queue.buffering.max.kbytes": 65536,
            **own,
            "batch.size": batch,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(self.timeout * 1000),
            "message.max.bytes": max(1_000_000, self.max_message_bytes),
            "topic.metadata.propagation.max.ms": 1000,
        }

    def consumer(
        self, *, wait: int, queued: int = 16_384, fetch: int = 4_194_304, logger: Any = CLIENT_LOGGER
    ) -> dict[str, Any]:
        """`wait`: ms for which the server may hold back an empty answer; `queued`: kilobytes read ahead; `fetch`: bytes
        of a partition in one answer."""
        own = {k: v for k, v in self.config.items() if k.startswith(_CONSUMER)}
        return {
            **self.common(logger),
            "fetch.wait.max.ms": wait,
            "fetch.error.backoff.ms": 100,
            "fetch.queue.backoff.ms": 5,  # otherwise a whole second, each time that the read-ahead is full
            "queued.max.messages.kbytes": queued,
            "fetch.message.max.bytes": fetch,
            **own,
            "group.id": "eventwagon",  # required by the client; no group is ever joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
        }


def _is_text(text: str) -> bool:
    """Whether a client can be given it."""
    return not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text)


def _doubted(names: list[str]) -> str:
    """These options, each with the one that may be meant: librdkafka's have dots where others have underscores."""
    dotted = [name for each in names if _is_passed(name := each.lower().replace("_", "."))]
    return doubted(names, (*_OURS, *(name for name in _PASSED if not name.endswith(".")), *dotted))


def _is_passed(name: str) -> bool:
    return any(name.startswith(one) if one.endswith(".") else name == one for one in _PASSED)
