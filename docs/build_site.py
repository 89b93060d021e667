"""Build the documentation as a site: python docs/build_site.py TARGET (`make site`).

Pages stay where they are in the repository, so that their links also work on a forge. The folders of the site are those
of the repository, and README.md is its first page. A link to a page or a heading that does not exist fails the build,
and so does a page of docs/ that the navigation in docs/site.yml leaves out.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "site.yml"
PAGES = ("*.md", "*.svg", "*.png", "*.css", "LICENSE", "examples/*", "router/cascade_router/serving/parameters.py")
"""What the site holds, as patterns for git: pages, pictures, and other files that pages link to."""


def main() -> None:
    """Lay the pages out below TARGET and have Zensical build TARGET/site."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python docs/build_site.py TARGET")
    target = Path(sys.argv[1]).resolve()
    shutil.rmtree(target, ignore_errors=True)
    files = tracked()
    for file in files:
        (target / "pages" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target / "pages" / file)
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    configuration["nav"] = navigation(configuration["nav"], files)
    left_out = {file for file in files if file.startswith("docs/") and file.endswith(".md")}
    left_out -= set(pages_of(configuration["nav"]))
    if left_out:
        sys.exit(f"docs/site.yml has no place for {', '.join(sorted(left_out))}: add them to its navigation")
    (target / "mkdocs.yml").write_text(yaml.safe_dump({**configuration, "docs_dir": "pages", "site_dir": "site"}))
    program = Path(sys.executable).parent / "zensical"
    sys.exit(subprocess.run([program, "build", "--strict"], cwd=target, check=False).returncode)


def tracked() -> list[str]:
    """Files of the site by their paths in the repository, READMEs first: those that git knows, or would add."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *PAGES]
    found = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    present = (file for file in found if (ROOT / file).is_file())
    return sorted(present, key=lambda file: (not file.endswith("README.md"), file))


def navigation(node: Any, files: list[str]) -> Any:
    """The navigation with each pattern, such as ``docs/designs/*.md``, replaced by the pages that it matches."""
    if isinstance(node, dict):
        return {title: navigation(child, files) for title, child in node.items()}
    if isinstance(node, list):
        opened: list[Any] = []
        for child in node:
            is_pattern = isinstance(child, str) and "*" in child
            opened += [file for file in files if Path(file).match(child)] if is_pattern else [navigation(child, files)]
        return opened
    return node


def pages_of(node: Any) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(node, str):
        yield node
    else:
        for child in node.values() if isinstance(node, dict) else node:
            yield from pages_of(child)


if __name__ == "__main__":
    main()
