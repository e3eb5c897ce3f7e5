"""Topics: created, deleted, listed, configured, measured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import (
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package exports them without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ListOffsetsResultInfo,
    NewTopic,
    ResourceType,
    TopicDescription,
    TopicMetadata,
)

from ...background import Background
from ...backoff import Backoff
from ...errors import BrokerError, StorageBroken
from .causes import Causes
from .errors import ABSENT, AWAY, MOVING, absent, cause, error_of, translate
from .group import Group
from .merged import PATIENT, PROMPT, Merged
from .offsets import Kind, Offsets, Place
from .options import Options
from .sender import Sender

R = TypeVar("R")

_AT_ONCE = 2  # topics: the cluster creates one after the other, and more calls would only wait there, up to their time
_TRY = 3.0  # s to wait for one broker before another is asked
_TRY_LEADER = 1.5  # s to wait for a leader before another may have taken over
_AGAIN = ABSENT | MOVING | {KafkaError._TIMED_OUT}
"""Answers after which a partition is asked for again. A topic that a client takes for absent may exist: after a lost
connection the client goes by its own view."""

FOREVER = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""The options with which only eventwagon deletes records, whatever the cluster's defaults are."""
LOG_TIME = {"message.timestamp.type": "LogAppendTime"}
"""The log's time is its leader's: the clock of all claims."""
_HOUR = 3_600_000
COMPACTED = {
    **LOG_TIME,
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": f">={_HOUR}",  # claims are not compacted while they stand
    "delete.retention.ms": f">={24 * _HOUR}",  # readers that are late see what was deleted
}
"""The options of events for later, instead of those in FOREVER."""
_HARM = {
    "cleanup.policy": "removes records that are not handled",
    "retention.ms": "removes records by their age",
    "retention.bytes": "removes the oldest records when there are many",
    "message.timestamp.type": "takes its times from its writers' clocks",
    "min.compaction.lag.ms": "removes claims that others still go by",
    "delete.retention.ms": "forgets too soon what was deleted",
    "max.message.bytes": "refuses records as large as max_message_bytes allows",
}
_KEEPS_ALL = "keeps what is no longer needed, or removes it by its age"


