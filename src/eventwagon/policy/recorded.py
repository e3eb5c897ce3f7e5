"""Whether a train has a ledger: a fact of the train, on which all its processes agree. Pure."""

from __future__ import annotations

import msgspec

from ..contracts.facts import Declared
from ..contracts.manifest import Manifest
from .edits import Edit

ELSEWHERE = (
    "the train has a ledger, and this process has none: name it as the train's other programs do "
    "(Train(ledger=…), connect(ledger=…))"
)


def recording_declared(manifest: Manifest, *, recorded: bool, by: str = "") -> Edit:
    """The train has a ledger from now on, or none any more. Idempotent."""
    if manifest.recorded == recorded:
        return Edit(manifest)
    settings = {**manifest.declared, "ledger": "kept" if recorded else "none"}
    fact = Declared(train=manifest.train, settings=settings, channels=manifest.channels, by=by)
    return Edit(msgspec.structs.replace(manifest, recorded=recorded), (fact,))
