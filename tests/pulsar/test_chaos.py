"""Processes and the servers themselves killed and stopped at random, on Pulsar with its registry on Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.chaos.run import Chaos
from tests.servers.pulsar import PulsarServer
from tests.servers.redis import RedisServer


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_nothing_is_lost_and_nothing_left_over(tmp_path: Path) -> None:
    # a killed process loses nothing that it wrote: that is in the system's memory; Redis writes before it acknowledges
    with PulsarServer() as server, RedisServer(config=["appendfsync always"]) as registry:
        chaos = Chaos(
            tmp_path,
            url=f"{server.url}&registry={quote(registry.url, safe='')}",
            servers=[server, registry],
            switches=34,
            plan=9,
            isolated=False,
            pace=2.0,
            mean_up=20.0,
            patience=120.0,
        )
        verdict = asyncio.run(chaos.run())
        print(verdict)
    assert verdict.good, str(verdict)
    assert verdict.switches >= 30
    assert verdict.accepted > 1_200
    assert verdict.dead > 0
    assert verdict.kills["server"] > 0
    assert len(verdict.kills) > 2
    assert sum(verdict.stops.values()) > 0
