"""`cascade model-repo …`: the commands of this component.

Libraries are imported where they are used, because every `cascade` command loads this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXIT_CODE = 2

models = typer.Typer(help="Render Triton model repositories.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this component's commands to `cascade`."""
    app.add_typer(models, name="model-repo")


@models.command()
def render(
    file: Annotated[Path, typer.Option("--file", "-f", help="manifest with a DiffusionCascade and its profile")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="the repository; created if it does not exist")],
    previews: Annotated[
        bool, typer.Option("--previews", help="answer in a stream, with previews: for clients without a router")
    ] = False,
) -> None:
    """Make DIR the Triton repository of a manifest's variants: one model for all that share their weights."""
    from cascade_models import manifest, repository

    try:
        variants = manifest.read_variants(file.read_text(encoding="utf-8"))
        models = repository.models_of(variants)
        changed = repository.render(models, directory, previews=previews)
    except OSError as error:
        raise _failure(f"{error.filename}: {error.strerror}") from None
    except (manifest.ManifestError, UnicodeDecodeError) as error:
        raise _failure(f"{file}: {error}") from None
    for model, recipe in models.items():
        state = "changed" if model in changed else "unchanged"
        typer.echo(f"{directory / model}: {', '.join(recipe.settings)} ({state})")
    for model in sorted(set(changed) - set(models)):
        typer.echo(f"{directory / model}: removed")


@models.command("list")
def list_(
    json_: Annotated[bool, typer.Option("--json", help="print everything that is known about them as JSON")] = False,
) -> None:
    """List the known public variants, and the cascades that they form."""
    import json

    from cascade_models import catalogue

    try:
        entries, cascades = catalogue.entries().values(), catalogue.cascades()
    except catalogue.CatalogueError as error:
        raise _failure(str(error)) from None
    if json_:
        chains = {name: [entry.name for entry in members] for name, members in cascades.items()}
        typer.echo(json.dumps({"variants": [entry.wire() for entry in entries], "cascades": chains}, indent=2))
        return
    for entry in entries:
        size, memory = f"{entry.height}x{entry.width}", f"{entry.weights_mib / 1024:.1f} GiB"
        gated = ", gated" if entry.gated else ""
        typer.echo(
            f"{entry.name:18} {size:10} {entry.steps:3} steps {memory:>9} {entry.assembly.dtype:9} "
            f"{','.join(entry.engines):32} {entry.source}@{entry.revision[:8]} ({entry.licence}{gated})"
        )
    for name, members in cascades.items():
        typer.echo(f"{name}: {' -> '.join(entry.name for entry in members)}")


@models.command()
def revision(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="a model of your own, for file://DIR")] = None,
) -> None:
    """Print the revision of the built-in shapes models, or of a folder, for use in a manifest."""
    from cascade_models import weights
    from cascade_models.pipelines import shapes

    if folder is not None and not folder.is_dir():
        raise _failure(f"no folder {folder}")
    try:
        typer.echo(shapes.revision() if folder is None else weights.revision_of(folder))
    except (RuntimeError, OSError) as error:
        raise _failure(str(error)) from None


@models.command()
def resolve(
    source: Annotated[str, typer.Argument(help="hf://owner/name")],
    name: Annotated[str, typer.Argument(metavar="[REVISION]", help="branch or tag")] = "main",
) -> None:
    """Ask the hub which commit a branch or tag has now, for use in a manifest."""
    _prepare(["resolve", source, name])


@models.command()
def fetch(
    file: Annotated[Path, typer.Option("--file", "-f", help="manifest with a DiffusionCascade")],
    cpu: Annotated[bool, typer.Option("--cpu", help="use the number format for the CPU")] = False,
) -> None:
    """Download the weights of a manifest's variants into the model cache (HF_HOME), before they are served."""
    _prepare(["fetch", *(["--cpu"] if cpu else [])], file)


@models.command()
def export(
    file: Annotated[Path, typer.Option("--file", "-f", help="manifest with a DiffusionCascade")],
) -> None:
    """Build what the engines of a manifest's variants need (ONNX, TensorRT) into the model cache, on this machine."""
    _prepare(["export"], file)


def _prepare(arguments: list[str], file: Path | None = None) -> None:
    """Run `cascade_models.preparing` in the environment that serves models, with the recipes of a manifest."""
    import json
    import os
    import subprocess
    import sys

    from cascade_models import manifest, repository
    from cascade_models.agent import installation as installations
    from cascade_models.agent.setting_up import default_environment
    from cascade_models.recipe import BUILTIN

    recipes = []
    try:
        if file is not None:
            models = repository.models_of(manifest.read_variants(file.read_text(encoding="utf-8")))
            recipes = [recipe.parameters() for recipe in models.values() if not recipe.source.startswith(BUILTIN)]
            if not recipes:
                typer.echo(f"{file}: nothing to {arguments[0]}: all of its models are built in")
                return
        installation = installations.Installation.find(default_environment().absolute())
        package = installations.server_folder(installation) / "backends" / "python"
    except OSError as error:
        raise _failure(f"{error.filename}: {error.strerror}") from None
    except (manifest.ManifestError, UnicodeDecodeError) as error:
        raise _failure(f"{file}: {error}") from None
    except installations.LaunchError as error:
        raise _failure(str(error)) from None
    sys.stdout.flush()
    done = subprocess.run(
        [installation.environment / "bin" / "python", "-m", "cascade_models.preparing", *arguments],
        input=json.dumps(recipes),
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    if done.returncode:
        raise typer.Exit(EXIT_CODE)


def _failure(message: str) -> typer.Exit:
    typer.echo(f"cascade: {message}", err=True)
    return typer.Exit(EXIT_CODE)
