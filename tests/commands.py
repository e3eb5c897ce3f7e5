"""Commands as wagons' workers, in a place of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrators.processes.command import Command, Line
from eventwagon.orchestrators.processes.records import Run, UnitFiles

ROOT = Path(__file__).parents[1]
TRAIN = "signups"
PATIENCE = 30.0

SERVER = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"]
GRACEFUL = """
exec 2> /dev/null  # the shell's own word on its children: nobody reads it where the supervisor was killed
echo $$ >> "$NOTES/began"
trap 'sleep 0.3; echo $$ >> "$NOTES/ended"; exit 0' TERM
echo attached
while :; do sleep 0.05; done
"""
STUBBORN = """
trap '' TERM
sleep 600 & echo $! >> "$NOTES/began"
echo $$ >> "$NOTES/began"
echo attached
while :; do sleep 0.05; done
"""


class Place:
    """Commands that note in a directory what they do."""

    def __init__(self, directory: Path) -> None:
        self.processes = directory / "processes"
        self.notes = directory / "notes"
        self.notes.mkdir(exist_ok=True)

    def command(self, argv: Sequence[str] | str, **options: Any) -> Command:
        return Command(
            ["sh", "-c", argv] if isinstance(argv, str) else argv,
            **{
                "url": "sqlite:////nowhere",
                "ready": Line("attached"),
                "directory": self.processes,
                "environment": {"NOTES": str(self.notes), "PYTHONUNBUFFERED": "1"},
                "grace": 0.5,
                **options,
            },
        )

    def noted(self, name: str) -> list[str]:
        try:
            return (self.notes / name).read_text().splitlines()
        except FileNotFoundError:
            return []

    @property
    def run(self) -> Run:
        found = UnitFiles(self.processes, TRAIN, 1).run()
        assert found is not None
        return found


def spec(number: int = 1, *, workers: int = 1, **fields: Any) -> WagonSpec:
    ingress, dead = Channel(TRAIN, number), Channel(TRAIN, number, DEAD)
    fields = {"unit": number, "channels": (ingress, Channel(TRAIN, number, "welcome")), **fields}
    return WagonSpec(train=TRAIN, number=number, dead_letters=dead, workers=workers, **fields)
