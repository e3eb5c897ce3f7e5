"""The logging that a program has set up is left alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.scenarios.test_cli import PROGRAM, cli

OWN = """
import logging, logging.config, sys
logging.config.dictConfig({
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"own": {"format": "OWN %(levelname)s %(name)s %(message)s"}},
    "handlers": {"own": {"class": "logging.FileHandler", "filename": "own.log", "formatter": "own"}},
    "root": {"handlers": ["own"], "level": "WARNING"},
})
logging.getLogger("mine").warning("the program is loaded")
"""


def ended(place: Path, program: str, *options: str, seconds: float = 2.0) -> tuple[str, str]:
    """What the program's own log and stderr hold after a run that ends by itself."""
    end = (
        f"\nimport os, signal, threading\nthreading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
    )
    (place / "app.py").write_text(PROGRAM + program + end)
    began = time.monotonic()
    done = cli(place, "run", "app:train", *options)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 50
    own = place / "own.log"
    return own.read_text() if own.exists() else "", done.stderr


def test_a_program_without_logging_gets_ours(tmp_path: Path) -> None:
    own, err = ended(tmp_path, "")
    assert own == ""
    assert "INFO" in err
    assert "_v1 active" in err


def test_a_program_with_logging_keeps_its_handlers_and_levels(tmp_path: Path) -> None:
    own, err = ended(tmp_path, OWN)
    assert own == "OWN WARNING mine the program is loaded\n"
    assert err == ""


@pytest.mark.parametrize(("level", "shown"), [("info", True), ("error", False)])
def test_the_level_that_was_asked_for_is_that_of_our_logger_alone(tmp_path: Path, level: str, shown: bool) -> None:
    own, err = ended(tmp_path, OWN, "--log-level", level)
    assert ("OWN INFO eventwagon" in own) == shown
    assert "_v1 active" in own or not shown
    assert err == ""


def test_a_level_that_there_is_not_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise RuntimeError('loaded')")
    done = cli(tmp_path, "run", "app:train", "--log-level", "loud")
    assert done.returncode == 2
    assert "debug, info, warning or error" in done.stderr


def test_an_isolated_wagons_program_keeps_its_logging(tmp_path: Path) -> None:
    own, _ = ended(tmp_path, OWN + "logging.getLogger().setLevel('INFO')\n", "--isolate", seconds=6.0)
    assert own.count("mine the program is loaded") >= 2
