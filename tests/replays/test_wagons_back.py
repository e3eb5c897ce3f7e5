"""Wagons archived, exported, replayed, on SQLite."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.wagons_back import wagons_come_back


@pytest.mark.parametrize(("wagons", "each"), [(2, 400), pytest.param(10, 10_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
def test_what_comes_back_is_what_went_in(wagons: int, each: int, tmp_path: Path) -> None:
    archive = (tmp_path / "archive").as_uri()
    url = f"sqlite:///{tmp_path}/trains"
    print(asyncio.run(wagons_come_back(url, "goods", archive, wagons=wagons, each=each, seconds=890)))
