"""What a cluster's programs are told: certificates, configuration files, command lines."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path

SERVICE = "10.96.0.1"
"""The API server as Pods address it."""
_NODES = ("node1", "node2", "node3")
_USERS = {
    "admin": ("admin", "system:masters"),
    "proxy": ("system:kube-proxy", ""),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    **{node: (f"system:node:{node}", "system:nodes") for node in _NODES},
}


def authority(d: Path, address: str) -> None:
    """Keys, a certificate, and a kubeconfig file for everybody."""
    names = "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
    (d / "api.ext").write_text(f"subjectAltName={names},IP:127.0.0.1,IP:{SERVICE},IP:{address}\n")
    ca_extensions = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    commands = [
        [
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-days",
            "30",
            "-subj",
            "/CN=eventwagon-tests",
            *ca_extensions,
        ],
        [
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "api.key",
            "-out",
            "api.csr",
            "-subj",
            "/CN=kube-apiserver",
        ],
        [
            "x509",
            "-req",
            "-in",
            "api.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "30",
            "-out",
            "api.crt",
            "-extfile",
            "api.ext",
        ],
        ["genrsa", "-out", "accounts.key", "2048"],
    ]
    for command in commands:
        subprocess.run(["openssl", *command], cwd=d, capture_output=True, check=True)
    tokens = []
    for name, (user, group) in _USERS.items():
        token = secrets.token_hex(16)
        tokens.append(f'{token},{user},{name},"{group}"')
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {"server": f"https://{address}:6443", "certificate-authority": str(d / "ca.crt")},
                }
            ],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        (d / f"{name}.kubeconfig").write_text(json.dumps(kubeconfig))
    (d / "tokens.csv").write_text("\n".join([*tokens, ""]))


def etcd(d: Path) -> Sequence[str]:
    """In the cluster's network namespace the usual ports are free."""
    (d / "etcd").mkdir(mode=0o700)
    return [
        f"--data-dir={d / 'etcd'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=warn",
    ]


def api_server(d: Path, address: str) -> Sequence[str]:
    """With RBAC, as it is in earnest."""
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        f"--advertise-address={address}",
        f"--tls-cert-file={d / 'api.crt'}",
        f"--tls-private-key-file={d / 'api.key'}",
        f"--token-auth-file={d / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        f"--service-account-key-file={d / 'accounts.key'}",
        f"--service-account-signing-key-file={d / 'accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
        "--shutdown-delay-duration=0s",
    ]


def controllers(d: Path) -> Sequence[str]:
    """A node counts as lost after six seconds, not after forty."""
    return [
        f"--kubeconfig={d / 'controllers.kubeconfig'}",
        f"--service-account-private-key-file={d / 'accounts.key'}",
        f"--root-ca-file={d / 'ca.crt'}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=12s",
    ]


def scheduler(d: Path) -> Sequence[str]:
    """Alone: it need not be elected."""
    return [f"--kubeconfig={d / 'scheduler.kubeconfig'}", "--leader-elect=false", "--bind-address=127.0.0.1"]


def kubelet(d: Path, node: str, address: str) -> Sequence[str]:
    """For the files that `node` wrote."""
    return [
        f"--config={d / node / 'kubelet.yaml'}",
        f"--kubeconfig={d / f'{node}.kubeconfig'}",
        f"--root-dir={d / node / 'kubelet'}",
        f"--hostname-override={node}",
        f"--node-ip={address}",
        f"--cert-dir={d / node / 'certificates'}",
    ]


def proxy(d: Path, node: str, address: str) -> Sequence[str]:
    """Services by nftables; it leaves the machine's own settings alone."""
    return [
        f"--kubeconfig={d / 'proxy.kubeconfig'}",
        "--proxy-mode=nftables",
        f"--hostname-override={node}",
        "--cluster-cidr=10.244.0.0/16",
        f"--bind-address={address}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]


def node(d: Path, name: str, address: str, pods: str, cgroup: str) -> None:
    """The folder of a node, and its files."""
    own = d / name
    for part in ("cni", "containerd", "plugins", "pod-logs", "kubelet"):
        (own / part).mkdir(parents=True, exist_ok=True)
    (own / "containerd.toml").write_text(_CONTAINERD.format(d=own))
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(own / "cni-ipam"),
            "ranges": [[{"subnet": pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    network = {"cniVersion": "0.4.0", "name": "k8s", "plugins": [bridge]}
    (own / "cni" / "10-bridge.conflist").write_text(json.dumps(network))
    settings = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}/{name}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": f"unix://{own / 'containerd.sock'}",
        "imageServiceEndpoint": f"unix://{own / 'containerd.sock'}",
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "localStorageCapacityIsolation": False,
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "resolvConf": "",
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "3s",
        "volumePluginDir": str(own / "plugins"),
        "podLogsDir": str(own / "pod-logs"),
        "readOnlyPort": 0,
        "healthzPort": 0,
        "shutdownGracePeriod": "0s",
    }
    (own / "kubelet.yaml").write_text(json.dumps(settings))


_CONTAINERD = """\
version = 2
root = "{d}/containerd/root"
state = "{d}/containerd/state"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]
[grpc]
address = "{d}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{d}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:eventwagon"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{d}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""
