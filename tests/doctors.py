"""What `doctor` leaves behind, on any server: tried when all goes well, when a step fails, and when it is
interrupted."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest

from eventwagon.cli.doctor import Examination, examine
from eventwagon.contracts.broker import Finding
from eventwagon.drivers.opening import Drivers, open_drivers
from eventwagon.errors import StorageBroken

How = Literal["fails", "is interrupted"]
CALLS = (
    "broker.create",
    "broker.inspect",
    "broker.channels",
    "broker.publish",
    "broker.read",
    "broker.consume",
    "broker.depth",
    "broker.seal",
    "registry.trains",
    "registry.check_in",
    "registry.members",
    "registry.replace",
    "registry.inspect",
)
"""What a doctor asks of drivers, but for cleaning up."""
CONNECTING = ("broker.channels",)
"""What it asks first, to find out whether the server answers."""
FEW = ("broker.create", "broker.publish", "broker.consume", "broker.seal", "registry.check_in")
"""Those that make something."""

Listing = Callable[[], object]


async def examined(url: str) -> dict[str, Examination]:
    return await examine(open_drivers(url))


def look(url: str) -> dict[str, Examination]:
    return asyncio.run(examined(url))


def findings(url: str, of: str = "broker") -> dict[str, Finding]:
    """By what they are about, without the value."""
    found = look(url)
    assert not [step for each in found.values() for step in each.steps if step.problem]
    return {finding.what.partition("=")[0]: finding for finding in found[of].findings}


def meddle(drivers: Drivers, call: str, how: How) -> None:
    """The first such call fails, or is interrupted on its way; those that follow do not. Not those that find out
    whether the server answers."""
    kind, _, name = call.partition(".")
    driver: Any = getattr(drivers, kind)
    real, count = getattr(driver, name), itertools.count(0 if call in CONNECTING else 1)

    def instead(*args: Any, **given: Any) -> Any:
        if next(count) != 1:
            return real(*args, **given)
        if how == "fails":
            raise StorageBroken("made up by the test")
        (examining,) = (task for task in asyncio.all_tasks() if task.get_name() == "doctor")
        asyncio.get_running_loop().call_soon(examining.cancel)
        return real(*args, **given)

    setattr(driver, name, instead)


def leaves_nothing(url: str, listing: Listing, calls: tuple[str, ...] = CALLS) -> None:
    """Whatever happens at any of these calls."""
    before = listing()
    look(url)
    assert listing() == before, "all went well"
    for call in calls:
        for how in ("fails", "is interrupted"):
            asyncio.run(_meddled(url, call, how))
            assert listing() == before, f"{call} {how}"


async def _meddled(url: str, call: str, how: How) -> None:
    drivers = open_drivers(url)
    meddle(drivers, call, how)
    task = asyncio.create_task(examine(drivers), name="doctor")
    if how == "is interrupted":
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        found = await task
        assert "made up by the test" in [step.problem for each in found.values() for step in each.steps]


def interrupt(
    url: str, is_begun: Callable[[], bool], number: signal.Signals, env: Mapping[str, str] = os.environ
) -> str:
    """A doctor of its own process, hit by that signal once it has begun to make something; what it says. It may have
    ended before."""
    command = [sys.executable, "-m", "eventwagon", "doctor"]
    process = subprocess.Popen(
        command, env={**env, "EVENTWAGON_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while process.poll() is None and not is_begun():
            time.sleep(0.001)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    if "interrupted" in said:
        assert process.returncode == 130
    return said
