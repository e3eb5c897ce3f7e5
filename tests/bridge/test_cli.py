"""`eventwagon bridge`, as a process."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bridge.support import KafkaFlow, kafka_flow, letters, numbered, redis_flow, shop, stored
from tests.servers.server import Server

PROGRAM = """
from eventwagon import Context, Train

orders = Train("orders")


@orders.on("orders")
async def place(order: dict[str, int], ctx: Context) -> None:
    await ctx.emit("ship", order)


@orders.on("ship")
async def ship(order: dict[str, int]) -> None:
    print("shipped", order["n"], flush=True)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(PROGRAM)
    return tmp_path


def cli(place: Path, *arguments: str, given: str | bytes = b"") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eventwagon", *arguments],
        cwd=place,
        env={**os.environ, "COLUMNS": "200", "EVENTWAGON_URL": "sqlite:///trains"},
        input=given.decode("latin-1") if isinstance(given, bytes) else given,
        encoding="latin-1",
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_stdin_is_published_and_what_is_no_json_is_kept(place: Path) -> None:
    given = b'\xef\xbb\xbf{"n": 1}\n\n  {"n": 2}  \r\nno\x00 json\n\xff\n{"n": 3}'
    done = cli(place, "bridge", "-", "app:orders", "--key", "body:n", "--type", "placed", given=given)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "published 3 events to orders, 2 dead letters\n"

    async def main() -> None:
        async with shop().connect(f"sqlite:///{place}/trains") as c:
            events = await stored(c)
            assert [(event.data, event.subject, event.type) for event in events] == [
                (b'{"n": 1}', "1", "placed"),
                (b'{"n": 2}', "2", "placed"),
                (b'{"n": 3}', "3", "placed"),
            ]
            assert [letter.data for letter in await letters(c)] == [b"no\x00 json", b"\xff"]

    asyncio.run(main())


def test_events_for_an_inner_channel_are_passed_on(place: Path) -> None:
    done = cli(place, "bridge", "-", "app:orders", "--channel", "ship", given='{"n": 1}\n')
    assert done.returncode == 0, done.stderr
    with subprocess.Popen(
        [sys.executable, "-m", "eventwagon", "run", "app:orders", "--url", "sqlite:///trains"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as working:
        assert working.stdout is not None
        assert working.stdout.readline() == "shipped 1\n"
        working.terminate()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-", "nothing"], "there is no train 'nothing'"),
        (["-", "app:orders", "--channel", "mail"], "no such inner channel; there are: ship"),
        (["-", "app:orders", "--key", "body:"], "--key 'body:'"),
        (["-", "app:orders", "--from", "yesterday"], "earliest or latest"),
        (["-", "app:orders", "--from", "latest"], "leave --from out"),
        (["nats://h/x", "app:orders"], "names no known source"),
        (["redis://h/x", "app:orders"], "group=NAME"),
        (["-", "app:orders", "--dry-run", "0"], "--dry-run"),
        (["env:NOTHING", "app:orders"], "no environment variable of this name"),
    ],
)
def test_a_mistake_is_told_in_one_line(place: Path, arguments: list[str], said: str) -> None:
    done = cli(place, "bridge", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_password_is_kept_out_of_the_command_line_and_of_what_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_SOURCE", "redis://user:canary-7@127.0.0.1:1/orders?group=g&timeout=0.5")
    done = cli(place, "bridge", "env:ORDERS_SOURCE", "app:orders", "--from", "latest")
    assert done.returncode == 1
    assert "can't be reached" in done.stderr
    assert "canary" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("redis://127.0.0.1:1/s?group=g&timeout=0.5", "sqlite:///trains"),
        ("kafka://127.0.0.1:1/s?group=g&timeout=0.5", "sqlite:///trains"),
        ("-", "redis://127.0.0.1:1?timeout=0.5"),
    ],
)
def test_a_server_that_is_away_at_the_start_ends_it_as_it_ends_observe(place: Path, source: str, url: str) -> None:
    begin = () if source == "-" else ("--from", "latest")
    done = cli(place, "bridge", source, "app:orders", "--url", url, *begin)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    if "redis" in url:
        observed = cli(place, "observe", "app:orders", "--url", url)
        assert (observed.returncode, observed.stderr.splitlines()[-1]) == (1, done.stderr.splitlines()[-1])


def test_a_dry_run_takes_nothing(place: Path, redis_server: Server, kafka_server: Server) -> None:
    async def main() -> None:
        async with redis_flow(redis_server) as flow, kafka_flow(kafka_server, partitions=2) as topic:
            for each in (flow, topic):
                await each.write(numbered(4))
                done = await asyncio.to_thread(
                    cli,
                    place,
                    "bridge",
                    each.url,
                    "app:orders",
                    "--from",
                    "earliest",
                    "--dry-run",
                    "3",
                    "--key",
                    "body:n",
                )
                assert done.returncode == 0, done.stderr
                *lines, last = done.stdout.splitlines()
                assert len(lines) == 3
                assert all("subject=" in line and "application/json" in line for line in lines)
                assert last == "3 records shown, none taken"
            assert await flow.client.xinfo_groups(flow.stream) == []
            assert not await members(topic)

    async def members(flow: KafkaFlow) -> list[str]:
        found = await asyncio.wrap_future(flow.admin.list_consumer_groups())
        return [group.group_id for group in found.valid if flow.topic in group.group_id]

    asyncio.run(main())


@pytest.mark.parametrize("channel", [(), ("--channel", "ship")])
def test_a_dry_run_tells_what_does_not_fit_the_handler(place: Path, channel: tuple[str, ...]) -> None:
    """As it tells what can't be an event. With the train's name alone it knows no handlers."""
    given = '3\n{"n": 1}\nno json\n{"n": "x"}'
    done = cli(place, "bridge", "-", "app:orders", *channel, "--dry-run", "9", given=given)
    handler = "ship" if channel else "place"
    assert done.returncode == 0, done.stderr
    three, one, no, x, last = done.stdout.splitlines()
    assert f"DEAD LETTER: does not fit handler {handler}: Expected `object`, got `int`; application/json: 3" in three
    assert "DEAD LETTER" not in one
    assert "DEAD LETTER: " in no
    assert f"DEAD LETTER: does not fit handler {handler}: Expected `int`, got `str`" in x
    assert last == "4 records shown, none taken; 3 dead letters"
    assert cli(place, "bridge", "-", "app:orders", given='{"n": 1}').returncode == 0
    done = cli(place, "bridge", "-", "orders", "--dry-run", "9", given="3")
    assert done.stdout.splitlines()[1] == "1 record shown, none taken"


def test_a_terminal_shows_the_progress(place: Path) -> None:
    screen, end = pty.openpty()
    reader, writer = os.pipe()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "eventwagon", "bridge", "-", "app:orders", "--url", "sqlite:///trains"],
            cwd=place,
            stdin=reader,
            stdout=subprocess.DEVNULL,
            stderr=end,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        ):
            os.close(end)
            os.write(writer, b'{"n": 1}\n')
            seen = b""
            while b"1 event published" not in seen:
                seen += os.read(screen, 65_536)
            os.close(writer)
    finally:
        os.close(reader)
        os.close(screen)
