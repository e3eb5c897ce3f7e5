"""`examples/logins`: each login is judged, no stolen session holds. A worker is killed in each run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventwagon import Train
from tests.examples.support import ROOT, numbers, running
from tests.servers.redis import RedisServer
from tests.servers.server import Server


@pytest.mark.slow
def test_what_is_stolen_is_revoked_and_people_are_judged_in_time(redis_server: Server, tmp_path: Path) -> None:
    """Also beside a worker that somebody has started by hand."""
    worker = [sys.executable, "-m", "eventwagon", "run", "examples.logins.app:logins"]
    environment = {**os.environ, "EVENTWAGON_URL": redis_server.url, "LOGINS_STORE": redis_server.url}
    with (
        (tmp_path / "worker.txt").open("w") as log,
        subprocess.Popen(worker, cwd=ROOT, env=environment, stdout=log, stderr=log) as by_hand,
    ):
        try:
            asyncio.run(works(redis_server.url))
            with running("logins", redis_server.url, tmp_path, "--events", "600") as example:
                found = example.table()
        finally:
            by_hand.terminate()
    stolen, valid = numbers(found["sessions that bots got, still valid"])
    assert (stolen, valid) == (40, 0)  # one in 20
    assert numbers(found["sessions of people, revoked"])[1] == 0
    kept, people = numbers(found["people's logins judged after it"])[:2]
    assert people == 30
    assert kept >= 25, found


async def works(url: str) -> None:
    """Returns once a process works."""
    async with Train("logins").connect(url, listeners=()) as train, asyncio.timeout(30):
        while not any(member.attachments for member in await train.members()):
            await asyncio.sleep(0.05)


@pytest.mark.slow
def test_redis_does_not_answer_for_a_while(own_redis: RedisServer, tmp_path: Path) -> None:
    """A login that may not have been stored gives no session; all others are judged."""
    with running("logins", own_redis.url, tmp_path, "--events", "400") as example:
        time.sleep(0.5)  # in the attack; it holds for any other moment, too
        own_redis.pause()
        time.sleep(2.5)  # longer than the two seconds that a login waits
        own_redis.resume()
        found = example.table()
    assert numbers(found["sessions that bots got, still valid"])[1] == 0
    assert numbers(found["sessions of people, revoked"])[1] == 0
