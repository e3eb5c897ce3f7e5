"""Runs a command with a server of its own, from the cache, in a temporary folder: gone with the command.

    python scripts/with_server.py kafka -- eventwagon demo --url URL

URL in the command stands for the server's. Install the servers first: `make servers`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.servers.install import Missing
from tests.servers.kafka import KafkaServer
from tests.servers.pulsar import PulsarServer
from tests.servers.redis import RedisServer
from tests.servers.server import Server, StartFailed

SERVERS: dict[str, Callable[[Path], Server]] = {
    "redis": RedisServer,
    "valkey": lambda folder: RedisServer(folder, valkey=True),
    "kafka": KafkaServer,
    "pulsar": PulsarServer,
}


def run(command: list[str]) -> int:
    """What it ended with. After Ctrl-C, which it gets from the terminal too, it may end what it has started."""
    with subprocess.Popen(command) as process:  # noqa: S603
        try:
            return process.wait()
        except KeyboardInterrupt:
            try:
                return process.wait(20)
            except subprocess.TimeoutExpired:
                process.terminate()
                return process.wait()


def main(arguments: list[str]) -> int:
    """What the command ended with; 2 for a mistake, 1 where the server did not come up."""
    if len(arguments) < 3 or arguments[1] != "--" or arguments[0] not in SERVERS:
        print(f"usage: with_server.py {'|'.join(SERVERS)} -- COMMAND … URL …", file=sys.stderr)
        return 2
    name, command = arguments[0], arguments[2:]
    with tempfile.TemporaryDirectory(prefix="eventwagon-", ignore_cleanup_errors=True) as folder:
        try:
            print(f"starting {name} ...", file=sys.stderr, flush=True)
            with SERVERS[name](Path(folder)) as server:
                url = server.url
                if name == "pulsar":  # it keeps no manifests
                    url += f"&registry={quote(f'sqlite:///{folder}/registry', safe='')}"
                return run([url if word == "URL" else word for word in command])
        except (Missing, StartFailed) as e:
            print(f"{name}: {e}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
