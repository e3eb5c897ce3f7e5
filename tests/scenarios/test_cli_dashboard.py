"""`eventwagon dashboard` as a process: it answers, and ends at once though browsers look."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

TOKEN = "a token of the tests, long enough"  # noqa: S105


@pytest.mark.parametrize(("sig", "token"), [(signal.SIGINT, None), (signal.SIGTERM, TOKEN)])
def test_it_answers_and_ends_gracefully(tmp_path: Path, sig: signal.Signals, token: str | None) -> None:
    command = [sys.executable, "-m", "eventwagon", "dashboard", "--url", f"sqlite:///{tmp_path}/trains", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"} | ({"EVENTWAGON_DASHBOARD_TOKEN": token} if token else {})
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert ("log in with the token" if token else "read-only") in line
        assert TOKEN not in line
        address, cookie = line.partition(" ")[0], ""
        if token:
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{address}api/trains", timeout=20)  # noqa: S310
            cookie = _login(address, token)
        asked = urllib.request.Request(f"{address}api/events", headers={"Cookie": cookie})  # noqa: S310
        with urllib.request.urlopen(asked, timeout=20) as stream:  # noqa: S310
            assert stream.readline() == b"retry: 2000\n"
            began = time.monotonic()
            process.send_signal(sig)
            _, errors = process.communicate(timeout=20)
        assert time.monotonic() - began < 5
        assert process.returncode == 0, errors.decode()
        assert errors == b""


def _login(address: str, token: str) -> str:
    headers = {"Content-Type": "application/json", "X-Eventwagon": "dashboard"}
    asked = urllib.request.Request(f"{address}api/login", json.dumps({"token": token}).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310
        return str(answer.headers["Set-Cookie"]).partition(";")[0]


def test_a_port_that_is_taken_is_one_plain_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "eventwagon", "dashboard", "--url", f"sqlite:///{tmp_path}/x", "--port", port]
        found = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert found.returncode == 2
    assert found.stderr.decode().startswith(f"eventwagon: --host '127.0.0.1' --port {port}: ")
    assert found.stderr.count(b"\n") == 1
