"""The pytest plugin of eventwagon: the fixture `running_train`.

A module of its own, so that pytest does not import eventwagon in projects that don't use the fixture.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from eventwagon.testing import RunTrain

FIXTURE = "running_train"
_OTHERS = ("anyio", "asyncio", "trio")
"""The marks of plugins that bring an event loop."""


@pytest.fixture
def running_train() -> RunTrain:
    """Runs a train in memory: `async with running_train(train) as t:`, see `eventwagon.testing.running`.

    An async test that has this fixture runs in virtual time, unless another plugin runs it in a loop of its own.
    """
    from eventwagon.testing import running

    return running


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async test that has the fixture, and that no other plugin runs."""
    testing = sys.modules.get("eventwagon.testing")  # the fixture has imported it, if it is this one
    if testing is None or pyfuncitem.funcargs.get(FIXTURE) is not testing.running:
        return None
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    if "anyio_backend" in pyfuncitem.fixturenames or any(map(pyfuncitem.get_closest_marker, _OTHERS)):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    testing.run(pyfuncitem.obj(**{name: value for name, value in pyfuncitem.funcargs.items() if name in wanted}))
    return True
