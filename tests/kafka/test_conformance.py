"""The Kafka drivers against the suites, on a real server."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon.contracts.broker import Broker
from eventwagon.contracts.registry import Registry
from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.testing.conformance import Check, Undeclared, broker_checks, registry_checks
from tests.servers.server import Server

CHECKS = broker_checks(visibility=1.0, patience=15.0)
SPREAD = {
    # what several partitions make different; the rest is the same code
    "publish_of_thousands",
    "seal_refuses_everybody",
    "seal_amid_publishers",
    "seal_leaves_consumers_alone",
    "delete_outlives_stale_publishers",
    "figures_at_each_stage",
    "read_does_not_consume",
    "events_survive_the_trip",
    "cancelled_publish",
    "durable",
    "receive_respects_the_limit",
    "receive_wakes",
    "unsettled_comes_back",
    "release_with_delay",
    "consumers_share",
    "cancelled_receive",
    "delete_tells_consumers",
    "created_by_many_at_once",
}


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_broker(check: Check[Broker], kafka_server: Server) -> None:
    hold(check, kafka_server.url)


@pytest.mark.parametrize("check", [c for c in CHECKS if str(c) in SPREAD], ids=str)
def test_broker_with_three_partitions(check: Check[Broker], kafka_server: Server) -> None:
    hold(check, f"{kafka_server.url}?partitions=3")


@pytest.mark.parametrize("check", registry_checks(ttl=1.0, patience=15.0), ids=str)
def test_registry(check: Check[Registry], kafka_server: Server) -> None:
    asyncio.run(check.run(lambda: KafkaRegistry.from_url(kafka_server.url)))


def hold(check: Check[Broker], url: str) -> None:
    try:
        asyncio.run(check.run(lambda: KafkaBroker.from_url(url)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


def test_the_list_names_checks() -> None:
    assert {str(check) for check in CHECKS} > SPREAD
