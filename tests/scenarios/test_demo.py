"""The demo: a small burst from end to end, as a person and as a machine sees it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BURST = ("--events", "600", "--seconds", "5", "--speed", "10")


def demo(*options: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "eventwagon", "demo", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("place", [("--url", "memory://"), ()], ids=["memory", "sqlite"])
def test_nothing_is_lost_and_the_figures_are_whole(place: tuple[str, ...]) -> None:
    done = demo(*BURST, *place, "--json", "--limit", "Wait(2.0) | Volume(150)")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    keys = ["published", "handled", "dead", "lost", "duplicates", "on_time", "newcomers", "wagons"]
    assert list(said) == keys
    assert (said["published"], said["handled"], said["dead"], said["lost"]) == (600, 600, 0, 0)
    assert said["duplicates"] == 0
    assert 0 <= said["on_time"] <= 1
    assert list(said["newcomers"]) == ["p50_ms", "p99_ms"]
    wagons = said["wagons"]
    wagon_keys = ["number", "name", "published", "settled", "reason", "opened_at", "sealed_at", "drained_at"]
    assert [list(w) for w in wagons] == [wagon_keys] * len(wagons)
    assert wagons[0]["name"] == "user_registrations_v1"
    assert len(wagons) >= 2  # a machine that is slow for this speed makes the train go on past a limit
    assert sum(w["published"] for w in wagons) == sum(w["settled"] for w in wagons) == 600
    for w in wagons[:-1]:
        assert w["opened_at"] <= w["sealed_at"] <= w["drained_at"]
        assert w["reason"]
    assert wagons[-1]["sealed_at"] is None


def test_a_log_gets_a_table_and_the_sentences(tmp_path: Path) -> None:
    done = demo(*BURST, "--dir", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    assert "600 of 600 sign-ups handled, 0 dead, 0 lost" in done.stdout
    assert "One FIFO queue" in done.stdout
    assert "calculated" in done.stdout
    assert "\x1b" not in done.stdout
    assert f"sqlite:///{tmp_path}/kept" in done.stdout
    again = demo(*BURST, "--dir", str(tmp_path / "kept"))
    assert again.returncode == 2
    assert "exists at" in again.stderr


def test_a_trace_and_a_crowd_of_each_wagons_own_workers(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("interval_start_s,count\n0,80\n1,200\n2,20\n")
    options = ("--trace", str(trace), "--workers", "each=3", "--limit", "Volume(100)", "--url", "memory://")
    done = demo(*options, "--speed", "10", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["published"], said["handled"], said["lost"]) == (300, 300, 0)
    assert sum(w["published"] for w in said["wagons"]) == 300
    assert said["wagons"][0]["published"] >= 100


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trace", "none.csv"), "none.csv can't be read"),
        (("--limit", "Waitt(2)"), "can't read 'Waitt(2)'"),
        (("--workers", "many"), "workers 'many'"),
        (("--url", "memory://", "--dir", "x"), "not both"),
        (("--speed", "0"), "--speed"),
    ],
)
def test_a_mistake_is_one_clear_line(options: tuple[str, ...], said: str) -> None:
    done = demo(*options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
