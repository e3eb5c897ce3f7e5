"""TARGET: from what the user wrote to a train, with an error that says what is wrong in the user's own words."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from ..connection import Connection
from ..contracts.facts import Listener
from ..contracts.orchestrator import PLACE
from ..contracts.registry import Registry
from ..drivers.opening import Program, open_drivers, open_orchestrator
from ..errors import BrokenManifest, UnknownTrain, UsageError
from ..event import check_train_name
from ..limits import parse_limit
from ..settings import make_settings
from ..train import Train
from ..values import check_revision
from ..workers import parse_workers
from .console import say

_OWN = str(Path(__file__).resolve().parent.parent)
_LIBRARY = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def load_train(target: str, revision: str = "") -> Train:
    """The train that `module:attribute` or `path/to/file.py:attribute` names, `{revision}` in it filled in; `revision`
    says which code it is. Raises UsageError, also where the program says that it is another."""
    check_revision(revision)
    if PLACE in target:
        if not revision:
            raise UsageError(f"TARGET {target!r}: say with --revision what stands for {PLACE}")
        target = target.replace(PLACE, revision)
    train = _load(target)
    if revision and train.revision not in ("", revision):
        raise UsageError(f"TARGET {target!r} says that it is revision {train.revision}, not {revision}")
    train.revision = train.revision or revision
    return train


def _load(target: str) -> Train:
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute:
        raise UsageError(f"TARGET {target!r}: write module:attribute, say app:signups, or path/to/file.py:signups")
    module = _import(where)
    found: object = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            trains = [n for n, value in vars(module).items() if isinstance(value, Train)]
            there = f"; its trains: {', '.join(trains)}" if trains else ", and no train at all"
            raise UsageError(f"TARGET {target!r}: {where} has no {attribute!r}{there}") from None
    if not isinstance(found, Train):
        raise UsageError(f"TARGET {target!r} is a {type(found).__name__}, not a Train")
    return found


@asynccontextmanager
async def reached(target: str, url: str, *, listeners: tuple[Listener, ...] = ()) -> AsyncIterator[Connection]:
    """A connection to a train that exists at `url`, by its name or its program. Raises UnknownTrain, UsageError."""
    train = load_train(target) if ":" in target else None
    name = train.name if train else _train_name(target)
    registry = open_drivers(url).registry
    async with registry:
        snapshot = await registry.read(name)
        await _check_known(registry, name, url, bool(snapshot.revision))
    async with (train or follower(name, dict(snapshot.manifest.declared))).connect(url, listeners=listeners) as c:
        yield c


@asynccontextmanager
async def reached_if_known(
    target: str, url: str, *, orchestrator: str | None = None
) -> AsyncIterator[tuple[Connection, Sequence[str]]]:
    """The same, whether or not the train is known at `url`, and with the names of those that are; with an orchestrator,
    for which TARGET has to be a program. Raises UsageError."""
    train = load_train(target) if ":" in target else None
    if orchestrator is not None and train is None:
        raise UsageError(f"--orchestrator needs the train's program as TARGET: module:attribute, not {target!r}")
    name = train.name if train else _train_name(target)
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
    """The registry where that train is known, and its name: for what must work although its manifest can't be read.
    Raises UnknownTrain, UsageError."""
    name = load_train(target).name if ":" in target else _train_name(target)
    registry = open_drivers(url).registry
    async with registry:
        try:
            known = bool((await registry.read(name)).revision)
        except BrokenManifest as e:
            known = True
            say(str(e))
        await _check_known(registry, name, url, known)
        yield registry, name


async def _check_known(registry: Registry, name: str, url: str, known: bool) -> None:
    if not known:
        others = await registry.trains()
        there = f"there are: {', '.join(others)}" if others else "there is none yet"
        raise UnknownTrain(f"there is no train {name!r} at {url}; {there}")


def follower(name: str, declared: dict[str, str]) -> Train:
    """A train without handlers, with the settings that its programs declared: what publishers decide by."""
    settings: dict[str, Any] = {}
    for key, text in declared.items():
        # A user's own limit: publishers don't measure it. A setting of a newer version: it is not ours to follow.
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            match key:
                case "limit":
                    value: object = parse_limit(text)
                case "workers":
                    value = parse_workers(text)
                case _:
                    value = ast.literal_eval(text)
            settings[key] = value
    try:
        return Train(name, revision="", **settings)
    except UsageError:
        return Train(name, revision="", **{key: value for key, value in settings.items() if _is_setting(key, value)})


def _is_setting(name: str, value: object) -> bool:
    try:
        make_settings(**{name: value})
    except UsageError:
        return False
    return True


def _train_name(target: str) -> str:
    if not _NAME.fullmatch(target):
        raise UsageError(f"TARGET {target!r} is neither module:attribute nor a train's name")
    return check_train_name(target)


def _import(where: str) -> ModuleType:
    cwd = str(Path.cwd())
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    if where.endswith(".py") and not Path(where).is_file():
        raise UsageError(f"there is no file {where}")
    try:
        return _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except ModuleNotFoundError as e:
        if e.name and (where == e.name or where.startswith(e.name + ".")):
            raise UsageError(f"there is no module {e.name!r}: looked in {cwd} and in what is installed") from None
        raise UsageError(f"importing {where} failed{_place(e)}: there is no module {e.name!r}; is it installed?") from e
    except SyntaxError as e:
        raise UsageError(f"importing {where} failed at {e.filename}:{e.lineno}: {e.msg}") from e
    except UsageError as e:
        raise UsageError(f"importing {where} failed{_place(e)}: {e}") from e
    except (Exception, SystemExit) as e:
        text = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
        raise UsageError(f"importing {where} failed{_place(e)}: {text}") from e


def _from_file(path: Path) -> ModuleType:
    """Import a file by its path, as `python path` would: its own directory comes first."""
    path = path.resolve()
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # annotations are looked up there
    spec.loader.exec_module(module)
    return module


def _place(error: BaseException) -> str:
    """Where in the user's own code it happened; empty when nowhere in it."""
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if not f.filename.startswith(("<frozen", _OWN)) and Path(f.filename).exists()
    ]
    own = [f for f in frames if not f.filename.startswith(_LIBRARY)] or frames
    if not own:
        return ""
    path = Path(own[-1].filename)
    with suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return f" at {path}:{own[-1].lineno}"
