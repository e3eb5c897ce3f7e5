"""`eventwagon list`: the trains at a URL."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..contracts.lifecycle import State
from ..contracts.registry import process_of
from ..drivers.opening import open_drivers
from ..errors import EventwagonError, UnknownTrain
from ..event import wagon_name
from ..views.train import View, look
from .console import DEFAULT_URL, AsJson, Code, Ended, Url, job, json_line, line, listing, narrowed, tables, words
from .target import reached

_COLUMNS = ("train", "active", ">wagons", ">waiting", ">dead", ">schedules", ">processes", "")
_LEFT_OUT = (">schedules", ">processes", ">wagons", ">dead")
"""The columns that are left out if the terminal is too narrow, in this order."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One train, as `list --json` prints it."""

    train: str
    active: int | None = None
    """The number of the active wagon."""
    wagons: int = 0
    """Live wagons: ready, active or draining ones, and those that are being provisioned."""
    waiting: int | None = None
    """Events that nobody has claimed, in the ingresses of all wagons; null: not known."""
    dead: int | None = None
    schedules: int = 0
    """Schedules of which a tick is on record; `status` shows them."""
    processes: int = 0
    """Live processes that have checked in."""
    state: str = ""
    """Paused, being removed, or why it can't be read; empty: none of that."""
    broken: bool = False
    """It can't be read."""


@job
async def list_(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the trains at the URL: the active wagon, live wagons, waiting events, dead letters, and processes.

    [bold]active[/bold]: the wagon that takes new events. [bold]wagons[/bold]: those that are live.
    [bold]waiting[/bold]: events of all ingresses that no process has claimed. [bold]dead[/bold]: dead letters
    as they are stored: one that a crash has stored twice counts as two, and `dead` counts it once.
    [bold]schedules[/bold]: those of which a tick is on record, if any train has one. [bold]processes[/bold]: those that
    have checked in. [bold]Last[/bold], why the train does not work: paused, being removed, not readable.

    A narrow terminal leaves columns out.

    A figure that the broker does not know is `?`. `status` says more of one train.
    """
    async with open_drivers(url).registry as registry:
        names = sorted(await registry.trains())
    found = [await _listed(name, url) for name in names]
    if as_json:
        for each in found:
            json_line(each)
    else:
        _show(found)
    if broken := [each.train for each in found if each.broken]:
        raise Ended(Code.FAILED, f"{', '.join(broken)} can't be read")


def _show(found: Sequence[Listed]) -> None:
    if not found:
        line("no train has run there yet")
        return
    rows = [
        (
            each.train,
            "-" if each.active is None else wagon_name(each.train, each.active),
            str(each.wagons),
            "?" if each.waiting is None else f"{each.waiting:,}",
            "?" if each.dead is None else f"{each.dead:,}",
            str(each.schedules),
            str(each.processes),
            words(each.state, "yellow"),
        )
        for each in found
    ]
    console = tables()
    unused = () if any(each.schedules for each in found) else (">schedules",)
    kept = [i for i, name in enumerate(_COLUMNS) if name not in unused]
    columns, cells = [_COLUMNS[i] for i in kept], [[row[i] for i in kept] for row in rows]
    console.print(listing(*narrowed(columns, cells, _LEFT_OUT, console.width), console.width))


async def _listed(name: str, url: str) -> Listed:
    try:
        async with reached(name, url) as c:
            view = await look(c, url)
    except UnknownTrain:
        return Listed(train=name, state="removed meanwhile")
    except (
        EventwagonError
    ) as e:  # its manifest can't be read, or its file is damaged: the others are listed all the same
        return Listed(train=name, state=str(e), broken=True)
    return _of(view)


def _of(view: View) -> Listed:
    waiting = [w.waiting for w in view.wagons]
    return Listed(
        train=view.train,
        active=next((w.number for w in view.wagons if w.state is State.ACTIVE), None),
        wagons=len(view.wagons),
        waiting=None if None in waiting else sum(n or 0 for n in waiting),
        dead=view.dead,
        schedules=len(view.schedules),
        processes=len({process_of(m) for m in view.members}),
        state=f"being removed: {view.removal}" if view.removal else f"paused {view.paused}" if view.paused else "",
    )
