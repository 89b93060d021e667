"""The operator of one named namespace: with a Role there and no right on the cluster it starts replicas that serve."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.installation import CASCADE, RELEASE, Installation, installed
from support.kube import ROOT, Cluster
from support.node_agent import NodeAgent

pytestmark = pytest.mark.cluster
EXAMPLE = (ROOT / "examples" / "shapes.yaml").read_text()
CPU = {"name": "cpu", "resource": "cpu", "count": 2}
CLUSTER_WIDE = ("clusterroles", "clusterrolebindings")


@pytest.fixture
def named(
    control_plane: Cluster, nodes: NodeAgent, home: str, namespace: str, tmp_path: Path
) -> Iterator[Installation]:
    with installed(
        control_plane, nodes, home, tmp_path,
        watchNamespaces=[namespace], rbac={"inventory": False}, acceleratorClasses=[CPU],
    ) as installation:  # fmt: skip
        yield installation


def test_a_cascade_of_the_namespace_is_served_with_roles_alone(named: Installation, namespace: str) -> None:
    for kind in CLUSTER_WIDE:
        path = f"/apis/rbac.authorization.k8s.io/v1/{kind}"
        assert not named.cluster.api.items(path, labelSelector=f"app.kubernetes.io/instance={RELEASE}")
    named.apply(EXAMPLE.replace("namespace: default", f"namespace: {namespace}"), namespace=namespace)
    named.wait_served(namespace)
    assert sum(named.deployments(namespace).values()) == 2, "as many as the class counts"
    assert "rights: nodes: may not be read; classes with a count: cpu" in doctor(named, namespace)
    named.remove_cascades(namespace)


def doctor(named: Installation, namespace: str) -> str:
    """What `cascade doctor --cluster` says with the operator's rights and settings."""
    environment = {
        **os.environ,
        "KUBECONFIG": str(named.cluster.account_kubeconfig(named.namespace, named.account)),
        "REDIS_URL": named.redis.url,
        "CASCADE_OPERATOR_NAMESPACES": json.dumps([namespace]),
        "CASCADE_OPERATOR_ACCELERATOR_CLASSES": json.dumps([CPU]),
    }
    command = [str(CASCADE), "doctor", "--cluster"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert "PROBLEM  rights" not in done.stdout, done.stdout + done.stderr
    return done.stdout
