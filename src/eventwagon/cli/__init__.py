"""The command `eventwagon`: a module for each command or group of commands. They call only the library's public
parts."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. Its modules are imported in here, so that Ctrl-C during the import ends it like any other.
    Exits with a hint if a package of the extra `cli` is missing."""
    try:
        from .app import main as run
    except KeyboardInterrupt:
        sys.exit("eventwagon: interrupted")
    except ModuleNotFoundError as e:
        if e.name not in ("typer", "rich", "psutil"):
            raise
        sys.exit(f"eventwagon: the command needs {e.name}, which is not installed: pip install 'eventwagon[cli]'")
    run()
