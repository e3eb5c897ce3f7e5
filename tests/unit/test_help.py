"""Help texts are shown whole: what stands in brackets is no markup, except for the bold words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

import pytest
import typer
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from eventwagon.cli.app import app


def with_brackets() -> typer.Typer:
    made = typer.Typer(cls=app.info.cls, rich_markup_mode="rich", epilog="Exit [code] 0")

    @made.command(help="Do it [now], [bold]boldly[/bold].", epilog="Example: [bold]do --it 'a[b]'[/bold]")
    def do(it: Annotated[str, typer.Option(help="How [2], or [red]: [/red].")] = "") -> None: ...

    @made.command()
    def other() -> None:
        """Another."""

    return made


def test_what_stands_in_brackets_is_shown() -> None:
    shown = CliRunner().invoke(with_brackets(), ["do", "--help"], env={"COLUMNS": "120"}).output
    for text in ("Do it [now], boldly.", "How [2], or [red]: [/red].", "Example: do --it 'a[b]'"):
        assert text in shown
    assert "Exit [code] 0" in CliRunner().invoke(with_brackets(), ["--help"], env={"COLUMNS": "120"}).output


def texts() -> Iterator[str]:
    group = get_command(app)
    for command in (group, *getattr(group, "commands", {}).values()):
        for text in (command.help, command.epilog, *(getattr(p, "help", None) for p in command.params)):
            if text:
                yield text


def test_no_command_loses_a_word() -> None:
    for text in texts():
        meant = re.sub(r"\[/?bold\]", "", text).replace("\\[", "[")
        assert Text.from_markup(text).plain == meant


COMMANDS = sorted(getattr(get_command(app), "commands"))  # noqa: B009 - a group's, which its type does not say


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_values_by_their_meaning_within_80_columns(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"}).output
    assert re.findall(r"<\w+>|<=|>=|x>|\brange\b|INTEGER|FLOAT|\{[A-Z]", shown) == []
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(rf"Usage: \S+ {command}\b", shown)
