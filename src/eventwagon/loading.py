"""Loads a user's program from `module:attribute` or `path/to/file.py:attribute`; errors use the names that the user
gave."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from .errors import UsageError

_OWN = str(Path(__file__).resolve().parent)
_LIBRARY = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def load(target: str, is_train: Callable[[object], bool], *, what: str = "TARGET") -> object:
    """Load the train that `target` names; modules are searched in the current directory first. `what` is the target's
    name in errors. Importing runs the user's code. Raises UsageError, also for errors in that code."""
    where, colon, attribute = target.rpartition(":")
    if not colon or not where or not attribute:
        raise UsageError(f"{what} {target!r}: write module:attribute, say app:signups, or path/to/file.py:signups")
    module = _import(where)
    found: object = module
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            trains = [n for n, value in vars(module).items() if is_train(value)]
            there = f"; its trains: {', '.join(trains)}" if trains else ", and no train at all"
            raise UsageError(f"{what} {target!r}: {where} has no {attribute!r}{there}") from None
    if not is_train(found):
        raise UsageError(f"{what} {target!r} is a {type(found).__name__}, not a Train")
    return found


def load_all(where: str, is_train: Callable[[object], bool], *, what: str = "TARGET") -> dict[str, object]:
    """Load all trains of the module or file that `where` names, by their attributes, each once. Otherwise as `load`.
    Raises UsageError, also if there is none."""
    module, found = _import(where), dict[int, tuple[str, object]]()
    for name, value in vars(module).items():
        if is_train(value):
            found.setdefault(id(value), (name, value))
    if not found:
        raise UsageError(
            f"{what} {where!r}: it has no train with a handler; or write module:attribute, say app:signups"
        )
    return dict(found.values())


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
    """Import a file by its path. As with `python path`, its own directory is searched first."""
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
    """Where in the user's code the error happened; empty if it was not there."""
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
