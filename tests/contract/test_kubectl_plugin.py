"""`kubectl cascade` with a real router: kubectl finds the plugin, and a stand-in for the cluster answers its calls.

The stand-in is called like kubectl. It prints the objects of a folder, and says of a port-forward where the router is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.router import RouterProcess
from support.triton import shapes_manifest

pytestmark = pytest.mark.contract
PROGRAMS = Path(sys.executable).parent
STAND_IN = """#!{python}
import json, pathlib, sys, time
arguments = sys.argv[1:]
folder = pathlib.Path({folder!r})
with (folder / "calls").open("a") as calls:
    calls.write(" ".join(arguments) + "\\n")
while arguments[0].startswith("--"):
    arguments = arguments[2:]
if arguments[0] == "config":
    print("default", end="")
elif arguments[0] == "get":
    named = arguments[2:3] if not arguments[2].startswith("-") else []
    file = folder / ("-".join([arguments[1].split(".")[0], *named]) + ".json")
    if not file.exists():
        sys.exit("Error from server (NotFound): " + file.stem + " not found")
    print(file.read_text())
elif arguments[0] == "port-forward":
    for address, port in {ports!r}:
        print(f"Forwarding from {{address}} -> {{port}}", flush=True)
        print(f"Forwarding from [::1]:1 -> {{port}}", flush=True)
    time.sleep(600)
"""


class Plugin:
    """The plugin's commands on a cluster that has the shapes cascade."""

    def __init__(self, folder: Path, router: RouterProcess) -> None:
        self.folder = folder
        ports = [(router.http_url.removeprefix("http://"), 8000), (router.grpc, 8001)]
        program = folder / "bin" / "kubectl"
        program.parent.mkdir()
        program.write_text(STAND_IN.format(python=sys.executable, folder=str(folder), ports=ports))
        program.chmod(0o755)
        cascade, profile = yaml.safe_load_all(shapes_manifest(hosting="shared"))
        for resource in (cascade, profile):
            resource["metadata"] |= {"namespace": "default", "uid": "u1", "managedFields": []}
        cascade["status"] = {
            "conditions": [{"type": "Ready", "status": "True", "reason": "AsPlanned", "message": "all is well"}],
            "chain": ["shapes-light", "shapes-heavy"],
        }
        event = {"lastTimestamp": "2026-01-01T00:00:00Z", "reason": "DemandRose", "message": "more is asked for"}
        self.has("diffusioncascades", {"items": [cascade]})
        self.has("diffusioncascades-shapes", cascade)
        self.has(f"cascadeprofiles-{profile['metadata']['name']}", profile)
        self.has("events", {"items": [event]})
        self.has("services", {"items": [service("a", "dc-router")]})

    def has(self, name: str, content: Any) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(content))

    @property
    def calls(self) -> str:
        return (self.folder / "calls").read_text()

    def __call__(self, *arguments: str, succeeds: bool = True) -> str:
        """What a command prints."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            [PROGRAMS / "kubectl-cascade", *arguments],
            env={**os.environ, "PATH": path}, cwd=self.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == succeeds, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if succeeds else done.stderr


def service(namespace: str, name: str, ports: Sequence[str] = ("grpc", "http")) -> dict[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"ports": [{"name": port} for port in ports]},
    }


@pytest.fixture
def plugin(tmp_path: Path, shared_router: RouterProcess) -> Plugin:
    return Plugin(tmp_path, shared_router)


def test_kubectl_itself_finds_it() -> None:
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    told = subprocess.run(
        ["kubectl", "cascade", "--help"], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    for command in ("top", "status", "explain", "plan", "generate"):
        assert command in told.stdout


def test_top_shows_the_cascade(plugin: Plugin) -> None:
    assert "default/shapes" in plugin("top", "--once")
    [cascade] = json.loads(plugin("top", "shapes", "--once", "--json"))["cascades"]
    assert cascade["cascade"] == "default/shapes"
    assert "port-forward --namespace a service/dc-router :http :grpc" in plugin.calls


def test_status_has_a_line_for_each_cascade_even_if_no_router_serves_it(plugin: Plugin) -> None:
    other = {"metadata": {"namespace": "default", "name": "other"}, "spec": {}}
    plugin.has(
        "diffusioncascades",
        {"items": [json.loads((plugin.folder / "diffusioncascades-shapes.json").read_text()), other]},
    )
    first, second = plugin("status").splitlines()[1:]
    assert first.split()[:3] == ["default/shapes", "True", "AsPlanned"]
    assert second.split()[:2] == ["default/other", "Unknown"]
    told = json.loads(plugin("status", "--json"))
    assert [each["now"] is None for each in told] == [False, True]


def test_explain_says_conditions_events_and_decisions(plugin: Plugin) -> None:
    told = plugin("explain", "shapes")
    for part in ("Ready=True (AsPlanned)", "DemandRose: more is asked for", "No earlier plan was found"):
        assert part in told


def test_plan_decides_with_what_the_cluster_has(plugin: Plugin) -> None:
    [answer] = json.loads(plugin("plan", "shapes", "--demand", "40", "--json"))
    assert answer["plan"]["expected"]["demand"] == pytest.approx(40, rel=0.2)


def test_generate_makes_a_picture(plugin: Plugin) -> None:
    made = json.loads(plugin("generate", "shapes", "a large red circle", "--json", "--deadline", "60s"))
    assert made["cascade"] == "default.shapes"
    assert (plugin.folder / "image.png").read_bytes().startswith(b"\x89PNG")


def test_options_of_kubectl_are_passed_on(plugin: Plugin) -> None:
    plugin("status", "--context", "far", "--kubeconfig", "/k", "-n", "media")
    assert "--context far --kubeconfig /k get diffusioncascades.diffusioncascade.io --namespace media" in plugin.calls


def test_what_is_wrong_is_said_with_the_fix(plugin: Plugin) -> None:
    assert "diffusioncascades-nosuch not found" in plugin("explain", "nosuch", succeeds=False)
    assert "--router: 'x' is not NAMESPACE/SERVICE" in plugin("top", "--once", "--router", "x", succeeds=False)
    plugin.has("services", {"items": [service("a", "r"), service("b", "r"), service("a", "r-metrics", ["health"])]})
    assert "--router: there are a/r, b/r; name one" in plugin("top", "--once", succeeds=False)
    plugin.has("services", {"items": []})
    assert "is the chart installed?" in plugin("top", "--once", succeeds=False)
