"""`eventwagon dead`: what it shows, what it asks, and that it does what it counted."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from eventwagon import Event, Train, Volume
from eventwagon.cli.app import app
from eventwagon.event import DEAD, Channel
from eventwagon.runtime.dead_letters import died

shop = Train("shop", limit=Volume(1000), spares=0)


@shop.on("shop")
async def order(n: int) -> None: ...


@shop.on("ship")
async def ship(n: int) -> None: ...


def letter(n: int, channel: str, because: str, **further: str) -> Event:
    event = Event(f"id{n}", "order", "/shop", 1_700_000_000.0 + n, b'{"card": "4711"}', f"s{n}", extensions=further)
    return died(event, channel, 1, because, 5, 1_700_000_100.0 + n)[1]


LETTERS = [
    *(letter(n, "ship", f"ConnectionError: no host {n}") for n in range(3)),
    letter(3, "", "rejected: \x1b[31m?"),
    letter(4, "ship", "TimeoutError", deadretries="3", deadattempts="15"),
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/trains"

    async def made() -> None:
        async with shop.connect(url, listeners=()) as c:
            await c.publish(0)
            await c.broker.publish(Channel("shop", 1, DEAD), [*LETTERS, LETTERS[0]])  # one of them twice

    asyncio.run(made())
    return url


def dead(url: str, *words: str) -> Result:
    return CliRunner().invoke(app, ["dead", *words, "--url", url])


def test_one_that_is_stored_twice_is_one_letter_and_two_in_the_brokers_totals(url: str) -> None:
    listed = CliRunner().invoke(app, ["list", "--json", "--url", url])
    assert json.loads(listed.stdout)["dead"] == len(LETTERS) + 1
    assert f"{len(LETTERS)} dead letters" in dead(url, "list", "shop").output


def stands(url: str) -> list[str]:
    async def found() -> list[str]:
        async with shop.connect(url, listeners=()) as c:
            return sorted({letter.event.id async for letter in c.dead.list()})

    return asyncio.run(found())


def published(url: str) -> list[Event]:
    async def found() -> list[Event]:
        async with shop.connect(url, listeners=()) as c:
            return [event async for event in c.broker.read(Channel("shop", 1))][1:]

    return asyncio.run(found())


def test_what_is_shown(url: str) -> None:
    said = dead(url, "list", "shop")
    assert said.exit_code == 0
    assert "      3  ship, shop_v1, " in said.output
    assert "  ConnectionError: no host #\n" in said.output
    assert said.output.endswith("5 dead letters in 3 groups\n")
    groups = [json.loads(each) for each in dead(url, "list", "shop", "--json").output.splitlines()]
    assert [(g["channel"], g["count"]) for g in groups] == [("ship", 3), ("", 1), ("ship", 1)]
    for words in (("show", "shop"), ("show", "shop", "--json"), ("list", "shop"), ("list", "shop", "--json")):
        said = dead(url, *words)
        assert said.exit_code == 0
        assert "4711" not in said.output
        assert "\x1b" not in said.output
    said = dead(url, "show", "shop", "id4", "id1")
    assert "shop_v1 ship, 20 attempts, retried 3 times  id4, subject s4" in said.output
    assert said.output.endswith("2 dead letters\n")
    assert "4711" in dead(url, "show", "shop", "id1", "--payload").output
    letters = [json.loads(each) for each in dead(url, "export", "shop", "--channel", "ship").output.splitlines()]
    assert [each["id"] for each in letters] == ["id0", "id1", "id2", "id4"]
    assert {each["data"]["card"] for each in letters} == {"4711"}
    assert [
        json.loads(each)["id"] for each in dead(url, "show", "shop", "--channel", "shop", "--json").output.splitlines()
    ] == ["id3"]
    # the short form, as before
    said = dead(url, "shop")
    assert said.output.endswith("5 dead letters\n")
    assert "4711" in said.output
    assert len(dead(url, "shop", "--json").output.splitlines()) == 5


def test_letters_of_an_undo_are_shown_with_the_channel_that_was_undone(url: str) -> None:
    def undone(n: int, channel: str) -> Event:
        return letter(n, "", "TimeoutError", undo="shop/12", undoof="shop_v1", undochannel=channel, undoattempts="1")

    async def stored() -> None:
        async with shop.connect(url, listeners=()) as c:
            await c.broker.publish(Channel("shop", 1, DEAD), [undone(0, "ship"), undone(8, "shop")])

    asyncio.run(stored())
    assert "      2  ship, shop_v1, " in dead(url, "list", "shop").output  # with id4's
    said = dead(url, "show", "shop", "--error", "timeout").output
    assert "shop_v1 undo of ship, 5 attempts  id0," in said
    assert "shop_v1 undo of ingress, 5 attempts  id8," in said
    said = dead(url, "show", "shop", "id0", "--json").output  # that of its handling is another letter
    assert {json.loads(each)["because"] for each in said.splitlines()} == {"TimeoutError", "ConnectionError: no host 0"}
    assert {json.loads(each)["channel"] for each in said.splitlines()} == {"ship"}
    assert "3 dead letters again" in dead(url, "retry", "shop", "--channel", "ship").output


def test_retry_does_what_it_counted(url: str) -> None:
    said = dead(url, "retry", "shop", "--channel", "ship")
    assert said.exit_code == 2
    assert "this would publish 3 dead letters again, with the same ids: say --yes" in said.output
    said = dead(url, "retry", "shop", "--channel", "ship", "--yes", "--count", "4")
    assert said.exit_code == 1
    assert "3 dead letters, not 4: nothing was done" in said.output
    assert not published(url)
    said = dead(url, "retry", "shop", "--channel", "ship", "--yes", "--count", "3", "--by", "ada")
    assert said.exit_code == 0, said.output
    assert (
        "1 dead letter died again after 3 retries and will not be retried; --retries 4 allows one more" in said.output
    )
    assert said.output.endswith("3 dead letters published again\n")
    assert [event.id for event in published(url)] == ["id0", "id1", "id2"]
    assert stands(url) == ["id3", "id4"]
    why = CliRunner().invoke(app, ["why", "shop", "--url", url]).output
    assert "3 dead letters (channel='ship') to be published again by ada: by hand" in why
    assert dead(url, "retry", "shop", "id4", "--yes", "--json").output.splitlines()[-1].startswith('{"count":0')
    assert dead(url, "retry", "shop", "id4", "--yes", "--retries", "4").exit_code == 0
    assert stands(url) == ["id3"]
    assert dead(url, "drop", "shop", "--all", "--yes").output.endswith("1 dead letter deleted\n")
    assert stands(url) == []
    assert dead(url, "drop", "shop", "--all").output == "0 dead letters deleted\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("retry", "shop"), "say which"),
        (("drop", "shop"), "say which"),
        (("export", "shop"), "say which"),
        (("drop", "shop", "--all", "--channel", "ship"), "one, not both"),
        (("drop", "shop", "--since", "2027-01-31T18:00:00", "--yes"), "write a time with its zone"),
        (("drop", "shop", "--until", "tomorrow"), "write a time with its zone"),
        (("drop", "shop", "--error", ""), "error is empty"),
        (("drop", "shop", "--wagon", "other_v1"), "is a wagon of train 'other'"),
        (("shop", "id1"), "say what to do first"),
        (("forget", "shop"), "say what to do first"),
        (("retry",), "name the TARGET"),
        (("list", "shop", "id1"), "takes no ids"),
        (("list", "shop", "--yes"), "go with retry and drop"),
        (("show", "shop", "--count", "1"), "go with retry and drop"),
        (("retry", "nowhere", "--all"), "there is no train 'nowhere'"),
    ],
)
def test_mistakes(url: str, words: tuple[str, ...], said: str) -> None:
    done = dead(url, *words)
    assert done.exit_code != 0
    assert said in done.output
    assert "Traceback" not in done.output
    assert len(stands(url)) == 5


@pytest.mark.parametrize(
    "words",
    [
        ("show", "shop", "id9"),
        ("export", "shop", "id9"),
        ("drop", "shop", "id9", "--yes"),
        ("drop", "shop", "id9", "--json"),
        ("retry", "shop", "id9"),
        ("drop", "shop", "id3", "--channel", "ship"),
    ],
)
def test_an_id_that_matches_nothing_is_said_and_fails(url: str, words: tuple[str, ...]) -> None:
    done = dead(url, *words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"train 'shop' has no such dead letter: id='{words[2]}'" in done.stderr
    assert len(stands(url)) == 5
    assert dead(url, "show", "shop", "id9", "id1").stdout.endswith("1 dead letter\n")


ALL_IDS = ["id0", "id1", "id2", "id3", "id4"]


@pytest.mark.parametrize(
    ("answer", "left", "code"), [("y\n", ["id3", "id4"], 0), ("\n", ALL_IDS, 1), ("\x04", ALL_IDS, 130)]
)
def test_at_a_terminal_it_asks(url: str, answer: str, left: list[str], code: int) -> None:
    ours, theirs = pty.openpty()
    command: list[Any] = [
        sys.executable,
        "-m",
        "eventwagon",
        "dead",
        "drop",
        "shop",
        "--error",
        "no host",
        "--url",
        url,
    ]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        os.write(ours, answer.encode())
        said, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert "Delete 3 dead letters for good?" in said
    assert ("3 dead letters deleted" in said) == (len(left) == 2)
    assert stands(url) == left
    assert process.returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_is_said_in_one_line(url: str, buffered: bool) -> None:
    env = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "eventwagon", "dead", "export", "shop", "--all", "--url", url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
    assert done.returncode == 1
    assert done.stderr == "eventwagon: the output can't be written: [Errno 28] No space left on device\n"
