"""What is compared: each framework's packages, its recommended command for one worker, and its own virtualenv."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
PINS = ROOT / "requirements-peers.txt"
_HERE = "benchmarks.peers"


class Framework(msgspec.Struct, frozen=True):
    """One of them. `command` follows the virtualenv's bin folder."""

    name: str
    module: str
    command: tuple[str, ...]
    how: str
    """How it was set up, beyond eight at a time."""
    environment: dict[str, str] = {}
    """For its worker and publisher."""
    server: str = "Redis"
    """What it runs on, and is compared on."""


OURS = Framework(
    "eventwagon",
    "eventwagon_app",
    ("eventwagon", "run", f"{_HERE}.eventwagon_app:train", "--log-level", "warning"),
    "Wait(2.0), spares=1, workers each=8 (the default): 8, and 8 in the spare; tuned: visibility 20 s for 30",
)
VARIANTS = tuple(
    msgspec.structs.replace(
        OURS, name=f"eventwagon, {workers}", how=f"{how} (the burst only)", environment={"PEER_WORKERS": workers}
    )
    for workers, how in (
        ("each=4", "four for each wagon: as many standing as the others have, with the spare's"),
        ("total=8, floor=1", "eight that the wagons share: never more than the others have"),
        ("total=8, floor=0", "the same, and draining wagons keep none"),
    )
)
PEERS = {
    framework.name: framework
    for framework in (
        Framework(
            "celery",
            "celery_app",
            ("celery", "-A", f"{_HERE}.celery_app", "worker", "--loglevel", "WARNING"),
            "8 processes (its default pool); tuned: acks_late, reject_on_worker_lost, visibility_timeout 20 s for 1 h, "
            "prefetch 1 for handlers that take long",
        ),
        Framework(
            "dramatiq",
            "dramatiq_app",
            ("dramatiq", f"{_HERE}.dramatiq_app", "--processes", "1", "--threads", "8"),
            "8 threads; tuned: heartbeat_timeout 20 s for 60 s, maintenance_chance 5 % for 0.1 %",
        ),
        Framework(
            "taskiq",
            "taskiq_app",
            (
                "taskiq",
                "worker",
                f"{_HERE}.taskiq_app:broker",
                "--workers",
                "1",
                "--max-async-tasks",
                "8",
                "--log-level",
                "WARNING",
            ),
            "RedisStreamBroker; tuned: idle_timeout 20 s for 10 min, a lock that ends",
        ),
        Framework(
            "arq",
            "arq_app",
            ("arq", f"{_HERE}.arq_app.WorkerSettings"),
            "keep_result 0; tuned: poll_delay 5 ms for 500 ms, job_timeout 10 s for 300 s",
        ),
        Framework(
            "faststream",
            "faststream_app",
            ("faststream", "run", f"{_HERE}.faststream_app:app", "--log-level", "warning"),
            "a stream with a consumer group, max_workers 8; tuned: a second subscriber that claims after 20 s",
        ),
        Framework(
            "faststream-kafka",
            "faststream_kafka_app",
            ("faststream", "run", f"{_HERE}.faststream_kafka_app:app", "--log-level", "warning"),
            "a topic of one partition with a consumer group, max_workers 8, which commits before it handles (its "
            "default)",
            server="Kafka",
        ),
    )
}


class Installed(msgspec.Struct, frozen=True):
    """A framework and where it can be run."""

    framework: Framework
    version: str
    bin: Path

    def worker(self) -> list[str]:
        """The command of one worker."""
        return [str(self.bin / self.framework.command[0]), *self.framework.command[1:]]

    def publisher(self) -> list[str]:
        """The command that publishes by a plan on stdin."""
        return [str(self.bin / "python"), "-m", f"{_HERE}.publish", self.framework.module]


class NotInstalled(Exception):
    """It could not be; the text says why."""


def ours(framework: Framework = OURS) -> Installed:
    """eventwagon of this checkout."""
    from importlib.metadata import version

    return Installed(framework, version("eventwagon"), Path(sys.executable).parent)


def installed(framework: Framework) -> Installed:
    """The framework in its virtualenv, made on first use. Raises NotInstalled. Idempotent."""
    pins = _pins()[framework.name]
    versions = dict(pin.split("==") for pin in pins)
    version = versions[framework.name.removesuffix("-kafka")]
    client = {"taskiq": "taskiq-redis", "faststream-kafka": "aiokafka"}.get(framework.name)
    label = version + (f" ({client} {versions[client]})" if client else "")
    folder = _cache() / f"{framework.name}-{version}"
    done = folder / ".installed"
    if not done.exists() or done.read_text().split() != pins:
        if folder.exists():
            shutil.rmtree(folder)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run = subprocess.run([*pip, "--no-deps", *pins], capture_output=True, text=True, timeout=600, check=False)
        if run.returncode:
            raise NotInstalled(f"{framework.name}: pip ended with {run.returncode}: {run.stderr.strip()[-500:]}")
        done.write_text("\n".join(pins))
    return Installed(framework, label, folder / "bin")


def _cache() -> Path:
    given = os.environ.get("EVENTWAGON_CACHE")
    return (Path(given) if given else Path.home() / ".cache" / "eventwagon") / "peers"


def _pins() -> dict[str, list[str]]:
    """By section of the file."""
    pins: dict[str, list[str]] = {}
    for line in PINS.read_text().splitlines():
        if line.startswith("["):
            section = pins.setdefault(line.strip("[] "), [])
        elif line.strip() and not line.startswith("#"):
            section.append(line.strip())
    return pins
