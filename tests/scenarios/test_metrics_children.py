"""The figures of processes that a measured process has started are exported by it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from eventwagon.contracts.facts import EventRetried
from eventwagon.contracts.metering import ProcessFigures
from eventwagon.event import Channel
from eventwagon.metrics import Metrics, gathering
from eventwagon.metrics.children import FIGURES, handing_over
from tests.scenarios.test_metrics_exported import PROGRAM, get, started
from tests.scraped import Figures
from tests.servers.ports import free_port

TOOK = "messaging_process_duration_seconds_count"

CHILD = """
import asyncio, sys
from eventwagon.contracts.metering import ProcessFigures
from eventwagon.event import Channel
from eventwagon.metrics.children import handing_over

async def main():
    async with handing_over() as meter:
        meter.joined("t", "memory", "", lambda: ProcessFigures(workers=3))
        meter.handled(Channel("t", 1), [0.01, 0.2], [1.0], "", False)
        meter.called("publish", Channel("t", 1), 7, 0.01, "")
        await asyncio.sleep(float(sys.argv[1]))

asyncio.run(main())
"""


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    found = Metrics()
    with gathering(found):
        yield found


def child(seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(seconds)])


async def until(metrics: Metrics, name: str, value: float) -> Figures:
    async with asyncio.timeout(60):
        while (found := Figures.of(metrics)).sum(name) != value:
            await asyncio.sleep(0.05)
    return found


def test_totals_stay_and_gauges_go_with_the_process(metrics: Metrics) -> None:
    async def main() -> None:
        metrics.handled(Channel("t", 2), [0.02], [], "", False)
        metrics.joined("t", "memory", "", lambda: ProcessFigures(workers=2))
        lives = child(60)
        try:
            found = await until(metrics, TOOK, 3)
            assert found.one("eventwagon_workers") == 5
            assert found.one("eventwagon_info") == 1
            assert found.one("messaging_client_sent_messages_total") == 7
        finally:
            lives.kill()  # no farewell: what it had written counts
            lives.wait()
        found = await until(metrics, "eventwagon_workers", 2)
        assert (found.sum(TOOK), found.one("messaging_client_sent_messages_total")) == (3, 7)
        assert found.one("messaging_process_duration_seconds_bucket", le="0.025") == 2
        ended = child(0)
        assert ended.wait() == 0
        for _ in range(2):  # counted once, however often it is asked
            found = Figures.of(metrics)
            assert (found.sum(TOOK), found.one("messaging_client_sent_messages_total")) == (5, 14)

    asyncio.run(main())
    assert not list(Path(os.environ[FIGURES]).iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[1]", b'[["eventwagon.workers",[],1]]', b'[["nobody.knows",["t"],1]]', b"[" * 100_000],
)
def test_a_file_that_can_t_be_read_hurts_no_other(metrics: Metrics, content: bytes) -> None:
    metrics.called("publish", Channel("t", 1), 3, 0.02, "")
    for pid in (os.getpid(), 2**22 + 1):
        (Path(os.environ[FIGURES]) / f"{pid}-0.figures").write_bytes(content)
    (Path(os.environ[FIGURES]) / "notes.figures").write_bytes(b"[]")
    assert Figures.of(metrics).one("messaging_client_sent_messages_total") == 3


def test_what_is_no_file_or_far_too_large_hurts_no_scrape(metrics: Metrics) -> None:
    metrics.called("publish", Channel("t", 1), 3, 0.02, "")
    directory = Path(os.environ[FIGURES])
    for pid in (os.getpid(), 2**22 + 1):
        (directory / f"{pid}-directory.figures").mkdir()
        os.mkfifo(directory / f"{pid}-pipe.figures")
        with (directory / f"{pid}-large.figures").open("wb") as file:
            file.truncate(1 << 40)  # takes no room
    for _ in range(2):
        assert Figures.of(metrics).one("messaging_client_sent_messages_total") == 3


def test_a_file_that_can_t_be_deleted_counts_once(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    ended = b'[["eventwagon.switches",["t","limit"],7]]'
    (Path(os.environ[FIGURES]) / f"{2**22 + 1}-0.figures").write_bytes(ended)
    with mock.patch.object(Path, "unlink", side_effect=OSError(errno.EROFS, "Read-only file system")):
        for _ in range(3):
            assert Figures.of(metrics).one("eventwagon_switches_total") == 7
    assert "deleting the figures of a process that has ended" in caplog.text


def test_a_directory_that_somebody_deleted_is_made_again(metrics: Metrics) -> None:
    def mode() -> int:
        return stat.S_IMODE(Path(os.environ[FIGURES]).stat().st_mode)

    async def main() -> None:
        lives = child(60)
        try:
            await until(metrics, TOOK, 2)
            shutil.rmtree(os.environ[FIGURES])
            await until(metrics, TOOK, 0)
            assert mode() == 0o700
            await until(metrics, TOOK, 2)  # although nothing was counted since
        finally:
            lives.kill()
            lives.wait()

    asyncio.run(main())


def test_without_a_directory_for_temporary_files_only_the_figures_of_others_are_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")  # as in a container whose file system is read-only
    monkeypatch.delenv(FIGURES, raising=False)
    metrics = Metrics()
    metrics.called("publish", Channel("t", 1), 3, 0.02, "")
    with caplog.at_level("INFO"), gathering(metrics):
        assert FIGURES not in os.environ
        assert Figures.of(metrics).one("messaging_client_sent_messages_total") == 3
    assert "figures of processes that this one starts are missing" in caplog.text


def test_a_scrape_at_the_end_leaves_no_directory() -> None:
    metrics = Metrics()
    with mock.patch.object(metrics, "add") as added, gathering(metrics):
        scrape, directory = added.call_args.args[0], Path(os.environ[FIGURES])
    assert scrape() == []
    assert not directory.exists()


def test_a_histogram_with_other_bounds_is_left_out(metrics: Metrics) -> None:
    of_another_version = b'[["eventwagon.event.wait",["t","new"],0,[1,2,3],9.0,1.0,5.0]]'
    (Path(os.environ[FIGURES]) / f"{os.getpid()}-0.figures").write_bytes(of_another_version)
    assert not Figures.of(metrics).all("eventwagon_event_wait_seconds_count")


def test_a_process_that_nobody_gathers_from_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FIGURES, raising=False)

    async def main() -> None:
        async with handing_over() as meter:
            assert meter is None

    asyncio.run(main())


def test_a_directory_that_has_gone_ends_nothing(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with handing_over() as meter:
            assert meter is not None
            meter.called("publish", Channel("t", 1), 3, 0.02, "")

    with mock.patch.dict(os.environ, {FIGURES: os.environ[FIGURES] + "/gone"}):
        asyncio.run(main())
    assert "writing the figures for the process that gathers them" in caplog.text


def test_each_instrument_has_a_limit_of_its_own(metrics: Metrics) -> None:
    for n in range(1500):
        fact = EventRetried(train="t", number=1, channel=f"c{n}", id="1", attempt=1, pause=1.0, because="no")
        metrics.heard(fact)
    found = Figures.of(metrics)
    assert len(found.all("eventwagon_events_retried_total")) == 1001
    assert found.one("eventwagon_events_retried_total", messaging_destination_template="_OTHER") == 500


def test_each_wagon_in_its_own_process(tmp_path: Path) -> None:
    """Every handling is counted once, also those of processes that have gone with their wagons."""
    (tmp_path / "app.py").write_text(PROGRAM)

    async def main(port: int) -> None:
        variables = {"EVENTWAGON_URL": "sqlite:///trains", "EVENTWAGON_METRICS_PORT": str(port)}
        runs = await started("run", "app.py:numbers", "--isolate", cwd=tmp_path, **variables)
        try:
            found = None
            for burst in (1, 2):
                gives = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "eventwagon", "publish", "app.py:numbers"),
                    cwd=tmp_path,
                    env={**os.environ, "EVENTWAGON_URL": "sqlite:///trains"},
                    stdin=asyncio.subprocess.PIPE,
                )
                await gives.communicate("".join(f"{n}\n" for n in range(45)).encode())
                assert gives.returncode == 0
                async with asyncio.timeout(90):
                    while found is None or found.sum(TOOK) < 45 * burst or found.sum("eventwagon_workers") == 0:
                        assert runs.returncode is None
                        await asyncio.sleep(0.2)
                        with suppress(OSError):
                            found = Figures((await asyncio.to_thread(get, port))[0])
            assert found is not None
            assert found.sum(TOOK) == 90
            assert found.sum("messaging_client_consumed_messages_total") >= 90
            assert found.sum("eventwagon_switches_total", eventwagon_cause="limit") >= 2
            assert found.one("eventwagon_info", messaging_system="sqlite") == 1
        finally:
            runs.terminate()
            _, said = await runs.communicate()
        assert runs.returncode == 0, said.decode()

    asyncio.run(main(free_port()))
