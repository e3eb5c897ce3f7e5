"""The MQTT source of `examples/iot` against the suite for sources, and the example itself on real servers."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex

import psutil
import pytest
from examples.iot.app import Reading, keep, telemetry
from examples.iot.mqtt_source import open_mqtt
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from eventwagon import Context, Event, Reject
from eventwagon.bridge import Begin, Record, Source
from eventwagon.contracts.address import Address
from eventwagon.errors import Unavailable, UsageError
from eventwagon.testing.conformance import Check, SourceHarness, Undeclared, source_checks
from tests.bridge.support import CrashesBeforeCommit, bridging, crashing, numbered, shop, stored, until
from tests.servers.certificates import self_signed
from tests.servers.mosquitto import MosquittoServer
from tests.servers.ports import free_port
from tests.servers.server import Server

ROOT = Path(__file__).resolve().parents[2]


def send(server: MosquittoServer, topic: str, values: Sequence[bytes], qos: int = 1) -> None:
    """As a device does; returns when the server has them."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(server.host, server.port)
    client.loop_start()
    for info in [client.publish(topic, value, qos=qos) for value in values]:
        info.wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


class Flow:
    """A topic of its own. Each reader that is open at a time has a session of its own, as each of several bridges."""

    claim = 0.0
    ordered = True

    def __init__(self, server: MosquittoServer) -> None:
        self._server = server
        self._topic = f"flow-{token_hex(4)}"
        self._free = ["second", "first"]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Source]:
        session = self._free.pop()
        options = f"client_id={self._topic}-{session}&group=workers"
        try:
            async with open_mqtt(Address.of(f"{self._server.url}/{self._topic}?{options}"), "latest") as source:
                yield source
        finally:
            self._free.append(session)

    async def write(self, values: Sequence[bytes]) -> None:
        await asyncio.to_thread(send, self._server, self._topic, values)


@pytest.mark.parametrize("check", source_checks(), ids=str)
def test_the_source_keeps_the_contract(check: Check[SourceHarness], mosquitto_server: MosquittoServer) -> None:
    @asynccontextmanager
    async def flow() -> AsyncIterator[Flow]:
        yield Flow(mosquitto_server)

    if str(check) == "a_peek_takes_nothing":
        with pytest.raises(Undeclared, match="can't show messages without taking them"):
            asyncio.run(check.run(flow))
    else:
        asyncio.run(check.run(flow))


def test_a_session_must_be_begun(mosquitto_server: MosquittoServer) -> None:
    """Its name may be mistyped: what was meant to be read would wait in another one."""

    async def enter(url: str, begin: Begin) -> None:
        async with open_mqtt(Address.of(url), begin):
            pass

    url = f"{mosquitto_server.url}/devices/%23?client_id=new-{token_hex(4)}"
    for _ in range(2):  # a refusal begins none
        with pytest.raises(UsageError, match="--from latest begins one"):
            asyncio.run(enter(url, None))
    asyncio.run(enter(url, "latest"))
    asyncio.run(enter(url, None))
    with pytest.raises(UsageError, match="name topic and session"):
        open_mqtt(Address.of(f"{mosquitto_server.url}/devices"), None)
    with pytest.raises(UsageError, match="begins with --from latest"):
        open_mqtt(Address.of(url), "earliest")
    with pytest.raises(Unavailable, match="connecting"):
        asyncio.run(enter("mqtt://127.0.0.1:1/devices?client_id=a", "latest"))


def test_a_lost_connection_gives_nothing_twice(own_mosquitto: MosquittoServer) -> None:
    """What is at hand is delivered again by the server, and not read again; its commit holds."""

    async def scenario() -> None:
        url = f"{own_mosquitto.url}/devices/+/readings?client_id=bridge&id=seq"
        bodies = [b'{"seq": %d}' % seq for seq in range(20)]
        async with open_mqtt(Address.of(url), "latest") as source:
            await asyncio.to_thread(send, own_mosquitto, "devices/a/readings", [*bodies, b"no JSON", *bodies])
            records = await take(source, 21)
            assert [record.position for record in records[:20]] == [f"mqtt/devices/a/readings/{n}" for n in range(20)]
            assert records[20].trouble == "it is no JSON object with seq"
            await asyncio.to_thread(own_mosquitto.stop)
            with pytest.raises(Unavailable):
                await source.commit(records)
            await asyncio.to_thread(own_mosquitto.start)
            async with asyncio.timeout(10):
                while True:
                    try:
                        await source.commit(records)
                        break
                    except Unavailable:
                        await asyncio.sleep(0.05)
            assert await source.read(10, 0.3) == []
        async with open_mqtt(Address.of(url), None) as source:
            assert await source.read(10, 0.3) == []

    asyncio.run(scenario())


