"""Which records of a ledger are wanted. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from ..contracts.ledger import WagonRecord
from ..errors import UsageError
from ..values import is_a, plain, shown, whole
from .letters import moment


class RecordFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are wanted: those for which everything holds that is given; without anything all of them.

    `wagon`: the wagon's number. `revision`: the code that it ran. `reason`: a part of why it was opened or closed, or
    does not reconcile, in upper or lower case. `since`: it was removed then or later; `until`: it was opened before;
    both as an aware datetime or in seconds since the epoch. `unreconciled`: its figures do not reconcile. Raises
    UsageError.
    """

    wagon: int | None = None
    revision: str | None = None
    reason: str | None = None
    since: datetime | float | None = None
    until: datetime | float | None = None
    unreconciled: bool = False

    def __post_init__(self) -> None:
        set_to = msgspec.structs.force_setattr
        if self.wagon is not None:
            set_to(self, "wagon", whole("wagon", self.wagon))
        for name in ("revision", "reason"):
            if (value := getattr(self, name)) is not None:
                if (text := plain(value)) is None:
                    raise UsageError(f"{name}={shown(value)}: give text")
                set_to(self, name, text)
        for name in ("since", "until"):
            if (given := getattr(self, name)) is not None:
                set_to(self, name, moment(name, given))
        if not is_a(self.unreconciled, bool):
            raise UsageError(f"unreconciled={shown(self.unreconciled)}: give True or False")

    def takes(self, record: WagonRecord) -> bool:
        """Whether this record is wanted."""
        said = f"{record.opened_because}\n{record.closed_because}\n{record.unreconciled}".casefold()
        return (
            self.wagon in (None, record.number, record.undoes or record.number)
            and self.revision in (None, record.revision)
            and (self.reason is None or self.reason.casefold() in said)
            and (self.since is None or record.recorded_at >= self.since)  # type: ignore[operator]  # seconds by now
            and (self.until is None or record.opened_at < self.until)  # type: ignore[operator]
            and (not self.unreconciled or bool(record.unreconciled))
        )
