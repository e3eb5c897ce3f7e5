"""The subprocess orchestrator: how a wagon's process is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ....errors import UsageError
from .. import Launch, Processes, default_directory
from .child import URL


class Subprocess(Processes):
    """Gives each wagon a process of its own, that runs the handlers of `target` (`module:attribute` or
    `path/to/file.py:attribute`) on the broker at `url`. What one wagon's handlers do to their process (crash it, fill
    its memory, keep its only interpreter busy) touches no other wagon.

    All orchestrators of a train on a machine share `directory` (a local disk; default: one under `~/.local/state` for
    each URL). One is in charge of each wagon; when it is gone or says nothing for five seconds another takes over.
    Processes end with the orchestrator that started them; one that does not is ended by another. A process that gives
    no sign of life for `hung_after` s (say a handler that never yields), or that does not load its program within
    `start_timeout` s, is killed and started again.

    Where the target contains `{revision}`, that of the wagon is filled in: `/srv/app-{revision}/app.py:signups`. A
    process finds it in `EVENTWAGON_REVISION` too.

    What processes print goes to stderr, the wagon's name before each line, or with `logs` to a file per wagon in that
    directory (bounded; those of the newest wagons stay). `grace` is for leaving this object, in seconds. The URL, and
    `environment`, are handed over in the environment, never on a command line. Raises UsageError.
    """

    def __init__(
        self,
        target: str,
        *,
        url: str,
        directory: str | os.PathLike[str] | None = None,
        logs: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
        grace: float = 30.0,
        start_timeout: float = 120.0,
        hung_after: float = 60.0,
    ) -> None:
        if ":" not in target:
            raise UsageError(f"target {target!r}: write module:attribute, say app:signups, or path/to/file.py:signups")
        if url.startswith("memory:"):
            raise UsageError(f"{url}: other processes don't reach what is kept in this one's memory")
        launch = Launch(
            (python, "-m", __package__ or "eventwagon.orchestrators.processes.subprocess", target),
            {**(environment or {}), URL: url},
            Path(directory).absolute() if directory is not None else default_directory(url),
            Path(logs).absolute() if logs is not None else None,
        )
        super().__init__(launch, (target,), grace=grace, start_timeout=start_timeout, hung_after=hung_after)
