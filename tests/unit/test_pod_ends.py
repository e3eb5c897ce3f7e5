"""What proves that a process in a Pod has ended, and what does not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventwagon.contracts.orchestrator import Witness
from eventwagon.contracts.process import POD, Pod, this_pod
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.orchestrators.kubernetes import Kubernetes
from eventwagon.orchestrators.kubernetes.ends import Ends
from eventwagon.orchestrators.kubernetes.names import WORKER
from eventwagon.orchestrators.processes.subprocess import Subprocess

UID = "0b6f6f4e-7c1e-4d0b-9a55-6c1d5f1f3f10"
NOON = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC).timestamp()
RUNS: dict[str, Any] = {"running": {"startedAt": "2026-05-01T11:00:00Z"}}
ENDED: dict[str, Any] = {"terminated": {"finishedAt": "2026-05-01T12:00:00Z", "exitCode": 137}}


def pod(state: Any = None, last: Any = None, *, container: str = WORKER, uid: str = UID, **status: Any) -> Any:
    """As the API server has it."""
    own = {"name": container, "state": state or {}, "lastState": last or {}}
    return {"metadata": {"name": "orders-1-abc", "uid": uid}, "status": {"containerStatuses": [own], **status}}


def why(found: Any, since: float = NOON - 60.0, uid: str = UID) -> str:
    """Of a process in it that began a minute before its container ended."""
    ends = Ends()
    ends.see(found)
    return ends.why_ended(Pod(uid, since))


@pytest.mark.parametrize(
    "found",
    [
        pod(ENDED),
        pod({"waiting": {"reason": "CrashLoopBackOff"}}, ENDED),
        pod({"running": {"startedAt": "2026-05-01T12:00:01Z"}}, ENDED),
        pod(ENDED, phase="Failed"),
    ],
    ids=["ended", "waits to be started again", "started again", "over"],
)
def test_its_container_ended_after_it_began(found: Any) -> None:
    assert why(found) == "its container in Pod orders-1-abc ended at 2026-05-01T12:00:00Z"


@pytest.mark.parametrize(
    "found",
    [
        pod(RUNS),
        pod(RUNS, phase="Failed", reason="NodeLost"),
        pod({"waiting": {"reason": "ContainerCreating"}}),
        pod({"terminated": {"reason": "ContainerStatusUnknown", "exitCode": 137}}),
        pod({"terminated": {"finishedAt": None}}),
        pod({"terminated": {"finishedAt": "yesterday"}}),
        pod(ENDED, container="proxy"),
        pod(ENDED, uid="another"),
        {"metadata": {"name": "orders-1-abc", "uid": UID}},
    ],
    ids=[
        "it runs",
        "the cluster gave it up with its node",
        "it starts",
        "its kubelet could not find it again",
        "no time",
        "no such time",
        "another container",
        "another Pod, maybe of the same name",
        "no status",
    ],
)
def test_what_is_no_proof(found: Any) -> None:
    assert why(found) == ""


@pytest.mark.parametrize("since", [NOON - 1.0, NOON + 0.5, NOON + 60.0])
def test_a_process_of_the_container_that_was_started_next_is_another(since: float) -> None:
    """Kubelets say whole seconds, cut off; a second more is for a clock that is set back a little."""
    assert why(pod(RUNS, ENDED), since) == ""


def test_what_was_seen_once_stays_true() -> None:
    """The Pod is gone, and what is told of it is out of date, or is of its next container."""
    ends = Ends()
    ends.see(pod(ENDED))
    ends.see(pod(RUNS))
    ends.see(pod({"terminated": {"finishedAt": "2026-05-01T11:00:00Z"}}))
    assert ends.why_ended(Pod(UID, NOON - 60.0))
    ends.see(pod({"terminated": {"finishedAt": "2026-05-01T13:00:00Z"}}))
    assert ends.why_ended(Pod(UID, NOON + 60.0))


def test_it_remembers_the_latest_pods_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventwagon.orchestrators.kubernetes.ends._MOST", 2)
    ends = Ends()
    for uid in ("a", "b", "c"):
        ends.see(pod(ENDED, uid=uid))
    assert [bool(ends.why_ended(Pod(uid, 0.0))) for uid in ("a", "b", "c")] == [False, True, True]


def test_a_process_knows_its_pod_where_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(POD, raising=False)
    assert this_pod() is None
    for nonsense in ("", "a\nb", "\udcff"):
        monkeypatch.setenv(POD, nonsense)
        assert this_pod() is None
    monkeypatch.setenv(POD, UID)
    found = this_pod()
    assert found is not None
    assert found.uid == UID
    assert abs(found.since - datetime.now(UTC).timestamp()) < 60.0


def test_which_orchestrators_see_processes_end() -> None:
    assert isinstance(Kubernetes("app:orders", registry=MemoryRegistry(), secret="settings"), Witness)  # noqa: S106 - its name
    assert not isinstance(Subprocess("app:orders", url="sqlite:///x"), Witness)
