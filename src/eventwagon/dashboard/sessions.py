"""Who has logged in: random session ids, none of them the token. Bounded, and never stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from urllib.parse import quote

from ..display import redaction
from ..errors import UsageError
from ..values import is_a

_LEAST = 16
"""The least length of a token."""
_LONGEST = 1024
_LASTS = 12 * 3600.0
"""Seconds for which a session lasts."""
_MOST = 100
"""Sessions at a time; one more ends the oldest."""
_MINUTE = 60.0
_WRONG = 5
"""Wrong tokens that one address may give in a minute."""
_WRONG_IN_ALL = 60
_ADDRESSES = 1000


class Sessions:
    """Checks the token, and remembers who has given it. Without a token nobody can log in."""

    def __init__(self, token: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        if token is not None and (not is_a(token, str) or not _LEAST <= len(token) <= _LONGEST or not token.isascii()):
            raise UsageError(
                f"dashboard: the token must be a text of {_LEAST} to {_LONGEST} ASCII characters, such as "
                "`openssl rand -hex 24` prints"
            )
        if token is not None:
            redaction.learn(f"dashboard://x:{quote(token, safe='')}@dashboard")
        self._digest = None if token is None else _digest(token)
        self._clock = clock
        self._ends: OrderedDict[str, float] = OrderedDict()
        """By session: when it ends."""
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        """By address: when it gave wrong tokens."""
        self._all_wrong: deque[float] = deque(maxlen=_WRONG_IN_ALL)

    @property
    def has_token(self) -> bool:
        """Whether somebody can log in."""
        return self._digest is not None

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0: now."""
        now = self._clock()
        own = self._wrong.get(address, deque())
        waits = [
            times[0] + _MINUTE - now
            for times, most in ((own, _WRONG), (self._all_wrong, _WRONG_IN_ALL))
            if len(times) >= most
        ]
        return max(0.0, *waits) if waits else 0.0

    def login(self, token: object, address: str) -> str | None:
        """The id of a new session; None if the token is wrong. The time that it takes does not depend on the token."""
        given = _digest(token if is_a(token, str) else "")
        if self._digest is None or not hmac.compare_digest(given, self._digest) or not is_a(token, str):
            self._all_wrong.append(self._clock())
            times = self._wrong.setdefault(address, deque(maxlen=_WRONG))
            times.append(self._clock())
            self._wrong.move_to_end(address)
            while len(self._wrong) > _ADDRESSES:
                self._wrong.popitem(last=False)
            return None
        session = secrets.token_urlsafe(32)
        self._ends[session] = self._clock() + _LASTS
        while len(self._ends) > _MOST:
            self._ends.popitem(last=False)
        return session

    def knows(self, session: str | None) -> bool:
        """Whether this session has logged in, and lasts."""
        ends = self._ends.get(session or "")
        if ends is None:
            return False
        if ends <= self._clock():
            del self._ends[session or ""]
            return False
        return True

    def logout(self, session: str | None) -> None:
        """End the session. Idempotent."""
        self._ends.pop(session or "", None)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
