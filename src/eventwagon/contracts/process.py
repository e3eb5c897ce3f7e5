"""The identity of this process on its machine or in its Pod, and whether another process of the same machine has
certainly ended."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import msgspec

_SELF = Path("/proc/self")
POD = "EVENTWAGON_POD"
"""The environment variable with the uid of the Pod, if an orchestrator started this process in one."""


class Process(msgspec.Struct, frozen=True):
    """A process, as others on its machine can find it. Process ids are reused, and each container has its own: `boot`
    and `namespace` say where `pid` counts, `started` (clock ticks since the boot) which process had it."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: int


class Pod(msgspec.Struct, frozen=True):
    """The Pod in which a process was started. `uid` is never used again, unlike its name. The process ran at the time
    `since` (seconds since the epoch, by the node's clock): a container that ended before that was an earlier one in the
    same Pod."""

    uid: str
    since: float


def this_pod() -> Pod | None:
    """The Pod of this process; None if no orchestrator named one."""
    uid = os.environ.get(POD, "")
    return Pod(uid, time.time()) if uid and uid.isascii() and uid.isprintable() else None


def this_user() -> str:
    """The user that runs this process, for the journal: `user@host`, as the system says, not the environment."""
    try:
        import pwd

        name = pwd.getpwuid(os.geteuid()).pw_name
    except ImportError:  # no POSIX
        name = os.environ.get("USERNAME", "somebody")
    except KeyError:  # a user id without a name, as in containers
        name = f"uid {os.geteuid()}"
    return f"{name}@{socket.gethostname()}"


def this_process() -> Process | None:
    """This process; None if the system does not say enough (it is not Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespaces = [(_SELF / "ns" / kind).readlink().name for kind in ("pid", "time")]
    except OSError:
        return None
    seen = _seen(os.getpid())
    if not boot or seen is None:
        return None
    return Process(socket.gethostname(), boot, " ".join(namespaces), os.getpid(), seen[0])


def why_ended(process: Process | None, here: Process | None) -> str:
    """The proof that `process` has ended, in words; empty if there is none. `here` is this process."""
    if process is None or here is None or process.pid <= 0 or process == here:
        return ""
    if (process.host, process.boot, process.namespace) != (here.host, here.boot, here.namespace):
        return ""
    name = f"process {process.pid} on {process.host}"
    try:
        os.kill(process.pid, 0)  # it also finds processes that /proc may hide from this user
    except ProcessLookupError:
        return f"{name} has ended"
    except (OSError, OverflowError):
        pass  # it belongs to another user, or is no valid process id: decided below
    seen = _seen(process.pid)
    if seen is None:
        return ""
    started, over = seen
    if started != process.started:
        return f"{name} has ended, and another has its number"
    return f"{name} has ended; its parent has not yet collected its exit status" if over else ""


def _seen(pid: int) -> tuple[int, bool] | None:
    """When the process started, and whether it has ended (a zombie); None if that can't be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[19]), fields[0] in ("Z", "X") and int(fields[17]) <= 1
    except (OSError, ValueError, IndexError):
        return None
