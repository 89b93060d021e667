"""A Redis that is not the chart's, as a pod."""

from __future__ import annotations

import yaml

from .kube_images import valkey_name
from .kube_node import KubeNode

PASSWORD = "a-password-of-the-test"  # noqa: S105
TLS = "/etc/redis-tls"


def start_redis(node: KubeNode, namespace: str, *, tls_secret: str = "") -> str:
    """Start it, and give its URL; with a Secret of the kind kubernetes.io/tls it speaks TLS alone."""
    port = ["--port", "6379"]
    if tls_secret:
        files = ["--tls-cert-file", f"{TLS}/tls.crt", "--tls-key-file", f"{TLS}/tls.key", "--tls-auth-clients", "no"]
        port = ["--port", "0", "--tls-port", "6379", *files]
    labels = {"app": "redis"}
    container = {
        "name": "redis",
        "image": valkey_name(),
        "command": ["valkey-server", *port, "--protected-mode", "no", "--requirepass", PASSWORD],
        "workingDir": "/tmp",  # noqa: S108
        "volumeMounts": [{"name": "tls", "mountPath": TLS}] if tls_secret else [],
    }
    volumes = [{"name": "tls", "secret": {"secretName": tls_secret}}] if tls_secret else []
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "redis", "labels": labels},
        "spec": {"containers": [container], "volumes": volumes},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "redis"},
        "spec": {"selector": labels, "ports": [{"port": 6379}]},
    }
    node.apply(yaml.safe_dump_all([pod, service]), namespace=namespace)
    return f"redis{'s' if tls_secret else ''}://:{PASSWORD}@redis.{namespace}.svc:6379/0"
