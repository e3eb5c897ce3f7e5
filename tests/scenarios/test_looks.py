"""An observer's looks: in its log, in the report of a defect, and run again by `why --look`."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner

from eventwagon import Lag
from eventwagon.cli.app import app
from eventwagon.contracts.facts import DefectFound, Switched, WagonDrained, WagonOpened, WagonReady
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.registry import Member
from eventwagon.errors import Defect
from eventwagon.policy.plan import Draft, plan
from eventwagon.policy.record import decode_look, encode_look, find_looks
from eventwagon.runtime import looks as looks_module
from eventwagon.runtime import observer as observer_module
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.looks import Looks
from eventwagon.testing.virtual_time import run
from tests.scenarios.test_cli import PROGRAM, cli, running
from tests.support import SignUp, World, signups, until
from tests.unit.plans import look, manifest, reading, wagon


def written(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [word for r in caplog.records if r.levelno == level for word in find_looks(r.getMessage())]


def test_at_debug_each_look_that_decides_something_is_logged_and_decided_so_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(world: World) -> None:
        handled = list[str]()
        async with world.running(signups(handled, limit=Lag(20), seconds=0.5)) as c:
            for n in range(50):
                await c.publish(SignUp(str(n)))
            await until(lambda: len(handled) == 50)
            await c.wait_drained(1)
            await asyncio.sleep(60)

    with caplog.at_level(logging.DEBUG, "eventwagon"):
        run(main(world := World()))
    decided = [plan(decode_look(word)) for word in written(caplog, logging.DEBUG)]
    again = [fact for each in decided for fact in each.facts]
    assert all(each.facts or each.refusals for each in decided)
    assert {type(fact) for fact in again} >= {WagonOpened, WagonReady, Switched, WagonDrained}
    assert all(fact in world.facts for fact in again)
    assert len(decided) < 40, "looks that decide nothing are not logged"
    caplog.clear()
    with caplog.at_level(logging.INFO, "eventwagon"):
        run(main(World()))
    assert not [r for r in caplog.records if "eventwagon-look" in r.getMessage()]


def broken(self: Draft) -> None:
    raise IndexError("a rule of ours is broken")


def test_the_report_of_a_defect_holds_the_last_looks_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as c:
            await c.publish(SignUp("a"))
            await asyncio.sleep(2.0)
            with mock.patch.object(Draft, "drain", broken):
                await asyncio.sleep(5.0)
        assert world.of(DefectFound)

    with caplog.at_level(logging.ERROR, "eventwagon"):
        run(main())
    reports = [r.getMessage() for r in caplog.records if "eventwagon-look" in r.getMessage()]
    assert len(reports) == 1
    assert "eventwagon why --look FILE" in reports[0]
    words = list(find_looks(reports[0]))
    assert len(words) == 20
    seen = [decode_look(word) for word in words]
    assert [s.now for s in seen] == sorted(s.now for s in seen)
    with mock.patch.object(Draft, "drain", broken):
        assert [phase for phase, _ in plan(seen[-1]).defects] == ["draining"]


def test_few_looks_of_a_bounded_size_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    few = manifest(wagon(1, State.ACTIVE))
    crowd = [Member(name=f"host-{n}") for n in range(2000)]
    large = look(few, [reading(1, 1)], members=crowd)
    looks = Looks("t", Bulkhead("t"))
    for n in range(1000):
        looks.keep(look(few, [reading(1, n)]))
    with caplog.at_level(logging.ERROR, "eventwagon"):
        looks.report()
    assert len(written(caplog, logging.ERROR)) == 20
    caplog.clear()
    looks = Looks("t", Bulkhead("t"))
    for _ in range(10):
        looks.keep(large)
    with caplog.at_level(logging.ERROR, "eventwagon"):
        looks.report()
        looks.report()
    assert 1 <= len(written(caplog, logging.ERROR)) < 5, "what takes much is forgotten sooner"
    assert sum(len(r.getMessage()) for r in caplog.records) < 200_000
    caplog.clear()
    with mock.patch.object(looks_module, "_REPORT_MOST", 100), caplog.at_level(logging.DEBUG, "eventwagon"):
        looks.log_newest("a look")
    assert "the look is left out" in caplog.records[-1].getMessage()


def test_looks_of_one_process_are_run_again_by_another(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM.replace("Volume(1000)", "Volume(20)"))
    with running(tmp_path, "run", "app:train", "--log-level", "debug") as process:
        lines = "".join(f'{{"email": "{n}"}}\n' for n in range(60))
        assert cli(tmp_path, "publish", "app:train", given=lines).returncode == 0
        assert process.stderr is not None
        log, switched = list[str](), False
        while not switched:
            log.append(process.stderr.readline())
            switched = bool(list(find_looks(log[-1]))) and any(
                w.turn > 1 for w in decode_look(next(find_looks(log[-1]))).manifest.wagons
            )
    (tmp_path / "observer.log").write_text("".join(log))
    done = cli(tmp_path, "why", "--look", "observer.log")
    assert done.returncode == 0, done.stderr
    assert "_v1 active for" in done.stdout
    assert "  limit     Volume(20): " in done.stdout
    assert "  change    " in done.stdout
    last = cli(tmp_path, "why", "--look", "-", "--last", "1", "--json", given="".join(log))
    (found,) = [json.loads(text) for text in last.stdout.splitlines()]
    assert found["train"] == "signups"
    assert found["seen"]["manifest"]["train"] == "signups"
    assert found["seen"]["manifest"]["declared"]["at_cap"] == "fill"
    assert {task["task"] for task in found["plan"]["tasks"]} <= {"Ensure", "Seal", "Remove", "AddChannels"}


WORD = encode_look(look(manifest(wagon(1, State.ACTIVE)), [reading(1, 100)]))


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("", 2, "holds no look"),
        ("12:00 an ordinary line\n", 2, "holds no look"),
        (f"x\n{WORD[:-40]}\n", 2, "line 2: this look is cut short"),
        (f"{WORD[:60]}AAAA{WORD[64:]}", 2, "line 1: this look was changed"),
        ("eventwagon-look-7:AAAA", 2, "written by a newer eventwagon (form 7, this one knows 1): upgrade"),
        ("eventwagon-look-999999999999999999:AAAA", 2, "holds no look"),
        ("\0\x1b[31m\ud800 eventwagon-look-1:eJyrVsrLL1eyUlAqzs_PU6oFACb3BO4", 2, "can't be read"),
    ],
)
def test_a_file_that_holds_none_or_a_bad_one_is_a_clear_error(tmp_path: Path, text: str, code: int, told: str) -> None:
    path = tmp_path / "looks.log"
    path.write_bytes(text.encode(errors="surrogatepass"))
    done = CliRunner().invoke(app, ["why", "--look", str(path)])
    assert done.exit_code == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_bad_look_hurts_none_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "looks.log"
    path.write_text(f"{WORD}\n{WORD[:99]}\n{WORD}\n")
    done = CliRunner().invoke(app, ["why", "--look", str(path)])
    assert done.exit_code == 2
    assert done.stdout.count("limit     Volume(100): 1.00, 100 of 100 events taken") == 2
    assert done.stderr.count("cut short") == 1


@pytest.mark.parametrize("path", ["missing.log", ".", "a\0b", "/root/x/y"])
def test_a_file_that_can_not_be_read_is_named(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["why", "--look", path])
    assert done.exit_code == 2
    assert "it can't be read" in done.stderr


def test_a_look_is_asked_for_alone() -> None:
    for more in (["signups"], ["--wagon", "3"]):
        done = CliRunner().invoke(app, ["why", *more, "--look", "x"])
        assert (done.exit_code, "takes no TARGET" in done.stderr) == (2, True)
    done = CliRunner().invoke(app, ["why"])
    assert (done.exit_code, "TARGET" in done.stderr) == (2, True)


def test_a_look_that_never_came_to_a_plan_is_reported_too(caplog: pytest.LogCaptureFixture) -> None:
    """The report has the look at which the defect was met, whatever met it."""

    async def main() -> None:
        world = World()
        with mock.patch.object(observer_module, "plan", side_effect=Defect("a broken rule")):
            async with world.running(signups([])):
                await asyncio.sleep(1.0)

    with caplog.at_level(logging.ERROR, "eventwagon"):
        run(main())
    assert len(written(caplog, logging.ERROR)) == 1
