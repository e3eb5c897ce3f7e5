"""pytest fixtures. Shared ones run as long as the pytest process (one of each for every xdist worker that asks)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.servers.elasticmq import ElasticMQServer
from tests.servers.install import Missing
from tests.servers.kafka import KafkaCluster, KafkaServer
from tests.servers.mosquitto import MosquittoServer
from tests.servers.moto import MotoServer
from tests.servers.postgresql import PostgresServer
from tests.servers.pulsar import PulsarServer
from tests.servers.redis import RedisCluster, RedisServer
from tests.servers.server import GivenServer, Server

_T = TypeVar("_T")


def missing(why: Missing) -> BaseException:
    """What pytest is to be told: a failure in CI, elsewhere a skip that says what helps."""
    if os.environ.get("CI") == "true":
        return pytest.fail.Exception(f"{why} (in CI every server must be there; try: {why.help})", pytrace=False)
    return pytest.skip.Exception(f"SERVER MISSING: {why} (try: {why.help})", _use_item_location=True)


def given(name: str) -> GivenServer | None:
    """The server that EVENTWAGON_TEST_… names to be used instead of one of ours."""
    variable = f"EVENTWAGON_TEST_{name.upper()}"
    url = os.environ.get(variable)
    if not url:
        return None
    parts = urlsplit(url)
    first = parts.netloc.rpartition("@")[2].split(",")[0]
    host, _, port = first.rpartition(":")
    admin = parse_qs(parts.query).get("admin", [""])[0]
    return GivenServer(variable, url, host or first, int(port or 0), urlsplit(admin).port or 0)


def _running(make: Callable[[], AbstractContextManager[_T]]) -> Iterator[_T]:
    with make() as server:
        yield server


def _shared(name: str, make: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    if (server := given(name)) is not None:
        yield server
    else:
        yield from _running(make)


def _own(name: str, make: Callable[[], AbstractContextManager[_T]]) -> Iterator[_T]:
    if (server := given(name)) is not None:
        pytest.skip(f"{server.variable} names the server: a test that kills its own is not run")
    yield from _running(make)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis that all tests share."""
    yield from _shared("redis", lambda: RedisServer(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Valkey that all tests share."""
    yield from _shared("valkey", lambda: RedisServer(tmp_path_factory.getbasetemp(), valkey=True))


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Kafka that all tests share."""
    yield from _shared("kafka", lambda: KafkaServer(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def pulsar_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Pulsar that all tests share."""
    yield from _shared("pulsar", lambda: PulsarServer(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    """An emulated AWS that all tests share."""
    yield from _running(lambda: MotoServer(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def elasticmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticMQServer]:
    """An ElasticMQ that all tests share."""
    yield from _running(lambda: ElasticMQServer(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """A PostgreSQL that all tests share."""
    yield from _running(PostgresServer)


@pytest.fixture(scope="session")
def mosquitto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoServer]:
    """A mosquitto that all tests share."""
    yield from _running(lambda: MosquittoServer(tmp_path_factory.getbasetemp()))


@pytest.fixture
def own_mosquitto(tmp_path: Path) -> Iterator[MosquittoServer]:
    """A mosquitto of the test's own, to stop and restart."""
    yield from _running(lambda: MosquittoServer(tmp_path))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to kill and restart."""
    yield from _own("redis", lambda: RedisServer(tmp_path))


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[RedisServer]:
    """A Valkey of the test's own."""
    yield from _own("valkey", lambda: RedisServer(tmp_path, valkey=True))


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaServer]:
    """A Kafka of the test's own."""
    yield from _own("kafka", lambda: KafkaServer(tmp_path))


@pytest.fixture
def own_pulsar(tmp_path: Path) -> Iterator[PulsarServer]:
    """A Pulsar of the test's own."""
    yield from _own("pulsar", lambda: PulsarServer(tmp_path))


@pytest.fixture(scope="session")
def running_redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Behind `redis_cluster`."""
    yield from _running(lambda: RedisCluster(tmp_path_factory.getbasetemp()))


@pytest.fixture
def redis_cluster(running_redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """Three Redis masters. A test may kill and pause nodes: afterwards all run again."""
    yield running_redis_cluster
    running_redis_cluster.heal()


@pytest.fixture(scope="session")
def running_kafka_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Behind `kafka_cluster`."""
    yield from _running(lambda: KafkaCluster(tmp_path_factory.getbasetemp()))


@pytest.fixture
def kafka_cluster(running_kafka_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """Three Kafka nodes. A test may kill and pause nodes: afterwards all run again."""
    yield running_kafka_cluster
    running_kafka_cluster.heal()
