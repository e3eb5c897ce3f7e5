"""An outage of the network, and all devices that come back at once:
python examples/iot/run.py --url redis://127.0.0.1:6379/0"""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from uuid import uuid4

import msgspec
from redis.asyncio import Redis

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.iot.app import TOO_HOT, telemetry
from examples.iot.devices import celsius, is_sent_twice
from examples.processes import ROOT, Broken, Processes, arguments, free_port, percentile, run, table

from eventwagon import Switched

TARGET = "examples.iot.app:telemetry"
BUFFERED = 2
"""Readings that each device has kept during the outage."""
PACE = 200
"""New readings in a second after the outage, one of each device."""
PROMISE = 2.0


@dataclass
class Devices:
    """The devices, the MQTT server, and what was sent there: device and number of the reading."""

    number: int
    mqtt: str
    site: str = field(default_factory=lambda: uuid4().hex[:8])  # the store may hold readings of earlier runs
    sent: set[tuple[int, int]] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    """Readings that were sent, and were not kept at the last look."""

    async def send(self, first: int, count: int, seconds: float) -> None:
        """Readings of each device, from a process; returns when the server has them."""
        words = {"mqtt": self.mqtt, "site": self.site, "devices": self.number}
        words |= {"first": first, "count": count, "seconds": seconds}
        options = [text for name, value in words.items() for text in (f"--{name}", str(value))]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "examples.iot.devices", *options, cwd=ROOT)
        try:
            if await process.wait() != 0:
                raise Broken("the devices could not send their readings")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        new = [(device, seq) for seq in range(first, first + count) for device in range(self.number)]
        self.sent.update(new)
        self.missing += [self.name(*reading) for reading in new]

    def name(self, device: int, seq: int) -> str:
        """Of a reading."""
        return f"{self.site}-{device}/{seq}"

    def hot(self) -> list[str]:
        """The readings that an alarm is to be raised for."""
        return [self.name(device, seq) for device, seq in self.sent if celsius(device, seq) > TOO_HOT]


