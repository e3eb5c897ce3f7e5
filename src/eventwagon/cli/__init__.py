"""The command `eventwagon`: one file per job, an edge that only calls the library's public parts."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The entry point of the command. It loads its packages here: Ctrl-C meanwhile is an ordinary end."""
    try:
        from .app import main as run
    except KeyboardInterrupt:
        sys.exit("eventwagon: interrupted")
    except ModuleNotFoundError as e:
        if e.name not in ("typer", "rich", "psutil"):
            raise
        sys.exit(f"eventwagon: the command needs {e.name}, which is not installed: pip install 'eventwagon[cli]'")
    run()
