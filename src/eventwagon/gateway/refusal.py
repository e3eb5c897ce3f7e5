"""Why a request is refused."""

from __future__ import annotations


class Refused(Exception):
    """The answer: a status, a sentence, and the seconds after which the request may be tried again (0: not as it
    is)."""

    def __init__(self, status: int, why: str, *, retry_after: int = 0) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.retry_after = retry_after
