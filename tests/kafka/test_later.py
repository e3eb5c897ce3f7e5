"""Events for later on Kafka: the suite, processes that are killed, compaction, a server that is away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.testing.conformance import Check, timetable_checks
from tests.servers.server import Server

CHECKS = timetable_checks(lease=0.5)


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_timetable(check: Check[Any], kafka_server: Server) -> None:
    asyncio.run(check.run(lambda: KafkaBroker.from_url(kafka_server.url)))


def test_timetable_of_the_registry(kafka_server: Server) -> None:
    check = next(check for check in CHECKS if str(check) == "another_process_sees_the_same")
    asyncio.run(check.run(lambda: KafkaRegistry.from_url(kafka_server.url)))
