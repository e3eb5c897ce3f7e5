"""The Redis broker and registry against the suites: on Redis, on Valkey and on a cluster of three."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventwagon.contracts.broker import Broker
from eventwagon.contracts.registry import Registry
from eventwagon.drivers.redis import RedisBroker
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.testing.conformance import Check, broker_checks, once_checks, registry_checks, timetable_checks
from tests.servers.redis import RedisCluster
from tests.servers.server import Server

BROKER = broker_checks(visibility=0.4, patience=15.0)
REGISTRY = registry_checks(ttl=0.5, patience=15.0)
TIMETABLE = timetable_checks(lease=2.0)
ONCE = once_checks(brief=2.0)


@pytest.mark.parametrize("check", BROKER, ids=str)
def test_broker_on_redis(check: Check[Broker], redis_server: Server) -> None:
    asyncio.run(check.run(lambda: RedisBroker.from_url(redis_server.url)))


@pytest.mark.parametrize("check", BROKER, ids=str)
def test_broker_on_valkey(check: Check[Broker], valkey_server: Server) -> None:
    asyncio.run(check.run(lambda: RedisBroker.from_url(valkey_server.url)))


@pytest.mark.parametrize("check", BROKER, ids=str)
def test_broker_on_a_cluster(check: Check[Broker], redis_cluster: RedisCluster) -> None:
    asyncio.run(check.run(lambda: RedisBroker.from_url(redis_cluster.url)))


@pytest.mark.parametrize("check", REGISTRY, ids=str)
def test_registry_on_redis(check: Check[Registry], redis_server: Server) -> None:
    asyncio.run(check.run(lambda: RedisRegistry.from_url(redis_server.url)))


@pytest.mark.parametrize("check", REGISTRY, ids=str)
def test_registry_on_valkey(check: Check[Registry], valkey_server: Server) -> None:
    asyncio.run(check.run(lambda: RedisRegistry.from_url(valkey_server.url)))


@pytest.mark.parametrize("check", REGISTRY, ids=str)
def test_registry_on_a_cluster(check: Check[Registry], redis_cluster: RedisCluster) -> None:
    asyncio.run(check.run(lambda: RedisRegistry.from_url(redis_cluster.url)))


@pytest.mark.parametrize("check", TIMETABLE, ids=str)
def test_timetable_on_redis(check: Check[Any], redis_server: Server) -> None:
    asyncio.run(check.run(lambda: RedisBroker.from_url(redis_server.url)))


@pytest.mark.parametrize("check", TIMETABLE, ids=str)
def test_timetable_on_valkey(check: Check[Any], valkey_server: Server) -> None:
    asyncio.run(check.run(lambda: RedisRegistry.from_url(valkey_server.url)))


@pytest.mark.parametrize("check", TIMETABLE, ids=str)
def test_timetable_on_a_cluster(check: Check[Any], redis_cluster: RedisCluster) -> None:
    asyncio.run(check.run(lambda: RedisBroker.from_url(redis_cluster.url)))


@pytest.mark.parametrize("check", ONCE, ids=str)
def test_once_on_redis(check: Check[Any], redis_server: Server) -> None:
    asyncio.run(check.run(lambda: RedisBroker.from_url(redis_server.url)))


@pytest.mark.parametrize("check", ONCE, ids=str)
def test_once_on_valkey(check: Check[Any], valkey_server: Server) -> None:
    asyncio.run(check.run(lambda: RedisRegistry.from_url(valkey_server.url)))


@pytest.mark.parametrize("check", ONCE, ids=str)
def test_once_on_a_cluster(check: Check[Any], redis_cluster: RedisCluster) -> None:
    asyncio.run(check.run(lambda: RedisBroker.from_url(redis_cluster.url)))
