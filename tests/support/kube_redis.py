"""A Redis that is not the chart's, as a pod."""

from __future__ import annotations

import yaml

from .kube_images import valkey_name
from .kube_node import KubeNode

PASSWORD = "a-password-of-the-test"  # noqa: S105


def start_redis(node: KubeNode, namespace: str) -> str:
    """Start it, with a password, and give its URL."""
    command = ["valkey-server", "--port", "6379", "--protected-mode", "no", "--requirepass", PASSWORD]
    container = {"name": "redis", "image": valkey_name(), "command": command, "workingDir": "/tmp"}  # noqa: S108
    labels = {"app": "redis"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "redis", "labels": labels},
        "spec": {"containers": [container]},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "redis"},
        "spec": {"selector": labels, "ports": [{"port": 6379}]},
    }
    node.apply(yaml.safe_dump_all([pod, service]), namespace=namespace)
    return f"redis://:{PASSWORD}@redis.{namespace}.svc:6379/0"
