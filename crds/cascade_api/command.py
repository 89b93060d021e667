"""The `cascade` command, which consists of the subcommands of all installed components.

Each component registers its subcommands through the entry-point group ``cascade.commands``. A component whose libraries
are not installed is left out, so that the command in an image only shows what works there.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from .failures import CommandFailed

__all__ = ["CommandFailed", "build", "check_text", "main", "read_text", "seconds"]

LONGEST_S: Final = 30 * 24 * 3600.0
"""A longer duration, in seconds, is taken for a mistake."""
_INTERRUPTED: Final = 130
_NOT_INSTALLED: Final = 2


def build() -> typer.Typer:
    """The command line of all installed components."""
    app = typer.Typer(
        name="cascade",
        help="Serve cascades of text-to-image diffusion models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for entry in sorted(importlib.metadata.entry_points(group="cascade.commands"), key=lambda e: e.name):
        try:
            register = entry.load()
        except ModuleNotFoundError as missing:
            if missing.name is not None and missing.name.startswith("cascade_"):
                raise
            continue
        register(app)
    return app


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cascade {importlib.metadata.version('diffusion-cascade')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serve cascades of text-to-image diffusion models."""


def main() -> None:
    """Run the command. An error that the user can fix is printed as a message, without a traceback."""
    try:
        build()()
    except CommandFailed as failure:
        for line in str(failure).splitlines():
            sys.stderr.write(f"cascade: {line}\n")
        sys.exit(failure.code)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("cascade_"):
            raise
        sys.stderr.write(
            f"cascade: this command needs {missing.name}, which is not installed here: "
            "an image contains only what its own component needs; install diffusion-cascade[local] for all commands\n"
        )
        sys.exit(_NOT_INSTALLED)
    except KeyboardInterrupt:  # while the command is being loaded; later, typer exits in the same way
        sys.exit(_INTERRUPTED)


def check_text(text: str, *, option: str) -> None:
    """Raise CommandFailed for an argument that is not UTF-8, because it cannot be sent in a message."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CommandFailed(f"{option}: is not valid UTF-8", code=2) from None


def read_text(file: Path, *, option: str = "--file") -> str:
    """The text of the file that ``option`` names; raises CommandFailed with exit code 2 if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{option}: cannot read {file}: {error.strerror}", code=2) from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{option}: {file} is not UTF-8 text: {error}", code=2) from None


def seconds(text: str, *, option: str) -> float:
    """The seconds of ``30``, ``30s``, ``500ms`` or ``2m``, at most LONGEST_S. Raises CommandFailed with the option."""
    from .quantities import duration_s

    try:
        value = float(text) if text.replace(".", "", 1).isdigit() else duration_s(text)
    except (ValueError, OverflowError):
        raise CommandFailed(f"{option}: {text!r} is not a duration: write for example 30s", code=2) from None
    if value <= 0:
        raise CommandFailed(f"{option}: must be above zero", code=2)
    if value > LONGEST_S:
        raise CommandFailed(f"{option}: {text} is more than {LONGEST_S / 3600:g}h", code=2)
    return value


if __name__ == "__main__":
    main()
