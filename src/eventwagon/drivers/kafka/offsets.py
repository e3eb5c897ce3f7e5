"""The offsets of partitions, asked for by calls that all trains of a process share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from functools import partial
from itertools import product

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package exports them without saying so
    AdminClient,
    ListOffsetsResultInfo,
    OffsetSpec,
)

from ...background import Background
from .errors import AWAY, MOVING, cause, error_of
from .merged import PATIENT, PROMPT, Merged

_LATE = 60.0  # s after which one that did not answer is trusted again, if nobody has asked it
_UNANSWERED = (MOVING | AWAY) - {KafkaError._UNSUPPORTED_FEATURE}

Place = tuple[str, int]
"""Topic and partition."""
Answer = ListOffsetsResultInfo | KafkaError
"""A partition's offset and leader epoch, or why there is none."""
Led = Callable[[set[str]], Awaitable[set[Place]]]
"""Returns those partitions of the topics that have a leader, by the cluster."""


class Kind(Enum):
    """Which offset of a partition is asked for: how, and whether records of open transactions count."""

    LATEST = OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED  # type: ignore[no-untyped-call]
    STABLE = OffsetSpec.latest(), IsolationLevel.READ_COMMITTED  # type: ignore[no-untyped-call]
    EARLIEST = OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED  # type: ignore[no-untyped-call]
    NEWEST_TIME = OffsetSpec.max_timestamp(), IsolationLevel.READ_UNCOMMITTED  # type: ignore[no-untyped-call]


class Offsets:
    """Asks each partition's leader. One that does not answer holds up calls about others only until it was late once:
    then it is asked by calls of its own."""

    def __init__(self, make: Callable[[], AdminClient], calls: Background, led: Led, *, seconds: float) -> None:
        """`make` returns a new client, `calls` owns what is under way. `seconds`: for which a call waits for a
        leader."""
        self._led = led
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="eventwagon-kafka-offsets")
        """For look-ups: their clients have their turn meanwhile, so they wait for no other blocking call."""
        self._prompt, self._late = (
            _Asking(_Client(make, self._threads, seconds), ask, calls) for ask in (self._ask_prompt, self._ask_late)
        )
        """For partitions whose leaders answer, and for those that were late."""
        self._late_until = dict[Place, float]()
        """Partitions without an answer last time, and until when that counts (the loop's time)."""

    async def of(self, kind: Kind, places: Collection[Place], *, patient: bool = False) -> dict[Place, Answer]:
        """The offset of each of these partitions. `patient`: where many ask, it may come 0.2 s later."""
        prompt, late = self._by_lateness(places)
        if not late:  # as a rule
            return await self._prompt.offsets[kind, patient].of(prompt)
        found, of_late = await asyncio.gather(
            self._prompt.offsets[kind, patient].of(prompt), self._late.offsets[kind, patient].of(late)
        )
        return found | of_late

    async def learn(self, places: Collection[Place]) -> None:
        """Let the clients look up who leads these partitions: by themselves they look up none of a topic of which they
        know some. A failure is not raised: the next call meets it."""
        prompt, late = self._by_lateness(places)
        await asyncio.gather(self._prompt.leaders.of(_topics(prompt)), self._late.leaders.of(_topics(late)))

    def poll(self) -> None:
        """Let the clients deliver their log records."""
        for asking in (self._prompt, self._late):
            asking.client.poll()

    async def close(self) -> None:
        """End the clients."""
        await asyncio.to_thread(self._threads.shutdown, True, cancel_futures=True)
        for asking in (self._prompt, self._late):
            asking.client.close()

    async def _ask_prompt(self, kind: Kind, places: set[Place]) -> dict[Place, Answer]:
        prompt, late = self._by_lateness(places)  # those that became so while this call waited for its turn
        unanswered = KafkaError(KafkaError.LEADER_NOT_AVAILABLE)
        return dict.fromkeys(late, unanswered) | await self._ask(self._prompt.client, kind, prompt)

    async def _ask_late(self, kind: Kind, places: set[Place]) -> dict[Place, Answer]:
        were_late = set(self._late_until)
        answers = await self._ask(self._late.client, kind, places)
        if recovered := were_late & _answered(answers):  # the other client's turn again, which knows an earlier leader
            await self._prompt.leaders.of(_topics(recovered))
        return answers

    async def _ask(self, client: _Client, kind: Kind, places: set[Place]) -> dict[Place, Answer]:
        """In the client's turn: what it says of each partition's offset, or why it says nothing."""
        answers = await client.list(kind, places)
        if len(places) > 1 and all(map(_is_unanswered, answers.values())):
            # the client waits for all leaders before it asks one, so one that is missing fails all
            led = await self._of_leaders(places)
            if led != places:
                answers |= await client.list(kind, led)
        self._note_late(answers)
        return answers

    async def _of_leaders(self, places: set[Place]) -> set[Place]:
        """Those that have a leader; none if the cluster does not answer in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                return places & await self._led(_topics(places))
        return set()

    def _by_lateness(self, places: Collection[Place]) -> tuple[set[Place], set[Place]]:
        """Splits them: those whose leaders answer, and those that were late."""
        now = asyncio.get_running_loop().time()
        late = {place for place in places if self._late_until.get(place, 0.0) > now}
        return set(places) - late, late

    def _note_late(self, answers: Mapping[Place, Answer]) -> None:
        now = asyncio.get_running_loop().time()
        late = {place for place, answer in answers.items() if _is_unanswered(answer)}
        if late or self._late_until:
            stay = {at: until for at, until in self._late_until.items() if at not in answers and until > now}
            self._late_until = stay | dict.fromkeys(late, now + _LATE)


class _Asking:
    """A client, and the calls by it that callers share."""

    def __init__(
        self,
        client: _Client,
        ask: Callable[[Kind, set[Place]], Awaitable[Mapping[Place, Answer]]],
        calls: Background,
    ) -> None:
        """`ask` is called in the client's turn, `calls` owns what is under way."""
        self.client = client
        self.offsets = {
            (kind, patient): Merged(partial(ask, kind), calls, rate=PATIENT if patient else PROMPT, lock=client.turn)
            for kind, patient in product(Kind, (False, True))
        }
        self.leaders = Merged(client.learn, calls, rate=PROMPT, lock=client.turn)