async def main(url: str, mqtt: str | None, events: int, *, kills: bool) -> None:
    async with (
        Redis.from_url(url, decode_responses=True) as store,
        Processes() as processes,
        telemetry.connect(url, listeners=()) as train,
    ):
        devices = Devices(max(1, events // (BUFFERED + 2)), mqtt or await mosquitto(processes))
        environment = {"EVENTWAGON_URL": url, "TELEMETRY_STATE": url}
        await mqtt_source(processes.folder)

        async def all_kept() -> bool:
            """Asks for a thousand at a time, until some are missing."""
            while asked := devices.missing[-1_000:]:
                found = await store.hmget("telemetry:readings", asked)
                devices.missing[-1_000:] = [name for name, text in zip(asked, found, strict=True) if text is None]
                if None in found:
                    return False
            return True

        async def start_bridge(name: str) -> None:
            source = f"{devices.mqtt}/devices/+/readings?client_id=run-{devices.site}&id=seq&expiry=600"
            options = ["--key", "key", "--type", "reading", "--from", "latest"]
            await processes.start(name, "-m", "eventwagon", "bridge", source, TARGET, *options, environment=environment)

            async def has_subscribed() -> bool:
                return "bridge from mqtt:" in processes.log(name)

            await processes.until("the bridge has subscribed", has_subscribed)

        async def kill_bridge() -> None:
            async def in_the_middle() -> bool:
                some = [devices.name(device, 1) for device in range(0, devices.number, 10)]
                found = await store.hmget("telemetry:readings", some)
                return sum(text is not None for text in found) > len(some) // 2

            await processes.until("the bridge is in the middle of the storm", in_the_middle)
            await processes.kill("bridge")
            await start_bridge("second bridge")

        await processes.start("worker", "-m", "eventwagon", "run", TARGET, environment=environment)
        await start_bridge("bridge")
        await devices.send(0, 1, devices.number / (10 * PACE))
        await processes.until("the first readings are kept", all_kept)

        began = time.time()

        async def storm() -> float:
            """Returns when the MQTT server has all of it."""
            await devices.send(1, BUFFERED, 0.0)
            return time.time()

        async with asyncio.TaskGroup() as tasks:
            storming = tasks.create_task(storm())
            tasks.create_task(devices.send(1 + BUFFERED, 1, devices.number / PACE))
            if kills:
                tasks.create_task(kill_bridge())
        await processes.until("all readings are kept", all_kept, 120)
        await processes.until("all alarms are raised", lambda: all_raised(store, devices))
        switches = [entry async for entry in train.journal() if isinstance(entry.fact, Switched) and entry.at > began]
        await report(store, devices, began, storming.result(), len(switches), killed=int(kills))


async def report(store: Redis, devices: Devices, began: float, stormed: float, switches: int, *, killed: int) -> None:
    """Print what came of it. Raises Broken if a reading is lost, or an alarm was raised twice or not at all."""
    names = [devices.name(*reading) for reading in sorted(devices.sent)]
    readings = [msgspec.json.decode(text) for text in await store.hmget("telemetry:readings", names) if text]
    latest = await store.hmget("telemetry:latest", [f"{devices.site}-{device}" for device in range(devices.number)])
    old = [each["kept"] - began for each in readings if 1 <= each["seq"] <= BUFFERED]
    new = {each["at"]: each["kept"] - each["at"] for each in readings if each["seq"] > BUFFERED}
    raised, hot = await alarms(store, devices), devices.hot()
    rows: list[tuple[str, object]] = [
        ("devices", f"{devices.number:,}"),
        (
            "readings sent",
            f"{len(devices.sent):,}, {sum(is_sent_twice(*each) for each in devices.sent):,} of them twice",
        ),
        ("readings kept", f"{len(readings):,}, each once"),
        ("alarms", f"{len(raised):,} for {len(hot):,} readings that are too hot"),
        ("sent at once after the outage", f"{len(old):,} in {stormed - began:.1f} s, kept within {max(old):.1f} s"),
        ("wait of new readings sent with them", figures(wait for at, wait in new.items() if at <= stormed)),
        ("wait of new readings sent after them", figures(wait for at, wait in new.items() if at > stormed)),
        ("new readings kept within 2 s", f"{sum(wait <= PROMISE for wait in new.values()) / len(new):.0%}"),
        ("wagons filled or cut off", switches),
        ("bridges killed", killed),
    ]
    print(table("All devices come back at once", rows), flush=True)
    stale = sum(not text or msgspec.json.decode(text)["seq"] != 1 + BUFFERED for text in latest)
    if len(readings) != len(devices.sent) or sorted(raised) != sorted(hot) or stale:
        raise Broken(
            f"{len(devices.sent) - len(readings)} readings lost, {len(raised)} alarms for {len(hot)} hot readings, "
            f"{stale} devices whose latest reading is not the last one"
        )


async def alarms(store: Redis, devices: Devices) -> list[str]:
    """Those of this run's devices."""
    everything = map(str, await store.lrange("telemetry:alarms", 0, -1))
    return [each for each in everything if each.startswith(devices.site)]


async def all_raised(store: Redis, devices: Devices) -> bool:
    return len(await alarms(store, devices)) >= len(devices.hot())


def figures(seconds: Iterable[float]) -> str:
    ordered = sorted(seconds)
    named = ", ".join(f"p{percent} {percentile(ordered, percent):.2f} s" for percent in (50, 90, 99))
    return f"{named}, longest {percentile(ordered, 100):.2f} s"


async def mqtt_source(folder: Path) -> None:
    """Let `eventwagon bridge` know mqtt://. Where the example's package is not installed, it is for this run."""
    if entry_points(group="eventwagon.sources", name="mqtt"):
        return
    words = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder / "packages")]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        *words,
        str(ROOT / "examples" / "iot"),
    ]
    process = await asyncio.create_subprocess_exec(*pip, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if await process.wait() != 0:
        raise Broken("mqtt:// is not known to `eventwagon bridge`: first run pip install examples/iot")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder / "packages")]))


async def mosquitto(processes: Processes) -> str:
    """The URL of an MQTT server of this run's own."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eventwagon"
    from_make = Path(os.environ.get("EVENTWAGON_CACHE") or cache) / "servers" / "mosquitto"
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", str(from_make)])
    if (binary := shutil.which(os.environ.get("MOSQUITTO", "mosquitto"), path=path)) is None:
        raise Broken(
            "there is no program mosquitto: install it, or name a running server: --mqtt mqtt://127.0.0.1:1883"
        )
    port = free_port()
    config = (ROOT / "examples" / "iot" / "mosquitto.conf").read_text()
    file = processes.folder / "mosquitto.conf"
    file.write_text(
        config.replace("listener 1883", f"listener {port}").replace("location .", f"location {processes.folder}")
    )
    become = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"  # it is no program of Python
    await processes.start("mosquitto", "-c", become, binary, "-c", str(file))

    async def answers() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await processes.until("mosquitto answers", answers)
    return f"mqtt://127.0.0.1:{port}"


if __name__ == "__main__":
    parser = arguments(__doc__, events=20_000, what="how many readings in all")
    parser.add_argument("--mqtt", help="an MQTT server: mqtt://127.0.0.1:1883 (default: starts a mosquitto)")
    parser.add_argument("--kill-bridge", action="store_true", help="kill the bridge in the middle of the storm")
    given = parser.parse_args()
    sys.exit(run(main(given.url, given.mqtt, given.events, kills=given.kill_bridge)))
