"""Canary: judge a wagon with new code by its failures, and go back to the old code. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..contracts.facts import WatchEnded, WentBack
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, Request
from ..contracts.orchestrator import Deployment
from ..event import wagon_name
from .edits import Edit

LEAST = 20
"""The fewest handlings on which a wagon is judged: one failure out of one proves nothing."""


def judge_canary(manifest: Manifest, deployments: Mapping[int, Deployment], now: float) -> Edit:
    """Request a switch back to the previous code if too many handlings fail in the watched wagon. The watch ends when
    the wagon is drained.

    `deployments` is keyed by unit. If a switch to other code has been requested meanwhile, that request stays.
    """
    watch = manifest.watch
    if watch is None:
        return Edit(manifest)
    wagon = manifest.wagon(watch.number)
    if wagon is None or wagon.state not in (State.ACTIVE, State.DRAINING):
        ended = WatchEnded(train=manifest.train, number=watch.number)
        return Edit(msgspec.structs.replace(manifest, watch=None), (ended,))
    found = deployments.get(wagon.unit)
    if found is None or found.number != wagon.number:
        return Edit(manifest)
    handled, failed = found.handled, found.failed
    total = handled + failed
    if total < LEAST or failed <= watch.share * total:
        return Edit(manifest)
    fact = WentBack(
        train=manifest.train,
        number=watch.number,
        revision=wagon.revision,
        back=watch.back,
        handled=handled,
        failed=failed,
        share=watch.share,
    )
    asked = manifest.request
    if asked is None or asked.revision is None:
        request = Request(
            f"in {wagon_name(manifest.train, wagon.number)} {failed} of {total} handlings failed", now, watch.back
        )
        manifest = msgspec.structs.replace(manifest, request=request, revision=watch.back)
    return Edit(msgspec.structs.replace(manifest, watch=None), (fact,))
