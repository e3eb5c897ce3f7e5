"""Processes and the server itself killed and stopped at random, on Redis and on Valkey."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.run import Chaos
from tests.servers.redis import RedisServer


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("valkey", "isolated", "switches", "plan"),
    [(False, True, 30, 4), (True, False, 30, 7)],
    ids=["Redis, a process per wagon", "Valkey, shared workers"],
)
def test_nothing_is_lost_and_nothing_left_over(
    tmp_path: Path, valkey: bool, isolated: bool, switches: int, plan: int
) -> None:
    # always: what was acknowledged is written, so that a kill of the server loses nothing of it
    with RedisServer(config=["appendfsync always"], valkey=valkey) as server:
        chaos = Chaos(tmp_path, url=server.url, servers=[server], switches=switches + 4, plan=plan, isolated=isolated)
        verdict = asyncio.run(chaos.run())
        print(verdict)
    assert verdict.good, str(verdict)
    assert verdict.switches >= switches
    assert verdict.accepted > switches * 40
    assert verdict.dead > 0
    assert verdict.kills["server"] > 0
    assert len(verdict.kills) > 2
    assert sum(verdict.stops.values()) > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_comes_back_with_an_older_copy(tmp_path: Path) -> None:
    """The train goes on by itself: nothing is lost but what the copy can't have, and no name is used twice."""
    with RedisServer(config=["appendfsync always"]) as server:
        chaos = Chaos(
            tmp_path, url=server.url, servers=[server], switches=6, plan=8, isolated=False, restores=2, patience=120.0
        )
        verdict = asyncio.run(chaos.run())
        print(verdict)
    assert verdict.good, str(verdict)
    assert verdict.restored == 2
    assert verdict.handled > 200
