"""Gets what a cluster is made of: Kubernetes built from its Go module, the rest from the system's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

VERSION = "1.34.4"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
_BUILD = Path(__file__).parent / "build"
_PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "tini": "tini",
    "openssl": "openssl",
    "ip": "iproute2",
    "gcc": "gcc",
}
"""A program that is needed, and the Debian package that brings it."""


def lacking(cache: Path) -> str:
    """Why no cluster can be started here; empty when one can."""
    if os.geteuid() != 0:
        return "a cluster of its own needs root (or name one with KUBECONFIG)"
    if absent := [name for name in _PACKAGES if shutil.which(name) is None]:
        return f"there is no {', '.join(absent)}: apt-get install {' '.join(_PACKAGES[name] for name in absent)}"
    if not (programs(cache) / "kubelet").exists():
        return f"it is not built ({programs(cache)} is missing)"
    return ""


def programs(cache: Path) -> Path:
    """The folder of its programs."""
    return cache / f"kubernetes-{VERSION}"


def install(cache: Path, run: Callable[..., None]) -> None:
    """Get all that is lacking; nine minutes for a build on two idle cores, once. `run` raises what the caller
    understands."""
    if os.geteuid() != 0:
        return
    absent = [package for name, package in _PACKAGES.items() if shutil.which(name) is None]
    if absent and shutil.which("apt-get"):
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *absent]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(command, env=environment, capture_output=True, check=False).returncode != 0:
            run("kubernetes", ["apt-get", "update"], env=environment)
            run("kubernetes", command, env=environment)
    if not (programs(cache) / "kubelet").exists() and shutil.which("go"):
        _build(cache, run)


def _build(cache: Path, run: Callable[..., None]) -> None:
    """One binary under every program's name. It appears at once or not at all."""
    print(f"kubernetes: building {VERSION}, once; it takes ten minutes and more", flush=True)
    part = Path(tempfile.mkdtemp(prefix=".kubernetes-", dir=cache))
    try:
        major, minor, _ = VERSION.split(".")
        said = {
            "k8s.io/component-base/version": {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor},
            "k8s.io/client-go/pkg/version": {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor},
        }
        flags = [f"-X {package}.{name}={value}" for package, values in said.items() for name, value in values.items()]
        environment = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOFLAGS": "-mod=readonly -buildvcs=false -trimpath",
            "GOTOOLCHAIN": "local",
        }
        command = ["go", "build", "-C", str(_BUILD), "-ldflags", f"-s -w {' '.join(flags)}"]
        run("kubernetes", [*command, "-o", str(part / "kube"), "./kube"], env=environment)
        for name in PROGRAMS:
            (part / name).symlink_to("kube")
        part.chmod(0o755)
        part.rename(programs(cache))
    finally:
        shutil.rmtree(part, ignore_errors=True)
