"""What the server's errors and broken connections mean for users."""

from __future__ import annotations

from redis import exceptions

from ...descriptors import NONE_LEFT, is_lack
from ...errors import ChannelGone, Displaced, EventTooLarge, EventwagonError, StorageBroken, Unavailable


class NotSent(Exception):
    """The call never left this process, so it had no effect. The cause says why."""


class Lost(Exception):
    """The call was sent and not answered: it may have been carried out. The cause says why."""


RIGHTS = "+@connection +@read +@write +@scripting +@pubsub +info +time and, for `cluster=true`, +cluster|slots"

_BUSY = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "TRYAGAIN")
_FORBIDDEN = ("can't run this command", "can't access at least one of the keys", "no permissions")


def code(error: BaseException) -> str:
    """The first word of the server's reply: `WRONGTYPE`, `OOM`. Empty if it is no reply."""
    given = getattr(error, "status_code", None)
    if given:
        return str(given)
    for kind, name in _CODES:
        if isinstance(error, kind):
            return name
    word = str(error).partition(" ")[0]
    return word if word.isupper() else ""


_CODES: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.NoScriptError, "NOSCRIPT"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.AuthenticationError, "NOAUTH"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
)


def explain(error: BaseException, where: str, prefix: str, what: str, *, cluster: bool = False) -> EventwagonError:
    """The error to raise for `what` (such as "publishing to signups_v1"): where, what was wrong, what to do."""
    if isinstance(error, NotSent | Lost):
        cause = error.__cause__ or error
        if isinstance(error, NotSent) and isinstance(cause, exceptions.ResponseError | exceptions.AuthenticationError):
            return explain(cause, where, prefix, what, cluster=cluster)  # refused while the connection was being made
        if is_lack(cause):
            return Unavailable(f"{where}: {what}: {NONE_LEFT} ({_said(cause)})")
        how = "can't be reached" if isinstance(error, NotSent) else "has not answered"
        return Unavailable(f"{where}: {what}: the server {how}: {_said(cause)}")
    name, said = code(error), _said(error)
    at = f"{where}: {what}: "
    if isinstance(error, exceptions.AuthenticationError) or name in ("NOAUTH", "WRONGPASS"):
        return StorageBroken(
            f"{at}user or password is wrong or missing ({said}); both stand in the URL before the host, with an @ "
            "behind them"
        )
    if name == "NOPERM" or any(words in said for words in _FORBIDDEN):
        return StorageBroken(
            f"{at}the user lacks a right ({said}); it needs the commands {RIGHTS}, the keys ~{prefix}:* "
            f"and the channels &{prefix}:*"
        )
    if "invalid bulk length" in said:
        return EventTooLarge(f"{at}an event is larger than the server's proto-max-bulk-len")
    if name == "OOM":
        return Unavailable(
            f"{at}the server's memory is full: raise its maxmemory or wait until events are handled ({said})"
        )
    if name == "MISCONF":
        return StorageBroken(f"{at}the server can't write to its disk and refuses ({said})")
    if name == "READONLY":
        return Unavailable(f"{at}the server is a replica, which takes no writes: name the primary ({said})")
    if name in _BUSY:
        return Unavailable(f"{at}the server is not ready: {said}")
    if isinstance(error, exceptions.AskError) and cluster:  # a MovedError is one too
        return Unavailable(f"{at}the nodes of the cluster do not agree yet about who keeps this channel ({said})")
    if name == "CROSSSLOT" or isinstance(error, exceptions.AskError):
        return StorageBroken(f"{at}the server is a node of a cluster: add cluster=true to the URL ({said})")
    if "WRONGTYPE" in said:  # a script's error has it in the middle
        return Displaced(
            f"{at}a key of eventwagon holds something else, which another program or a person wrote ({said}): delete "
            f"it, or use another prefix than {prefix!r} (redis-cli --scan --pattern '{prefix}:*' and TYPE KEY find it)"
        )
    if "NOGROUP" in said:
        return ChannelGone(
            f"{at}the stream lacks its consumer group: the group was destroyed, or another program created the stream "
            f"anew ({said})"
        )
    if "unknown command" in said.lower():
        return StorageBroken(
            f"{at}the server does not know a command that Redis 7 has ({said}). If it is a Sentinel, write "
            "redis+sentinel://host:26379/NAME; an older server, or a proxy that does not pass all commands on, won't do"
        )
    return StorageBroken(f"{at}the server refused: {said}")


def _said(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, TimeoutError | exceptions.TimeoutError) and not str(error).strip():
        return "no answer in time"
    given = getattr(error, "status_code", None)
    return f"{given} {text}" if given and given != "ERR" and not text.startswith(str(given)) else text
