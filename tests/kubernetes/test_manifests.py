"""What `deploy/kubernetes` ships is accepted by a real API server, and what runs by it meets the restricted profile.

Whether the NetworkPolicies are enforced is not shown: the tests' cluster has no network plugin that does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventwagon.errors import Unavailable
from eventwagon.orchestrators.kubernetes.template import Template
from tests.docs.documents import blocks
from tests.kubernetes.test_burst import DEPLOY, DOCUMENT, overlay
from tests.kubernetes.test_trouble import spec, told
from tests.kubernetes.world import World

KINDS = {
    "Namespace": 1,
    "ServiceAccount": 1,
    "Role": 1,
    "RoleBinding": 1,
    "Secret": 1,
    "ConfigMap": 1,
    "Deployment": 1,
    "PodDisruptionBudget": 1,
    "NetworkPolicy": 2,
}


def dry_run(world: World, made: Mapping[str, Any]) -> str:
    """As the API server says it would be. Raises RuntimeError where it refuses it, or has a warning."""
    return world.kubectl(
        "create", "-f", "-", "--dry-run=server", "--warnings-as-errors", "--validate=strict", stdin=json.dumps(made)
    )


@pytest.fixture
def shipped(world: World, tmp_path: Path) -> list[Any]:
    """All of the base, as the docs' overlay has it; the namespace has its labels."""
    overlay(world, tmp_path)
    made = list(yaml.safe_load_all(world.kubectl("kustomize", str(tmp_path))))
    (namespace,) = (one for one in made if one["kind"] == "Namespace")
    assert namespace["metadata"]["name"] == world.namespace
    world.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    return made


def test_the_base_is_accepted(world: World, shipped: list[Any], tmp_path: Path) -> None:
    kinds = [one["kind"] for one in shipped]
    assert {kind: kinds.count(kind) for kind in kinds} == KINDS
    assert {one["metadata"].get("namespace", world.namespace) for one in shipped} == {world.namespace}
    said = world.kubectl(
        "apply", "-k", str(tmp_path), "--dry-run=server", "--warnings-as-errors", "--validate=strict"
    ).splitlines()
    assert len([line for line in said if line.endswith("(server dry run)")]) == len(shipped), said


def test_what_the_docs_add_to_it_is_accepted(world: World, shipped: list[Any], tmp_path: Path) -> None:
    """A namespace that others use too is left as it is; the policy says what workers may reach."""
    _, shared, egress = (block.text for block in blocks(DOCUMENT, "yaml"))
    file = tmp_path / "kustomization.yaml"
    more = yaml.safe_load(file.read_text())
    more["patches"] += yaml.safe_load(shared)
    more["resources"].append("egress.yaml")
    file.write_text(json.dumps(more))
    (tmp_path / "egress.yaml").write_text(egress)
    made = list(yaml.safe_load_all(world.kubectl("kustomize", str(tmp_path))))
    assert len(made) == len(shipped)
    assert "Namespace" not in {one["kind"] for one in made}
    said = world.kubectl("apply", "-k", str(tmp_path), "--dry-run=server", "--warnings-as-errors")
    assert "networkpolicy.networking.k8s.io/eventwagon-worker-egress created (server dry run)" in said


def test_a_sidecar_that_does_not_meet_the_profile_is_told(world: World) -> None:
    world.kubectl("label", "namespace", world.namespace, "pod-security.kubernetes.io/enforce=restricted")
    given = {"spec": {"containers": [{"name": "proxy", "image": world.image, "command": ["sleep", "1000"]}]}}

    async def main() -> None:
        async with world.orchestrator("pods:held", template=given) as orchestrator:
            await orchestrator.ensure(spec())
            await told(orchestrator, "its Pods are refused", "violates PodSecurity", 'container "proxy" must set')

    asyncio.run(main())


def test_its_pods_are_accepted_where_others_are_not(world: World, shipped: list[Any]) -> None:
    (observer,) = (one for one in shipped if one["kind"] == "Deployment")
    template = Template(
        "app:orders",
        yaml.safe_load((DEPLOY / "pod.yaml").read_text()),
        secret="eventwagon",  # noqa: S106
        image=world.image,
        per_pod=1,
        handler_timeout=60.0,
    )
    worker = template.deployment(spec(revision="v2"))
    for deployment in (observer, worker):
        dry_run(world, deployment)
        pod = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
        pod["metadata"]["name"] = "one-of-them"
        pod["spec"].pop("serviceAccountName", None)
        assert "created" in dry_run(world, pod)
        del pod["spec"]["securityContext"]
        with pytest.raises(RuntimeError, match="violates PodSecurity"):
            dry_run(world, pod)


def test_what_only_the_api_server_knows_of_a_template_is_told_with_its_path(world: World) -> None:
    """It is refused when the first wagon is opened; nothing is made."""
    given = {"spec": {"containers": [{"name": "worker", "volumeMounts": [{"name": "absent", "mountPath": "data"}]}]}}

    async def main() -> None:
        async with world.orchestrator("pods:held", template=given) as orchestrator:
            with pytest.raises(Unavailable, match=r'containers\[0\].volumeMounts\[0\].name: Not found: "absent"'):
                await orchestrator.ensure(spec())

    asyncio.run(main())
    assert world.kubectl("get", "deployments", "-o", "name") == ""
