"""Past events that wait until they are published, in another order than that in which they were read."""

from __future__ import annotations

from array import array
from tempfile import SpooledTemporaryFile
from types import TracebackType

import msgspec

from ..errors import Unavailable
from ..event import Event

_IN_MEMORY = 32 * 2**20
"""Bytes. What is more goes to a temporary file (in TMPDIR), without a name."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[Event, int])


class Spool:
    """Events, each with how often it was delivered, by the place at which they were added."""

    def __init__(self, in_memory: int = _IN_MEMORY) -> None:
        self._file = SpooledTemporaryFile[bytes](in_memory)
        self._ends = array("q", (0,))

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, event: Event, attempts: int) -> int:
        """Add it at the end. Returns its place. Raises Unavailable if the disk is full or read-only."""
        data = _encoder.encode((event, attempts))
        end = self._ends[-1]
        try:
            self._file.seek(end)
            self._file.write(data)
        except OSError as e:
            raise Unavailable(f"a temporary file for events that are to be undone can't be written: {e}") from e
        self._ends.append(end + len(data))
        return len(self._ends) - 2

    def take(self, place: int) -> tuple[Event, int]:
        """The event at that place. Raises Unavailable if it can't be read."""
        start, end = self._ends[place], self._ends[place + 1]
        try:
            self._file.seek(start)
            return _decoder.decode(self._file.read(end - start))
        except (OSError, msgspec.MsgspecError) as e:
            raise Unavailable(f"a temporary file for events that are to be undone can't be read: {e}") from e
