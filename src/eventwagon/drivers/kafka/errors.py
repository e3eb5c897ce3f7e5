"""What a Kafka error means for the caller."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ...errors import BrokerError, StorageBroken, Unavailable

ABSENT = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._NOENT,
    }
)
"""The topic does not exist (any more)."""
MOVING = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
    }
)
"""The partition has no known leader at the moment; it soon will."""
AWAY = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._SSL,
        KafkaError._UNSUPPORTED_FEATURE,
    }
)
"""No server answered, or none that can carry out the call."""
GRACE = 1.0  # s after which an overdue call counts as never answered
_FORBIDDEN = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "cluster",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "group",
}
_LOGIN = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
_CONFIGURED = frozenset(
    {
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.TOPIC_DELETION_DISABLED,
        KafkaError.TOPIC_EXCEPTION,
    }
)


def absent(error: KafkaError) -> bool:
    """Whether it says that the topic does not exist."""
    return error.code() in ABSENT


def cause(error: BaseException) -> KafkaError:
    """The KafkaError in an exception of the client. A BufferError means that its queue is full, a TimeoutError that
    nobody answered."""
    if isinstance(error, BufferError):
        return KafkaError(KafkaError._QUEUE_FULL, str(error))
    if isinstance(error, TimeoutError):
        return KafkaError(KafkaError._TIMED_OUT, "no answer")
    found = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


async def error_of(call: Future[Any], until: float) -> KafkaError | None:
    """The error of a call that has until then (the loop's time), if any, once it is over."""
    try:
        if not call.done():  # of a call about many things, all are done at once
            async with asyncio.timeout_at(until + GRACE):
                await asyncio.wrap_future(call)
        call.result()
    except (KafkaException, TimeoutError) as e:
        return cause(e)
    return None


def translate(error: KafkaError, servers: str, right: str, resource: str, why: str = "") -> BrokerError:
    """The error for a call that did nothing; `why` is the cause of the connection failure. The call needed `right` (an
    operation of Kafka's access control: "WRITE") on `resource` ("topic x")."""
    code = error.code()
    where = f"Kafka at {servers}: {right} on {resource}"
    if code in _FORBIDDEN:
        return StorageBroken(f"{where} is not allowed to this user: grant {right} on {resource}")
    if code in _LOGIN:
        return StorageBroken(
            f"Kafka at {servers} refuses the login: check sasl.mechanism, sasl.username, sasl.password"
        )
    if code == KafkaError.INVALID_REPLICATION_FACTOR:
        return StorageBroken(
            f"{where}: {error.str()} ({error.name()}): set replication= in the URL to the number of brokers or less, "
            "or change the cluster's default.replication.factor"
        )
    if code in _CONFIGURED:
        return StorageBroken(
            f"{where}: {error.str()} ({error.name()}): change the cluster's or the topic's configuration"
        )
    if why:
        return Unavailable(f"{where}: nothing was done: {why}")
    if code == KafkaError._UNSUPPORTED_FEATURE:
        return Unavailable(
            f"{where}: nothing was done: what listens there is no broker that serves clients (a controller's port, or "
            "a server older than 3.0): check the port"
        )
    if code in AWAY:
        return Unavailable(
            f"{where}: {error.str()}: nothing was done; nobody answered in time: check host, port and firewall, or try "
            "again"
        )
    return Unavailable(f"{where}: {error.str()} ({error.name()}): nothing was done; try again")
