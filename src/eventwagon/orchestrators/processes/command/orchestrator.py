"""The command orchestrator: its options, and what it adds to the units' processes."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import msgspec

from ....contracts.address import Address
from ....contracts.orchestrator import Deployment, WagonSpec, together
from ....contracts.registry import Registry
from ....errors import UsageError
from ....event import Channel
from .. import Launch, Processes, UnitFiles, default_directory
from .placeholders import checked as checked_command
from .ready import CheckIn, Ready, checked, parse
from .replicas import CommandSpec, end_left_over
from .supervisor import PLAN

_TIMES = {"grace": 30.0, "start_timeout": 120.0, "hung_after": 60.0}
_OPTIONS = ("ready", "stop", *_TIMES, "directory", "logs")


class Command(Processes):
    """Runs a command of yours for each wagon: as many copies as the wagon has workers. Each copy's environment names
    the wagon, its channels and the broker (`url`). `ready` says how a copy reports ready: Http, Tcp, Line or CheckIn.

    A copy ends on SIGTERM (or when `stop` is run, such as `docker stop …`), after its handlers in flight have finished.
    A copy that ends by itself is started again, after a pause that doubles up to 30 s; so is one that is not ready
    within `start_timeout` s, or, with Http and Tcp, was ready and does not answer for `hung_after` s. A running command
    can't be told anything: for another wagon, revision or channel its copies are asked to end and new ones are started.
    So a unit that takes over another wagon is not warm.

    `names` gives the broker's name of a channel (a broker's `name_of`); `registry` is where commands check in (for
    CheckIn). `environment` is added to this process's own. `directory`, `logs` and `grace` are as with Subprocess: for
    each unit a small process of eventwagon supervises the copies; their output goes to stderr, with the wagon's name
    and the copy's number before each line. Raises UsageError.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        url: str,
        ready: Ready,
        stop: Sequence[str] = (),
        names: Callable[[Channel], str] | None = None,
        registry: Registry | None = None,
        environment: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
        logs: str | os.PathLike[str] | None = None,
        grace: float = 30.0,
        start_timeout: float = 120.0,
        hung_after: float = 60.0,
    ) -> None:
        if url.startswith("memory:"):
            raise UsageError(f"{url}: other processes don't reach what is kept in this one's memory")
        if isinstance(ready, CheckIn) and registry is None:
            raise UsageError("ready by check-in: give registry=, the one that the command checks in to")
        plan = CommandSpec(
            argv=checked_command(argv, "argv"),
            ready=checked(ready),
            stop=checked_command(stop, "stop") if stop else (),
            url=url,
            environment=dict(environment or {}),
            grace=grace,
            start_timeout=start_timeout,
            hung_after=hung_after,
        )
        launch = Launch(
            (sys.executable, "-m", __package__ or "eventwagon.orchestrators.processes.command"),
            {PLAN: msgspec.json.encode(plan).decode()},
            Path(directory).absolute() if directory is not None else default_directory(url),
            Path(logs).absolute() if logs is not None else None,
        )
        super().__init__(launch, (*argv, *stop), grace=grace, start_timeout=60.0, hung_after=60.0)
        self._name_of = names
        self._registry = registry if isinstance(ready, CheckIn) else None
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Create the directory if it is missing. Raises StorageBroken, Unavailable."""
        async with AsyncExitStack() as stack:
            if self._registry is not None:
                await stack.enter_async_context(self._registry)
            await super().__aenter__()
            self._entered = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with self._entered:
            await super().__aexit__(*exc)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        broker_url: str,
        names: Callable[[Channel], str] | None = None,
        registry: Registry | None = None,
        grace: float = 30.0,
    ) -> Command:
        """`command:node consumer.js {ingress}?ready=http://127.0.0.1:{port}/health&grace=30`: words as a shell splits
        them, ? & # and % in them percent-encoded. `ready` is http://…, tcp:host:port, line:regex or check-in. Raises
        UsageError."""
        address = Address.of(url)
        given = address.options
        if address.host or set(given) - set(_OPTIONS):
            raise address.wrong(
                "write command:PROGRAM ARGUMENTS?ready=…, with ? & # and % of the command percent-encoded; "
                f"options are {', '.join(_OPTIONS)}"
            )
        if "ready" not in given:
            raise address.wrong("say how it reports ready: &ready=http://…, tcp:host:port, line:regex, check-in")
        try:
            argv, stop = shlex.split(address.path), shlex.split(given.get("stop", ""))
        except ValueError as e:
            raise address.wrong(str(e)) from None
        times = [address.seconds(name, default) for name, default in {**_TIMES, "grace": grace}.items()]
        return cls(
            argv,
            url=broker_url,
            ready=parse(given["ready"]),
            stop=stop,
            names=names,
            registry=registry,
            directory=given.get("directory"),
            logs=given.get("logs"),
            grace=times[0],
            start_timeout=times[1],
            hung_after=times[2],
        )

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments."""
        found = await super().deployments(train)
        if self._registry is None or not any(d.ready for d in found.values()):
            return found
        attachments = [a for member in await self._registry.members(train) for a in member.attachments]
        checked_in: dict[int, Deployment] = {}
        for unit, deployment in found.items():
            own = [a for a in attachments if a.number == deployment.number]
            if own:
                deployment = msgspec.structs.replace(
                    together(own),
                    number=deployment.number,
                    ready=deployment.ready,
                    workers=deployment.workers,
                    revision=deployment.revision,
                    trouble=deployment.trouble,
                )
            serving = sum(a.ready for a in own)
            enough = deployment.workers
            if (want := self._files((train, unit)).want()) is not None and want.spec.enough is not None:
                enough = min(enough, want.spec.enough)
            deployment = msgspec.structs.replace(deployment, attached=serving)
            if deployment.ready and serving < enough:
                trouble = next((a.trouble for a in own if a.trouble), "")
                why = trouble or f"{serving} of {deployment.workers} copies of the command have checked in as ready"
                deployment = msgspec.structs.replace(deployment, ready=False, trouble=why)
            checked_in[unit] = deployment
        return checked_in

    def _deployment(self, key: tuple[str, int]) -> Deployment:
        """The supervisor's report is of its last check; it does not count for a `want` that has changed since."""
        found = super()._deployment(key)
        files = self._files(key)
        want, state = files.want(), files.state()
        if not found.ready or want is None or state is None:
            return found
        is_of_it = (state.number, state.revision) == (want.spec.number, want.spec.revision)
        wanted = want.spec.workers or 0
        if is_of_it and state.workers >= (wanted if want.spec.enough is None else min(wanted, want.spec.enough)):
            return found
        return msgspec.structs.replace(found, ready=False, trouble="copies of the command are started or ended")

    def _names(self, spec: WagonSpec) -> Mapping[str, str]:
        if self._name_of is None:
            return {}
        return {str(c): self._name_of(c) for c in (*spec.channels, spec.dead_letters)}

    async def _end_left_over(self, files: UnitFiles, grace: float) -> None:
        if (run := files.run()) is not None:
            await end_left_over(run, grace=grace)
