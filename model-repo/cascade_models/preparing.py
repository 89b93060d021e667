"""Prepares models before they are served: `python -m cascade_models.preparing` in the environment that serves them.

`cascade model-repo fetch`, `export` and `resolve` start it there. It reads recipes from standard input, as a JSON list
of their parameters.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Final

from cascade_models import pipelines, weights
from cascade_models.pipelines import adapter_files, diffusion_files
from cascade_models.recipe import Recipe

EXIT_CODE: Final = 2


def fetch(recipes: list[Recipe], *, on_cpu: bool) -> None:
    """Download the files of all pipelines, and of their adapters, into the cache."""
    for recipe in recipes:
        parts = diffusion_files.fetch(recipe, diffusion_files.dtype_of(recipe, "cpu" if on_cpu else "cuda"))
        sys.stdout.write(f"{recipe.source}: {parts.folder}\n")
        for adapter in recipe.adapters.values():
            place = adapter_files.fetch(adapter, limit_mib=recipe.adapter_memory_mib)
            sys.stdout.write(f"{adapter.source}: {place}\n")


def export(recipes: list[Recipe]) -> None:
    """Build what the engines need, and make an image with each model."""
    for recipe in recipes:
        pipelines.load(dataclasses.replace(recipe, discriminator=""))
        sys.stdout.write(f"{recipe.source}: engine {recipe.engine} is ready\n")


def main(arguments: list[str]) -> int:
    """Run the command; every error is printed in one line, with exit code 2."""
    options = argparse.ArgumentParser(prog="cascade_models.preparing", description=__doc__)
    commands = options.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch").add_argument("--cpu", action="store_true")
    commands.add_parser("export")
    resolving = commands.add_parser("resolve")
    resolving.add_argument("source")
    resolving.add_argument("revision")
    chosen = options.parse_args(arguments)
    try:
        if chosen.command == "resolve":
            sys.stdout.write(weights.resolve(chosen.source, chosen.revision) + "\n")
            return 0
        recipes = [Recipe.of_parameters(parameters) for parameters in json.load(sys.stdin)]
        if chosen.command == "fetch":
            fetch(recipes, on_cpu=chosen.cpu)
        else:
            export(recipes)
    except (ValueError, RuntimeError) as error:
        sys.stderr.write(f"cascade: {error}\n")
        return EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
