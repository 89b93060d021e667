"""Every command of this product that a page shows exists, with the options that the page gives it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cascade_api.command import build
from cascade_profiler.kubectl.plugin import app as kubectl_plugin

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in (ROOT / "README.md", *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md"))
    if "reference" not in page.parts and "node_modules" not in page.parts
)
SHOWN = re.compile(r"^(?:.*[|&;] *|.* -- |\.venv/bin/)?(kubectl cascade|cascade) ([a-z-].*)$")
"""A line of a shell block that runs one of the commands; after `;` or a pipe or in a pod, too."""


def commands_shown() -> list[Any]:
    found = []
    for page in PAGES:
        for block in re.findall(r"^```(?:sh|console|bash)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if shown := SHOWN.match(line.strip()):
                    found.append(pytest.param(*shown.groups(), id=f"{page.name}: {line.strip()[:60]}"))
    return found


def test_pages_show_commands() -> None:
    assert len(commands_shown()) > 40


@pytest.mark.parametrize(("program", "rest"), commands_shown())
def test_a_command_that_a_page_shows_exists_with_its_options(program: str, rest: str) -> None:
    command: Any = typer.main.get_command(kubectl_plugin if program.startswith("kubectl") else build())
    words = shlex.split(rest, comments=True)
    while words and hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, f"there is no `{program} {name}`"
        command = command.commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    ends = next((i for i, word in enumerate(words) if word in ("|", ">", "&", "&&", ";") or word.endswith(";")), None)
    given = {word.partition("=")[0] for word in words[:ends] if re.match(r"--?[a-z]", word)}
    assert given <= known | {"--help"}, f"{program} {rest}"