class _Client:
    """A client that does nothing else, one call at a time. librdkafka 2.16 may end the process otherwise: when metadata
    come in, by another call of the same client, in the moment in which `list_offsets` begins, two of its threads finish
    that call (`rd_kafka_topic_partition_list_query_leaders_async`)."""

    def __init__(self, make: Callable[[], AdminClient], threads: Executor, seconds: float) -> None:
        self.turn = asyncio.Lock()
        """Who has it may call `list` and `learn`."""
        self._make = make
        self._threads = threads
        self._seconds = seconds
        self._client: AdminClient | None = None
        self._closed = False

    async def list(self, kind: Kind, places: set[Place]) -> dict[Place, Answer]:
        """Each partition's offset."""
        if not places:
            return {}
        if self._closed:
            return dict.fromkeys(places, KafkaError(KafkaError._DESTROY, "the connection is closed"))
        if self._client is None:  # one that has no connection yet may wait for its whole time
            self._client = self._make()
            await self._look_up(_topics(places))
        client = self._client
        spec, level = kind.value
        wanted = {TopicPartition(topic, partition): spec for topic, partition in places}
        until = asyncio.get_running_loop().time() + self._seconds
        try:
            futures = client.list_offsets(wanted, isolation_level=level, request_timeout=self._seconds)
        except KafkaException as e:
            return dict.fromkeys(places, cause(e))
        found = dict[Place, Answer]()
        for at, future in futures.items():
            error = await error_of(future, until)
            if error is None and future.result().offset < 0 and kind is not Kind.NEWEST_TIME:
                # no offset, and no error: the leader was just killed, or does not answer
                error = KafkaError(KafkaError.LEADER_NOT_AVAILABLE)
            found[at.topic, at.partition] = error or future.result()
        return found

    async def learn(self, topics: set[str]) -> dict[str, None]:
        """Look up the topics' partitions and leaders. Failures are not raised."""
        if self._client is not None:
            await self._look_up(topics)
        return dict.fromkeys(topics)

    async def _look_up(self, topics: set[str]) -> None:
        client, seconds = self._client, self._seconds
        assert client is not None  # noqa: S101

        def ask() -> None:
            with suppress(KafkaException):
                for topic in topics:
                    client.list_topics(topic, timeout=seconds)

        await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def poll(self) -> None:
        """Deliver log records."""
        if self._client is not None:
            with suppress(KafkaException):
                self._client.poll(0)

    def close(self) -> None:
        """End it."""
        self._client, self._closed = None, True


def _is_unanswered(answer: Answer) -> bool:
    """Whether nobody answered, or nobody who leads the partition."""
    return isinstance(answer, KafkaError) and answer.code() in _UNANSWERED


def _answered(answers: Mapping[Place, Answer]) -> set[Place]:
    return {place for place, answer in answers.items() if not isinstance(answer, KafkaError)}


def _topics(places: Iterable[Place]) -> set[str]:
    return {topic for topic, _ in places}
