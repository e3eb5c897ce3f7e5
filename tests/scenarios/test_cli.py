"""The command line, as real processes on a real directory."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eventwagon import Train, Volume
from eventwagon.cli.app import app

PROGRAM = """
import asyncio
from dataclasses import dataclass
from eventwagon import Context, Reject, Train, Volume, Workers

@dataclass
class SignUp:
    email: str

train = Train("signups", limit=Volume(1000), workers=Workers(total=4), spares=1)

@train.on("signups")
async def register(signup: SignUp, ctx: Context) -> None:
    if signup.email == "poison":
        raise Reject("an e-mail address has an @")
    await ctx.emit("mail", signup)

@train.on("mail")
async def mail(signup: SignUp) -> None:
    if signup.email == "slow":
        await asyncio.sleep(60)

bare = Train("bare")
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(PROGRAM)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "eventwagon", *arguments]


def environment(**further: str) -> Mapping[str, str]:
    return {**os.environ, "COLUMNS": "100", "EVENTWAGON_URL": "sqlite:///trains", **further}


def cli(place: Path, *arguments: str, given: str = "", **further: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=place,
        env=environment(**further),
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def cli_here(place: Path, *arguments: str) -> Result:
    """The same in this process, which takes a hundredth of the time; for what ends by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return CliRunner().invoke(app, arguments, env=environment())


@contextmanager
def running(place: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the train, alive; ended on leaving however it goes."""
    process = subprocess.Popen(
        command(*arguments), cwd=place, env=environment(), stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    try:
        for said in process.stderr:
            if "Ctrl-C ends it" in said:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(*emails: str) -> str:
    return "".join(json.dumps({"email": e}) + "\n" for e in emails)


def until_handled(place: Path, number: int) -> None:
    """Until wagon `number` has settled all that it took."""
    for _ in range(200):
        view = json.loads(cli(place, "status", "signups", "--json").stdout)
        wagon = next((w for w in view["wagons"] if w["number"] == number), None)
        if wagon is None or (wagon["settled"] == wagon["published"] and not wagon["inside"]):
            return
        time.sleep(0.05)
    raise AssertionError(view)


CHAIN = """
from eventwagon import Context, Event, Reject, Train

train = Train("orders")

@train.on("orders")
async def ship(order: int, ctx: Context) -> None:
    await ctx.emit("mail", order)

@train.on("mail")
async def mail(order: int) -> None:
    raise Reject("no such address")
"""


def test_a_dead_letter_of_a_chain_shows_where_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(CHAIN)
    publish = """
import asyncio
from app import train

async def main() -> None:
    async with train.connect() as c, c.running():
        print(await c.publish(7, subject="order 7"))
        while not [letter async for letter in c.dead_letters()]:
            await asyncio.sleep(0.05)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", publish], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    published = done.stdout.strip()
    letter = json.loads(cli(tmp_path, "dead", "orders", "--json").stdout)
    assert (letter["channel"], letter["subject"]) == ("mail", "order 7")
    assert letter["began"] == int(published[:8] + published[9:13], 16) / 1000
    said = cli(tmp_path, "dead", "orders").stdout
    assert f"{letter['id']}, subject order 7, of a chain that began 20" in said


def test_the_whole_life_of_a_train(place: Path) -> None:
    published = cli(place, "publish", "app:train", given=lines("a@x", "poison", "b@x"))
    assert (published.returncode, published.stdout) == (0, "published 3 events to signups\n"), published.stderr

    quiet = cli(place, "status", "signups")
    assert "no process is alive" in quiet.stdout
    assert "no observer is alive" in quiet.stdout

    with running(place, "run", "app:train") as process:
        assert "switched from signups_v1 to signups_v2" in cli(place, "switch", "signups", "--reason", "a test").stdout
        drained = cli(place, "drain", "app.py:train")
        assert drained.returncode == 0, drained.stderr
        assert "every wagon up to signups_v2 is drained" in drained.stdout

        view = json.loads(cli(place, "status", "signups", "--json", "--all").stdout)
        assert [w["number"] for w in view["removed"]] == [1, 2]
        assert view["removed"][0]["name"] == "signups_v1"
        assert (view["removed"][0]["published"], view["removed"][0]["settled"]) == (3, 3)
        assert view["dead"] == 1
        assert [m["roles"] for m in view["members"]] == [["observe", "work"]]
        shown = cli(place, "status", "signups", "--all").stdout
        assert "removed" in shown
        assert "active" in shown
        assert "1 dead letter\n" in shown

        letter = json.loads(cli(place, "dead", "signups", "--json").stdout)
        assert letter["data"] == {"email": "poison"}
        assert (letter["source"], letter["extensions"]) == ("/eventwagon/signups", {})
        assert letter["because"] == "rejected: an e-mail address has an @"
        assert "rejected: an e-mail address has an @" in cli(place, "dead", "signups").stdout

        why = cli(place, "why", "signups").stdout
        assert "asked for: a test" in why
        assert "signups_v1" in why or "signups_v1 removed" in why
        assert len(cli(place, "why", "signups", "--last", "2").stdout.splitlines()) == 2
        facts = [
            json.loads(text)["fact"]
            for text in cli(place, "why", "signups", "--wagon", "1", "--json").stdout.splitlines()
        ]
        assert facts[0]["fact"] == "WagonOpened"
        assert facts[-1]["fact"] == "WagonRemoved"

        # one may stop reading whenever one likes
        piped = f"{' '.join(command('why', 'signups', '--json'))} | head -1"
        head = subprocess.run(
            ["sh", "-c", piped], cwd=place, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert len(head.stdout.splitlines()) == 1
        assert head.stderr == ""

        assert "1 process ended" in cli(place, "stop", "signups").stdout
        assert process.wait(30) == 0
    assert "no process was alive" in cli(place, "stop", "signups").stdout


def test_the_parts_each_on_their_own(place: Path) -> None:
    with running(place, "observe", "app:train"), running(place, "work", "app:train") as worker:
        assert cli(place, "publish", "signups", given=lines(*(f"{n}@x" for n in range(2500)))).returncode == 0
        until_handled(place, 1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        view = json.loads(cli(place, "status", "signups", "--json", "--all").stdout)
        assert [m["roles"] for m in view["members"]] == [["observe"]]
        took = [w["published"] for w in (*view["removed"], *view["wagons"])]
        assert took[:2] == [1000, 1000]
        assert sum(took) == 2500


def in_words_of_python(value: object) -> list[object]:
    """What stands anywhere in it as Python writes it, and not as JSON does."""
    if isinstance(value, dict):
        return [found for each in value.values() for found in in_words_of_python(each)]
    if isinstance(value, list):
        return [found for each in value for found in in_words_of_python(each)]
    return [value] if isinstance(value, str) and re.fullmatch(r"None|True|False|'.*'|[0-9.]+", value) else []


def test_json_has_numbers_texts_and_nulls_as_such(place: Path) -> None:
    async def main() -> None:
        train = Train("orders", limit=Volume(10), once=3600, attempts=3)
        train.on("orders")(lambda order: None)
        async with train.connect(f"sqlite:///{place}/trains") as c, c.running():
            await c.publish_many(range(11))
            await c.wait_drained(1)
            while [w.number for w in c.manifest.wagons] != [2]:
                await asyncio.sleep(0.05)

    asyncio.run(main())
    for command_ in (("status", "--all"), ("why",), ("audit",)):
        name, *options = command_
        said = [json.loads(text) for text in cli_here(place, name, "orders", *options, "--json").stdout.splitlines()]
        assert said, name
        assert in_words_of_python(said) == [], name
    declared = json.loads(cli_here(place, "status", "orders", "--json").stdout)["declared"]
    assert declared["limit"] == "Volume(10)"
    assert [declared[name] for name in ("at_cap", "once", "attempts", "pause_on", "reuse")] == [
        "fill",
        3600.0,
        3,
        None,
        False,
    ]
    assert json.loads(cli_here(place, "why", "orders", "--json").stdout.splitlines()[0])["fact"]["settings"] == declared


def test_a_line_may_be_as_large_as_the_train_declares(place: Path) -> None:
    assert cli(place, "publish", "app:train", given=lines("a@x")).returncode == 0
    program = (place / "app.py").read_text()
    (place / "smaller.py").write_text(
        f"{program}\nimport msgspec\ntrain.settings = msgspec.structs.replace(train.settings, max_event_bytes=2000)\n"
    )
    done = cli(place, "publish", "smaller:train", given=lines("a" * 50_000))
    assert (done.returncode, done.stdout) == (0, "published 1 event to signups\n"), done.stderr
    done = cli(place, "publish", "smaller:train", given=lines("a" * 300_000))
    assert done.returncode == 1
    assert "max_event_bytes=262,144" in done.stderr


TWO = """
from eventwagon import Train, Workers

orders = Train("orders", workers=Workers(each=1))
billing = Train("billing", workers=Workers(each=1))
same = orders
elsewhere = Train("elsewhere")


@orders.on("orders")
async def ship(n: int) -> None:
    print("shipped", n, flush=True)


@billing.on("billing")
async def bill(n: int) -> None:
    print("billed", n, flush=True)
"""


@pytest.mark.parametrize("targets", [("two:orders", "two:billing"), ("two",), ("two.py",), ("two", "two:orders")])
def test_one_process_runs_several_trains(place: Path, targets: tuple[str, ...]) -> None:
    (place / "two.py").write_text(TWO)
    process = subprocess.Popen(
        command("run", *targets),
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for train in ("orders", "billing"):
            assert cli(place, "publish", f"two:{train}", given="7\n").returncode == 0
        assert {process.stdout.readline(), process.stdout.readline()} == {"shipped 7\n", "billed 7\n"}
        assert cli(place, "stop", "orders").returncode == 0
        assert cli(place, "publish", "two:billing", given="8\n").returncode == 0
        assert process.stdout.readline() == "billed 8\n"
        process.terminate()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
        assert said.count("Ctrl-C ends it") == 2
    finally:
        process.kill()
        process.communicate()


def test_trains_that_cant_be_run_together_are_refused_whole(place: Path) -> None:
    (place / "two.py").write_text(TWO)
    (place / "other.py").write_text("from eventwagon import Train\norders = Train('orders')\n")
    (place / "none.py").write_text("")
    (place / "due.py").write_text(f"{TWO}\n@billing.every(60, channel='nowhere')\ndef due() -> int: ...\n")
    for arguments, said in (
        (("run", "two", "other:orders"), "two trains with the same name, 'orders'"),
        (("run", "none"), "it has no train with a handler"),
        (("run", "nowhere"), "there is no module 'nowhere'"),
        (("work", "two", "--wagon", "1"), "--wagon is for one train, not for two:orders, two:billing"),
        (("run", "two:orders", "app:bare"), "has no handler for its ingress"),
        (("run", "two:orders", "two:nothing"), "its trains: orders, billing"),
        (("run", "due"), "schedule due: channel 'nowhere' has no handler"),
    ):
        done = cli(place, *arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert cli(place, "list").stdout == "no train has run there yet\n"


def test_the_second_signal_ends_at_once(place: Path) -> None:
    with running(place, "run", "app:train") as process:
        cli(place, "publish", "app:train", given=lines("slow"))
        for _ in range(200):  # until it is in the handler that does not end
            view = json.loads(cli(place, "status", "signups", "--json").stdout)
            if view["wagons"][0]["settled"] and view["wagons"][0]["inside"]:
                break
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_publish_stops_at_the_first_bad_line_and_says_which(place: Path) -> None:
    given = lines("a@x", "b@x") + '{"mail": 1}\n' + lines("c@x")
    done = cli(place, "publish", "app:train", given=given)
    assert done.returncode == 1
    assert "line 3: does not fit handler register" in done.stderr
    assert "accepted before it: 2 events" in done.stderr
    assert json.loads(cli(place, "status", "signups", "--json").stdout)["wagons"][0]["published"] == 2


def test_publish_skips_bad_lines_when_told_to_and_lists_them(place: Path) -> None:
    (place / "in.jsonl").write_bytes(
        b"\xef\xbb\xbf" + lines("a@x").encode() + b'nope\n\n{"email": 7}\n{"email": "\xff"}\n{"email": "b@x"}'
    )
    done = cli(place, "publish", "app:train", "in.jsonl", "--skip-bad", "--subject-field", "email")
    assert done.stdout == "published 2 events to signups\n"
    assert "3 bad lines skipped" in done.stderr
    assert done.returncode == 1
    assert [text.split(":")[1].strip() for text in done.stderr.splitlines()[:-1]] == ["line 2", "line 4", "line 5"]


def test_publish_refuses_attributes_that_no_event_may_have_line_by_line(place: Path) -> None:
    given = lines("a@x") + '{"email": ""}\n{"email": "a\\u0000b"}\n{"email": "\\u001b[31m"}\n' + lines("b@x")
    done = cli(place, "publish", "app:train", "--skip-bad", "--subject-field", "email", given=given)
    assert done.stdout == "published 2 events to signups\n"
    assert "3 bad lines skipped" in done.stderr
    assert done.returncode == 1
    assert [text.split(":")[1].strip() for text in done.stderr.splitlines()[:-1]] == ["line 2", "line 3", "line 4"]
    done = cli(place, "publish", "app:train", "--type", "a\nb", given=lines("c@x"))
    assert done.returncode == 2, done.stderr
    assert "event's type" in done.stderr
    assert "Traceback" not in done.stderr


def test_list_shows_each_train(place: Path) -> None:
    assert cli(place, "list").stdout == "no train has run there yet\n"
    assert cli(place, "publish", "app:train", given='{"email": "a"}\n{"email": "b"}\n').returncode == 0
    assert cli(place, "publish", "app:bare", given="1\n").returncode == 0
    said = [json.loads(text) for text in cli(place, "list", "--json").stdout.splitlines()]
    assert [(t["train"], t["active"], t["wagons"], t["waiting"], t["dead"], t["processes"]) for t in said] == [
        ("bare", 1, 1, 1, 0, 0),
        ("signups", 1, 1, 2, 0, 0),
    ]
    lines = cli(place, "list").stdout.splitlines()
    assert lines[0].split() == ["train", "active", "wagons", "waiting", "dead", "processes"]
    assert [text.split()[0] for text in lines[1:3]] == ["bare", "signups"]


def test_list_shows_the_others_beside_a_broken_one(place: Path) -> None:
    assert cli(place, "publish", "app:train", given='{"email": "a"}\n').returncode == 0
    (place / "trains" / "bad").mkdir()
    (place / "trains" / "bad" / "train.db").write_bytes(b"junk" * 1000)
    done = cli(place, "list", "--json")
    said = {t["train"]: t["broken"] for t in map(json.loads, done.stdout.splitlines())}
    assert said == {"bad": True, "signups": False}
    assert done.returncode == 1
    assert "bad can't be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_an_option_too(place: Path) -> None:
    done = cli(place, "--version")
    assert done.stdout.startswith("eventwagon ")
    assert done.returncode == 0


def test_publish_to_a_name_sends_any_json(place: Path) -> None:
    cli(place, "publish", "app:train", given=lines("a@x"))
    done = cli(place, "publish", "signups", given='{"any": [1]}\n"thing"\n')
    assert (done.returncode, done.stdout) == (0, "published 2 events to signups\n")
    bad = cli(place, "publish", "signups", given="1\nno json\n", NO_COLOR="1")
    assert bad.returncode == 1
    assert "line 2: not JSON: invalid character" in bad.stderr


def test_switch_without_an_observer_says_so_and_ends_in_time(place: Path) -> None:
    cli(place, "publish", "app:train", given=lines("a@x"))
    done = cli(place, "switch", "signups", "--timeout", "0.2")
    assert done.returncode == 3
    assert "no observer of train signups is alive" in done.stderr
    assert "the request stays" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nowhere:train"), "there is no module 'nowhere'"),
        (("run", "app:trian"), "app has no 'trian'; its trains: train, bare"),
        (("run", "app:SignUp"), "is a type, not a Train"),
        (("run", "none.py:train"), "there is no file none.py"),
        (("run", "app:bare"), "has no handler for its ingress"),
        (("run", "missing:train"), "importing missing failed at missing.py:1: there is no module 'not_there'"),
        (("run", "broken:train"), "importing broken failed at broken.py:2: ZeroDivisionError: division by zero"),
        (("run", "rude:train"), "rude.py:2: invalid syntax"),
        (("run", "named:train"), "importing named failed at named.py:2: train name 'No'"),
        (("run", "app:train", "--log-level", "loud"), "log level 'loud'"),
        (("run", "app:train", "--url", "pigeon://x"), "names no known broker"),
        (("status", "signups"), "there is no train 'signups' at sqlite:///trains; none has run there yet"),
        (("status", "app:train", "--watch"), "(eventwagon run app:train starts one)"),
        (("publish", "signups"), "there is no train 'signups'"),
        (("why", "No.Name"), "neither module:attribute nor a train's name"),
        (("publish", "app:train", "none.jsonl"), "none.jsonl can't be read"),
    ],
)
def test_a_mistake_is_one_clear_line(place: Path, arguments: tuple[str, ...], said: str) -> None:
    (place / "missing.py").write_text("import not_there\n")
    (place / "broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    (place / "rude.py").write_text("x = 1\ndef (\n")
    (place / "named.py").write_text("from eventwagon import Train\ntrain = Train('No')\n")
    done = cli(place, *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.startswith("eventwagon: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_another_train_is_named_where_one_is_not_found(place: Path) -> None:
    cli(place, "publish", "app:train", given=lines("a@x"))
    assert "there is no train 'sign' at sqlite:///trains; there are: signups" in cli(place, "status", "sign").stderr


def test_an_error_breaks_between_words_on_a_narrow_terminal_only(place: Path) -> None:
    piped = cli(place, "status", "signups", COLUMNS="50").stderr
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("status", "signups"), cwd=place, env=environment(COLUMNS="50", TERM="xterm"), stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # its other end is closed
        while got := os.read(ours, 65536):
            shown += got
    os.close(ours)
    assert process.wait(20) == 2
    wrapped = shown.decode().splitlines()
    assert len(piped.splitlines()) == 1
    assert len(wrapped) > 2
    assert max(map(len, wrapped)) <= 50
    assert all(each.startswith("    ") for each in wrapped[1:])
    assert " ".join(" ".join(wrapped).split()) == piped.strip()


def test_debug_shows_the_traceback(place: Path) -> None:
    assert "Traceback" in cli(place, "--debug", "run", "nowhere:train").stderr
    assert "Traceback" in cli(place, "run", "nowhere:train", EVENTWAGON_DEBUG="1").stderr


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "observe",
        "work",
        "list",
        "publish",
        "later",
        "status",
        "why",
        "dead",
        "switch",
        "drain",
        "stop",
        "demo",
        "lab",
        "plan",
        "doctor",
        "version",
    ],
)
def test_each_command_explains_itself(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert "Example: " in done.output


def test_the_command_explains_its_exit_codes(place: Path) -> None:
    assert "130 interrupted" in cli(place, "--help").stdout
    assert cli(place, "version").stdout.startswith("eventwagon ")
    assert cli(place, "status").returncode == 2


def test_why_tells_a_wagon_that_never_was_from_one_whose_entries_are_gone(place: Path) -> None:
    (place / "app.py").write_text(PROGRAM.replace("spares=1", "spares=1, keep=2"))
    assert cli(place, "publish", "app:train", given=lines("a@x")).returncode == 0
    with running(place, "run", "app:train"):
        for _ in range(3):
            assert cli(place, "switch", "signups").returncode == 0
    gone = cli(place, "why", "signups", "--wagon", "1")
    assert gone.returncode == 1
    assert "nothing about signups_v1 any more: there was such a wagon" in gone.stderr
    never = cli(place, "why", "signups", "--wagon", "99")
    assert never.returncode == 2
    assert "there never was a wagon signups_v99: the newest is signups_v" in never.stderr


def test_doctor_tries_everything_and_leaves_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trains"
    done = cli(tmp_path, "doctor", url, "--json")
    said = json.loads(done.stdout)
    # where the tests run inside a container, its file system goes with it
    assert (done.returncode == 0) == said["well"] == ("overlay" not in done.stdout)
    assert said["tried"] is True
    assert said["capabilities"]["fences"]
    assert len(said["steps"]["broker"]) > 8
    assert not [step for part in said["steps"].values() for step in part if step["problem"] or step["skipped"]]
    assert list(tmp_path.iterdir()) == []
    assert "✓ seal the channel" in cli(tmp_path, "doctor", url).stdout


def test_doctor_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = cli(tmp_path, "doctor", f"sqlite:///{tmp_path}/file")
    assert done.returncode == 1
    assert f"✗ connect: {tmp_path}/file" in done.stdout
    assert "what the driver declares (not tried: no connection)" in done.stdout
    assert json.loads(cli(tmp_path, "doctor", f"sqlite:///{tmp_path}/file", "--json").stdout)["tried"] is False
    assert done.stderr == "eventwagon: the broker could not be examined: see above\n"


def test_piped_tables_are_not_cut(place: Path) -> None:
    name = "a_train_with_a_name_of_forty-eight_characters_xx"
    assert len(name) == 48
    (place / "long.py").write_text(f"from eventwagon import Train\nlong = Train({name!r})\n")
    assert cli(place, "publish", "long:long", given="7\n").returncode == 0
    for command in (("status", name), ("list",)):
        said = cli(place, *command, COLUMNS="").stdout
        assert "…" not in said
        assert f"{name}_v1" in said
        assert "processes" in said or "settled" in said


def test_a_wagon_is_named_or_numbered(place: Path) -> None:
    assert cli(place, "publish", "app:train", given=lines("a@x")).returncode == 0
    for wagon in ("1", "signups_v1"):
        said = cli(place, "why", "signups", "--wagon", wagon)
        assert "signups_v1 opened" in said.stdout, said.stderr
    for wagon, why in (
        ("orders_v1", "is a wagon of train 'orders', not of 'signups'"),
        ("v1", "give a wagon's name, as signups_v7, or its number"),
        ("0", "give a wagon's name"),
        ("-1", "give a wagon's name"),
        ("", "give a wagon's name"),
        ("signups_v", "give a wagon's name"),
        ("_v1", "give a wagon's name"),
        ("1" * 30, "give a wagon's name"),
        ("\u0661", "give a wagon's name"),
    ):
        done = cli_here(place, "why", "signups", f"--wagon={wagon}")
        assert (done.exit_code, done.stdout) == (2, "")
        assert why in done.stderr
    assert "is a wagon: name its train, signups" in cli(place, "status", "signups_v1").stderr
