"""Who waits for whom where many ask for offsets, in virtual time with a client that answers as a cluster would."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from eventwagon.background import Background
from eventwagon.drivers.kafka import offsets
from eventwagon.drivers.kafka.offsets import Kind, Offsets, Place
from eventwagon.testing.virtual_time import run

TRY = 1.5


class Cluster:
    """A client of one whose leaders answer after `seconds`, but for those of some topics."""

    def __init__(self, *, seconds: float = 0.001, frozen: Container[str] = (), silent: Container[str] = ()) -> None:
        """`frozen`: a call about these ends when its time is over. `silent`: it never ends."""
        self.seconds, self.frozen, self.silent = seconds, frozen, silent

    def list_offsets(self, wanted: dict[TopicPartition, Any], *, request_timeout: float, **_: Any) -> dict[Any, Any]:
        futures: dict[TopicPartition, Future[Any]] = {at: Future() for at in wanted}
        if not any(at.topic in self.silent for at in wanted):
            is_late = any(at.topic in self.frozen for at in wanted)
            pause = request_timeout if is_late else self.seconds
            asyncio.get_running_loop().call_later(pause, self._answer, futures)
        return futures

    def _answer(self, futures: dict[TopicPartition, Future[Any]]) -> None:
        for at, future in futures.items():
            if at.topic in self.frozen:
                future.set_exception(KafkaException(KafkaError(KafkaError._TIMED_OUT)))  # noqa: SLF001
            else:
                future.set_result(SimpleNamespace(offset=1))


@pytest.fixture(autouse=True)
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def known(*_: object) -> None:
        """Who leads."""

    monkeypatch.setattr(offsets._Client, "_look_up", known)  # noqa: SLF001


async def led(topics: set[str]) -> set[Place]:
    return {(topic, 0) for topic in topics}


def of(cluster: Any) -> Offsets:
    return Offsets(lambda: cluster, Background(), led, seconds=TRY)


def test_where_many_ask_a_distant_cluster_they_share_calls() -> None:
    """Else each waits for all that asked before: one call follows the other."""
    waits = list[float]()

    async def main() -> None:
        asked, loop = of(Cluster(seconds=0.1)), asyncio.get_running_loop()

        async def ask(number: int) -> None:
            await asyncio.sleep(number * 0.013)
            for _ in range(20):
                began = loop.time()
                await asked.of(Kind.LATEST, [(f"t{number}", 0)])
                await asked.of(Kind.STABLE, [(f"t{number}", 0)])
                waits.append(loop.time() - began)
                await asyncio.sleep(0.2)

        await asyncio.gather(*map(ask, range(40)))

    run(main())
    assert max(waits) < 1.0  # two calls that begin after two others


def test_a_frozen_leader_holds_up_others_once_however_many_partitions_it_has() -> None:
    async def main() -> None:
        frozen = [f"frozen {number}" for number in range(20)]
        asked, loop = of(Cluster(frozen=frozen)), asyncio.get_running_loop()

        async def ask(topic: str, after: float) -> float:
            await asyncio.sleep(after)
            began = loop.time()
            await asked.of(Kind.LATEST, [(topic, 0)])
            return loop.time() - began

        calls = [ask(topic, number * 0.06) for number, topic in enumerate(frozen)]
        *_, other = await asyncio.gather(*calls, ask("another", 1.3))
        assert other < 2 * TRY + 0.5

    run(main())


def test_a_call_that_never_ends_holds_up_others_for_its_time() -> None:
    async def main() -> None:
        asked, loop = of(Cluster(silent=["silent"])), asyncio.get_running_loop()
        silent = asyncio.create_task(asked.of(Kind.LATEST, [("silent", p) for p in range(10)]))
        await asyncio.sleep(0.1)
        began = loop.time()
        await asked.of(Kind.STABLE, [("another", 0)])
        assert loop.time() - began < 2 * (TRY + 1.0) + 0.1
        assert all(isinstance(answer, KafkaError) for answer in (await silent).values())

    run(main())


def test_a_question_that_a_server_refuses_makes_no_partition_late() -> None:
    class Old(Cluster):
        def _answer(self, futures: dict[TopicPartition, Future[Any]]) -> None:
            for future in futures.values():
                future.set_exception(KafkaException(KafkaError(KafkaError.UNSUPPORTED_VERSION)))

    async def main() -> None:
        clients = list[Any]()

        def new() -> Any:
            clients.append(Old())
            return clients[-1]

        asked = Offsets(new, Background(), led, seconds=TRY)
        for _ in range(2):
            (answer,) = (await asked.of(Kind.NEWEST_TIME, [("t", 0)])).values()
            assert isinstance(answer, KafkaError)
        assert len(clients) == 1

    run(main())


def test_after_the_end_nothing_is_asked() -> None:
    async def main() -> None:
        asked = of(Cluster())
        await asked.close()
        (answer,) = (await asked.of(Kind.LATEST, [("t", 0)])).values()
        assert isinstance(answer, KafkaError)
        assert answer.str() == "the connection is closed"

    asyncio.run(main())