def test_two_readers_of_one_session_are_told(mosquitto_server: MosquittoServer) -> None:
    """The second one takes it over; the first one says so, and takes it back."""

    async def scenario() -> None:
        topic = f"shared-{token_hex(4)}"
        address = Address.of(f"{mosquitto_server.url}/{topic}?client_id={topic}")
        async with open_mqtt(address, "latest") as first:
            await asyncio.to_thread(send, mosquitto_server, topic, numbered(5))
            mine = await take(first, 5)
            async with open_mqtt(address, None) as second:
                with pytest.raises(Unavailable, match="another reader with client_id=shared-"):
                    await first.read(10, 10)
                await second.commit(await take(second, 5))
            await asyncio.to_thread(send, mosquitto_server, topic, numbered(5, 5))
            more = await take(first, 5)
            assert [record.value for record in more] == numbered(5, 5)
            await first.commit(more)
            with pytest.raises(Unavailable, match="not been delivered again"):  # later they are passed over
                await first.commit(mine)

    asyncio.run(scenario())


def test_a_killed_bridge_repeats_one_batch_with_the_same_ids(mosquitto_server: MosquittoServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        topic, train = f"killed-{token_hex(4)}", shop(publish_batch=50)  # a bridge's has two
        address = Address.of(f"{mosquitto_server.url}/{topic}?client_id={topic}")
        async with train.connect(f"sqlite:///{tmp_path}") as c:
            async with open_mqtt(address, "latest"):
                pass
            await asyncio.to_thread(send, mosquitto_server, topic, numbered(1000))  # while no bridge runs
            for commits in range(2):
                with pytest.raises(UsageError, match="crashed"):
                    await crashing(CrashesBeforeCommit(open_mqtt(address, None), commits), c)
            async with bridging(open_mqtt(address, None), c) as bridge:
                await until(lambda: bridge.passed >= 900, "the rest is read")
            events = await stored(c)
            by_id = {event.id: event.data for event in events}
            assert sorted(by_id.values()) == sorted(numbered(1000))
            assert len(by_id) == 1000
            assert 0 < len(events) - 1000 <= 2 * 100

    asyncio.run(scenario())


def test_messages_of_qos_0_are_bounded(mosquitto_server: MosquittoServer, caplog: pytest.LogCaptureFixture) -> None:
    """The server does not wait for them to be acknowledged."""

    async def scenario() -> int:
        topic = f"qos0-{token_hex(4)}"
        async with open_mqtt(
            Address.of(f"{mosquitto_server.url}/{topic}?client_id={topic}&held=10"), "latest"
        ) as source:
            await asyncio.to_thread(send, mosquitto_server, topic, numbered(100), 0)
            await asyncio.to_thread(send, mosquitto_server, topic, [b"the last"])
            found = list[Record]()
            async with asyncio.timeout(10):
                while not found or found[-1].value != b"the last":
                    await asyncio.sleep(0.2)  # so that they wait
                    found += await source.read(100, 0.2) or []
            assert [record.value for record in found[:10]] == numbered(10)
            await source.read(1, 0.0)
            return 101 - len(found)

    assert (dropped := asyncio.run(scenario())) > 0
    assert f"dropped {dropped} messages that were sent with QoS 0: 10 others waited" in caplog.text


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # paho, where the handshake fails
def test_tls(tmp_path: Path) -> None:
    made = self_signed(tmp_path)

    class OverTLS(MosquittoServer):
        def command(self) -> Sequence[str]:
            found = super().command()
            with (self.directory / "mosquitto.conf").open("a") as file:
                file.write(f"listener {tls} {self.host}\ncertfile {made.certificate}\nkeyfile {made.key}\n")
            return found

    async def scenario(server: MosquittoServer) -> None:
        url = f"mqtts://{server.host}:{tls}/flow?client_id=a"
        async with open_mqtt(Address.of(f"{url}&ca={made.certificate}"), "latest") as source:
            await asyncio.to_thread(send, server, "flow", numbered(5))
            assert [record.value for record in await take(source, 5)] == numbered(5)
        with pytest.raises(Unavailable, match="certificate verify failed"):
            async with open_mqtt(Address.of(url), "latest"):
                pass
        gc.collect()  # that socket
        with pytest.raises(UsageError, match="no certificates can be read"):
            open_mqtt(Address.of(f"{url}&ca=/nowhere"), "latest")

    tls, server = free_port(), OverTLS(tmp_path)
    server.start()
    try:
        asyncio.run(scenario(server))
    finally:
        server.stop()


@pytest.mark.parametrize("subject", ["devices/b/readings", "a", "devices/a/readings/x", None])
def test_a_device_writes_only_its_own_readings(subject: str | None) -> None:
    event = Event("1", type="reading", source="/", time=time.time(), data=b"{}", subject=subject)
    with pytest.raises(Reject, match="a reading of device 'a' came by"):
        asyncio.run(keep(Reading("a", 1, 20.0, time.time()), Context.fake(event, train=telemetry)))


def test_a_number_that_was_used_before_is_told(redis_server: Server) -> None:
    """A device that counts from 0 again: its readings are not taken for copies. Real copies are."""

    async def kept(device: str, celsius: float, at: float) -> None:
        event = Event("1", type="reading", source="/", time=at, data=b"{}", subject=f"devices/{device}/readings")
        async with AsyncRedis.from_url(redis_server.url) as store:
            await keep(Reading(device, 0, celsius, at), Context.fake(event, train=telemetry, state=store))

    device = token_hex(4)
    for _ in range(2):
        asyncio.run(kept(device, 20.0, 1700000000.123456))
    with pytest.raises(Reject, match="has used the number 0 before"):
        asyncio.run(kept(device, 21.0, 1700000600.0))


async def take(source: Source, count: int) -> list[Record]:
    found: list[Record] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await source.read(100, 0.2) or []
    return found


# --- the example ----------------------------------------------------------------------------------


def example(redis: Server, mqtt: MosquittoServer, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "examples/iot/run.py", "--url", redis.url, "--mqtt", mqtt.url, "--events", "1500", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def row(output: str, name: str) -> str:
    """The figures of one line of the table."""
    (found,) = re.findall(rf"^  {name}  +(.*)$", output, re.MULTILINE)
    return str(found)


def test_all_devices_come_back_at_once(redis_server: Server, mosquitto_server: MosquittoServer) -> None:
    """And one of two bridges is killed in the middle. Readings of others come in at the same time."""
    with (
        Redis.from_url(redis_server.url) as store,
        example(redis_server, mosquitto_server, "--kill-bridge") as run,
    ):
        before, until = store.hlen("telemetry:readings"), time.monotonic() + 60
        while store.hlen("telemetry:readings") == before:
            assert time.monotonic() < until
            assert run.poll() is None
            time.sleep(0.02)
        store.hset("telemetry:readings", mapping={f"{token_hex(4)}/{n}": "{}" for n in range(1500)})
        output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert row(output, "readings sent") == "1,500, 73 of them twice"
    assert row(output, "readings kept") == "1,500, each once"
    assert row(output, "alarms") == "30 for 30 readings that are too hot"
    assert row(output, "bridges killed") == "1"


def test_mosquitto_is_restarted(redis_server: Server, own_mosquitto: MosquittoServer) -> None:
    """Bridge and devices connect again by themselves; nothing is lost."""
    with Redis.from_url(redis_server.url) as store, example(redis_server, own_mosquitto) as run:
        before = store.hlen("telemetry:readings")
        until = time.monotonic() + 60
        while store.hlen("telemetry:readings") < before + 400:
            assert time.monotonic() < until
            assert run.poll() is None
            time.sleep(0.02)
        own_mosquitto.stop()
        own_mosquitto.start()
        output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert row(output, "readings kept") == "1,500, each once"


def _is_bridge(process: psutil.Process) -> bool:
    try:
        return "bridge" in process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return False


def test_ctrl_c_ends_all_its_processes(redis_server: Server, mosquitto_server: MosquittoServer) -> None:
    with example(redis_server, mosquitto_server) as run:
        parent, until = psutil.Process(run.pid), time.monotonic() + 30
        while not any(map(_is_bridge, children := parent.children(recursive=True))):
            assert time.monotonic() < until
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=30)
    assert (run.returncode, output.splitlines()[-1]) == (130, "interrupted")
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
