"""The logging that a program has set up is left alone."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventwagon.cli.serve import _TerminalFormatter
from eventwagon.contracts.lifecycle import State
from eventwagon.display.text import LogFormatter
from eventwagon.policy.record import encode_look
from tests.scenarios.test_cli import PROGRAM, cli
from tests.unit.plans import look, manifest, wagon

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


def test_at_debug_other_packages_stay_at_warning(tmp_path: Path) -> None:
    library = """
import logging, threading
def talk():
    for name in ("botocore.hooks", "asyncio", "httpx"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(name).log(level, "%s at %s", name, logging.getLevelName(level))
    logging.getLogger("eventwagon.worker").debug("ours at DEBUG")
threading.Timer(1.0, talk).start()
"""
    _, err = ended(tmp_path, library, "--log-level", "debug")
    assert "ours at DEBUG" in err
    for name in ("botocore.hooks", "asyncio", "httpx"):
        assert f"{name} at WARNING" in err
        assert f"{name} at DEBUG" not in err
        assert f"{name} at INFO" not in err


def test_a_terminal_does_not_show_the_words_of_looks() -> None:
    word = encode_look(look(manifest(wagon(1, State.ACTIVE))))
    record = logging.makeLogRecord({"msg": f"t: a look: 1 change: {word}", "levelno": logging.DEBUG})
    shown = _TerminalFormatter("%(message)s").format(record)
    assert shown == f"t: a look: 1 change: ({len(word):,} characters, written only to a file or pipe)"
    record.levelno = logging.ERROR
    assert word in _TerminalFormatter("%(message)s").format(record)
    assert word in LogFormatter("%(message)s").format(record)


def test_processes_of_an_orchestrator_keep_other_packages_at_warning() -> None:
    program = (
        "import logging\n"
        "from eventwagon.orchestrators.processes.child import _set_up_logging\n"
        "_set_up_logging()\n"
        "for name in ('eventwagon', 'httpx', 'botocore'):\n"
        "    logging.getLogger(name).info('%s at INFO', name)\n"
        "    logging.getLogger(name).warning('%s at WARNING', name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "INFO    eventwagon at INFO",
        "WARNING eventwagon at WARNING",
        "WARNING httpx at WARNING",
        "WARNING botocore at WARNING",
    ]


def test_a_level_that_there_is_not_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise RuntimeError('loaded')")
    done = cli(tmp_path, "run", "app:train", "--log-level", "loud")
    assert done.returncode == 2
    assert "debug, info, warning or error" in done.stderr


def test_an_isolated_wagons_program_keeps_its_logging(tmp_path: Path) -> None:
    own, _ = ended(tmp_path, OWN + "logging.getLogger().setLevel('INFO')\n", "--isolate", seconds=6.0)
    assert own.count("mine the program is loaded") >= 2
