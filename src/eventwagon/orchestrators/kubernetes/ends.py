"""The processes of Pods that have certainly ended, by the kubelets' reports on their containers. Pure."""

from __future__ import annotations

from datetime import datetime

from ...contracts.process import Pod
from .cluster import Object
from .names import WORKER

_MARGIN = 1.0
"""A process must be older than the end of its container by more than this many seconds: a node's clock may be set back
by that much meanwhile."""
_MOST = 10_000
"""How many Pods are remembered: the latest."""


class Ends:
    """The time until which the workers' containers of each Pod have ended.

    A Pod that is gone proves nothing: if it was deleted by force, or with a node that nobody reaches, its processes may
    still run. What counts is the end of a container, which only the kubelet reports, with its time. A process that ran
    before that time ended with it: the next container in the same Pod starts later, by the same clock.
    """

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, str]] = {}
        """By the Pod's uid: the time, and the proof in words."""

    def see(self, pod: Object) -> None:
        """Record a Pod's state as the API server reports it, or last reported it. A container that was once seen to
        have ended stays ended."""
        name, uid = str(pod["metadata"]["name"]), str(pod["metadata"]["uid"])
        for container in pod.get("status", {}).get("containerStatuses") or ():
            if container.get("name") != WORKER:
                continue
            for state in ("lastState", "state"):
                ended = (container.get(state) or {}).get("terminated") or {}
                at = _time(ended.get("finishedAt"))
                if at is not None and at > self._until.get(uid, (0.0, ""))[0]:
                    self._until.pop(uid, None)
                    self._until[uid] = at, f"its container in Pod {name} ended at {ended['finishedAt']}"
        while len(self._until) > _MOST:
            del self._until[next(iter(self._until))]

    def why_ended(self, pod: Pod) -> str:
        """See Witness.why_ended."""
        at, why = self._until.get(pod.uid, (0.0, ""))
        return why if pod.since + _MARGIN < at else ""


def _time(text: object) -> float | None:
    """In whole seconds, rounded down; None if the kubelet does not know it (it could not find the container again)."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
