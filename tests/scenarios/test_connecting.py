"""Connecting while a server is down."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from eventwagon.contracts.registry import Snapshot
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Unavailable
from tests.support import World, signups


class Down(MemoryRegistry):
    async def read(self, train: str) -> Snapshot:
        raise Unavailable("the server is not ready")


def test_an_unavailable_registry_is_said_as_it_is() -> None:
    async def main() -> None:
        world = World()
        with pytest.raises(Unavailable, match="not ready"):
            async with world.connect(signups([]), registry=Down()):
                pass

    asyncio.run(main())


_WITHOUT_FILES = """
import asyncio, os, resource, sys
from eventwagon import Train

async def main():
    train = Train("orders")
    if sys.argv[2] == "again":
        async with train.connect(sys.argv[1]):
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    try:
        async with train.connect(sys.argv[1]):
            pass
    except BaseException as e:
        os.close(held.pop())
        print(type(e).__name__, e)
    for each in held:
        os.close(each)
    async with train.connect(sys.argv[1]):
        print("connected")

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["first", "again"])
def test_without_a_file_descriptor_it_says_so_and_goes_on_later(tmp_path: Path, how: str) -> None:
    """The drivers are found by files: without one that can be opened they seemed not to be installed, for good."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_FILES, f"sqlite:///{tmp_path}/trains", how],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told, connected = done.stdout.splitlines()
    assert told.startswith("Unavailable sqlite: "), done.stdout
    assert "this process has no file descriptor left: raise `ulimit -n`" in told
    assert connected == "connected"
