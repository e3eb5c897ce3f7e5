"""A canary password in the URL: it turns up in nothing that anybody prints, logs or stores."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis
from typer.testing import CliRunner

from eventwagon.cli.app import app
from eventwagon.drivers.opening import Program, open_drivers, open_orchestrator
from eventwagon.errors import EventwagonError
from eventwagon.settings import Settings
from tests.servers.redis import RedisServer

CANARY = "Canary/7f@9+3 c&d"
"""What must be percent-encoded, and may come back in either form."""
FORMS = (CANARY, quote(CANARY), quote(CANARY, safe=""), "Canary", "7f@9", "9+3")

PROGRAM = """
import os
import sys
from eventwagon import Train, Volume, Workers

URL = os.environ.get("EVENTWAGON_URL") or os.environ["CANARY_URL"]
SETTINGS = {"spares": 0, "attempts": 2, "backoff": 0.01, "backoff_most": 0.02}
train = Train("canaries", limit=Volume(1000), workers=Workers(each=2), **SETTINGS)

@train.on("canaries")
def talks(payload: object) -> None:
    print(f"a handler prints {URL}", flush=True)
    raise RuntimeError(f"can't reach {URL}\\nnor anything else")

broken = Train("broken", limit=Volume(1000), workers=Workers(each=1), spares=0, provision_timeout=2.0)

@broken.on("broken")
def never(payload: object) -> None:
    raise AssertionError

if os.environ.get("FAIL_IN_CHILD") and "subprocess" in sys.argv[0]:
    raise SystemExit(f"this process dies with {URL} on its lips")
"""


def clean(text: str, what: str) -> None:
    for form in FORMS:
        assert form not in text, f"{what}: {text[max(0, text.find(form) - 300) : text.find(form) + 100]}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    directory = tmp_path / "redis"
    directory.mkdir()
    with RedisServer(directory, config=[f'requirepass "{CANARY}"']) as found:
        yield found


def url_of(server: RedisServer) -> str:
    return f"redis://:{quote(CANARY, safe='')}@{server.host}:{server.port}/0"


def environment(place: Path, url: str, **further: str) -> dict[str, str]:
    return {
        **os.environ,
        "EVENTWAGON_URL": url,
        "CANARY_URL": url,
        "XDG_STATE_HOME": str(place / "state"),
        "COLUMNS": "100",
        **further,
    }


def cli(place: Path, url: str, *arguments: str, given: str = "", **further: str) -> str:
    """What a command says, checked."""
    done = subprocess.run(
        [sys.executable, "-m", "eventwagon", *arguments],
        cwd=place,
        env=environment(place, url, **further),
        input=given,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    said = done.stdout + done.stderr
    clean(said, " ".join(arguments))
    return said


def until_said(process: subprocess.Popen[str], words: str, said: list[str]) -> None:
    assert process.stderr is not None
    for text in process.stderr:
        said.append(text)
        clean(text, "the log")
        if words in text:
            return
    raise AssertionError("".join(said))


def command_lines(of: subprocess.Popen[str]) -> str:
    """Those of the process and of all that it started, for as long as it has any."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = path.read_text(errors="replace").rpartition(")")[2].split()
            words = path.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "eventwagon" in words and (int(path.parent.name) == of.pid or int(session[1]) == of.pid):
            found.append(words)
    return "\n".join(found)


