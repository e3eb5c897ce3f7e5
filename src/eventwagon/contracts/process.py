"""The identity of this process on its machine or Pod, and whether another one of the same machine has certainly
ended."""

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
    """A process as others on its machine can look for it. Numbers of processes are reused, and the same in each
    container: `boot` and `namespace` say among which one `pid` counts, `started` (clock ticks since the boot) which one
    had it."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: int


class Pod(msgspec.Struct, frozen=True):
    """The Pod that a process was started in. `uid` is never used again, unlike its name. At `since` (seconds since the
    epoch, by the clock of the node) the process ran: a container that ended before was another one, in the same Pod."""

    uid: str
    since: float


def this_pod() -> Pod | None:
    """The Pod of this process; None if no orchestrator named one."""
    uid = os.environ.get(POD, "")
    return Pod(uid, time.time()) if uid and uid.isascii() and uid.isprintable() else None


def this_user() -> str:
    """The user that runs this process, for the journal: `user@host`, as the system has it, not as the environment
    says."""
    try:
        import pwd

        name = pwd.getpwuid(os.geteuid()).pw_name
    except ImportError:  # no POSIX
        name = os.environ.get("USERNAME", "somebody")
    except KeyError:  # a number without a name, as in containers
        name = f"uid {os.geteuid()}"
    return f"{name}@{socket.gethostname()}"


def this_process() -> Process | None:
    """This process; None if the system does not give enough (it is not Linux)."""
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
    """The proof that it has ended, in words; empty if there is none. `here` is this process."""
    if process is None or here is None or process.pid <= 0 or process == here:
        return ""
    if (process.host, process.boot, process.namespace) != (here.host, here.boot, here.namespace):
        return ""
    name = f"process {process.pid} on {process.host}"
    try:
        os.kill(process.pid, 0)  # sees processes that /proc may hide from this user
    except ProcessLookupError:
        return f"{name} has ended"
    except (OSError, OverflowError):
        pass  # it is there and somebody else's, or no number of a process: the rest tells
    seen = _seen(process.pid)
    if seen is None:
        return ""
    started, over = seen
    if started != process.started:
        return f"{name} has ended, and another has its number"
    return f"{name} has ended, and nobody has asked how" if over else ""


def _seen(pid: int) -> tuple[int, bool] | None:
    """When it started, and whether it has ended (a zombie); None if that can't be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return int(fields[19]), fields[0] in ("Z", "X") and int(fields[17]) <= 1
    except (OSError, ValueError, IndexError):
        return None
