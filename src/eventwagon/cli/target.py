"""Finds the train that the argument TARGET names, and connects to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from ..connection import Connection
from ..contracts.archive import check_archive
from ..contracts.facts import Listener
from ..contracts.manifest import Manifest
from ..contracts.metering import Meter
from ..contracts.orchestrator import PLACE
from ..contracts.registry import Registry
from ..display.text import count
from ..drivers.opening import Program, open_drivers, open_orchestrator
from ..errors import BrokenManifest, EventwagonError, UnknownTrain, UsageError
from ..event import check_train_name, wagon_name
from ..loading import load, load_all
from ..train import Train
from ..values import check_revision, is_a
from ..views.following import follower
from .console import say

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_PATIENCE = 5.0  # s for which the broker is asked about a train that the registry does not have


def load_train(target: str, revision: str = "") -> Train:
    """Load the train that `module:attribute` or `path/to/file.py:attribute` names. `revision` becomes the train's
    revision and replaces `{revision}` in the target. Raises UsageError, also if the program states another revision."""
    check_revision(revision)
    target = _filled(target, revision)
    train = cast("Train", load(target, lambda found: is_a(found, Train)))
    if revision and train.revision not in ("", revision):
        raise UsageError(f"TARGET {target!r} says that it is revision {train.revision}, not {revision}")
    train.revision = train.revision or revision
    return train


def load_trains(targets: Sequence[str], revision: str = "") -> dict[str, Train]:
    """Load trains as `load_train` does, by their targets. A target without a colon is a module or file: all its trains
    that have handlers, as others are only published to. Raises UsageError, also if two have the same name."""
    found: dict[str, Train] = {}
    for target in targets:
        for each in [target] if ":" in target else _all_of(target, revision):
            train = load_train(each, revision)
            known = next((name for name, other in found.items() if other.name == train.name), None)
            if known is not None and found[known] is not train:
                raise UsageError(f"TARGET {each!r} and {known!r} are two trains with the same name, {train.name!r}")
            if known is None:
                found[each] = train
    return found


def _all_of(where: str, revision: str) -> list[str]:
    found = load_all(_filled(where, revision), lambda found: is_a(found, Train) and bool(found.handlers))
    return [f"{where}:{name}" for name in found]


def _filled(target: str, revision: str) -> str:
    if PLACE in target and not revision:
        raise UsageError(f"TARGET {target!r}: give --revision, which replaces {PLACE}")
    return target.replace(PLACE, revision)


@asynccontextmanager
async def reached(
    target: str, url: str, *, listeners: tuple[Listener, ...] = (), meter: Meter | None = None
) -> AsyncIterator[Connection]:
    """Connect to an existing train, by its name or its program. Raises UnknownTrain if `url` has no such train, and
    UsageError."""
    train = load_train(target) if ":" in target else None
    name = train.name if train else train_name(target)
    registry = open_drivers(url).registry
    async with registry:
        snapshot = await registry.read(name)
        await _check_known(registry, name, url, bool(snapshot.version), target)
    train = train or follower(name, dict(snapshot.manifest.declared))
    async with train.connect(url, listeners=listeners, meter=meter) as c:
        yield c


async def declared_archive(target: str, url: str, archive: str | None) -> tuple[str, str]:
    """The name of the train that the target names, and the URL of its archive; `archive` if that is given. Raises
    UnknownTrain, and UsageError, also if it has none."""
    train = load_train(target) if ":" in target else None
    name = train.name if train else train_name(target)
    if archive is not None:
        return name, check_archive(archive)
    if train is None:
        async with open_drivers(url).registry as registry:
            snapshot = await registry.read(name)
            await _check_known(registry, name, url, bool(snapshot.version), target)
        train = follower(name, dict(snapshot.manifest.declared))
    if train.settings.archive is None:
        raise UsageError(f"train {name!r} has no archive: give --archive URL, or declare it with Train(archive=…)")
    return name, train.settings.archive


@asynccontextmanager
async def reached_if_known(
    target: str, url: str, *, orchestrator: str | None = None
) -> AsyncIterator[tuple[Connection, Sequence[str]]]:
    """Connect to a train that may be unknown at `url`; also yields the names of the known trains. `orchestrator` is the
    URL of one; then the target must be a program. Raises UsageError."""
    train = load_train(target) if ":" in target else None
    if orchestrator is not None and train is None:
        raise UsageError(f"--orchestrator needs the train's program as TARGET: module:attribute, not {target!r}")
    name = train.name if train else train_name(target)
    registry = open_drivers(url).registry
    async with registry:
        snapshot = await registry.read(name)
        known = await registry.trains()
    train = train or follower(name, dict(snapshot.manifest.declared))
    infrastructure = open_orchestrator(orchestrator, Program(target, url, train.settings)) if orchestrator else None
    async with train.connect(url, listeners=(), orchestrator=infrastructure) as c:
        yield c, known


@asynccontextmanager
async def registered(target: str, url: str) -> AsyncIterator[tuple[Registry, str]]:
    """Open the registry that knows the train; also yields the train's name. For commands that must work even if the
    manifest can't be read: this is only reported. Raises UnknownTrain, UsageError."""
    name = load_train(target).name if ":" in target else train_name(target)
    registry = open_drivers(url).registry
    async with registry:
        try:
            known = bool((await registry.read(name)).version)
        except BrokenManifest as e:
            known = True
            say(str(e))
        await _check_known(registry, name, url, known, target)
        yield registry, name


