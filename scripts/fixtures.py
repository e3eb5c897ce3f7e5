"""Keeps what today's code stores, for the tests of later code: tests/fixtures/form_N/{sqlite,redis,kafka}.

    python scripts/fixtures.py [sqlite] [redis] [kafka]

Once for each form of the manifest (`eventwagon.manifest.FORMAT`), by the last code that writes it; what is kept is
never written anew: it stands for data of people who upgrade.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from eventwagon.contracts.manifest import FORMAT
from eventwagon.views.train import look
from tests.fixtures.copies import save_directory, save_redis, save_topics
from tests.programs.stored import a_train
from tests.servers.kafka import KafkaServer
from tests.servers.redis import RedisServer

ROOT = Path(__file__).resolve().parents[1]
TO = ROOT / "tests" / "fixtures" / f"form_{FORMAT}"


@contextmanager
def written(url: str, to: Path) -> Iterator[None]:
    """A train's life up to its process's death, and what is known of it; it is stored at the end."""
    to.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.programs.stored", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:  # noqa: S603
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("it was started with pipes")
        try:
            if process.stdout.readline() != "as it is to be\n":
                sys.exit(f"{url}: the train did not come so far")
            process.stdin.write("what was handled?\n")
            process.stdin.flush()
            handled = json.loads(process.stdout.readline())
        finally:
            process.kill()
    found = handled | asyncio.run(figures(url))
    (to / "expected.json").write_text(json.dumps(found, indent=1) + "\n")
    yield


async def figures(url: str) -> dict[str, object]:
    """What the code that wrote it says of it."""
    async with a_train([], [], hold=True).connect(url) as connection:
        view = await look(connection, url)
        return {
            "wagons": {w.number: [w.state, w.published, w.settled] for w in view.wagons},
            "dead": view.dead,
            "journal": [type(entry.fact).__name__ async for entry in connection.journal()],
            "members": sorted(m.name for m in view.members),
        }


def sqlite(to: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, written(f"sqlite:///{folder}/trains", to):
        save_directory(Path(folder) / "trains", to / "trains")


def redis(to: Path) -> None:
    with RedisServer() as server, written(server.url, to):
        save_redis(server, to / "dump.rdb")


def kafka(to: Path) -> None:
    with KafkaServer() as server, written(server.url, to):
        save_topics(server.bootstrap, "stored", to / "topics.json")


if __name__ == "__main__":
    for each in (sqlite, redis, kafka):
        if each.__name__ in (sys.argv[1:] or ["sqlite", "redis", "kafka"]):
            shutil.rmtree(TO / each.__name__, ignore_errors=True)
            each(TO / each.__name__)
            print(f"{TO / each.__name__}: written")
