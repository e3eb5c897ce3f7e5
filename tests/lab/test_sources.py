"""Arrivals read from a log of JSON lines, and what the commands make of recorded flows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from eventwagon.cli.app import app
from eventwagon.errors import UsageError
from eventwagon.lab import arrivals
from eventwagon.lab.arrivals import load_sizes, load_trace
from eventwagon.lab.sources import recorded as recorded_module
from eventwagon.lab.sources.json_lines import JsonLines, seconds
from eventwagon.lab.sources.reading import read, source_at
from eventwagon.lab.sources.recorded import Arrival, Recorded

DAY = 86_400.0


def recorded(*lines: str | bytes, tmp_path: Path, field: str = "", last: float = DAY) -> Recorded:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines))
    return asyncio.run(read(JsonLines(str(path), field), last=last, rate=10**9, say=lambda _: None))


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (0, 0.0),
        (1_700_000_000.5, 1_700_000_000.5),
        (1_700_000_000_500, 1_700_000_000.5),
        ("1700000000500", 1_700_000_000.5),
        ("2023-11-14T22:13:20.5Z", 1_700_000_000.5),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000.5),
        ("2023-11-14 22:13:20.5", 1_700_000_000.5),
    ],
)
def test_times(value: object, at: float) -> None:
    assert seconds(value) == at


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 1e300, float("nan"), float("inf"), 2**2000, "", "soon", "nan", "0000-01-01T00:00:00Z", [], {}],
)
def test_no_times(value: object) -> None:
    assert seconds(value) is None


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda s: st.lists(s)))
def test_no_value_breaks_it(value: object) -> None:
    found = seconds(value)
    assert found is None or 0 <= found < 253_402_300_800


def test_the_time_is_found_by_its_usual_names(tmp_path: Path) -> None:
    found = recorded('{"ts": 100.5, "at": 7}', "", '{"ts": 102, "x": "…"}', tmp_path=tmp_path)
    assert found.arrivals == [0.0, 1.5]
    assert found.sizes == [22.0, 23.0]


@pytest.mark.parametrize("field", ["record.made", "made.by"])
def test_a_field_may_lead_into_an_object_and_may_hold_a_dot(field: str, tmp_path: Path) -> None:
    lines = '{"record": {"made": 5}, "made.by": 5}', '{"record": {"made": 9}, "made.by": 9}'
    assert recorded(*lines, tmp_path=tmp_path, field=field).arrivals == [0.0, 4.0]


def test_lines_may_be_out_of_order_and_the_last_one_unfinished(tmp_path: Path) -> None:
    found = recorded('{"ts": 10}', '{"ts": 5}', '{"ts": 7}', b'{"ts": 1', tmp_path=tmp_path)
    assert found.arrivals == [0.0, 2.0, 5.0]


def test_last_counts_back_from_the_newest_line(tmp_path: Path) -> None:
    found = recorded(*(f'{{"ts": {at}}}' for at in (10, 95, 100)), tmp_path=tmp_path, last=5.0)
    assert found.arrivals == [0.0, 5.0]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("no json", "orders.jsonl:2: it is no JSON"),
        ("[1]", "orders.jsonl:2: it is no JSON object"),
        ("[" * 100_000, "orders.jsonl:2: it is no JSON"),
        (b'{"ts": "\\ud800"}\n', "orders.jsonl:2: it"),
        (b'{"ts": "\xff"}\n', "orders.jsonl:2: it is no JSON"),
        ('{"other": 1}', "orders.jsonl:2: its field 'ts' is no time: None"),
        ('{"ts": true}', "orders.jsonl:2: its field 'ts' is no time: True"),
    ],
)
def test_a_bad_line_is_named(line: str | bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        recorded('{"ts": 1}', line, '{"ts": 2}', tmp_path=tmp_path)
    assert str(refused.value).startswith(why)


def test_without_a_time_field(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name one with --time-field"):
        recorded('{"when": 1}', tmp_path=tmp_path)


def test_an_empty_log(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"orders\.jsonl has no records"):
        recorded(tmp_path=tmp_path)


def test_no_more_than_the_lab_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_module, "MOST", 2)
    assert arrivals.MOST > 2
    with pytest.raises(UsageError, match="more than 2 records in 86,400 s"):
        recorded(*['{"ts": 1}'] * 3, tmp_path=tmp_path)


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0.1, 100))
def test_the_busiest_stretch(times: list[float], stretch: float) -> None:
    found = Recorded("x", DAY)
    for at in times:
        found.add(Arrival(at, 1))
    found.sort()
    left_out = found.keep_busiest(stretch)
    assert left_out == (len(found) < len(times))
    assert found.arrivals[-1] <= stretch
    assert len(found) == max(sum(first <= at <= first + stretch for at in times) for first in times)


def test_keys_are_counted_and_not_kept(tmp_path: Path) -> None:
    found = Recorded("x", DAY)
    for key in (b"secret", b"secret", b"b", None):
        found.add(Arrival(1.0, 10, key))
    assert "2 keys, the busiest has 66.7%" in found.summary
    found.save(tmp_path / "trace.csv")
    assert "secret" not in (tmp_path / "trace.csv").read_text()


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("http://h/x", "give kafka://"),
        ("kafka://h:9092", "name the topic"),
        ("kafka://h:9092/orders?group=g", "group= has no meaning here"),
        ("kafka://h:9092/orders?nonsense=1", "option nonsense can't be given"),
        ("redis://h", "name the stream"),
        ("redis+unix:///x", "use host and port"),
    ],
)
def test_bad_sources(where: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        source_at(where, field="")


def test_a_time_field_is_for_files() -> None:
    with pytest.raises(UsageError, match="--time-field at: it is for a file"):
        source_at("redis://h/orders", field="at")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    quiet, busy = [1000 + i for i in range(100)], [1200 + i / 10 for i in range(300)]
    path.write_text("".join(json.dumps({"ts": at, "who": "ada"}) + "\n" for at in [*quiet, *busy]))
    return path


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*arguments])
    assert result.exit_code == code, result.output
    return result


LAB = ("lab", "--processes", "1", "--strategy", "fifo", "--strategy", "wagons", "--service", "0.1", "--slo", "2")


def test_lab_of_a_log(log: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    result = run(*LAB, "--source", str(log), "--busiest", "30s", "--save-trace", str(trace), "--json")
    assert "log.jsonl: 400 records in 230 s; up to 10 in a second; sizes" in result.stderr
    assert "the lab runs the busiest 30s, 300 records from" in result.stderr
    said = json.loads(result.stdout)
    assert said["job"]["title"] == "log.jsonl"
    assert said["job"]["events"] == 300
    assert said["job"]["workers"] == 1  # 400 × 0.1 s of work in 230 s
    assert len(load_trace(trace)) == len(load_sizes(trace) or ()) == 400
    assert "ada" not in trace.read_text()


def test_lab_says_what_wagons_win(log: Path) -> None:
    result = run(*LAB, "--source", str(log), "--busiest", "30s", "--service", "0.2")
    assert "One queue with 1 worker has" in result.stdout
    assert "wagons has" in result.stdout


def test_plan_of_a_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[Any]()

    def stop(job: Any, *_: Any) -> Any:
        seen.append(job)
        raise UsageError("seen")

    monkeypatch.setattr("eventwagon.cli.plan.promise", stop)
    run("plan", "--source", str(log), "--busiest", "30s", code=2)
    assert len(seen[0].arrivals) == 300


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--source", "LOG", "--trace", "LOG"), "give --source or --trace, not both"),
        (("--save-trace", "x.csv"), "there is nothing to save without --source"),
        (("--source", "LOG", "--last", "soon"), "write a time above 0 as 90s, 15m, 24h or 7d"),
        (("--source", "LOG", "--busiest", "0s"), "--busiest '0s': write a time above 0"),
        (("--source", "nowhere.jsonl"), "can't be read: No such file"),
        (("--source", "LOG", "--save-trace", "/no/such/x.csv"), "--save-trace /no/such/x.csv can't be written"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], why: str, log: Path) -> None:
    result = run(*LAB, *(str(log) if each == "LOG" else each for each in arguments), code=2)
    assert why in " ".join(result.stderr.split())


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, [*LAB, "--source", "-", "--json"], input='{"time": 1}\n{"time": 2}\n')
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["job"]["events"] == 2
