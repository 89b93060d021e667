"""The chart on real pods: the commands of docs/install.md as they stand, default values, `helm test`, uninstalling."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.helm import ROOT, programs
from support.kube import kubectl
from support.kube_node import CRDS, HOME, KubeNode, Release
from support.kube_redis import start_redis
from support.triton import shapes_manifest

pytestmark = pytest.mark.kube


def quickstart() -> list[str]:
    """The commands under "Install" in docs/install.md, a here-document with the command it belongs to."""
    text = (ROOT / "docs/install.md").read_text()
    (block,) = re.findall(r"^## Install\n\n```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^(?:.*<<END\n(?:.*\n)*?END\n|.+\n)", block, re.MULTILINE)


@pytest.fixture
def own_redis(kube_node: KubeNode) -> Iterator[str]:
    """The URL of a Redis with a password that is not the chart's."""
    namespace = kube_node.make_namespace()
    yield start_redis(kube_node, namespace)
    kube_node.remove_namespace(namespace)


def test_the_commands_of_the_page(kube_node: KubeNode, own_redis: str, tmp_path: Path) -> None:
    """Word for word, with the Secret that they ask for; `--watch` is ended when the cascade is ready."""
    for name in ("helm", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = [str(programs()["helm3"].parent), str(Path(kubectl()).parent), kube_node.environment["PATH"]]
    environment = kube_node.environment | {"PATH": ":".join(path)}
    kube_node.make_namespace(HOME)
    kube_node.kubectl("create", "secret", "generic", "redis-url", f"--from-literal=url={own_redis}", "-n", HOME)
    release = Release(kube_node)
    try:
        for command in quickstart():
            shell = ["bash", "-ec", command]
            if command.strip().endswith("--watch"):
                watch = subprocess.Popen(shell, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
                release.wait_served("default")
                watch.terminate()
                assert "shapes" in watch.communicate(timeout=60)[0]
                continue
            if command.startswith("kubectl apply"):
                kube_node.wait_defined()
            done = subprocess.run(
                shell, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
            )
            assert done.returncode == 0, f"{command}{done.stdout}{done.stderr}{kube_node.describe()}"
        assert "image.png" in done.stdout  # the last command's: the log of the chart's test
    finally:
        release.uninstall()
        kube_node.kubectl("delete", "secret", "redis-url", "--namespace", HOME)
    assert kube_node.kubectl("get", "crd", *CRDS, "--output", "name").split(), "the definitions stay"


@pytest.mark.parametrize("helm", ["helm3", "helm4"])
def test_default_values(kube_node: KubeNode, helm: str) -> None:
    """A release with default values makes an image, and is gone with its definitions as docs/install.md says."""
    release = Release(kube_node, helm=helm)
    namespace = kube_node.make_namespace()
    with kube_node.volume():
        try:
            begun = time.monotonic()
            release.install()
            installed_s = time.monotonic() - begun
            release.serve(namespace, shapes_manifest(hosting="shared"))
            ready_s = time.monotonic() - begun - installed_s
            print(f"\n{helm}: installed in {installed_s:.0f} s; a cascade ready {ready_s:.0f} s after it was applied")
            assert "image.png" in release.helm("test", "--logs")
        finally:
            release.uninstall()
    kube_node.remove_namespace(namespace)
    kube_node.kubectl("delete", "crd", *CRDS)
    kinds = "all,networkpolicies,configmaps,secrets"
    own = ("secret/default-token-", "configmap/kube-root-ca.crt")  # of every namespace

    def nothing_left() -> bool:
        left = kube_node.kubectl("get", kinds, "--namespace", HOME, "--output", "name").split()
        return all(name.startswith(own) for name in left)

    kube_node.expect(nothing_left, what=f"nothing to be left in {HOME}")
