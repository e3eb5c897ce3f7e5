"""`examples/logins`: each login is judged, no stolen session holds. A worker is killed in each run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.examples.support import numbers, running
from tests.servers.redis import RedisServer
from tests.servers.server import Server


@pytest.mark.slow
def test_what_is_stolen_is_revoked_and_people_are_judged_in_time(redis_server: Server, tmp_path: Path) -> None:
    with running("logins", redis_server.url, tmp_path, "--events", "600") as example:
        found = example.table()
    stolen, valid = numbers(found["sessions that bots got, still valid"])
    assert (stolen, valid) == (40, 0)  # one in 20
    assert numbers(found["sessions of people, revoked"])[1] == 0
    kept, people = numbers(found["people's logins judged after it"])[:2]
    assert people == 30
    assert kept >= 25, found


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
