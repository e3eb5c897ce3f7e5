"""A process that is killed: what it had in hand is had at once by another on its machine, and costs no attempt."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from eventwagon.contracts.facts import ClaimsReturned
from eventwagon.contracts.process import Process, this_process, why_ended
from tests.programs.patient import (
    EVENTS,
    killed_and_replaced,
    killed_beside_another,
    noted,
    publishing,
    until_noted,
    working,
)

HERE = this_process()
SLEEPS = [sys.executable, "-c", "import time; time.sleep(60)"]
pytestmark = pytest.mark.skipif(HERE is None, reason="this system does not say enough of its processes")


def url(directory: Path) -> str:
    return f"sqlite:///{directory}/trains"


def test_a_replacement_has_them_at_once(tmp_path: Path) -> None:
    """Well within the visibility time of 60 s: it looks before it fetches."""
    took = asyncio.run(killed_and_replaced(url(tmp_path), tmp_path / "notes"))
    print(f"{took:.2f} s")
    assert took < 10


def test_another_that_runs_has_them_at_once(tmp_path: Path) -> None:
    async def main() -> list[ClaimsReturned]:
        took = await killed_beside_another(url(tmp_path), tmp_path / "notes")
        print(f"{took:.2f} s")
        assert took < 10
        async with publishing(url(tmp_path), tmp_path / "notes") as connection:
            entries = [entry.fact async for entry in connection.registry.entries("patient")]
        return [fact for fact in entries if isinstance(fact, ClaimsReturned)]

    told = asyncio.run(main())
    assert [fact.count >= 4 and "has ended" in fact.because for fact in told] == [True], "told once, with the proof"


def test_a_process_that_is_silent_keeps_them(tmp_path: Path) -> None:
    """Stopped, not ended: nobody else may handle its events while its claims last."""

    async def main() -> None:
        notes = tmp_path / "notes"
        async with (
            publishing(url(tmp_path), notes) as connection,
            working(url(tmp_path), notes, hold=True) as silent,
        ):
            await connection.publish_many(range(EVENTS))
            await until_noted(notes, "held", 4)
            silent.send_signal(signal.SIGSTOP)
            async with working(url(tmp_path), notes):
                await asyncio.sleep(3.0)
                assert not set(noted(notes, "done")) & set(noted(notes, "held"))
                silent.kill()
                await until_noted(notes, "done", EVENTS, seconds=30.0)

    asyncio.run(main())


# --- proof --------------------------------------------------------------------------------


def of(pid: int) -> Process:
    """As that process would say it of itself."""
    assert HERE is not None
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return msgspec.structs.replace(HERE, pid=pid, started=started)


def test_a_process_has_ended_when_it_is_gone_and_not_before() -> None:
    child = subprocess.Popen(SLEEPS)
    process = of(child.pid)
    assert why_ended(process, HERE) == ""
    child.send_signal(signal.SIGSTOP)
    assert why_ended(process, HERE) == ""
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert "has not yet collected its exit status" in why_ended(process, HERE)
    child.wait()
    assert why_ended(process, HERE).endswith("has ended")


def test_a_number_that_is_used_again_is_another_process() -> None:
    with subprocess.Popen(SLEEPS) as child:
        earlier = msgspec.structs.replace(of(child.pid), started=of(child.pid).started - 1)
        assert "another has its number" in why_ended(earlier, HERE)
        child.kill()


@pytest.mark.parametrize("differs", [{"host": "elsewhere"}, {"boot": "before"}, {"namespace": "a container's"}])
def test_processes_of_another_machine_or_container_are_not_looked_for(differs: dict[str, str]) -> None:
    assert HERE is not None
    gone = msgspec.structs.replace(HERE, pid=2**22 - 1, started=1)
    assert why_ended(gone, HERE) != ""
    assert why_ended(msgspec.structs.replace(gone, **differs), HERE) == ""


def test_what_is_no_proof() -> None:
    assert HERE is not None
    assert why_ended(None, HERE) == ""
    assert why_ended(HERE, HERE) == ""
    assert why_ended(of(1), HERE) == ""
    for pid in (0, -1, 2**40):
        assert why_ended(msgspec.structs.replace(HERE, pid=pid), HERE) == ""
    gone = msgspec.structs.replace(HERE, pid=2**22 - 1, started=1)
    assert why_ended(gone, None) == ""
