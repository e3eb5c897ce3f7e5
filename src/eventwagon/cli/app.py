"""The Typer application: all commands, their help texts, and their usage errors."""

from __future__ import annotations

import inspect
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from ..display.text import as_line
from . import (
    audit,
    bridge,
    dashboard,
    dead,
    demo,
    doctor,
    export,
    gateway,
    lab,
    later,
    metrics,
    plan,
    publish,
    replay,
    serve,
    status,
    steer,
    trains,
    undeploy,
    undo,
    why,
)
from .console import EXIT_CODES, ending, line

_ABOUT = """Run trains of wagons: event channels in which new events stay fast during unpredictable peaks.

TARGET is a train of your program (module:attribute or path/to/file.py:attribute). Commands that publish, look or \
steer also take the name of a train that runs at the URL.
"""


_MARKUP = ("[bold]", "[/bold]")


class _Command(TyperCommand):
    """A command whose help names values by what they mean, not by their types and ranges."""

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))


class _Commands(TyperGroup):
    """The group of all commands. Its usage errors quote the command line without secrets and control characters. In
    help texts only [bold] and [/bold] are markup; other brackets are printed as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for each in (self, *self.commands.values()):
            each.help, each.epilog = _literal(each.help), _literal(each.epilog)
            for parameter in each.params:
                if (text := getattr(parameter, "help", None)) is not None:
                    parameter.help = _literal(text)  # type: ignore[attr-defined]

    def get_params(self, ctx: Any) -> Any:
        return _without_types(super().get_params(ctx))

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _made_plain():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _made_plain():
            return super().invoke(ctx)


def _without_types(parameters: Any) -> Any:
    """What each version of Typer prints of a parameter's type is set to nothing: an option has its metavar, an argument
    its name."""
    for each in parameters:
        if getattr(each, "is_flag", False):
            each.metavar = ""
        each._get_number_range_help_str = lambda: None
        kind: Any = getattr(each, "type", None)
        if hasattr(kind, "_describe_range"):
            kind._describe_range = lambda: ""
        if each.param_type_name == "argument" and each.metavar:
            shown = each.metavar if each.required else f"[{each.metavar}]"
            each.display_type_rich = lambda ctx: None
            each.make_metavar = lambda ctx=None, shown=shown: shown
            each.get_usage_pieces = lambda ctx, shown=shown: [shown]
    return parameters


def _literal(text: str | None) -> str | None:
    if text is None:
        return None
    return "".join(each if each in _MARKUP else escape(each) for each in re.split(r"(\[/?bold\])", text))


@contextmanager
def _made_plain() -> Iterator[None]:
    try:
        yield
    except Exception as e:
        if hasattr(e, "format_message"):  # Click's, or that of Typer's own copy of it
            e.message = as_line(str(e.message))  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=_Commands,
    name="eventwagon",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)


def _print_version(asked: bool) -> None:
    if asked:
        line(f"eventwagon {installed('eventwagon')}")
        raise typer.Exit


@app.callback(help=_ABOUT)
def _all(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="EVENTWAGON_DEBUG", help="Print the traceback if a command fails.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that stand before the name of the command."""
    if debug:
        os.environ["EVENTWAGON_DEBUG"] = "1"


def version() -> None:
    """Show the versions of eventwagon, of Python and of the packages that eventwagon needs."""
    with ending():
        line(f"eventwagon {installed('eventwagon')}")
        line(f"python {platform.python_version()}, {platform.platform(terse=True)}")
        for package in ("apsw", "msgspec", "typer", "rich"):
            line(f"{package} {installed(package)}")


def _paragraphs(function: Callable[..., None]) -> str:
    """The docstring with each paragraph joined to one line, since the terminal wraps it. Each word in bold that is
    explained begins a line."""
    paragraphs = inspect.getdoc(function).split("\n\n")  # type: ignore[union-attr]
    return "\n\n".join(" ".join(p.split()).replace(". [bold]", ".\n[bold]") for p in paragraphs)


_JOBS: tuple[tuple[Callable[..., None], str, str], ...] = (
    (serve.run, "Run", "eventwagon run app:signups --url sqlite:///var/trains"),
    (serve.observe, "Run", "eventwagon observe app:signups"),
    (serve.work, "Run", "eventwagon work app:signups --log-level warning"),
    (bridge.bridge, "Run", "eventwagon bridge 'kafka://localhost:9092/orders?group=workers' app:orders"),
    (trains.list_, "Use", "eventwagon list"),
    (publish.publish, "Use", "jq -c .user dump.json | eventwagon publish app:signups --subject-field email"),
    (gateway.gateway, "Use", "eventwagon gateway user_registrations --keys keys.toml --host 0.0.0.0"),
    (later.later, "Use", "eventwagon later user_registrations --cancel 01977430-2228-7b20-bee8-7270a75543ed"),
    (status.status, "Use", "eventwagon status user_registrations --watch"),
    (why.why, "Use", "eventwagon why user_registrations --wagon 3"),
    (dead.dead, "Use", "eventwagon dead retry user_registrations --channel welcome_email --error timeout"),
    (audit.audit, "Use", "eventwagon audit user_registrations --since 2027-01-31T00:00:00Z --unreconciled"),
    (export.export, "Use", "eventwagon export user_registrations user_registrations_v7 --outcome dead"),
    (replay.replay, "Steer", "eventwagon replay user_registrations user_registrations_v7 --outcome handled --dry-run"),
    (undo.undo, "Steer", "eventwagon undo user_registrations user_registrations_v7 --dry-run"),
    (steer.switch, "Steer", "eventwagon switch user_registrations --reason 'new release'"),
    (steer.drain, "Steer", "eventwagon drain user_registrations --timeout 600"),
    (steer.pause, "Steer", "eventwagon pause user_registrations --reason 'the mail server moves'"),
    (steer.resume, "Steer", "eventwagon resume user_registrations"),
    (steer.stop, "Steer", "eventwagon stop user_registrations"),
    (undeploy.undeploy, "Steer", "eventwagon undeploy app:signups --orchestrator 'kubernetes:?secret=eventwagon'"),
    (steer.remove, "Steer", "eventwagon remove user_registrations"),
    (dashboard.dashboard, "See", "eventwagon dashboard --url redis://localhost:6379"),
    (metrics.metrics, "See", "eventwagon metrics redis://localhost:6379"),
    (demo.demo, "See", "eventwagon demo --limit 'Wait(2.0) | Volume(500)' --workers 12"),
    (lab.lab, "See", "eventwagon lab black-friday --workers 8 --picture burst.html"),
    (plan.plan, "See", "eventwagon plan --trace arrivals.csv --service 0.2 --slo 2 --workers 8 --price 0.00002"),
    (doctor.doctor, "See", "eventwagon doctor redis://localhost:6379"),
    (version, "See", "eventwagon version"),
)
for _job, _panel, _example in _JOBS:
    _example = f"Example: [bold]{_example}[/bold]"
    app.command(
        _job.__name__.rstrip("_"), cls=_Command, rich_help_panel=_panel, epilog=_example, help=_paragraphs(_job)
    )(_job)


def main() -> None:
    """Run the application."""
    if os.getpid() == 1:  # in a container: the kernel drops a signal to the first process that has no handler for it
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    app(prog_name="eventwagon")
