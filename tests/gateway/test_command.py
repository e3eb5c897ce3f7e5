"""The command `gateway`: what it prints and refuses, keys that change, TLS, and its end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from eventwagon.cli.app import app
from eventwagon.gateway.keys import new_key
from tests.servers.certificates import self_signed

GOOD = {"specversion": "1.0", "id": "a1", "source": "/shop", "type": "ordered", "data": {"id": 1}}
PROGRAM = """\
from eventwagon import Train

train = Train("shop")


@train.on("shop")
async def handle(order: object) -> None: ...
"""
MORE = """
empty, batches, other = Train("empty"), Train("batches"), Train("other")
other.on("other")(handle)


@batches.on("batches", batch=10)
async def handle_many(orders: list[object]) -> None: ...
"""


def command(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["gateway", *arguments])
    assert result.exit_code == code, result.output
    return result


@contextmanager
def running(directory: Path, *arguments: str, program: str = PROGRAM) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    (directory / "app.py").write_text(program)
    url = f"sqlite:///{directory}/trains"
    process = subprocess.Popen(
        [sys.executable, "-m", "eventwagon", "gateway", "app:train", "--url", url, "--port", "0", *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        found = re.match(
            r"(https?://127\.0\.0\.1:\d+)/ publishes to (?:and works for )?shop", process.stdout.readline()
        )
        assert found is not None, process.communicate()
        yield found[1], process
    finally:
        process.kill()
        process.communicate()


def send(client: httpx.Client, **headers: str) -> int:
    headers = {"content-type": "application/cloudevents+json", **headers}
    return client.post("/trains/shop/events", content=json.dumps(GOOD), headers=headers).status_code


@pytest.mark.slow
def test_it_serves_and_ends(tmp_path: Path) -> None:
    with running(tmp_path) as (at, process):
        with httpx.Client(base_url=at) as client:
            assert send(client) == 202
            assert client.get("/readyz").status_code == 200
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.slow
def test_it_works_and_ends_once_what_is_out_is_settled(tmp_path: Path) -> None:
    key, lines = new_key("far", ["shop"], work=True)
    keys = tmp_path / "keys.toml"
    keys.write_text(lines)
    headers = {"authorization": f"Bearer {key}"}
    with (
        running(tmp_path, "--work", "--keys", str(keys)) as (at, process),
        httpx.Client(base_url=at, headers=headers, timeout=40) as client,
    ):

        def post(verb: str, **document: object) -> Any:
            answer = client.post(f"/trains/shop/{verb}", json=document)
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert send(client) == 202
        [got] = post("receive", wait=20)["deliveries"]
        assert (got["event"]["id"], got["event"]["data"]) == ("a1", {"id": 1})
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while client.get("/readyz").status_code != 503:
            assert time.monotonic() < deadline
        assert post("settle", receipts=[{"receipt": got["receipt"]}])["receipts"][0]["done"]
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in errors
        assert "deliveries that are out, with up to 30 s (grace) to be settled: 1" in errors


@pytest.mark.slow
def test_without_keys_only_its_own_names_reach_it(tmp_path: Path) -> None:
    with running(tmp_path, "--allow-host", "shop.example.org") as (at, _), httpx.Client(base_url=at) as client:
        named = ("evil.example.org", "shop.example.org", "localhost")
        assert [send(client, host=each) for each in named] == [421, 202, 202]


@pytest.mark.slow
def test_keys_change_while_it_runs(tmp_path: Path) -> None:
    first, lines = new_key("first", ["shop"])
    second, more = new_key("second", ["shop"])
    keys = tmp_path / "keys.toml"
    keys.write_text(lines)
    with running(tmp_path, "--keys", str(keys)) as (at, _), httpx.Client(base_url=at) as client:
        assert send(client) == 401
        assert send(client, authorization=f"Bearer {first}") == 202
        keys.write_text("[broken")  # one that can't be read changes nothing
        time.sleep(3)
        assert send(client, authorization=f"Bearer {first}") == 202
        keys.write_text(more)
        deadline = time.monotonic() + 30
        while send(client, authorization=f"Bearer {second}") != 202:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert send(client, authorization=f"Bearer {first}") == 401


@pytest.mark.slow
def test_tls(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    with running(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key)) as (at, _):
        assert at.startswith("https://")
        with httpx.Client(base_url=at, verify=False) as client:  # noqa: S501 - of the test's own certificate
            assert send(client) == 202


def test_a_new_key_goes_apart_from_its_lines() -> None:
    result = command("shop", "--new-key", "web")
    found = re.search(r"ew_\S+", result.stderr)
    assert found is not None
    assert found[0] not in result.stdout
    assert result.stdout.startswith("[web]\nsha256 = ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("shop", "--host", "192.0.2.1"), "give --keys"),
        (("shop", "--keys", "none.toml"), "can't be read"),
        (("app.py:train", "--allow-host", "http://x"), "gateway: hosts must be names"),
        (("shop", "--tls-cert", "x.pem"), "give --tls-cert and --tls-key together"),
        (("shop", "--tls-cert", "x.pem", "--tls-key", "y.pem"), "No such file"),
        (("shop", "--work"), "--work needs the train's program"),
        (("shop", "--wagon", "1"), "--wagon and --workers go with --work"),
        (("none:train", "--work"), "none"),
        (("app.py:empty", "--work"), "has no handler for its ingress"),
        (("app.py:batches", "--work"), "leave batch= out"),
        (("app.py:train", "app.py:train", "--work"), "is there twice"),
        (("app.py:train", "app.py:other", "--work", "--wagon", "1"), "--wagon is for one train"),
        (("app.py:train", "--work", "--workers", "1"), "give a wagon's number"),
        (("shop", "--new-key", "a b"), "its name is 1 to 60"),
        (("Shop", "--new-key", "a"), "train name"),
        (("nowhere",), "nowhere"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").write_text(PROGRAM + MORE)
    result = command(*arguments, "--url", "sqlite:///trains", "--port", "0", code=2)
    assert why in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
