"""`undeploy`: ends the workers that an orchestrator runs for a train. The train and its events stay."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ..display.text import count
from ..drivers.opening import Program, open_orchestrator
from .console import DEFAULT_URL, Code, Ended, Url, job, line
from .serve import Target
from .steer import Timeout
from .target import load_train

_AGAIN = 0.1


@job
async def undeploy(
    target: Target,
    orchestrator: Annotated[
        str,
        typer.Option(
            "--orchestrator",
            envvar="EVENTWAGON_ORCHESTRATOR",
            metavar="URL",
            help="The orchestrator that started the wagons' workers, as given to observe.",
        ),
    ],
    url: Url = DEFAULT_URL,
    timeout: Timeout = 300.0,
) -> None:
    """End all workers that an orchestrator runs for a train. Its wagons and events stay for the next deployment.

    End the observers first: a live observer starts the workers again. Handlers in flight may finish.
    """
    train = load_train(target)
    infrastructure = open_orchestrator(orchestrator, Program(target, url, train.settings))
    ended: set[int] = set()
    left: set[int] = set()
    try:
        async with asyncio.timeout(timeout), infrastructure:
            while left := {*await infrastructure.deployments(train.name)}:
                async with asyncio.TaskGroup() as tasks:
                    for unit in sorted(left):
                        tasks.create_task(infrastructure.remove(train.name, unit, grace=train.longest_timeout))
                ended |= left
                await asyncio.sleep(_AGAIN)
    except TimeoutError:
        there = f"unit {', '.join(map(str, sorted(left)))}" if left else "it is not known yet which units run"
        raise Ended(
            Code.NOT_IN_TIME,
            f"not ended within {timeout:g} s: {there}; an observer that is still alive starts workers again",
        ) from None
    line(f"the workers of {count(len(ended), 'unit')} of train {train.name} ended")
