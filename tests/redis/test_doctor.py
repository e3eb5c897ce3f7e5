"""What `doctor` says of a real Redis and Valkey, and that it leaves nothing there."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import pytest

from eventwagon import Train
from eventwagon.contracts.broker import Finding
from eventwagon.contracts.facts import Entry, StopRequested
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.redis.inspection import judge
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.drivers.redis.server import Server as Named
from tests import doctors
from tests.redis.support import raw
from tests.servers.redis import RedisCluster, RedisServer, ask
from tests.servers.server import Server


def keys(server: Server) -> list[bytes]:
    async def look() -> list[bytes]:
        async with raw(server) as client:
            return sorted(await client.keys("*"))

    return asyncio.run(look())


def set_to(server: Server, **options: str | int) -> None:
    for name, value in options.items():
        assert ask(server.port, "CONFIG", "SET", name.replace("_", "-"), value) == b"+OK\r\n"


@contextmanager
def replicated(directory: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary, and a replica that is attached."""
    with (
        RedisServer(directory) as primary,
        RedisServer(directory, config=[f"replicaof 127.0.0.1 {primary.port}"]) as replica,
    ):
        assert ask(primary.port, "WAIT", 1, 20_000, timeout=25.0) == b":1\r\n"
        yield primary, replica


def test_it_leaves_no_key(redis_server: Server) -> None:
    url = f"{redis_server.url}?prefix=doctored"
    doctors.leaves_nothing(url, lambda: [key for key in keys(redis_server) if key.startswith(b"doctored")])


def test_nor_in_a_cluster(redis_cluster: RedisCluster) -> None:
    doctors.leaves_nothing(redis_cluster.url, lambda: [keys(node) for node in redis_cluster.nodes], doctors.FEW[:1])


def test_nor_when_interrupted(valkey_server: Server) -> None:
    url = f"{valkey_server.url}?prefix=interrupted"

    def ours() -> list[bytes]:
        return [key for key in keys(valkey_server) if key.startswith(b"interrupted")]

    doctors.interrupt(url, lambda: bool(ours()), signal.SIGINT)
    assert ours() == []


def severities(url: str) -> dict[str, str]:
    return {name: finding.severity for name, finding in doctors.findings(url).items()}


def test_a_server_as_it_should_be(own_valkey: RedisServer) -> None:
    server = own_valkey
    set_to(server, maxmemory="100mb", appendfsync="always")
    found = doctors.findings(server.url)
    version = next(name for name in found if name.startswith("Valkey"))
    assert {name for name, finding in found.items() if finding.severity != "fine"} == {"replicas"}
    assert {version, "maxmemory-policy", "maxmemory", "appendonly"} < set(found)


def test_what_loses_events(own_redis: RedisServer) -> None:
    server = own_redis
    set_to(server, maxmemory="10mb", maxmemory_policy="allkeys-lru", appendonly="no")
    found = doctors.findings(server.url)
    assert found["maxmemory-policy"].severity == "loses"
    assert "CONFIG SET maxmemory-policy noeviction" in found["maxmemory-policy"].todo
    assert (found["appendonly"].severity, found["appendonly"].what) == ("loses", 'appendonly=no, save=""')
    set_to(server, maxmemory_policy="volatile-ttl", save="3600 1")
    found = doctors.findings(server.url)
    assert found["maxmemory-policy"].severity == "fine"
    assert found["appendonly"].what == 'appendonly=no, save="3600 1"'
    assert "since the last snapshot" in found["appendonly"].means
    set_to(server, maxmemory=0, maxmemory_policy="allkeys-lfu", appendonly="yes", appendfsync="no")
    found = doctors.findings(server.url)
    assert found["maxmemory-policy"].severity == found["maxmemory"].severity == "costs"
    assert found["appendonly"].severity == "loses"


def test_replicas_and_what_the_url_waits_for(tmp_path: Path) -> None:
    with replicated(tmp_path) as (primary, replica):
        assert severities(primary.url)["replicas"] == "loses"
        assert severities(f"{primary.url}?wait=1")["replicas"] == "fine"
        server = Named.from_url(f"{primary.url}?wait=2&timeout=1")
        info = {"redis_version": "7.0.15", "role": "master", "connected_slaves": "1"}
        (waits,) = (f for f in judge(info, {}, server) if f.what.startswith("replicas"))
        assert (waits.severity, waits.what) == ("costs", "replicas=1, wait=2")
        found = doctors.look(replica.url)["broker"]
        assert "takes no writes" in next(step.problem for step in found.steps if step.problem)
        assert f"127.0.0.1:{primary.port}" in next(f.todo for f in found.findings if f.what == "role=replica")