async def _check_known(registry: Registry, name: str, url: str, known: bool, target: str) -> None:
    if not known:
        others = await registry.trains()
        start = f"eventwagon run {target if ':' in target else 'MODULE:TRAIN'}"
        if orphans := await _channels_without_manifest(name, url):
            raise UnknownTrain(
                f"train {name!r} has no manifest at {url}, but {count(len(orphans), 'channel')} that may hold events: "
                f"{', '.join(orphans[:3])}{', …' if len(orphans) > 3 else ''}. End all processes of the train and "
                f"start them again ({start}): they found the train anew and publish these events again"
            )
        there = (
            f"there are: {', '.join(others)}"
            if others
            else f"none has run there yet, or each was removed ({start} starts one)"
        )
        raise UnknownTrain(f"there is no train {name!r} at {url}; {there}")


async def _channels_without_manifest(name: str, url: str) -> list[str]:
    """The channels of wagons that the broker has of a train that the registry does not have."""
    try:
        async with asyncio.timeout(_PATIENCE), open_drivers(url).broker as broker:
            return sorted(str(c) for c in await broker.channels(name) if c.wagon)
    except (EventwagonError, TimeoutError):  # it is a hint
        return []


def wagon_number(text: str | None, train: str, what: str = "--wagon") -> int | None:
    """The number of the train's wagon that `text` names: `orders_v7`, or `7`; None for None. `what` is its name in
    errors. Raises UsageError."""
    if text is None:
        return None
    name, _, digits = text.rpartition("_v")
    if not re.fullmatch("[0-9]{1,15}", digits) or int(digits) < 1 or (digits != text and not name):
        raise UsageError(f"{what} {text!r}: give a wagon's name, as {wagon_name(train, 7)}, or its number")
    if name and name != train:
        raise UsageError(f"{what} {text!r} is a wagon of train {name!r}, not of {train!r}")
    return int(digits)


def check_wagon(manifest: Manifest, number: int | None) -> None:
    """Raise UsageError if the train never had a wagon with this number. For commands that also know of removed ones,
    once they have found nothing of it."""
    if number is None or number < manifest.next_number:
        return
    newest = manifest.next_number - 1
    there = f"the newest is {wagon_name(manifest.train, newest)}" if newest else "there is none yet"
    raise UsageError(f"there never was a wagon {wagon_name(manifest.train, number)}: {there}")


def train_name(target: str) -> str:
    """The name that TARGET is, of a train and not of a wagon. Raises UsageError."""
    if not _NAME.fullmatch(target):
        raise UsageError(f"TARGET {target!r} is neither module:attribute nor a train's name")
    if wagon := re.fullmatch(r"(.+)_v\d+", target):
        raise UsageError(
            f"TARGET {target!r} is a wagon: name its train, {wagon[1]} (beside it, some commands take --wagon {target})"
        )
    return check_train_name(target)
