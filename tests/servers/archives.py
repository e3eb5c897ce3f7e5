"""Class-data archives: with one, a Java server starts in a third of the time."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.servers.elasticmq import ElasticMQServer
from tests.servers.install import Installed
from tests.servers.kafka import KafkaServer
from tests.servers.pulsar import PulsarServer
from tests.servers.server import StartFailed

_SERVERS = {"kafka": KafkaServer, "pulsar": PulsarServer, "elasticmq": ElasticMQServer}


def make_archive(installed: Installed) -> None:
    """Run the server once and have Java write down the classes that it loaded. Only speed: a failure is told, no
    more."""
    part = installed.archive.with_suffix(f".part-{os.getpid()}")
    jvm = [f"-XX:ArchiveClassesAtExit={part}"]
    server = _SERVERS[installed.name](jvm=jvm)
    try:
        server.start()
        server.stop()
        part.rename(installed.archive)
    except (StartFailed, subprocess.TimeoutExpired, OSError) as e:
        print(f"{installed.name}: no class-data archive, so it will start more slowly: {e}", file=sys.stderr)
    finally:
        server.close()
        part.unlink(missing_ok=True)
