"""A cluster of one machine, and nodes beside it, in network namespaces of its own. Linux with cgroup v1, as root."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tests.servers.kubernetes import files
from tests.servers.kubernetes.image import pause_image
from tests.servers.server import StartFailed

_PREFIX = "eventwagon-k8s-"
_SHM = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
_FOLDER = _SHM if _SHM.is_dir() and shutil.disk_usage(_SHM).free > 4e9 else Path(tempfile.gettempdir())
"""In memory where there is room: unpacking images is most of a start."""
_STARTERS = ThreadPoolExecutor(1, "starts-kubernetes")
"""A child's death signal comes when the *thread* that started it ends: see `tests.servers.server`."""
_GUARDED = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("who started it is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""
_SYSCTLS = ("vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "vm.panic_on_oom")
"""What a kubelet changes for the whole machine; put back when it has."""


class Cluster:
    """etcd, API server with RBAC, controllers, scheduler, and nodes with kubelet, kube-proxy, containerd. All methods
    block.

    A context manager. `host` is this machine's address as Pods see it: bind servers that they should reach there.
    Nothing of it survives a clean end; what a killed one left is removed by the next."""

    def __init__(self, programs: Path) -> None:
        _sweep()
        self._bin = programs
        self._id = f"{os.getpid()}"
        self.directory = _FOLDER / f"{_PREFIX}{self._id}"
        self.directory.mkdir(mode=0o711)
        self._logs = self.directory / "log"
        self._logs.mkdir()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, Sequence[str]] = {}
        self._net = _free_net()
        self.host, self.address = f"{self._net}.1", f"{self._net}.2"
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.nodes: list[str] = []
        self._images: list[Path] = []
        self._sysctls = subprocess.run(["sysctl", *_SYSCTLS], capture_output=True, text=True, check=False).stdout

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- what a test does ---------------------------------------------------------------------

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl printed, as the administrator."""
        command = [str(self._bin / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        ran = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and ran.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {ran.stderr.strip()}")
        return ran.stdout

    def stop(self, program: str) -> None:
        """Kill one of its programs, say `kube-apiserver`; returns when it has ended."""
        process = self._processes.pop(program)
        process.kill()
        process.wait(30)

    def resume(self, program: str) -> None:
        """Start it again; returns when the API server answers."""
        self._start(program, *self._commands[program])
        self._until("the API server answers", self._answers)

    def load(self, image: Path) -> None:
        """Make an image known to all nodes."""
        self._images.append(image)
        for node in self.nodes:
            self._import(node, image)

    def cut(self, node: str) -> None:
        """Nothing comes from a further node or gets there, until `heal`."""
        self._ip("link", "set", self._veth(node), "down", within="node1")

    def heal(self, node: str) -> None:
        """The opposite of `cut`."""
        self._ip("link", "set", self._veth(node), "up", within="node1")
        number = node.removeprefix("node")
        self._ip("route", "replace", f"10.244.{number}.0/24", "via", self._address(node), within="node1")

    # --- its start ------------------------------------------------------------------------------

    def start(self) -> None:
        """The control plane and the first node; about ten seconds on an idle machine. Raises StartFailed."""
        d, node = self.directory, "node1"
        self._ip("netns", "add", self._netns(node))
        self._ip("link", "set", "lo", "up", within=node)
        self._ip("link", "add", self._veth(node), "type", "veth", "peer", "name", "up0", "netns", self._netns(node))
        self._ip("addr", "add", f"{self.host}/30", "dev", self._veth(node))
        self._ip("link", "set", self._veth(node), "up")
        self._ip("addr", "add", f"{self.address}/30", "dev", "up0", within=node)
        self._ip("link", "set", "up0", "up", within=node)
        self._ip("route", "add", "default", "via", self.host, within=node)
        self._ip("addr", "add", f"{files.SERVICE}/32", "dev", "lo", within=node)
        self._within(node, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        files.authority(d, self.address)
        self._in("etcd", node, "etcd", *files.etcd(d))
        self._in("kube-apiserver", node, self._program("kube-apiserver"), *files.api_server(d, self.address))
        self._containerd(node)
        self._until("the API server answers", self._answers)
        self._in("kube-controller-manager", node, self._program("kube-controller-manager"), *files.controllers(d))
        self._in("kube-scheduler", node, self._program("kube-scheduler"), *files.scheduler(d))
        self._images.append(pause_image())
        self._join(node)
        self._until("a service account", lambda: self.kubectl("get", "sa", "default", "-n", "default"))

    def add_node(self) -> str:
        """One more node, in a network namespace of its own: its name."""
        number = len(self.nodes) + 1
        node = f"node{number}"
        address, gateway = self._address(node), f"{self._net}.{4 * number + 1}"
        self._ip("netns", "add", self._netns(node))
        self._ip("link", "set", "lo", "up", within=node)
        self._ip(
            "link",
            "add",
            self._veth(node),
            "netns",
            self._netns("node1"),
            "type",
            "veth",
            "peer",
            "name",
            "up0",
            "netns",
            self._netns(node),
        )
        self._ip("addr", "add", f"{gateway}/30", "dev", self._veth(node), within="node1")
        self._ip("link", "set", self._veth(node), "up", within="node1")
        self._ip("route", "add", f"10.244.{number}.0/24", "via", address, within="node1")
        self._ip("addr", "add", f"{address}/30", "dev", "up0", within=node)
        self._ip("link", "set", "up0", "up", within=node)
        self._ip("route", "add", "default", "via", gateway, within=node)
        self._within(node, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._ip("route", "add", f"{address}/32", "via", self.address)
        self._containerd(node)
        self._join(node)
        return node

    def _containerd(self, node: str) -> None:
        number = int(node.removeprefix("node"))
        files.node(self.directory, node, self._address(node), f"10.244.{number}.0/24", f"{_PREFIX}{self._id}")
        self._cgroups(node)
        # not guarded by a death signal: it would leave its containers behind, which tini's end does not
        command = [
            "tini",
            "-s",
            "-g",
            "-p",
            "SIGTERM",
            "--",
            "containerd",
            "--config",
            str(self._of(node, "containerd.toml")),
        ]
        self._start(f"containerd-{node}", "nsenter", f"--net=/run/netns/{self._netns(node)}", *command)

    def _join(self, node: str) -> None:
        for image in self._images:
            self._import(node, image)
        self._in(
            f"kubelet-{node}", node, self._program("kubelet"), *files.kubelet(self.directory, node, self._address(node))
        )
        self._in(
            f"kube-proxy-{node}",
            node,
            self._program("kube-proxy"),
            *files.proxy(self.directory, node, self._address(node)),
        )
        self._until(
            f"{node} is ready",
            lambda: self.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=5s"),
        )
        subprocess.run(["sysctl", "-q", "-p", "-"], input=self._sysctls, text=True, check=False)
        self.nodes.append(node)

    def _import(self, node: str, image: Path) -> None:
        command = ["ctr", "-a", str(self._of(node, "containerd.sock")), "-n", "k8s.io", "images", "import", str(image)]
        self._until(f"{image.name} imported", lambda: subprocess.run(command, capture_output=True, check=True))

    def _cgroups(self, node: str) -> None:
        """A root of each node's own in every hierarchy: kubelets clean up what they find in theirs."""
        for root in self._hierarchies():
            top = root / f"{_PREFIX}{self._id}"
            for made in (top, top / node):
                made.mkdir(exist_ok=True)
                for name in ("cpuset.cpus", "cpuset.mems"):
                    if (made / name).exists():
                        (made / name).write_text((made.parent / name).read_text())

    @staticmethod
    def _hierarchies() -> list[Path]:
        return [p for p in Path("/sys/fs/cgroup").iterdir() if p.is_dir() and p.name != "unified"]

    # --- its end --------------------------------------------------------------------------------

    def close(self) -> None:
        """End all of it and remove its folder. Idempotent."""
        for name in [n for n in self._processes if not n.startswith("containerd")]:
            self._processes[name].kill()
            self._processes[name].wait(30)
        _end(self._id)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self._processes.clear()

    # --- its parts ------------------------------------------------------------------------------

    def _of(self, node: str, name: str) -> Path:
        return self.directory / node / name

    def _netns(self, node: str) -> str:
        return f"{_PREFIX}{self._id}-{node}"

    def _veth(self, node: str) -> str:
        return f"ewk{self._id}-{node.removeprefix('node')}"

    def _address(self, node: str) -> str:
        number = int(node.removeprefix("node"))
        return self.address if number == 1 else f"{self._net}.{4 * number + 2}"

    def _program(self, name: str) -> str:
        return str(self._bin / name)

    def _answers(self) -> str:
        return self.kubectl("get", "--raw", "/readyz")

    def _ip(self, *arguments: str, within: str = "") -> None:
        if within:
            self._within(within, "ip", *arguments)
        else:
            _run("ip", *arguments)

    def _within(self, node: str, *command: str) -> None:
        _run("nsenter", f"--net=/run/netns/{self._netns(node)}", *command)

    def _in(self, name: str, node: str, *command: str) -> None:
        # nsenter and not `ip netns exec`: that one hides the cgroups
        guarded = [sys.executable, "-I", "-S", "-c", _GUARDED, str(os.getpid())]
        self._start(name, *guarded, "nsenter", f"--net=/run/netns/{self._netns(node)}", *command)

    def _start(self, name: str, *command: str) -> None:
        self._commands[name] = command
        with (self._logs / f"{name}.log").open("ab") as log:
            self._processes[name] = _STARTERS.submit(
                subprocess.Popen, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            ).result()

    def _until(self, what: str, true: Callable[[], object], seconds: float = 90.0) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                true()
            except (RuntimeError, subprocess.CalledProcessError) as e:
                ended = [n for n, p in self._processes.items() if p.poll() is not None]
                if time.monotonic() > until or ended:
                    tails = "\n".join(f"--- {n}:\n{self._tail(n)}" for n in ended)
                    raise StartFailed(f"kubernetes: {what}: not in {seconds:g} s: {e}\n{tails}") from e
                time.sleep(0.1)
            else:
                return

    def _tail(self, name: str) -> str:
        return "\n".join((self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:])


def _run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise StartFailed(f"{' '.join(command)}: {ran.stderr.strip()}")


def _free_net() -> str:
    """Three numbers of an address: a net that nothing here uses."""
    used = subprocess.run(["ip", "-4", "route"], capture_output=True, text=True, check=False).stdout
    while True:
        net = f"172.31.{secrets.randbelow(250)}"
        if f"{net}." not in used:
            return net


# --- ending, also what another process left -----------------------------------------------------


def _sweep() -> None:
    for left in _FOLDER.glob(f"{_PREFIX}*"):
        number = left.name.removeprefix(_PREFIX)
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            _end(number)


def _end(number: str) -> None:
    """Kill the cluster of that process: containers, containerd, mounts, networks, cgroups, folder."""
    directory = _FOLDER / f"{_PREFIX}{number}"
    for pid in {*_speaking_of(directory), *_in_cgroups(number)}:
        _kill(pid)
    for _ in range(50):
        left = {*_speaking_of(directory), *_in_cgroups(number)}
        if not left:
            break
        for pid in left:
            _kill(pid)
        time.sleep(0.1)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
    for netns in Path("/run/netns").glob(f"{_PREFIX}{number}-*"):
        subprocess.run(["ip", "netns", "del", netns.name], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", f"ewk{number}-1"], capture_output=True, check=False)
    for root in Path("/sys/fs/cgroup").iterdir():
        top = root / f"{_PREFIX}{number}"
        for made in sorted((p for p in top.glob("**/") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                made.rmdir()
    shutil.rmtree(directory, ignore_errors=True)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _speaking_of(directory: Path) -> Iterator[int]:
    """containerd and its shims: the folder stands on their command lines."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes()
                if str(directory).encode() + b"/" in words and b"containerd" in words:
                    yield int(process.name)


def _in_cgroups(number: str) -> Iterator[int]:
    for root in Path("/sys/fs/cgroup").iterdir():
        for procs in (root / f"{_PREFIX}{number}").glob("**/cgroup.procs"):
            with contextlib.suppress(OSError):
                yield from (int(line) for line in procs.read_text().split() if line != "0")
