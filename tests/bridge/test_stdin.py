"""Stdin as a source."""

from __future__ import annotations

import asyncio

from tests.bridge.support import numbered, pipe_flow


def test_a_look_at_stdin_waits_for_all_that_it_was_asked_for() -> None:
    async def main() -> None:
        async with pipe_flow() as flow, flow.open() as source, asyncio.TaskGroup() as tasks:
            seen = tasks.create_task(source.peek(3))
            for value in numbered(2):
                await flow.write([value])
                await asyncio.sleep(0.02)
            flow.close()
            assert [record.value for record in await seen] == numbered(2)

    asyncio.run(main())
