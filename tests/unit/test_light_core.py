"""The core install has msgspec and apsw, and no command line."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("click", "rich", "typer", "psutil"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
PUBLISHES = """
import asyncio
from eventwagon import Train

async def main():
    async with Train("light").connect("sqlite:///trains") as connection:
        await connection.publish({"n": 1})
        assert (await connection.refresh()).manifest.active is not None

asyncio.run(main())
own = {name.split(".")[0] for name in sys.modules if not name.startswith("_")}
print(*sorted(own - sys.stdlib_module_names - {"eventwagon"}))
"""


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT + code], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_a_publisher_needs_what_the_core_install_has(tmp_path: Path) -> None:
    done = python(PUBLISHES, tmp_path)
    assert done.returncode == 0, done.stderr
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[^\w-]", each)[0] for each in declared} == {"apsw", "msgspec"}
    assert (
        {"apsw", "msgspec"} <= set(done.stdout.split()) <= {"apsw", "msgspec", "typing_extensions"}
    )  # msgspec takes it where it is


def test_the_command_says_what_to_install(tmp_path: Path) -> None:
    done = python("from eventwagon.cli import main\nmain()", tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"eventwagon: the command needs \w+, which is not installed: pip install 'eventwagon\[cli\]'\n", done.stderr
    )


def test_processes_of_this_machine_say_what_to_install(tmp_path: Path) -> None:
    code = """
from eventwagon import Settings
from eventwagon.drivers import Program, open_orchestrator
from eventwagon.errors import UsageError
for url in ("subprocess:", "command:true?ready=check-in"):
    try:
        open_orchestrator(url, Program("app:orders", "sqlite:///trains", Settings()))
    except UsageError as e:
        print(e)
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install 'eventwagon[processes]'") == 2


IMPORTED = """
import sys
before = set(sys.modules)
import eventwagon
print(*sorted(set(sys.modules) - before))
"""


def test_importing_it_imports_no_driver_no_command_line_and_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    found = set(done.stdout.split())
    ours = {name.split(".")[1] for name in found if name.startswith("eventwagon.")}
    assert not ours & {"cli", "lab", "testing", "orchestrators", "loading"}
    drivers = {name for name in found if name.startswith("eventwagon.drivers.")}
    assert drivers <= {"eventwagon.drivers.opening"}
    others = {name.split(".")[0] for name in found} - {"eventwagon"}
    others = {name for name in others - sys.stdlib_module_names if not name.startswith("_")}
    assert others <= {"msgspec", "typing_extensions"}
    heavy = {"sqlite3", "multiprocessing", "http", "xml", "unittest", "concurrent.futures.process", "tkinter", "pdb"}
    assert not heavy & found
