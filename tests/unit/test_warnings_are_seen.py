"""What a program sees if it has not configured logging."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAYS = """
import importlib, logging, pkgutil
import eventwagon
for module in pkgutil.walk_packages(eventwagon.__path__, "eventwagon."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError:  # an extra that is not installed
            pass
for name in sorted(logging.root.manager.loggerDict):
    if name.partition(".")[0] == "eventwagon":
        logging.getLogger(name).error("said by %s", name)
"""
SILENT = {"eventwagon.kafka.client", "eventwagon.pulsar.client"}
"""Logs of others' clients, whose errors are raised, too."""


def test_each_logger_is_heard() -> None:
    code = SAYS + "print('\\n'.join(n for n in logging.root.manager.loggerDict if n.split('.')[0] == 'eventwagon'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    loggers = set(done.stdout.split())
    heard = {line.removeprefix("said by ") for line in done.stderr.splitlines()}
    if "eventwagon.kafka" not in loggers:
        pytest.skip("confluent-kafka is not installed")
    assert loggers - heard - SILENT == set()