@pytest.mark.slow
def test_nothing_that_a_train_says_or_stores_holds_its_password(server: RedisServer, place: Path) -> None:
    url = url_of(server)
    process = subprocess.Popen(
        [sys.executable, "-m", "eventwagon", "--debug", "run", "app:train", "--isolate", "--log-level", "debug"],
        cwd=place,
        env=environment(place, url),
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    said: list[str] = []
    try:
        until_said(process, "canaries_v1 active", said)
        assert "published 3" in cli(place, url, "publish", "canaries", given='"a"\n"b"\n"c"\n')
        until_said(process, "is dead after", said)
        lines = command_lines(process)
        assert "eventwagon.orchestrators.processes.subprocess" in lines
        clean(lines, "command lines")
        for command in (
            ["status", "canaries"],
            ["status", "canaries", "--json"],
            ["why", "canaries"],
            ["why", "canaries", "--json"],
            ["doctor"],
            ["doctor", "--json"],
            ["switch", "canaries", "--reason", f"rotating {url}"],
            ["dead", "canaries"],
            ["dead", "canaries", "--json"],
            ["stop", "canaries"],
            ["why", "canaries", "--json"],
        ):
            assert cli(place, url, *command), command
        rest = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.communicate()
    told = "".join(said) + rest
    assert "a handler prints redis://:***@" in told
    assert "can't reach redis://:***@" in told
    clean(told, "the log")
    letter = json.loads(cli(place, url, "dead", "canaries", "--json").splitlines()[0])
    assert letter["because"].startswith("RuntimeError: can't reach redis://:***@")
    stored(server, place)


def stored(server: RedisServer, place: Path) -> None:
    """All keys of the server, and all files of the orchestrator."""
    with Redis(host=server.host, port=server.port, password=CANARY) as redis:
        keys = list(redis.scan_iter(count=1000))
        assert keys
        for key in keys:
            clean(repr((key, redis.dump(key))), f"key {key!r}")
            if redis.type(key) == b"list":
                clean(repr(redis.lrange(key, 0, -1)), f"key {key!r}")
    for path in (place / "state").rglob("*"):
        clean(str(path), "a file's name")
        if path.is_file():
            clean(path.read_text(errors="replace"), str(path))


@pytest.mark.slow
def test_the_last_words_of_a_process_that_dies_hold_no_password(server: RedisServer, place: Path) -> None:
    url = url_of(server)
    process = subprocess.Popen(
        [sys.executable, "-m", "eventwagon", "run", "app:broken", "--isolate"],
        cwd=place,
        env=environment(place, url, FAIL_IN_CHILD="1"),
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    said: list[str] = []
    try:
        until_said(process, "on its lips", said)
        for _ in range(30):
            if "dies with redis://:***@" in cli(place, url, "status", "broken", "--json"):
                break
        else:
            pytest.fail("its last words are not in status")
        cli(place, url, "why", "broken")
        process.send_signal(signal.SIGTERM)
        said.append(process.communicate(timeout=60)[1])
    finally:
        process.kill()
        process.communicate()
    clean("".join(said), "the log")
    stored(server, place)


COMMANDS = (
    ["run", "app:train"],
    ["run", "app:train", "--isolate"],
    ["observe", "app:train"],
    ["work", "app:train"],
    ["publish", "canaries", "app.py"],
    ["publish", "app:train", "app.py"],
    ["status", "canaries"],
    ["status", "canaries", "--json"],
    ["why", "canaries"],
    ["why", "app:train", "--json"],
    ["dead", "canaries"],
    ["switch", "canaries"],
    ["drain", "canaries"],
    ["stop", "canaries"],
    ["doctor"],
    ["doctor", "--json"],
    ["demo", "--events", "1"],
    ["nonsense"],
    ["status"],
    ["status", "canaries", "{url}"],
    ["{url}"],
    ["status", "canaries", "--{url}"],
    ["status", "{url}"],
    ["run", "{url}"],
    ["run", "app:train", "--orchestrator", "{url}"],
    ["publish", "canaries", "{url}"],
    ["switch", "canaries", "--timeout", "{url}"],
    ["--help"],
    ["status", "--help"],
)


def wrong_urls(port: int) -> list[str]:
    """Each with a canary of its own: one that was seen before would be known."""
    secrets = (f"canary{number:03}secret" for number in range(1000))
    return [
        form.format(next(secrets))
        for form in (
            f"redis://:{{0}}@127.0.0.1:{port}/0?timeout=1",
            "redis://user:{0}@127.0.0.1:1/0?timeout=1",
            "redis://127.0.0.1:{0}",
            "redis://:{0}",
            "redis://:x/{0}@127.0.0.1:1",
            "redis://:{0}@127.0.0.1:1/zero",
            "redis://:{0}@127.0.0.1:1/0?perfix=x",
            "redis://[::1:{0}@h",
            "rediss://:{0}@127.0.0.1:1?ssl_password={0}&timeout=1",
            "valkeys://:{0}@127.0.0.1:1?timeout=1",
            "redis://u:{0}@127.0.0.1:1,127.0.0.1:2/0?timeout=1",
            "redis://u:{0}@127.0.0.1:1,127.0.0.1:x/0",
            "redis+sentinel://u:{0}@127.0.0.1:1,127.0.0.1:2/mymaster?sentinel_password={0}&timeout=1",
            "redis+sentinel://127.0.0.1:1/mymaster?sentinel_username=u&sentinel_password={0}&timeout=1&x=1",
            "redis+sentinel://127.0.0.1:1,127.0.0.1:{0}/mymaster",
            "redis+sentinel://u:{0}@127.0.0.1:1",
            "redis+unix://u:{0}@/nowhere.sock?timeout=1",
            "redis+unix:///nowhere.sock?password={0}",
            "valkey+unix://u:{0}@host/nowhere.sock",
            "unix://:{0}@/nowhere.sock?db=x",
            "memory://?registry=redis+sentinel://u:{0}@127.0.0.1:1/mymaster%3Fsentinel_password={0}%26timeout=1",
            "kafka://user:{0}@127.0.0.1:1",
            "kafka://127.0.0.1:1?timeout=1&security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN"
            "&sasl.username=bob&sasl.password={0}",
            "kafka://127.0.0.1:1?timeout=1&sasl_password={0}",
            "kafka://127.0.0.1:1?timeout=1&sasl.mechanism={0}&sasl.password={0}",
            "pulsar://u:{0}@127.0.0.1:1/public/default",
            "pulsar://127.0.0.1:1/public/default?token={0}&admin=http://u:{0}@127.0.0.1:1&send_timeout=1"
            "&registry=redis%3A%2F%2F%3A{0}%40127.0.0.1%3A1",
            "pulsar://127.0.0.1:1/public/default?tokn={0}",
            "sqs://key:{0}@eu-west-1/x",
            "sqs://eu-west-1/x?aws_secret_access_key={0}",
            "sqlite:///trains?password={0}",
            "sqlite:///trains?registry=redis://:{0}@127.0.0.1:1?timeout=1",
            "nothing://u:{0}@h",
            "memory://x?token={0}",
        )
    ]


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("how", ["wrong password", "unreachable"])
def test_commands_that_fail_say_no_password(
    server: RedisServer, place: Path, words: list[str], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    secret = f"Sparrow{abs(hash((how, *words)))}"
    port = server.port if how == "wrong password" else closed_port()
    url = f"redis://:{secret}@127.0.0.1:{port}/0?timeout=1"
    set_to = {"EVENTWAGON_URL": url, "CANARY_URL": url, "EVENTWAGON_DEMO_URL": url, "EVENTWAGON_DEBUG": "1"}
    done = CliRunner().invoke(app, [word.format(url=url) for word in words], env=set_to)
    assert done.exit_code or "--help" in words, done.output
    assert secret not in done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("number", range(len(wrong_urls(1))))
def test_errors_hold_no_secrets(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = wrong_urls(closed_port())[number]

    async def reached() -> None:
        drivers = open_drivers(url)
        async with asyncio.timeout(8), drivers.registry as registry, drivers.broker as broker:
            await registry.read("canaries")
            await broker.depth([])
        pytest.fail("it was reached")

    with pytest.raises((EventwagonError, TimeoutError)) as caught:
        asyncio.run(reached())
    texts = (str(caught.value), repr(caught.value), "".join(traceback.format_exception(caught.value)))
    for text in texts:
        assert f"canary{number:03}" not in text


@pytest.mark.parametrize(
    "url",
    [
        "subprocess:?token={0}",
        "command:sh?password={0}",
        "command://u:{0}@h?ready=x",
        "kubernetes://u:{0}@h?per_pod=x",
        "lambda://eu-west-1/x?token={0}",
        "ecs://u:{0}@eu-west-1/x?password={0}",
        "nothing://u:{0}@h",
    ],
)
def test_errors_of_orchestrators_hold_no_secrets(url: str) -> None:
    secret = f"wren{abs(hash(url))}"
    with pytest.raises(EventwagonError) as caught:
        open_orchestrator(url.format(secret), Program("app:train", "sqlite:///trains", Settings()))
    assert secret not in "".join(traceback.format_exception(caught.value))
