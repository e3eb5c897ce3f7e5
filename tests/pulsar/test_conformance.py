"""The broker's suite, held against a real Pulsar."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon.contracts.broker import Broker
from eventwagon.drivers.pulsar import PulsarBroker
from eventwagon.testing.conformance import Check, Undeclared, broker_checks
from tests.servers.server import Server


@pytest.mark.parametrize("check", broker_checks(visibility=1.0, patience=15.0), ids=str)
def test_pulsar(check: Check[Broker], pulsar_server: Server) -> None:
    # on a machine that stands still for seconds a send must not count as uncertain: the suite takes none
    url = f"{pulsar_server.url}&send_timeout=30"
    try:
        asyncio.run(check.run(lambda: PulsarBroker.from_url(url)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))
