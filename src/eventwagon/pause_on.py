"""The rule by which observers pause a wagon whose handlings fail. Pure."""

from __future__ import annotations

import msgspec

from .errors import UsageError
from .values import real, whole

_MOST = 10_000


class PauseOn(msgspec.Struct, frozen=True):
    """When an observer pauses a wagon: if at least the share `failures` of its latest `of` handlings failed. Raises
    UsageError for a bad value."""

    failures: float = 0.2
    """The share of failures, above 0 and at most 1."""
    of: int = 50
    """How many of the wagon's latest handlings count, in all processes together, up to 10,000. With fewer, nothing is
    decided."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "failures", real("PauseOn: failures", self.failures))
        if self.failures > 1:
            raise UsageError(f"PauseOn: failures is a share and at most 1, not {self.failures!r}; 0.2 is 20 %")
        msgspec.structs.force_setattr(self, "of", whole("PauseOn: of", self.of))
        if self.of > _MOST:
            raise UsageError(f"PauseOn: of must be at most {_MOST:,}, not {self.of:,}")

    def holds(self, handled: int, failed: int) -> bool:
        """Whether so many handlings that ended well, and so many that failed, are a reason to pause."""
        total = handled + failed
        return total >= self.of and failed >= self.failures * total - 1e-9
