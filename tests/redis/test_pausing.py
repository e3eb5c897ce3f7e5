"""`eventwagon pause` and `resume` on a real Redis, with processes of ours and with a consumer that is not."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from secrets import token_hex

import pytest
import redis

from tests.redis.test_command import CONSUMER
from tests.scenarios.test_cli import cli
from tests.scenarios.test_pausing_processes import count, pauses_and_goes_on, place, running, until_count
from tests.servers.server import Server

__all__ = ["place"]


def test_a_pause_holds_between_processes_and_survives_them(redis_server: Server, place: Path) -> None:
    world = {"EVENTWAGON_URL": f"{redis_server.url}?prefix={token_hex(4)}"}
    pauses_and_goes_on(place, "run", "app:train", **world)
    (place / "quick").touch()
    with running(place, "run", "app:train", **world):
        assert cli(place, "resume", "parcels", **world).stdout == "parcels is resumed\n"
        until_count(place, "done", 410)
    assert count(place, "begun") == 410


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli: it comes with redis-server")
def test_of_consumers_that_are_not_ours_the_command_says_that_they_go_on(redis_server: Server, place: Path) -> None:
    world = {"EVENTWAGON_URL": f"{redis_server.url}?prefix={token_hex(4)}", "HANDLED": str(place / "done")}
    started = f"command:sh {CONSUMER} tee -a {place}/done?ready=line:serving"
    with running(place, "observe", "app:train", "--orchestrator", started, **world):
        assert cli(place, "publish", "parcels", given="1\n", **world).returncode == 0
        until_count(place, "done", 1)
        while not json.loads(cli(place, "status", "parcels", "--json", **world).stdout)["wagons"][0]["workers"]:
            time.sleep(0.1)  # until the observer has said what it has deployed
        paused = cli(place, "pause", "parcels", **world)
        assert paused.returncode == 0, paused.stderr
        assert "parcels_v1 is NOT paused for the orchestrator's 4 workers: a pause does not reach them" in paused.stderr


def test_a_key_of_another_type_among_ours_is_a_clear_error(redis_server: Server, place: Path) -> None:
    prefix = token_hex(4)
    world = {"EVENTWAGON_URL": f"{redis_server.url}?prefix={prefix}"}
    with running(place, "run", "app:train", **world) as process:
        assert cli(place, "publish", "parcels", given="1\n", **world).returncode == 0
        until_count(place, "done", 1)
        with redis.Redis.from_url(redis_server.url) as server:
            server.set(f"{prefix}:{{parcels}}:members", "x")
        asked = cli(place, "switch", "parcels", "--timeout", "0.1", **world)
        assert (asked.returncode, "which processes are alive can't be known" in asked.stderr) == (3, True)
        for verb in ("status", "pause", "stop"):
            done = cli(place, verb, "parcels", **world)
            assert done.returncode == 1, done.stdout
            assert "a key of eventwagon holds something else" in done.stderr
            assert "Traceback" not in done.stderr
            assert ("parcels is paused, but it can't be known which processes" in done.stderr) == (verb == "pause")
            assert ("all processes are asked to end, but which" in done.stderr) == (verb == "stop")
        assert process.wait(60) == 0
