"""A member of a consumer group, on a client that does as it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from eventwagon.bridge.sources import kafka_group
from eventwagon.bridge.sources.kafka_group import Arrived, Member, committed


class Fetched:
    """As the client's own messages."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __len__(self) -> int:
        return 1

    def error(self) -> None:
        return None

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 1000 * (self._offset + 1)


class Client:
    """A group of one member and a topic of one partition, whose records are never committed."""

    def __init__(self, config: Any) -> None:
        self.todo: list[Callable[[], Sequence[Fetched]]] = [self.assign, self.fetch, list]

    def subscribe(self, topics: Any, *, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
        self.on_assign, self.on_lost, self.on_revoke = on_assign, on_lost, on_revoke

    def assign(self, places: Any = None) -> list[Fetched]:
        if places is None:
            self.on_assign(self, [TopicPartition("t", 0)])
        return []

    def lose(self) -> list[Fetched]:
        self.on_lost(self, [TopicPartition("t", 0)])
        self.todo += [self.assign, self.fetch]
        return []

    def fetch(self) -> list[Fetched]:
        return [Fetched(0), Fetched(1)]

    def consume(self, limit: int, wait: float) -> Sequence[Fetched]:
        if self.todo:
            return self.todo.pop(0)()
        self.todo.append(list)
        return []

    def committed(self, places: Any, wait: float) -> list[TopicPartition]:
        return [TopicPartition("t", 0, 0)]

    def get_watermark_offsets(self, place: Any, timeout: float) -> tuple[int, int]:
        return 0, 2

    def commit(self, **_: Any) -> list[TopicPartition]:
        return []

    def resume(self, places: Any) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_late_commit_of_an_earlier_turn_frees_nothing_of_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The partition was lost and came back: its records were handed out again, and are not done."""
    clients: list[Client] = []

    def client(config: Any) -> Client:
        clients.append(Client(config))
        return clients[-1]

    monkeypatch.setattr(kafka_group, "Consumer", client)

    async def taken(member: Member) -> list[Arrived]:
        found: list[Arrived] = []
        async with asyncio.timeout(20):
            while len(found) < 2:
                found += await member.take(2, 0.1)
        return found

    async def main() -> None:
        member = Member({}, "t", "earliest", "kafka://h/t")
        try:
            first = await taken(member)
            clients[0].todo.append(clients[0].lose)
            second = await taken(member)
            assert [one.offset for one in second] == [0, 1]
            await member.commit(first)
            assert member.oldest == 1.0
            await member.commit(second[:1])
            assert member.oldest == 2.0
        finally:
            await member.leave()

    asyncio.run(main())


class Asked(Client):
    """A group whose coordinator is not ready for the first `times` questions."""

    def __init__(self, code: int, times: float, *, of_partition: bool) -> None:
        super().__init__({})
        self.asked, self._code, self._times, self._of_partition = 0, code, times, of_partition

    def committed(self, places: Any, wait: float) -> list[TopicPartition]:
        assert 0 < wait <= 10
        self.asked += 1
        if self.asked > self._times:
            return super().committed(places, wait)
        error = KafkaError(self._code)
        if self._of_partition:
            return [cast("TopicPartition", SimpleNamespace(error=error))]
        raise KafkaException(error)


@pytest.mark.parametrize("of_partition", [False, True])
@pytest.mark.parametrize(
    "code",
    [KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS],
)
def test_a_coordinator_that_is_not_ready_is_asked_again(code: int, of_partition: bool) -> None:
    client = Asked(code, 2, of_partition=of_partition)
    (found,) = committed(cast("Consumer", client), [TopicPartition("t", 0)])
    assert (found.offset, client.asked) == (0, 3)


def test_a_coordinator_that_never_gets_ready_ends_the_call_and_other_errors_end_it_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_group, "_CALL", 0.3)
    never = Asked(KafkaError.NOT_COORDINATOR, float("inf"), of_partition=False)
    began = time.monotonic()
    with pytest.raises(KafkaException, match="NOT_COORDINATOR"):
        committed(cast("Consumer", never), [TopicPartition("t", 0)])
    assert 0.1 < time.monotonic() - began < 2
    refused = Asked(KafkaError.GROUP_AUTHORIZATION_FAILED, 1, of_partition=True)
    with pytest.raises(KafkaException, match="GROUP_AUTHORIZATION_FAILED"):
        committed(cast("Consumer", refused), [TopicPartition("t", 0)])
    assert refused.asked == 1
