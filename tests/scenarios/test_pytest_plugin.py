"""The fixture `running_train`, in projects that use other plugins, none, or don't use it at all."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHOP = """
from eventwagon import Train

orders = Train("orders")


@orders.on("orders")
async def ship(order: dict) -> None: ...
"""
STORY = """
    async with running_train(orders) as t:
        await t.publish({"id": 7})
        await t.idle()
        assert t.handled() == [{"id": 7}]
    assert isinstance(asyncio.get_running_loop(), VirtualLoop) is virtual
"""
HEAD = """
import asyncio
import unittest
import pytest
from eventwagon import testing
from eventwagon.testing.virtual_time import VirtualLoop
from shop import orders

"""


def printed_by(directory: Path, code: str, *options: str, plugins: Sequence[str] = ()) -> str:
    """Run these tests as another project does that has eventwagon and some plugins; return what pytest has printed."""
    (directory / "shop.py").write_text(SHOP)
    (directory / "test_shop.py").write_text(HEAD + code)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    path = os.pathsep.join([str(ROOT / "src"), str(directory), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path}
    names = [word for plugin in ("pytest_eventwagon", *plugins) for word in ("-p", plugin)]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names, *options]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_an_async_test_needs_no_other_plugin_and_runs_in_virtual_time(tmp_path: Path) -> None:
    code = (
        "async def test_it(running_train, tmp_path):\n    virtual = True\n    await asyncio.sleep(86400)\n"
        + STORY
        + """
class TestOrders:
    @pytest.mark.parametrize("number", [1, 2])
    async def test_method(self, running_train, number):
        async with running_train(orders) as t:
            await t.publish({"id": number})
            await t.idle()


async def test_fails(running_train):
    async with running_train(orders) as t:
        t.fail(times=None, error=KeyError("sku"))
        await t.publish({"id": 7})
        await t.idle()
"""
    )
    printed = printed_by(tmp_path, code)
    assert "1 failed, 3 passed" in printed
    assert "UnexpectedDeath: 1 event of train 'orders' died" in printed
    assert "  orders: {'id': 7} after 5 attempts: KeyError: 'sku'" in printed


def test_plain_tests_and_unittest(tmp_path: Path) -> None:
    code = """
def test_plain(running_train):
    async def story():
        async with running_train(orders) as t:
            await t.publish({"id": 7})
            await t.idle()
            assert t.handled() == [{"id": 7}]

    testing.run(story())


class Shop(unittest.IsolatedAsyncioTestCase):
    async def test_in_its_loop(self):
        async with testing.running(orders) as t:
            await t.publish({"id": 7})
            await t.idle()
            self.assertEqual(t.handled(), [{"id": 7}])


class Virtual(unittest.TestCase):
    @testing.in_virtual_time
    async def test_in_virtual_time(self):
        async with testing.running(orders) as t:
            await t.publish({"id": 7})
            await t.idle()
            self.assertEqual(t.handled(), [{"id": 7}])
"""
    assert "3 passed" in printed_by(tmp_path, code)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_pytest_asyncio_runs_its_tests_in_its_own_loop(tmp_path: Path, mode: str) -> None:
    pytest.importorskip("pytest_asyncio")
    code = "@pytest.mark.asyncio\nasync def test_it(running_train):\n    virtual = False\n" + STORY
    code += f"async def test_without_mark(running_train):\n    virtual = {mode == 'strict'}\n" + STORY
    options = ("--asyncio-mode", mode, "-o", "asyncio_default_fixture_loop_scope=function")
    assert "2 passed" in printed_by(tmp_path, code, *options, plugins=("pytest_asyncio.plugin",))


def test_anyio_runs_its_tests_in_its_own_loop(tmp_path: Path) -> None:
    code = (
        "@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n\n\n"
        "@pytest.mark.anyio\nasync def test_it(running_train):\n    virtual = False\n"
        + STORY
        + "async def test_by_fixture(anyio_backend, running_train):\n    virtual = False\n"
        + STORY
        + "async def test_neither(running_train):\n    virtual = True\n"
        + STORY
    )
    assert "3 passed" in printed_by(tmp_path, code, plugins=("anyio",))


def test_a_project_that_does_not_use_it_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n\ndef test_other():\n    assert not {'eventwagon', 'msgspec', 'apsw'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_eventwagon"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_an_async_test_without_it_is_left_to_pytest(tmp_path: Path) -> None:
    printed = printed_by(tmp_path, "async def test_it():\n    pass\n")
    assert "async def functions are not natively supported" in printed


def test_another_fixture_of_that_name_is_not_meant(tmp_path: Path) -> None:
    code = (
        "@pytest.fixture\ndef running_train():\n    return 'theirs'\n\n\nasync def test_it(running_train):\n    pass\n"
    )
    assert "async def functions are not natively supported" in printed_by(tmp_path, code)


def test_a_handler_that_hangs_in_a_thread_does_not_hang_the_run(tmp_path: Path) -> None:
    code = """
import time
from eventwagon import Train

stuck = Train("stuck", handler_timeout=0.2, attempts=1)


@stuck.on("stuck")
def handle(number: int) -> None:
    time.sleep(3600)


async def test_it(running_train):
    async with running_train(stuck) as t:
        await t.publish(1)
        await t.idle()
"""
    printed = printed_by(tmp_path, code)
    assert "1 failed" in printed
    assert "not finished after handler_timeout=0.2 s" in printed


def test_pytest_finds_it_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"eventwagon": "pytest_eventwagon"}
    assert "src/pytest_eventwagon.py" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
