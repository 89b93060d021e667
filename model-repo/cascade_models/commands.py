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
    """Adds this component's commands to `cascade`."""
    app.add_typer(models, name="model-repo")


@models.command()
def render(
    file: Annotated[Path, typer.Option("--file", "-f", help="manifest with a DiffusionCascade and its profile")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="the repository; made if it is not there")],
) -> None:
    """Make DIR the Triton repository of a manifest's variants."""
    from cascade_models import manifest, repository

    try:
        variants = manifest.read_variants(file.read_text(encoding="utf-8"))
        changed = repository.render(variants, directory)
    except OSError as error:
        raise _failure(f"{error.filename}: {error.strerror}") from None
    except (manifest.ManifestError, UnicodeDecodeError) as error:
        raise _failure(f"{file}: {error}") from None
    names = ", ".join(variant.name for variant in variants)
    typer.echo(f"{directory}: {names} ({'changed: ' + ', '.join(changed) if changed else 'unchanged'})")


@models.command()
def revision() -> None:
    """Print the revision of the built-in shapes models, which manifests pin."""
    from cascade_models.pipelines import shapes

    try:
        typer.echo(shapes.revision())
    except RuntimeError as error:
        raise _failure(str(error)) from None


def _failure(message: str) -> typer.Exit:
    typer.echo(f"cascade: {message}", err=True)
    return typer.Exit(EXIT_CODE)
