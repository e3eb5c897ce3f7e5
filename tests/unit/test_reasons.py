"""Why something is asked for by hand is said in words, or left out."""

from __future__ import annotations

import pytest

from eventwagon import Train
from eventwagon.errors import UsageError
from eventwagon.testing.virtual_time import run
from tests.support import World


@pytest.mark.parametrize("why", ["", " ", "\n\t"])
def test_an_empty_reason_is_refused_and_nothing_is_done(why: str) -> None:
    async def main() -> None:
        async with World().connect(Train("t")) as connection:
            for ask in (connection.pause, connection.resume, connection.request_switch, connection.request_stop):
                with pytest.raises(UsageError, match="give the reason in a few words"):
                    await ask(why)
            manifest = (await connection.refresh()).manifest
            assert (manifest.paused, manifest.request, manifest.stops) == (None, None, 0)

    run(main())
