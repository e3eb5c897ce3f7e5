"""What the documents tell people to type exists: commands, options, environment variables, make targets."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from eventwagon.cli.app import app
from eventwagon.contracts.process import POD
from eventwagon.orchestrators.processes.command.placeholders import ENVIRONMENT
from tests.docs.documents import DOCUMENTS, ROOT, blocks, having, name, prose

COMMAND = typer.main.get_command(app)
COMMANDS = getattr(COMMAND, "commands")  # noqa: B009 - a group's, which its type does not say
OPTIONS = {o for c in (COMMAND, *COMMANDS.values()) for p in c.params for o in p.opts} | {"--help"}
VARIABLES = {p.envvar for c in (COMMAND, *COMMANDS.values()) for p in c.params if p.envvar} | {*ENVIRONMENT, POD}
VARIABLES.add("EVENTWAGON_REPOSITORY")  # hatch_build.py's
PACKAGES = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def lines() -> Iterator[tuple[str, list[str]]]:
    for document in having("sh"):
        for block in blocks(document, "sh"):
            number = block.line
            for text in re.split(r"(?<!\\)\n", block.text):
                if words := shlex.split(text.replace("\\\n", " "), comments=True):
                    yield f"{name(document)}:{number}", words
                number += text.count("\n") + 1


@pytest.mark.parametrize(("where", "words"), list(lines()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_typed_is_understood(where: str, words: list[str]) -> None:
    match words:
        case _ if "&&" in words:
            at = words.index("&&")
            test_what_is_typed_is_understood(where, words[:at])
            test_what_is_typed_is_understood(where, words[at + 1 :])
        case ["eventwagon", command, *arguments]:
            assert command in COMMANDS, f"there is no command {command!r}"
            COMMANDS[command].make_context(command, arguments)  # raises for an option or argument that is not known
        case ["echo", document, "|", *piped]:
            json.loads(document)
            test_what_is_typed_is_understood(where, piped)
        case ["seq", count, "|", "sed", _, "|", *piped]:
            assert count.isdecimal()
            test_what_is_typed_is_understood(where, piped)
        case ["make", *targets]:
            assert {t for t in targets if "=" not in t} <= TARGETS  # the others are variables
        case ["export", setting]:
            assert setting.partition("=")[0] in VARIABLES
        case ["echo", document, ">" | ">>", _]:
            json.loads(document)
        case ["python", "-m", "venv", ".venv"] | [".", ".venv/bin/activate"]:
            pass
        case ["python", "-m", module, *_]:
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
        case ["uvicorn", target, *_]:
            assert (ROOT / f"{target.partition(':')[0].replace('.', '/')}.py").is_file()
        case ["curl" | "mosquitto" | "mosquitto_pub" | "mosquitto_sub" | "redis-cli", *_]:
            pass
        case ["pip", "install", folder] if folder.startswith("./"):
            assert (ROOT / folder / "pyproject.toml").is_file()
        case ["pip", "install", what, *others]:
            assert set(others) <= PACKAGES
            extras = re.fullmatch(r"(?:eventwagon|\.)(?:\[([a-z,]+)\])?", what)
            assert extras, what
            assert set((extras[1] or "cli").split(",")) <= set(EXTRAS)
        case _:
            pytest.fail(f"{where}: nobody checks {words[0]!r}; teach this test")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_help_names_the_value_that_an_option_takes(command: Any) -> None:
    """By what it means, not by its type in Python."""
    assert [p.name for p in command.params if not p.metavar and not getattr(p, "is_flag", False)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_what_is_named_in_passing_exists(document: Path) -> None:
    text = prose(document)
    assert set(re.findall(r"`eventwagon ([a-z]+)", text)) <= set(COMMANDS)
    assert set(re.findall(r"`make ([a-z]+)", text)) <= TARGETS
    assert set(re.findall(r"\bEVENTWAGON_[A-Z_]+", text)) <= VARIABLES
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= OPTIONS | {
        "--check",
        "--dir",
        "--json",
        "--only",
        "--quick",
    }  # scripts/docs.py, benchmarks


@pytest.mark.parametrize("document", ["README.md", "docs/home.md", "docs/tutorial.md"])
def test_first_pages_say_how_to_install_before_a_release(document: str) -> None:
    """All three in the same words; to be taken out at the first release."""
    assert "**Until the first release on PyPI** install from a checkout: `pip install '.[cli]'`" in " ".join(
        (ROOT / document).read_text().split()
    )


def test_every_command_is_told_of() -> None:
    text = (ROOT / "README.md").read_text()
    told = {command for command in COMMANDS if re.search(rf"\b{command}\b", text)}
    assert set(COMMANDS) - told <= {"version"}
