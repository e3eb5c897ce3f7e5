"""Budgets of real processes, on SQLite."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.bounded import check, shared


@pytest.mark.timeout(180)
def test_three_processes_share_a_rate_and_a_concurrency_and_one_is_killed(tmp_path: Path) -> None:
    check(asyncio.run(shared(f"sqlite:///{tmp_path}/trains", tmp_path)))
