"""The suites for brokers and registries, held against SQS and DynamoDB as moto emulates them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventwagon.contracts.broker import Broker
from eventwagon.contracts.registry import Registry
from eventwagon.drivers.aws import SQSBroker
from eventwagon.drivers.aws.registry import DynamoDBRegistry
from eventwagon.testing.conformance import Check, Undeclared, broker_checks, registry_checks, timetable_checks
from tests.servers.moto import MotoServer


@pytest.mark.parametrize("check", broker_checks(visibility=1.0, patience=30.0), ids=str)
def test_sqs(check: Check[Broker], moto_server: MotoServer) -> None:
    if check.identity == "publish_of_thousands":
        pytest.skip(
            "moto looks through a whole queue for each message of 5,000: minutes; test_broker.py does it with 120"
        )
    try:
        asyncio.run(check.run(lambda: SQSBroker.from_url(moto_server.url)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


@pytest.mark.parametrize("check", timetable_checks(lease=4.0), ids=str)
def test_timetable(check: Check[Any], moto_server: MotoServer) -> None:
    if check.identity == "many_events_are_kept":
        pytest.skip("moto takes a tenth of a second for each transaction; test_later.py does it with fewer")
    asyncio.run(check.run(lambda: SQSBroker.from_url(moto_server.url)))


@pytest.mark.parametrize("check", registry_checks(patience=30.0), ids=str)
def test_dynamodb(check: Check[Registry], moto_server: MotoServer) -> None:
    url = f"{moto_server.url}&poll=0.1"
    asyncio.run(check.run(lambda: DynamoDBRegistry.from_url(url)))
