"""The command `lab`: figures for machines and people, pictures, and mistakes."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from eventwagon import Elastic, Train, Wait, Workers
from eventwagon.cli.app import app
from eventwagon.errors import UsageError
from eventwagon.lab.experiment import one
from eventwagon.lab.job import Job, figures
from eventwagon.lab.planning import KINDS, Point, Trial, best, cuts_of, search, settings_of, spares_of
from eventwagon.lab.scenarios import SCENARIOS, random_burst, scenario, services


def lab(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["lab", *arguments])
    assert result.exit_code == code, result.output
    return result


SMALL = ("--events", "300", "--seconds", "4", "--processes", "1", "--strategy", "fifo", "--strategy", "wagons")


def test_figures_for_machines() -> None:
    said = json.loads(lab("steady", *SMALL, "--json").stdout)
    assert list(said["strategies"]) == ["fifo", "wagons"]
    row = said["strategies"]["wagons"]
    assert {"on_time", "p50_s", "p99_s", "mean_s", "worker_seconds", "lost", "switches", "duplicates"} <= row.keys()
    assert row["lost"] == 0
    assert 0 < row["on_time"] <= 1
    assert said["job"]["events"] == 300


def test_on_a_real_broker_the_trains_are_removed(tmp_path: Path) -> None:
    """Two strategies on one broker, in real time; other trains there are left alone."""
    url = f"sqlite:///{tmp_path}/trains"
    options = ("--events", "20", "--seconds", "0.2", "--start", "0.1", "--processes", "1", "--json", "--broker", url)
    said = json.loads(lab("logins", *options, "--strategy", "wagons", "--strategy", "wagons_each").stdout)
    assert [row["lost"] for row in said["strategies"].values()] == [0, 0]
    assert not list((tmp_path / "trains").rglob("lab*"))


def test_a_table_and_pictures(tmp_path: Path) -> None:
    page, picture = tmp_path / "burst.html", tmp_path / "burst.png"
    said = lab("logins", *SMALL, "--picture", str(page), "--picture", str(picture)).stdout
    assert "wagons" in said
    assert "on time" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "<title>logins: eventwagon lab</title>" in page.read_text()
    assert "pictures" not in lab("logins", *SMALL, "--picture", str(tmp_path / "x.gif"), code=2).stdout


def test_a_trace_with_sizes(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,size\n0,1\n1,2\n2,30\n")
    options = ("--trace", str(trace), "--strategy", "ideal_elastic_fifo", "--processes", "1", "--json")
    said = json.loads(lab(*options, "--service-per-size", "0.1", "--speed", "2").stdout)
    assert said["job"]["work_s"] == pytest.approx(3.3)
    assert said["job"]["seconds"] == 1.0
    assert said["strategies"]["ideal_elastic_fifo"]["worst_s"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "no scenario 'nowhere'; there are black-friday"),
        (["--strategy", "magic"], "no strategy magic; there are fifo"),
        (["--service", "soon"], "give seconds (0.1), exponential(mean)"),
        (["--service-per-size", "1"], "needs a trace with a column `size`"),
        (["--limit", "Often(2)"], "Often"),
        (["random-x"], "no scenario 'random-x'"),
    ],
)
def test_mistakes(arguments: list[str], says: str) -> None:
    assert says in lab(*arguments, code=2).output


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios(name: str) -> None:
    usual = SCENARIOS[name]
    arrivals = usual.arrivals(usual.events, usual.seconds, 1)
    assert len(arrivals) == usual.events
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] <= usual.seconds
    assert arrivals == usual.arrivals(usual.events, usual.seconds, 1) != usual.arrivals(usual.events, usual.seconds, 2)


def test_random_bursts() -> None:
    """The same number gives the same burst; they differ in everything."""
    bursts = [scenario(f"random-{n}") for n in range(1, 41)]
    assert len({burst.about.partition(", ")[2] for burst in bursts}) == 4
    for n, usual in enumerate(bursts, 1):
        arrivals = usual.arrivals(usual.events, usual.seconds, 1)
        assert arrivals == sorted(arrivals)
        assert len(arrivals) == usual.events
        assert 0 <= arrivals[0] <= arrivals[-1] <= usual.seconds
        again = random_burst(n)
        assert (again.about, again.service, again.slo, again.workers) == (
            usual.about,
            usual.service,
            usual.slo,
            usual.workers,
        )
        assert again.arrivals(usual.events, usual.seconds, 1) == arrivals


def test_a_trace_from_later_on(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,size\n0,1\n10,2\n12,30\n")
    options = ("--trace", str(trace), "--strategy", "ideal_elastic_fifo", "--processes", "1", "--json")
    said = json.loads(lab(*options, "--service-per-size", "0.1", "--speed", "2", "--after", "8").stdout)
    assert (said["job"]["events"], said["job"]["seconds"]) == (2, 2.0)
    assert said["job"]["work_s"] == pytest.approx(3.2)
    assert "has nothing after 99 s" in lab(*options, "--after", "99", code=2).output


def test_services() -> None:
    assert services("0.5", 3) == [0.5] * 3
    for text, mean in (("exponential(0.2)", 0.2), ("uniform(0.1, 0.3)", 0.2), ("lognormal(0.2, 0.1)", 0.2)):
        drawn = services(text, 4000, seed=1)
        assert drawn == services(text, 4000, seed=1)
        assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.05)
    for text in (
        "",
        "-1",
        "nan",
        "uniform(3, 1)",
        "uniform(1)",
        "exponential(0)",
        "exponential(1, 2)",
        "lognormal(1.2.3, 1)",
    ):
        with pytest.raises(UsageError, match="give seconds"):
            services(text, 1)


def test_plan_finds_the_cheapest_settings_that_keep_the_promise() -> None:
    arguments = ["plan", "steady", "--events", "300", "--seconds", "5", "--workers", "4", "--processes", "1"]
    said = json.loads(CliRunner().invoke(app, [*arguments, "--start", "1", "--json"]).stdout)
    today = said["today"]
    assert today["strategy"] == "fifo"
    assert today["figures"]["on_time"] < 0.9
    assert said["same_workers"]["optimum"] >= said["same_workers"]["figures"]["on_time"]
    assert "total=4" in said["same_workers"]["settings"]
    good = [each for each in said["tried"] if each["figures"]["on_time"] >= 0.99]
    for kind, elastic in (("fixed", False), ("elastic", True)):
        found = said[kind]
        assert found["figures"]["on_time"] >= 0.99
        assert found["strategy"].startswith("wagons_elastic") is elastic
        alike = [each["cost"] for each in good if each["strategy"].startswith("wagons_elastic") is elastic]
        assert found["cost"] == pytest.approx(min(alike), rel=0.01)
        assert found["calm_hour"] == 3600 * found["figures"]["standing"]
        # The same traffic with just these settings, by the lab: what was promised.
        made = eval(  # noqa: S307
            f"Train('t', {found['settings']})", {"Train": Train, "Wait": Wait, "Workers": Workers, "Elastic": Elastic}
        )
        settings = made.settings
        again = [
            "steady",
            "--events",
            "300",
            "--seconds",
            "5",
            "--limit",
            str(settings.limit),
            "--spares",
            str(settings.spares),
            "--wagons",
            str(settings.wagons),
            "--per-pod",
            "1",
            "--start",
            "1",
            "--strategy",
            found["strategy"],
            "--json",
        ]
        if elastic:
            again += ["--each", str(settings.workers.elastic.least), "--most", str(settings.workers.elastic.most)]
        elif settings.workers.total:
            again += ["--workers", str(settings.workers.total), "--floor", str(settings.workers.floor)]
        else:
            again += ["--each", str(settings.workers.each), "--most", "100000"]
        came = json.loads(lab(*again).stdout)["strategies"][found["strategy"]]
        for name in ("on_time", "p99_s", "mean_s", "worker_seconds", "worker_seconds_extra", "switches", "lost"):
            assert came[name] == pytest.approx(found["figures"][name], rel=1e-9), name
    assert said["recommended"] in (said["fixed"], said["elastic"])


def test_plan_is_not_blind_to_small_prices() -> None:
    """The cheapest is the same at any price; less than a thousandth is no difference."""
    arrivals = [n / 10 for n in range(20)]
    job = Job(title="t", arrivals=arrivals, services=[0.1] * 20, workers=4, each=4, slo=2.0, limit="Wait(2.0)")
    row = figures(job, one(job, "fifo"))

    def candidate(cost: float, wagons: int) -> Trial:
        changed = msgspec.structs.replace(job, wagons=wagons)
        return Trial(strategy="wagons", job=changed, figures=row, cost=cost, calm_hour=0.0)

    for price in (1.0, 1e-6):
        dear, cheap, like = candidate(200 * price, 5), candidate(100 * price, 9), candidate(100.01 * price, 6)
        assert best([dear, cheap], 0.99) is cheap
        assert best([dear, cheap, like], 0.99) is like


def plan(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["plan", "steady", "--processes", "1", *arguments], env={"COLUMNS": "100"})
    assert result.exit_code == code, result.output
    return result


def test_plan_says_first_that_a_promise_can_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine in a hundred events need longer than the promise: the plan is for the others, with as many workers as these
    take."""
    asked: list[Any] = []
    tried: list[Trial] = []

    def searched_once(*given: Any, **options: Any) -> list[Trial]:
        asked.append((given, options))
        if not tried:
            tried.extend(search(*given, **options))
        assert asked[-1] == asked[0]
        return tried

    monkeypatch.setattr("eventwagon.cli.plan.search", searched_once)
    burst = ("--events", "100", "--seconds", "4", "--service", "lognormal(0.2, 1.2)", "--slo", "1", "--start", "1")
    said = json.loads(plan(*burst, "--json").stdout)
    promise, found = said["promise"], said["recommended"]
    assert promise["ceiling"] < promise["asked"] == 0.99
    assert promise["ceiling"] == pytest.approx(1 - promise["too_long"] / 100)
    assert promise["ceiling"] - 0.01 < promise["aim"] < promise["ceiling"]
    assert found["figures"]["on_time"] >= promise["aim"]
    assert found["figures"]["peak"] < 3 * promise["least"] < 60
    lines = plan(*burst).stdout.splitlines()
    assert "Nothing can keep this promise: at most" in "\n".join(lines[:4])


