"""A Redis that is not the chart's, as a pod."""

from __future__ import annotations

import yaml

from .kube_images import redis_name
from .kube_node import KubeNode

PASSWORD = "a-password-of-the-test"  # noqa: S105
TLS = "/tls"


def start_redis(node: KubeNode, namespace: str, *, tls: str | None = None) -> str:
    """Start it, with a password, over TLS where ``tls`` names the Secret of its certificate, and give its URL."""
    listen, volumes = ["--port", "6379"], []
    if tls is not None:
        listen = ["--port", "0", "--tls-port", "6379", "--tls-auth-clients", "no"]
        listen += ["--tls-cert-file", f"{TLS}/tls.crt", "--tls-key-file", f"{TLS}/tls.key"]
        volumes = [{"name": "tls", "secret": {"secretName": tls}}]
    container = {
        "name": "redis",
        "image": redis_name(),
        "command": ["valkey-server", "--protected-mode", "no", "--requirepass", PASSWORD, *listen],
        "workingDir": "/tmp",  # noqa: S108
        "volumeMounts": [{"name": volume["name"], "mountPath": TLS} for volume in volumes],
    }
    labels = {"app": "redis"}
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
    return f"{'rediss' if tls else 'redis'}://:{PASSWORD}@redis.{namespace}.svc:6379/0"
