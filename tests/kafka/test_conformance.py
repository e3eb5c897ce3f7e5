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


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_broker(check: Check[Broker], kafka_server: Server) -> None:
    hold(check, kafka_server.url)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_broker_with_four_partitions_in_structured_mode(check: Check[Broker], kafka_server: Server) -> None:
    hold(check, f"{kafka_server.url}?partitions=4&mode=structured")


@pytest.mark.parametrize("check", registry_checks(ttl=1.0, patience=15.0), ids=str)
def test_registry(check: Check[Registry], kafka_server: Server) -> None:
    asyncio.run(check.run(lambda: KafkaRegistry.from_url(kafka_server.url)))


def hold(check: Check[Broker], url: str) -> None:
    try:
        asyncio.run(check.run(lambda: KafkaBroker.from_url(url)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))