def test_plan_does_not_call_impossible_what_another_order_could_do(tmp_path: Path) -> None:
    trace = tmp_path / "unequal.csv"
    trace.write_text("arrival_s,size\n0,5\n0,1\n0,1\n0,1\n")
    options = ("--trace", str(trace), "--service-per-size", "1", "--slo", "5", "--start", "1", "--most", "1")
    lines = " ".join(plan(*options, "--on-time", "0.7").stdout.split())
    assert "Nothing can keep this promise" not in lines
    assert "25.0% of the events can be on time oldest first, and up to 75.0% only by leaving out long ones" in lines
    assert "the cheapest with 24.9% on time" in lines
    lines = " ".join(plan(*options, "--on-time", "0.8").stdout.split())
    assert "Nothing can keep this promise: at most 75.0% of the events can be on time (with 1 worker at a time" in lines


def test_plan_has_nothing_to_say_where_no_event_can_be_on_time() -> None:
    said = plan("--events", "100", "--seconds", "1", "--service", "5", "--slo", "1", code=2).output
    assert "no event can be on time. The promise is 1 s, and the work alone takes at least 5 s" in said


def test_plan_for_people(tmp_path: Path) -> None:
    """A calm, one single event, and too few workers for two wagons."""
    calm = plan("--events", "60", "--seconds", "30", "--start", "1").stdout
    assert "One queue with 1 worker has as many on time for no more" in calm
    assert "If there can't be more" not in calm
    trace = tmp_path / "one.csv"
    trace.write_text("arrival_s\n5\n")
    assert "Recommended" in plan("--trace", str(trace)).stdout
    few = plan("--events", "60", "--seconds", "3", "--service", "0.1", "--start", "1", "--most", "1").stdout
    assert "wagons, elastic: --most 1 is too few" in few
    assert "--most 2 is less than a Pod of 4 workers" in plan("--most", "2", "--per-pod", "4", code=2).output


@pytest.mark.parametrize(("most", "per_pod"), [(8, 4), (6, 4), (64, 1)])
def test_plan_tries_nothing_beyond_most(most: int, per_pod: int) -> None:
    job = Job(
        title="steady",
        arrivals=[n / 30 for n in range(300)],
        services=[0.2] * 300,
        workers=4,
        each=4,
        slo=2.0,
        limit="Wait(2.0)",
        per_pod=per_pod,
        most=most,
    )
    for kind in KINDS:
        for each in product(range(1, 30), spares_of(kind), cuts_of(kind)):
            if (tried := settings_of(job, kind, Point(*each), 6)) is None:
                continue
            assert tried.most <= most
            if kind == "wagons":
                assert tried.workers <= most
            else:
                assert 2 * tried.each <= tried.most
                assert tried.standing <= tried.most
