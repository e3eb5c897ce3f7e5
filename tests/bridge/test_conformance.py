"""Each source against the suite."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon.testing.conformance import Check, SourceHarness, Undeclared, source_checks
from tests.bridge.support import kafka_flow, pipe_flow, redis_flow
from tests.servers.redis import RedisCluster
from tests.servers.server import Server

CHECKS = source_checks()
ONCE = source_checks(rereads=False)


@pytest.mark.parametrize("check", ONCE, ids=str)
def test_stdin(check: Check[SourceHarness]) -> None:
    try:
        asyncio.run(check.run(pipe_flow))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_redis(check: Check[SourceHarness], redis_server: Server) -> None:
    asyncio.run(check.run(lambda: redis_flow(redis_server)))


@pytest.mark.parametrize("name", ["two_readers_share_the_records", "what_is_committed_never_comes_again"])
def test_redis_cluster(name: str, redis_cluster: RedisCluster) -> None:
    check = next(each for each in CHECKS if str(each) == name)
    asyncio.run(check.run(lambda: redis_flow(redis_cluster)))


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_kafka(check: Check[SourceHarness], kafka_server: Server) -> None:
    asyncio.run(check.run(lambda: kafka_flow(kafka_server, options="&assignor=cooperative")))
