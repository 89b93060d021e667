"""The commands of `kubectl cascade`."""

from __future__ import annotations

import json as encoder
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml

from cascade_api.command import CommandFailed
from cascade_api.console import CascadeView, ConsoleView
from cascade_api.names import CascadeRef
from cascade_api.status import CascadeStatus

from ..watch.source import Source
from .cluster import Cluster, Object

KIND: Final = "diffusioncascades.diffusioncascade.io"
PROFILES: Final = "cascadeprofiles.diffusioncascade.io"

Name = Annotated[str, typer.Argument(help="Name of a DiffusionCascade.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Its namespace; default: the context's.")]
Context = Annotated[str, typer.Option(help="kubectl's context.")]
Kubeconfig = Annotated[str, typer.Option(help="kubectl's configuration file.")]
RouterOption = Annotated[
    str, typer.Option("--router", metavar="NAMESPACE/SERVICE", help="Needed if there are several.")
]
ApiKey = Annotated[str, typer.Option(envvar="CASCADE_API_KEY", help="Key of a tenant.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    name="kubectl cascade",
    help="Look at cascades on a cluster, and ask them for images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the plugin. An error that the user can fix is printed as a message, without a traceback."""
    try:
        app(prog_name="kubectl cascade")
    except CommandFailed as failure:
        for line in str(failure).splitlines():
            sys.stderr.write(f"kubectl cascade: {line}\n")
        sys.exit(failure.code)


@app.command()
def top(
    name: Annotated[str, typer.Argument(help="Cascade to show; default: all of the router's.")] = "",
    namespace: Namespace = "",
    once: Annotated[bool, typer.Option("--once", help="Print once, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with --once.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    router: RouterOption = "",
    api_key: ApiKey = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Watch what cascades do and why; Ctrl-C ends it."""
    from ..watch import command

    cluster = _cluster(context, kubeconfig)
    with cluster.router(router) as reached:
        command.top(
            cascade=str(_ref(cluster, namespace, name)) if name else "",
            once=once,
            json=json,
            every=every,
            http=f"http://{reached.http}",
            api_key=api_key,
        )


@app.command()
def status(
    namespace: Namespace = "",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")] = False,
    json: Json = False,
    router: RouterOption = "",
    api_key: ApiKey = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Print a line for each cascade: whether it is ready, and its load, latency, shares, workers and cost now."""
    from . import tables

    cluster = _cluster(context, kubeconfig)
    where = ["--all-namespaces"] if all_namespaces else ["--namespace", namespace or cluster.namespace()]
    resources = cluster.get(KIND, *where)["items"]
    seen = {cascade.cascade: cascade for cascade in _view(cluster, router, api_key).cascades}
    rows = [(str(_ref_of(each)), _status_of(each), seen.get(str(_ref_of(each)))) for each in resources]
    if json:
        typer.echo(encoder.dumps([_data(*row) for row in rows], indent=2))
    else:
        typer.echo(tables.statuses(rows))


@app.command()
def explain(
    name: Name,
    namespace: Namespace = "",
    router: RouterOption = "",
    api_key: ApiKey = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Say why a cascade runs what it runs, what keeps it from being better, and what was decided lately."""
    from cascade_operator import explain as explaining

    from ..watch.explaining import decisions

    cluster = _cluster(context, kubeconfig)
    ref = _ref(cluster, namespace, name)
    resource = cluster.get(KIND, name, "--namespace", ref.namespace)
    involved = f"involvedObject.uid={resource['metadata']['uid']}"
    events = cluster.get("events", "--namespace", ref.namespace, "--field-selector", involved)["items"]
    typer.echo(explaining.as_text(explaining.explained(ref, resource, events)))
    served = {cascade.cascade: cascade for cascade in _view(cluster, router, api_key).cascades}
    for line in decisions(served.get(str(ref))):
        typer.echo(line)


@app.command()
def plan(
    name: Name,
    demand: Annotated[float, typer.Option(min=0.0, help="Requests per second to plan for.")],
    namespace: Namespace = "",
    json: Json = False,
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Print what would be decided for a demand, with the cascade and the profile that the cluster has."""
    from cascade_api.documents import load_cascades
    from cascade_operator import whatif

    cluster = _cluster(context, kubeconfig)
    ref = _ref(cluster, namespace, name)
    resource = cluster.get(KIND, name, "--namespace", ref.namespace)
    profile = cluster.get(PROFILES, resource["spec"]["profileRef"]["name"], "--namespace", ref.namespace)
    manifest = yaml.safe_dump_all([_bare(resource), _bare(profile)])
    decided = whatif.decide_for(load_cascades(manifest, source=str(ref)), demand=demand, source=str(ref))
    typer.echo(whatif.as_json(decided) if json else whatif.as_text(decided))


@app.command()
def generate(
    name: Name,
    prompt: Annotated[str, typer.Argument(help="What the image shows.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file to write.")] = Path("image.png"),
    seed: Annotated[int | None, typer.Option(help="Seed of the image; default: random.")] = None,
    deadline: Annotated[str, typer.Option(help="Time allowed, such as 2s; default: the objective.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print how the image was made as JSON.")] = False,
    namespace: Namespace = "",
    router: RouterOption = "",
    api_key: ApiKey = "",
    context: Context = "",
    kubeconfig: Kubeconfig = "",
) -> None:
    """Generate one image."""
    from cascade_router import commands

    cluster = _cluster(context, kubeconfig)
    ref = _ref(cluster, namespace, name)
    with cluster.router(router) as reached:
        commands.generate(
            prompt,
            output=output,
            as_json=json,
            cascade=f"{ref.namespace}.{ref.name}",
            seed=seed,
            deadline=deadline,
            grpc=reached.grpc,
            api_key=api_key,
        )


def _cluster(context: str, kubeconfig: str) -> Cluster:
    return Cluster(
        [
            *(["--context", context] if context else []),
            *(["--kubeconfig", kubeconfig] if kubeconfig else []),
        ]
    )


def _ref(cluster: Cluster, namespace: str, name: str) -> CascadeRef:
    return CascadeRef(namespace or cluster.namespace(), name)


def _ref_of(resource: Object) -> CascadeRef:
    return CascadeRef(resource["metadata"]["namespace"], resource["metadata"]["name"])


def _status_of(resource: Object) -> CascadeStatus | None:
    return CascadeStatus.model_validate(resource["status"]) if resource.get("status") else None


def _view(cluster: Cluster, router: str, api_key: str) -> ConsoleView:
    with cluster.router(router) as reached:
        return Source(f"http://{reached.http}", api_key=api_key).look()


def _bare(resource: Object) -> Object:
    """A resource as somebody would write it."""
    meta = resource["metadata"]
    kept = {"name": meta["name"], "namespace": meta["namespace"]}
    return {**{key: resource[key] for key in ("apiVersion", "kind", "spec")}, "metadata": kept}


def _data(cascade: str, status: CascadeStatus | None, view: CascadeView | None) -> dict[str, Any]:
    return {
        "cascade": cascade,
        "status": None if status is None else status.wire(),
        "now": None if view is None else encoder.loads(view.model_dump_json(by_alias=True, exclude={"samples"})),
    }
