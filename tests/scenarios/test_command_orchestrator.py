"""Commands as wagons' workers: what they are told, and when something goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from eventwagon.contracts.broker import Named
from eventwagon.display.json_lines import LOG_FORMAT
from eventwagon.drivers.opening import open_drivers
from eventwagon.errors import UsageError
from eventwagon.event import Channel
from eventwagon.orchestrators.processes.command import Command, Http, Tcp
from eventwagon.orchestrators.processes.command.placeholders import ENVIRONMENT
from eventwagon.orchestrators.processes.records import Run, UnitFiles, created, started_by
from tests.commands import GRACEFUL, SERVER, STUBBORN, TRAIN, Place, spec
from tests.deployed import is_ready, until, until_deployed


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv(LOG_FORMAT, raising=False)  # other tests run commands, which set it, in this process
    return Place(tmp_path)


# --- what it is told ----------------------------------------------------------------------


def test_a_command_is_told_its_wagon(at: Place) -> None:
    dump = f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    tell = f"""{dump} > "$NOTES/env-$EVENTWAGON_COPY"
        echo "$1 $2" > "$NOTES/words"; echo attached; exec sleep 600"""
    argv = ["sh", "-c", tell, "sh", "{train}/{wagon}/{unit}/{revision}/{ingress}/{dead_letters}", "{other} ${HOME} {}"]

    async def scenario() -> None:
        async with at.command(argv, url="redis://host/0", names=lambda c: f"key:{c}") as orchestrator:
            wanted = spec(7, workers=2, unit=5, revision="v2")
            await until_deployed(orchestrator, wanted, is_ready)

    asyncio.run(scenario())
    assert at.noted("words") == ["signups/7/5/v2/key:signups_v7/key:signups_v7.dead {other} ${HOME} {}"]
    for copy in ("1", "2"):
        told = msgspec.json.decode((at.notes / f"env-{copy}").read_bytes(), type=dict[str, str])
        mine = {name: value for name, value in told.items() if name.startswith("EVENTWAGON_")}
        assert set(mine) == set(ENVIRONMENT)  # and nothing that is between us and our supervisor
        assert int(mine.pop("EVENTWAGON_PORT")) > 0
        assert len(mine.pop("EVENTWAGON_RUN")) == 32
        assert mine == {
            "EVENTWAGON_URL": "redis://host/0",
            "EVENTWAGON_TRAIN": TRAIN,
            "EVENTWAGON_WAGON": "7",
            "EVENTWAGON_UNIT": "5",
            "EVENTWAGON_REVISION": "v2",
            "EVENTWAGON_WORKERS": "2",
            "EVENTWAGON_COPY": copy,
            "EVENTWAGON_INGRESS": "key:signups_v7",
            "EVENTWAGON_DEAD_LETTERS": "key:signups_v7.dead",
            "EVENTWAGON_CHANNELS": '{"":"key:signups_v7","welcome":"key:signups_v7.welcome"}',
            "EVENTWAGON_GRACE": "0",
        }


def test_brokers_tell_what_they_call_a_channel() -> None:
    channel = Channel("signups", 7, "welcome")
    urls = {
        "redis://h/0?prefix=shop": "shop:{signups_v7}.welcome",
        "kafka://h:9092": "signups_v7.welcome",
        "pulsar://h:6650/tenant/space?registry=memory://": "persistent://tenant/space/signups_v7.welcome",
    }
    for url, name in urls.items():
        broker = open_drivers(url).broker
        assert isinstance(broker, Named)
        assert broker.name_of(channel) == name


def test_what_it_prints_reaches_stderr_with_the_wagons_name(at: Place, capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with at.command("echo out; echo err >&2; echo attached; exec sleep 600") as orchestrator:
            await until_deployed(orchestrator, spec(3, workers=2), is_ready)
            await orchestrator.remove(TRAIN, 3, grace=5.0)

    asyncio.run(scenario())
    said = capfd.readouterr().err.splitlines()
    assert {f"signups_v3 | [{copy}] {text}" for copy in (1, 2) for text in ("out", "err")} <= set(said)


def test_one_that_never_stops_talking_holds_up_nobody(at: Place, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with at.command("yes attached & exec yes attached", logs=tmp_path / "logs") as orchestrator:
            await until_deployed(orchestrator, spec(), is_ready)
            await asyncio.sleep(2.0)
            assert (await until_deployed(orchestrator, spec(), is_ready)).trouble == ""
            await until_deployed(orchestrator, spec(workers=2), is_ready)
            began = time.monotonic()
            await orchestrator.remove(TRAIN, 1, grace=10.0)
            assert time.monotonic() - began < 5.0

    asyncio.run(scenario())
    assert (tmp_path / "logs" / "signups_v1.log").stat().st_size < 50_000_000


# --- when it goes wrong -------------------------------------------------------------------


def test_a_crashed_copy_is_told_with_its_last_words_and_started_again_after_a_doubling_pause(at: Place) -> None:
    crash = """date +%s.%N >> "$NOTES/began"; echo the last words; exit 3"""

    async def scenario() -> None:
        async with at.command(crash) as orchestrator:
            told = await until_deployed(orchestrator, spec(), lambda d: "exit code 3" in d.trouble)
            assert told.trouble == "copy 1 of the command ended with exit code 3: the last words"
            await until("five starts", lambda: len(at.noted("began")) >= 5)

    asyncio.run(scenario())
    times = [float(line) for line in at.noted("began")]
    pauses = [later - earlier for earlier, later in pairwise(times)][:4]
    for pause, least in zip(pauses, (0.2, 0.4, 0.8, 1.6), strict=True):
        assert pause > least * 0.95, pauses


def test_a_command_that_is_not_there_is_told(at: Place) -> None:
    async def scenario() -> None:
        async with at.command(["/no/such/program"]) as orchestrator:
            told = await until_deployed(orchestrator, spec(), lambda d: "can't be started" in d.trouble)
            assert "/no/such/program" in told.trouble

    asyncio.run(scenario())


def test_one_that_is_never_ready_is_ended_and_started_again(at: Place) -> None:
    silent = """echo $$ >> "$NOTES/began"; echo waiting for the moon; exec sleep 600"""

    async def scenario() -> None:
        async with at.command(silent, start_timeout=0.5) as orchestrator:
            told = await until_deployed(orchestrator, spec(), lambda d: "was not ready within" in d.trouble)
            assert "within 0.5 s (no line with 'attached' yet)" in told.trouble
            assert "waiting for the moon" in told.trouble
            await until("another start", lambda: len(at.noted("began")) >= 2)
            assert created(int(at.noted("began")[0])) is None

    asyncio.run(scenario())


def test_one_that_hangs_is_ended_and_started_again_and_its_neighbour_goes_on(at: Place) -> None:
    async def scenario() -> None:
        async with at.command(SERVER, ready=Http("http://127.0.0.1:{port}/"), hung_after=1.0) as orchestrator:
            await until_deployed(orchestrator, spec(2), is_ready)
            (neighbour,) = started_by(_run(at, 2))
            await until_deployed(orchestrator, spec(), is_ready)
            (hung,) = started_by(at.run)
            os.kill(hung, signal.SIGSTOP)
            told = await until_deployed(orchestrator, spec(), lambda d: "gave no answer for 1 s" in d.trouble)
            assert not told.ready
            await until_deployed(orchestrator, spec(), is_ready)
            assert created(hung) is None
            assert started_by(_run(at, 2)) == [neighbour]

    asyncio.run(scenario())


def _run(at: Place, unit: int) -> Run:
    found = UnitFiles(at.processes, TRAIN, unit).run()
    assert found is not None
    return found


# --- another wagon, another revision, none ------------------------------------------------


def test_for_another_wagon_or_revision_it_is_ended_gracefully_and_started_anew(at: Place) -> None:
    """A unit takes over wagon 4 from wagon 1, then gets new code: each time the old copy ends before the new begins."""
    tells = """echo "began $EVENTWAGON_WAGON $EVENTWAGON_REVISION" >> "$NOTES/told"
        trap 'sleep 0.3; echo ended $EVENTWAGON_WAGON >> "$NOTES/told"; exit 0' TERM
        echo attached; while :; do sleep 0.05; done"""

    async def scenario() -> None:
        async with at.command(tells) as orchestrator:
            first, reused = spec(1, revision="v1"), spec(4, unit=1, revision="v1")
            await until_deployed(orchestrator, first, is_ready)
            found = await until_deployed(orchestrator, reused, is_ready)
            assert (found.number, found.revision) == (4, "v1")
            assert list(await orchestrator.deployments(TRAIN)) == [1]
            newer = msgspec.structs.replace(reused, revision="v2")
            found = await until_deployed(orchestrator, newer, is_ready)
            assert (found.number, found.revision) == (4, "v2")
            cut_off = msgspec.structs.replace(newer, cut_off_at=1.75e9)  # is no reason to end it
            await orchestrator.ensure(cut_off)
            await asyncio.sleep(0.3)

            assert at.noted("told") == ["began 1 v1", "ended 1", "began 4 v1", "ended 4", "began 4 v2"]

    asyncio.run(scenario())


def test_a_unit_only_moves_on_and_a_revision_must_be_named(at: Place) -> None:
    async def scenario() -> None:
        async with at.command(["sh", "-c", GRACEFUL, "{revision}"]) as orchestrator:
            with pytest.raises(UsageError, match="has no revision to fill in"):
                await orchestrator.ensure(spec(1))
            await until_deployed(orchestrator, spec(4, unit=1, revision="v1"), is_ready)
            await orchestrator.ensure(spec(1, revision="v1"))  # of an observer that was stopped meanwhile
            await asyncio.sleep(0.5)
            assert (await orchestrator.deployments(TRAIN))[1].number == 4
            assert at.noted("ended") == []

    asyncio.run(scenario())


def test_ensure_never_kills(at: Place) -> None:
    """A copy that does not end when it is asked to stays, whatever the grace, until its unit is removed."""

    async def scenario() -> None:
        async with at.command(STUBBORN) as orchestrator:
            await until_deployed(orchestrator, spec(1), is_ready)
            told = await until_deployed(orchestrator, spec(4, unit=1), lambda d: "are ending first" in d.trouble)
            assert (told.ready, told.number) == (False, 1)
            await asyncio.sleep(1.0)
            assert all(created(int(pid)) for pid in at.noted("began"))
            await orchestrator.remove(TRAIN, 1, grace=0.1)
            assert not any(created(int(pid)) for pid in at.noted("began"))

    asyncio.run(scenario())


def test_scaled_to_zero_nothing_runs_until_it_is_wanted_again(at: Place) -> None:
    async def scenario() -> None:
        async with at.command(GRACEFUL) as orchestrator:
            await until_deployed(orchestrator, spec(workers=2), is_ready)
            files = UnitFiles(at.processes, TRAIN, 1)
            await until_deployed(orchestrator, spec(workers=0), lambda d: not files.running() and d.workers == 0)
            assert sorted(at.noted("ended")) == sorted(at.noted("began"))
            told = await until_deployed(orchestrator, spec(workers=0), lambda d: not d.ready)
            assert told.trouble == ""
            await asyncio.sleep(0.5)
            assert (files.running(), len(at.noted("began"))) == (False, 2)
            await until_deployed(orchestrator, spec(workers=1), is_ready)
            assert len(at.noted("began")) == 3

    asyncio.run(scenario())


def test_what_is_wanted_again_while_it_ends_is_started_though_nobody_asks_twice(at: Place) -> None:
    async def scenario() -> None:
        async with at.command(GRACEFUL) as orchestrator:
            await until_deployed(orchestrator, spec(), is_ready)
            await until_deployed(orchestrator, spec(workers=0), lambda d: not d.ready and d.workers == 0)
            await orchestrator.ensure(spec())
            await until_deployed(orchestrator, spec(), is_ready, ensure=False)

    asyncio.run(scenario())


# --- ending -------------------------------------------------------------------------------


def test_removing_asks_waits_and_only_then_kills_and_takes_all_along(at: Place) -> None:
    async def scenario() -> None:
        async with at.command(GRACEFUL) as orchestrator:
            await until_deployed(orchestrator, spec(), is_ready)
            await orchestrator.remove(TRAIN, 1, grace=20.0)
            assert at.noted("ended") == at.noted("began")
            assert await orchestrator.deployments(TRAIN) == {}
        (at.notes / "began").unlink()
        async with at.command(STUBBORN) as orchestrator:
            await until_deployed(orchestrator, spec(), is_ready)
            began = time.monotonic()
            await orchestrator.remove(TRAIN, 1, grace=0.5)
            assert time.monotonic() - began >= 0.5
            assert not any(created(int(pid)) for pid in at.noted("began"))

    asyncio.run(scenario())


def test_what_has_left_its_process_group_is_ended_too(at: Place) -> None:
    daemon = "import os, time; os.fork() and os._exit(0); os.setsid(); print('attached', os.getpid()); time.sleep(600)"
    argv = [
        sys.executable,
        "-uc",
        f"import subprocess, sys, time; subprocess.run([sys.executable, '-uc', {daemon!r}]);",
    ]
    argv[-1] += " time.sleep(600)"

    async def scenario() -> None:
        async with at.command(argv) as orchestrator:
            await until_deployed(orchestrator, spec(), is_ready)
            pids = started_by(at.run)
            assert len(pids) == 2
            await orchestrator.remove(TRAIN, 1, grace=0.5)
            assert not any(created(pid) for pid in pids)

    asyncio.run(scenario())


def test_a_stop_command_takes_the_place_of_sigterm(at: Place) -> None:
    """As with containers: the signal does not reach what is to end."""
    runs = """trap '' TERM; echo attached; while [ ! -e "$NOTES/stop-$EVENTWAGON_COPY" ]; do sleep 0.05; done; exit 0"""
    stop = ["touch", f"{at.notes}/stop-{{copy}}", f"{at.notes}/within-{{grace}}"]

    async def scenario() -> None:
        async with at.command(runs, stop=stop) as orchestrator:
            await until_deployed(orchestrator, spec(workers=2), is_ready)
            await orchestrator.remove(TRAIN, 1, grace=25.0)
        assert {"stop-1", "stop-2", "within-25"} == {path.name for path in at.notes.iterdir()}
        async with at.command(GRACEFUL, stop=["/no/such/program"]) as orchestrator:  # then a signal has to do
            await until_deployed(orchestrator, spec(), is_ready)
            await orchestrator.remove(TRAIN, 1, grace=25.0)
            assert at.noted("ended") == at.noted("began")

    asyncio.run(scenario())


# --- as a URL -----------------------------------------------------------------------------


def test_a_url_names_a_command(at: Place) -> None:
    command = "command:sh -c 'echo attached {wagon}; exec sleep 600'"
    url = f"{command}?ready=line:attached 1$&grace=0.5&directory={at.processes}"

    async def scenario() -> None:
        async with Command.from_url(url, broker_url="sqlite:////nowhere") as orchestrator:
            await until_deployed(orchestrator, spec(), is_ready)

    asyncio.run(scenario())
    Command.from_url("command:a?ready=http://127.0.0.1:{port}/health", broker_url="redis://h/0")
    Command.from_url("command:a?ready=tcp:127.0.0.1:{port}", broker_url="redis://h/0")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("command:?ready=tcp:h:1", "give a list, the program first"),
        ("command:node x.js", "say how it reports ready"),
        ("command:node x.js?ready=soon", "ready='soon': give http://"),
        ("command:node x.js?ready=line:(", "is no regular expression"),
        ("command:node x.js?ready=tcp:h:1&gracious=1", "options are ready, stop"),
        ("command:node x.js?ready=tcp:h:1&grace=long", "grace='long': give a number of seconds of 0 or more"),
        ("command:node 'x.js?ready=tcp:h:1", "No closing quotation"),
        ("command:node x.js?ready=check-in", "ready by check-in: give registry="),
    ],
)
def test_what_a_url_may_not_say(url: str, why: str) -> None:
    with pytest.raises(UsageError) as e:
        Command.from_url(url, broker_url="redis://h/0")
    assert why in str(e.value)


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match="memory"):
        Command(["a"], url="memory://", ready=Tcp())
    with pytest.raises(UsageError, match="give a list"):
        Command("a b", url="redis://h/0", ready=Tcp())
    with pytest.raises(UsageError, match="http: or https:"):
        Command(["a"], url="redis://h/0", ready=Http("127.0.0.1:80"))
