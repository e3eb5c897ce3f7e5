"""docs/tutorial.md, command by command: first on SQLite, then on Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.walk import Walk
from tests.servers.server import Server


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path, own_redis: Server) -> None:
    place = f"{own_redis.host}:{own_redis.port}"
    directory = tmp_path / "tutorial"
    directory.mkdir()
    faster = {"time.sleep(0.4)": "time.sleep(0.2)"}  # a person needs longer to type
    with Walk("docs/tutorial.md", directory, places={"localhost:6379": place}, saved=faster) as walk:
        walk.go()
