"""Gets Helm, Kustomize and kube-score, built from their Go modules."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_BUILD = Path(__file__).parent / "build"
_MODULES = {
    "helm": ("helm.sh/helm/v4/cmd/helm", "sigs.k8s.io/kustomize/kustomize/v5"),
    "score": ("github.com/zegl/kube-score/cmd/kube-score",),
}
"""What is built of the modules here. Two, since kube-score needs older libraries than Helm."""
PROGRAMS = ("helm", "kustomize", "kube-score")


def lacking(cache: Path) -> str:
    """Why there is no Helm here; empty when there is."""
    if all((programs(cache) / name).exists() for name in PROGRAMS):
        return ""
    return "there is no Go" if shutil.which("go") is None else f"it is not built ({programs(cache)} is missing)"


def programs(cache: Path) -> Path:
    """The folder of the programs, in these versions."""
    pinned = b"".join((_BUILD / name / "go.sum").read_bytes() for name in _MODULES)
    return cache / f"helm-{hashlib.sha256(pinned).hexdigest()[:12]}"


def install(cache: Path, run: Callable[..., None]) -> None:
    """Build what is lacking; some three minutes on two idle cores, once. `run` raises what the caller understands. The
    folder appears at once or not at all."""
    if not lacking(cache) or shutil.which("go") is None:
        return
    print("helm: building it, once; it takes some minutes", flush=True)
    part = Path(tempfile.mkdtemp(prefix=".helm-", dir=cache))
    environment = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly -buildvcs=false -trimpath",
        "GOTOOLCHAIN": "local",
    }
    try:
        for name, packages in _MODULES.items():
            command = ["go", "build", "-C", str(_BUILD / name), "-ldflags", "-s -w", "-o", f"{part}/", *packages]
            run("helm", command, env=environment)
        part.chmod(0o755)
        part.rename(programs(cache))
    finally:
        shutil.rmtree(part, ignore_errors=True)