def harms(found: Mapping[str, str], needed: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """For each option that differs from FOREVER and `needed`: the option with its value, its harm, and the right value.
    A number that begins with >= is a minimum."""
    wrong = list[tuple[str, str, str]]()
    for name, value in {**FOREVER, **needed}.items():
        is_value = found.get(name, value)  # a server that does not know the option does not do it
        least = value.removeprefix(">=")
        if is_value == value or (least != value and int(is_value) >= int(least)):
            continue
        harm = _KEEPS_ALL if value == "compact" and is_value == "delete" else _HARM[name]
        wrong.append((f"{name}={is_value}", harm, f"{name}={least}"))
    return wrong


def unsuitable(servers: str, topic: str, found: Mapping[str, str], needed: Mapping[str, str]) -> str:
    """Like `Admin.unsuitable`, for a known configuration."""
    wrong = harms(found, needed)
    if not wrong:
        return ""
    right = [each for _, _, each in wrong]
    return (
        f"Kafka at {servers}: topic {topic}: {'; '.join(f'{setting} {harm}' for setting, harm, _ in wrong)}: set "
        f"{', '.join(right)} (kafka-configs.sh --bootstrap-server {servers} --alter --topic {topic} --add-config "
        f"{','.join(right)})"
    )


class Described:
    """What the cluster says of a topic."""

    def __init__(self, description: TopicDescription) -> None:
        """As the client has it."""
        self._description = description
        self.partitions = len(description.partitions)
        identity = str(description.topic_id)
        if set(identity) == {"A"}:  # all zeros: before Kafka had ids, which it may get later
            identity = ""
        self.identity = identity
        """What distinguishes the topic from others that had its name before; empty if the server is too old to tell."""

    def led(self) -> set[int]:
        """The partitions that have a leader."""
        return {one.id for one in self._description.partitions if one.leader is not None}


class Admin:
    """One cluster's topics. Calls raise Unavailable and StorageBroken, which name the missing right."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.causes = Causes()
        """The causes of connection failures, from the log of the clients that use it as their logger."""
        self._client = AdminClient(options.common(self.causes))
        self.group = Group(options, self.causes, self.trouble)
        """The group of `options.group`, if there is one."""
        self.threads = ThreadPoolExecutor(32, thread_name_prefix="eventwagon-kafka")
        """For blocking calls."""
        self._creating = asyncio.Semaphore(_AT_ONCE)
        self._calls = Background()
        self._describing = {
            patient: Merged(self._describe_all, self._calls, rate=PATIENT if patient else PROMPT)
            for patient in (False, True)
        }
        self._offsets = Offsets(
            lambda: AdminClient(options.common(self.causes)),
            self._calls,
            self._led,
            seconds=min(_TRY_LEADER, options.timeout),
        )

    async def close(self) -> None:
        """End its threads."""
        self._calls.cancel()
        await self._calls.wait()
        await asyncio.to_thread(self.threads.shutdown, True, cancel_futures=True)
        await self._offsets.close()
        await self.group.close()
        del self._client

    async def blocking(self, call: Callable[..., R], *args: Any) -> R:
        """The result of a blocking call."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, call, *args)

    def trouble(self, error: KafkaError, right: str, resource: str) -> BrokerError:
        """The error to raise for it."""
        return translate(error, self.options.servers, right, resource, self.why(error))

    def why(self, error: KafkaError) -> str:
        """The cause of a connection failure, if the error only says that the call took too long; empty if none is
        known."""
        if error.code() not in AWAY:
            return ""
        with suppress(KafkaException):
            self._client.poll(0)  # delivers the client's log records
        self._offsets.poll()
        return self.causes.why(self.options.servers, self.options.timeout)

    async def names(self) -> list[str]:
        """The names of all topics that exist."""
        try:
            found = await self.blocking(lambda: self._client.list_topics(timeout=self.options.timeout))
        except KafkaException as e:
            raise self.trouble(cause(e), "DESCRIBE", "cluster") from None
        return list(found.topics)

    async def describe(self, topic: str) -> TopicMetadata | None:
        """The topic, or None if there is none."""
        return await self._describe(self._client, topic)

    async def describe_to(self, sender: Sender, topic: str) -> TopicMetadata | None:
        """The same; the producer knows the topic from then on. A new one is asked twice: asked once, every fifth had no
        id yet when it sent its first message, and waited half a second for it; asked twice, none of 300."""
        producer, known = sender.producer(), sender.known
        if not known:
            await self._describe(producer, topic)
        found = await self._describe(producer, topic)
        if found is not None:  # on some brokers what is new may not be known yet
            known.add(topic)
        return found

    async def _describe(self, client: Any, topic: str) -> TopicMetadata | None:
        try:
            found = await self.blocking(lambda: client.list_topics(topic, timeout=self.options.timeout))
        except KafkaException as e:
            with suppress(KafkaException):
                client.poll(0)  # delivers its log records
            raise self.trouble(cause(e), "DESCRIBE", f"topic {topic}") from None
        metadata: TopicMetadata | None = found.topics.get(topic)
        if metadata is None or (metadata.error is not None and absent(metadata.error)):
            return None
        if metadata.error is not None and metadata.error.code() != KafkaError.LEADER_NOT_AVAILABLE:
            raise self.trouble(metadata.error, "DESCRIBE", f"topic {topic}")
        return metadata

    async def described(self, topics: Iterable[str], *, patient: bool = False) -> dict[str, Described | None]:
        """Each of these topics, None if there is no such topic; one call for all. Without those of which the server
        tells nothing; raises if it tells nothing of all. `patient`: where many ask, it may come 0.2 s later."""
        answers = await self._describing[patient].of(topics)
        found = {topic: one for topic, one in answers.items() if not isinstance(one, KafkaError)}
        failed = [(topic, one) for topic, one in answers.items() if isinstance(one, KafkaError)]
        if failed and not found:
            topic, error = failed[0]
            raise self.trouble(error, "DESCRIBE", f"topic {topic}")
        return found

    async def _describe_all(self, topics: set[str]) -> dict[str, Described | KafkaError | None]:
        """Each of these topics, None if there is no such topic, or why the server tells nothing of it."""
        futures = dict[str, Future[Any]]()
        first = min(topics)

        def ask(seconds: float) -> Future[Any]:
            futures.update(self._client.describe_topics(TopicCollection(list(topics)), request_timeout=seconds))
            return futures[first]

        try:
            error, _ = await self._insist(ask)
        except KafkaException as e:
            return dict.fromkeys(topics, cause(e))
        if error is not None and error.code() == KafkaError._TIMED_OUT:  # then none of them has an answer
            return dict.fromkeys(topics, error)
        found = dict[str, Described | KafkaError | None]()
        for topic, future in futures.items():
            error = await self._done(future, renew=False)
            if error is None:
                found[topic] = Described(future.result())
            else:
                found[topic] = None if absent(error) else error
        return found

    async def _led(self, topics: set[str]) -> set[Place]:
        found = await self._describing[False].of(topics)
        some = [(topic, one) for topic, one in found.items() if isinstance(one, Described)]
        return {(topic, p) for topic, one in some for p in one.led()}

    async def identity(self, topic: str) -> str:
        """The topic's `Described.identity`; empty if there is no topic, too."""
        found = (await self.described([topic]))[topic]
        return found.identity if found else ""

    async def create(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        """Create the topic. Returns whether it did not exist before."""
        right = {name: value.removeprefix(">=") for name, value in {**FOREVER, **config}.items()}
        new = NewTopic(topic, partitions, self.options.replication, config=right)
        async with self._creating:  # the call's time begins only now
            error = await self._done(self._client.create_topics([new], **self._times())[topic])
        if error is None:
            return True
        if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise self.trouble(error, "CREATE", f"topic {topic}")

    async def delete(self, topic: str) -> None:
        """Delete the topic. An absent topic is no error."""
        error = await self._done(self._client.delete_topics([topic], **self._times())[topic])
        if error is not None and not absent(error):
            raise self.trouble(error, "DELETE", f"topic {topic}")

    async def alter(self, topic: str, name: str, value: str) -> bool:
        """Set one option of the topic; False if there is no such topic."""
        entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        error, _ = await self._insist(
            lambda seconds: self._client.incremental_alter_configs([resource], request_timeout=seconds)[resource]
        )
        if error is not None and not absent(error):
            raise self.trouble(error, "ALTER_CONFIGS", f"topic {topic}")
        return error is None

    async def configuration(self, topic: str) -> dict[str, str] | None:
        """The topic's effective options; None if there is no such topic, or this user may not see them."""
        resource = ConfigResource(ResourceType.TOPIC, topic)
        error, future = await self._insist(
            lambda seconds: self._client.describe_configs([resource], request_timeout=seconds)[resource]
        )
        if error is not None:
            if absent(error) or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                return None
            raise self.trouble(error, "DESCRIBE_CONFIGS", f"topic {topic}")
        return {name: entry.value for name, entry in future.result().items() if entry.value is not None}

    async def brokers(self) -> list[int]:
        """The numbers of the running brokers."""
        try:
            found = await self.blocking(lambda: self._client.list_topics(timeout=self.options.timeout))
        except KafkaException as e:
            raise self.trouble(cause(e), "DESCRIBE", "cluster") from None
        return sorted(found.brokers)

    async def server_configuration(self, number: int) -> dict[str, str] | None:
        """The options of one broker; None if this user may not see them."""
        resource = ConfigResource(ResourceType.BROKER, str(number))
        error, future = await self._insist(
            lambda seconds: self._client.describe_configs([resource], request_timeout=seconds)[resource]
        )
        if error is not None:
            if error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
                return None
            raise self.trouble(error, "DESCRIBE_CONFIGS", "cluster")
        return {name: entry.value for name, entry in future.result().items() if entry.value is not None}

    async def knows_newest_times(self, topic: str) -> bool:
        """Whether the brokers can find a record by its time (KIP-734); they can since 3.0."""
        refusals = KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE
        with suppress(TimeoutError):
            async with asyncio.timeout(self.options.timeout):
                (found,) = (await self._offsets.of(Kind.NEWEST_TIME, [(topic, 0)])).values()
                return not isinstance(found, KafkaError) or found.code() not in refusals
        return True

    async def option(self, topic: str, name: str) -> str | None:
        """One of the topic's options."""
        return (await self.configuration(topic) or {}).get(name)

    async def unsuitable(self, topic: str, needed: Mapping[str, str]) -> str:
        """The settings of the topic that lose records, and what to set; empty if all are right or can't be read.
        `needed` are options in addition to FOREVER; a number that begins with >= is a minimum."""
        found = await self.configuration(topic)
        return "" if found is None else unsuitable(self.options.servers, topic, found, needed)

    async def check(self, topic: str, needed: Mapping[str, str]) -> None:
        """Raise StorageBroken if it is unsuitable."""
        if wrong := await self.unsuitable(topic, needed):
            raise StorageBroken(wrong)

    async def ends(
        self, places: Iterable[Place], *, stable: bool = False, patient: bool = False
    ) -> dict[Place, int | None]:
        """The offset after the last record of each partition, None if there is no such topic; one call for all.
        `stable`: before the first record of an open transaction. `patient`: where many ask, it may come 0.2 s later."""
        found = await self._places(Kind.STABLE if stable else Kind.LATEST, places, patient=patient)
        return {place: None if one is None else one.offset for place, one in found.items()}

    async def epochs(self, places: Iterable[Place]) -> dict[Place, int | None]:
        """The leader epoch of each partition, which grows whenever another broker takes over; None if there is no such
        topic."""
        found = await self._places(Kind.LATEST, places)
        return {place: None if one is None else one.leader_epoch for place, one in found.items()}

    async def starts(self, places: Iterable[Place]) -> dict[Place, int | None]:
        """The offset of the first record that still exists in each partition; None if there is no such topic."""
        found = await self._places(Kind.EARLIEST, places)
        return {place: None if one is None else one.offset for place, one in found.items()}

    async def _places(
        self, kind: Kind, places: Iterable[Place], *, patient: bool = False
    ) -> dict[Place, ListOffsetsResultInfo | None]:
        """Each partition's offset, None if there is no such topic. A partition without a leader is asked for again,
        until the time is over."""
        found: dict[Place, ListOffsetsResultInfo | None] = {}
        left, backoff, moving = set(places), Backoff(0.005, 0.25), cause(TimeoutError())
        try:
            async with asyncio.timeout(self.options.timeout):
                while left:
                    answers = await self._offsets.of(kind, left, patient=patient)
                    gone = await self._gone(
                        {at[0] for at, answer in answers.items() if isinstance(answer, KafkaError) and absent(answer)}
                    )
                    for at, answer in answers.items():
                        if not isinstance(answer, KafkaError):
                            found[at] = answer
                        elif at[0] in gone:
                            found[at] = None
                        elif answer.code() in _AGAIN:
                            moving = answer
                        else:
                            raise self.trouble(answer, "DESCRIBE", f"topic {at[0]}")
                    left -= found.keys()
                    if left:
                        await asyncio.sleep(backoff.next())
                        await self._offsets.learn(left)
        except TimeoutError:
            raise self.trouble(moving, "DESCRIBE", f"topic {min(left)[0]}") from None
        return found

    async def _gone(self, topics: set[str]) -> set[str]:
        """Those that do not exist."""
        return {topic for topic, found in (await self.described(topics)).items() if found is None}

    async def trim(self, topic: str, before: int, partition: int = 0) -> None:
        """Delete the records of a partition before this offset. An absent topic is no error."""
        at = TopicPartition(topic, partition, before)
        (future,) = self._client.delete_records([at], request_timeout=self.options.timeout).values()
        error = await self._done(future)
        if error is not None and not absent(error):
            raise self.trouble(error, "DELETE", f"records of topic {topic}")

    async def _insist(self, start: Callable[[float], Future[Any]]) -> tuple[KafkaError | None, Future[Any]]:
        """The error, if any, and the answer of a call that may be repeated: with another broker if one does not
        answer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.timeout
        while True:
            future = start(max(0.1, min(_TRY, deadline - loop.time())))
            error = await self._done(future)
            if error is None or error.code() != KafkaError._TIMED_OUT or loop.time() > deadline - 0.1:
                return error, future

    async def _done(self, future: Future[Any], *, renew: bool = True) -> KafkaError | None:
        """The call's error, if any. With `renew`, a client that timed out is replaced: it may wait for ever for a
        controller that was killed."""
        asked = self._client
        error = await error_of(future, asyncio.get_running_loop().time() + self.options.timeout)
        if error is None:
            return None
        if error.code() in AWAY:
            with suppress(KafkaException):
                asked.poll(0)
        if renew and error.code() == KafkaError._TIMED_OUT and self._client is asked:
            self._client = AdminClient(self.options.common(self.causes))
            old = [asked]
            del asked
            with suppress(RuntimeError):  # closed meanwhile
                self.threads.submit(old.clear)  # it ends only after its current work: a look-up of a name, say
        return error

    def _times(self) -> dict[str, float]:
        return {"request_timeout": self.options.timeout, "operation_timeout": self.options.timeout}
