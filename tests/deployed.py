"""Waiting for what an orchestrator is to bring about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from eventwagon.contracts.orchestrator import Deployment, Orchestrator, WagonSpec

PATIENCE = 30.0


async def until(what: str, true: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Wait for something to become true; fail with what it was."""
    try:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{what}: not within {seconds:g} s")


async def until_deployed(
    orchestrator: Orchestrator, spec: WagonSpec, true: Callable[[Deployment], object], *, ensure: bool = True
) -> Deployment:
    """Ensure and look, as an observer does, until the unit's deployment is so."""
    found: Deployment | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            while found is None or not true(found):
                if ensure:
                    await orchestrator.ensure(spec)
                found = (await orchestrator.deployments(spec.train)).get(spec.unit)
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {PATIENCE:g} s; it is {found}")
    return found


def is_ready(deployment: Deployment) -> bool:
    """It is."""
    return deployment.ready
