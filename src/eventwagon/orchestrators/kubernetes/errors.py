"""Why a unit's workers are not ready, in Kubernetes's words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...contracts.orchestrator import Deployment
from ...display.text import as_line
from .cluster import Object
from .names import WORKER

_STARTING = ("ContainerCreating", "PodInitializing", "")
_MOST = 1000


def is_ready(pod: Object) -> bool:
    """True if the Pod's readiness probe succeeds and the Pod is not ending."""
    return not is_ending(pod) and _condition(pod, "Ready").get("status") == "True"


def is_ending(found: Object) -> bool:
    """True if the Pod was deleted, but is not gone yet."""
    return "deletionTimestamp" in found["metadata"]


def why_not_ready(deployment: Object | None, pods: Sequence[Object], attachments: Sequence[Deployment]) -> str:
    """The most informative reason. `pods` are the unit's Pods, `attachments` the check-ins of its workers."""
    if deployment is None:
        return "its Deployment is gone, and its Pods are ending"
    if is_ending(deployment):
        return "it is being removed"
    if not deployment["spec"].get("replicas"):
        return "it is scaled to zero"
    refused = _condition(deployment, "ReplicaFailure")
    if refused.get("status") == "True":
        return _short(f"its Pods are refused: {refused.get('message', refused.get('reason', ''))}")
    living = sorted((p for p in pods if not is_ending(p)), key=lambda p: str(p["metadata"]["creationTimestamp"]))
    for pod in reversed(living):
        for trouble in _troubles(pod):
            return _short(f"Pod {pod['metadata']['name']}: {trouble}")
    for attachment in attachments:
        if attachment.trouble:
            return _short(attachment.trouble)
    if not living:
        return "its Pods are being made"
    newest = living[-1]
    name, node = newest["metadata"]["name"], newest["spec"].get("nodeName", "")
    if is_ready(newest):
        return f"Pod {name} is ready, and its worker has not checked in: can node {node} reach the registry?"
    running = any("running" in c.get("state", {}) for c in newest.get("status", {}).get("containerStatuses", ()))
    return f"Pod {name} runs on node {node} and is not ready" if running else f"Pod {name} is starting"


def _troubles(pod: Object) -> Iterator[str]:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        yield f"no node takes it: {scheduled.get('message', scheduled.get('reason', ''))}"
    status = pod.get("status", {})
    if status.get("phase") == "Failed":
        yield f"{status.get('reason', 'it failed')}: {status.get('message', '')}"
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting", {})
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
        if ended and ended.get("exitCode") and not container.get("ready"):
            restarts = f", started {container['restartCount'] + 1} times" if container.get("restartCount") else ""
            yield _how_ended(container["name"], ended, restarts)
        elif waiting.get("reason", "") not in _STARTING and waiting.get("reason") != "CrashLoopBackOff":
            yield f"container {container['name']}: {waiting['reason']}: {waiting.get('message', '')}"


def crashes_of(pods: Sequence[Object]) -> tuple[int, str]:
    """How often the workers' containers in these Pods were restarted, and why the latest one was."""
    count, latest, why = 0, "", ""
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses") or ():
            if container.get("name") != WORKER:
                continue
            count += int(container.get("restartCount") or 0)
            ended = (container.get("lastState") or {}).get("terminated") or {}
            if (at := str(ended.get("finishedAt") or "")) > latest:
                latest, why = at, f"Pod {pod['metadata']['name']}: {_how_ended(container['name'], ended)}"
    return count, _short(why)


def _how_ended(name: str, ended: Object, restarts: str = "") -> str:
    """How a container of that name ended, and its last lines."""
    message = " / ".join(line.strip() for line in ended.get("message", "").splitlines() if line.strip())
    how = f"container {name} ended with exit code {ended.get('exitCode')} ({ended.get('reason', 'Error')}){restarts}"
    return how + (f": … {message[-600:]}" if message else "")


def _condition(found: Object, name: str) -> Object:
    conditions = found.get("status", {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == name), {})


def _short(text: str) -> str:
    text = as_line(text)
    return text if len(text) <= _MOST else f"{text[:_MOST]} …"
