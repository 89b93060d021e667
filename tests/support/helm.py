"""Helm for tests: finds Helm's programs, renders the chart, and checks its pods."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "diffusion-cascade"
TOOLS = ROOT / ".tools"
MONITORING = ("--api-versions", "monitoring.coreos.com/v1")
OLD_PLANE = "1.20.2"

Object = dict[str, Any]


def programs() -> dict[str, Path]:
    """Helm programs by name: that of $HELM or the PATH, where there is one, and those of the set-up."""
    given = os.environ.get("HELM") or shutil.which("helm")
    found = {"helm": Path(given)} if given else {}
    return found | {name: TOOLS / name / "helm" for name in ("helm3", "helm4") if (TOOLS / name / "helm").exists()}


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Call Helm without reading or writing any files of this machine's user."""
    command = [str(program), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as home:
        clean = {"PATH": os.environ["PATH"], "HOME": home}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=clean)


def render(
    program: Path, *arguments: str | Path, values: Object | None = None, chart: Path = CHART, kube: str = "1.31.0"
) -> list[Object]:
    """The objects that `helm template` makes, in an order that does not depend on Helm's version."""
    extra = ["--values", "-"] if values is not None else []
    done = subprocess.run(
        [str(program), "template", "dc", str(chart), "--namespace", "media", "--kube-version", kube, *extra,
         *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=600, input=yaml.safe_dump(values or {}),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    objects = [document for document in yaml.safe_load_all(done.stdout) if document]
    return sorted(objects, key=lambda o: (o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]))


def without_secrets(objects: list[Object]) -> list[Object]:
    """The same with generated passwords replaced, so that two renders are equal."""
    made_up = "bWFkZSB1cA=="
    return [
        {**o, "data": dict.fromkeys(o["data"], made_up)} if o["kind"] == "Secret" and "data" in o else o
        for o in objects
    ]


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Objects of a kind by name."""
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """Pod specs of everything that runs, by ``kind/name``."""
    specs = {}
    for o in objects:
        where = f"{o['kind']}/{o['metadata']['name']}"
        if o["kind"] == "Pod":
            specs[where] = o["spec"]
        elif "template" in o.get("spec", {}):
            specs[where] = o["spec"]["template"]["spec"]
    return specs


def environment(spec: Object) -> dict[str, Object]:
    """Variables of a pod's first container by name; the last of a name counts."""
    return {entry["name"]: entry for entry in spec["containers"][0].get("env", [])}


def restricted_violations(spec: Object) -> list[str]:
    """Why a pod violates the restricted pod security standard, or lacks a read-only root file system."""
    found = []
    pod = spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            found.append(f"{field} is set")
    for volume in spec.get("volumes", []):
        kinds = volume.keys() - {"name"}
        if not kinds <= {
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        }:
            found.append(f"volume {volume['name']} is a {kinds}")
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        name, own = container["name"], container.get("securityContext", {})
        both = {**pod, **own}
        checks = {
            "runAsNonRoot": both.get("runAsNonRoot") is True,
            "runAsUser": both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities", {}).get("drop") == ["ALL"] and not own["capabilities"].get("add"),
            "privileged": not own.get("privileged"),
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
        }
        found += [f"{name}: {check}" for check, kept in checks.items() if not kept]
    return found  # fmt: skip
