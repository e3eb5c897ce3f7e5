"""`scripts/with_server.py`: a command with a server of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.redis import RedisServer

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "with_server.py"
ENDS_SLOWLY = """
import sys, time
try:
    print(sys.argv[1], flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)  # what it has started ends
    print("ended by itself")
"""


@pytest.mark.slow
def test_after_ctrl_c_the_command_has_time_to_end(tmp_path: Path, own_redis: RedisServer) -> None:
    """`own_redis`: skipped where there is no Redis to start."""
    command = [sys.executable, str(SCRIPT), "redis", "--", sys.executable, "-c", ENDS_SLOWLY, "URL"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("redis://")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout.read() == "ended by itself\n"
        assert process.wait(30) == 0