@pytest.mark.parametrize("valkey", [False, True])
def test_a_missing_right_is_a_line_and_no_failure(valkey: bool, tmp_path: Path) -> None:
    """The user of docs/brokers/redis.md may not ask for settings; one without INFO sees less still."""
    rights = "-@all +@connection +@read +@write +@scripting +@pubsub +info +time"
    with RedisServer(tmp_path, valkey=valkey) as server:
        ask(
            server.port,
            "ACL",
            "SETUSER",
            "wagons",
            "on",
            ">Wheatear",
            *rights.split(),
            "~eventwagon:*",
            "&eventwagon:*",
        )
        url = f"redis://wagons:Wheatear@127.0.0.1:{server.port}/0"
        found = doctors.findings(url)
        assert (found["appendfsync"].severity, found["appendfsync"].todo) == ("unknown", "ACL SETUSER … +config|get")
        assert found["maxmemory-policy"].severity == "fine"
        ask(server.port, "ACL", "SETUSER", "wagons", "-info")
        assert severities(url) == {"INFO": "unknown"}


def test_nodes_of_a_cluster_are_looked_at_one_by_one(redis_cluster: RedisCluster) -> None:
    node = redis_cluster.nodes[1]
    set_to(node, maxmemory="100mb", maxmemory_policy="allkeys-random")
    try:
        (loses,) = (f for f in doctors.look(redis_cluster.url)["broker"].findings if f.severity == "loses")
        assert loses.what == f"maxmemory-policy=allkeys-random (127.0.0.1:{node.port})"
    finally:
        set_to(node, maxmemory=0, maxmemory_policy="noeviction")


@pytest.mark.parametrize("part", ["manifest", "members", "alive", "news", "journal"])
def test_a_train_of_which_a_key_holds_something_else(redis_server: Server, part: str) -> None:
    url = f"{redis_server.url}?prefix=p{token_hex(4)}"

    async def found() -> None:
        async with RedisRegistry.from_url(url) as registry:
            entries = [Entry(0.0, "me", StopRequested(train="t", because=""))]
            await registry.replace("t", Manifest(train="t"), expect=0, entries=entries)

    asyncio.run(found())
    assert not [step for step in doctors.look(url)["registry"].steps if step.problem]
    key = f"{url.partition('prefix=')[2]}:{{t}}:{part}"
    ask(redis_server.port, "DEL", key)
    ask(redis_server.port, "SET", key, "theirs")
    (wrong,) = (step for step in doctors.look(url)["registry"].steps if step.problem)
    assert part in wrong.problem
    assert "holds something else" in wrong.problem


@pytest.mark.parametrize("part", ["", ":meta", ":back", "capacity"])
def test_a_channel_of_which_a_key_holds_something_else(redis_server: Server, part: str) -> None:
    url = f"{redis_server.url}?prefix=p{token_hex(4)}"
    key = f"{url.partition('prefix=')[2]}:{{t_v1}}"

    async def published() -> None:
        async with Train("t").connect(url, listeners=()) as c:
            await c.publish(1)

    asyncio.run(published())
    assert not [f for f in doctors.look(url)["broker"].findings if "t_v1" in f.what]
    if part == "capacity":
        ask(redis_server.port, "HSET", f"{key}:meta", "capacity", "x")
    else:
        ask(redis_server.port, "DEL", key + part)
        ask(redis_server.port, "SET", key + part, "theirs")
    found = doctors.look(url)
    assert not [step for each in found.values() for step in each.steps if step.problem]
    (wrong,) = (f for f in found["broker"].findings if "t_v1" in f.what)
    assert (wrong.severity, wrong.what) == ("costs" if part else "loses", "channel t_v1")
    assert (f"{key}:meta" if part == "capacity" else f"{key}{part} holds a string") in wrong.means


def test_a_memory_that_is_nearly_full_and_a_disk_that_fails() -> None:
    info = {
        "redis_version": "7.2.0",
        "maxmemory": "1000",
        "used_memory": "900",
        "maxmemory_policy": "noeviction",
        "aof_enabled": "1",
        "aof_last_write_status": "err",
        "role": "master",
    }

    def costs(finding: Finding) -> bool:
        return finding.severity == "costs"

    found = {f.what: f.means for f in filter(costs, judge(info, {"appendfsync": "always"}, Named()))}
    assert "90% of it is in use" in found["maxmemory=1000"]
    assert "aof_last_write_status=err" in found
