"""Writes which packages environments hold, as CycloneDX 1.6 in JSON.

Usage, with what build.lock installs: sbom.py LOCK FILE PREFIX...
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL


def main(lock: str, file: Path, prefixes: list[Path]) -> None:
    """Writes what lies in the site-packages of ``prefixes`` to ``file``."""
    bom = Bom()
    bom.metadata.component = Component(name=f"diffusion-cascade-{lock}", type=ComponentType.CONTAINER)
    sites = [str(site) for prefix in prefixes for site in prefix.glob("lib/python3.*/site-packages")]
    for package in distributions(path=sites):
        name = re.sub(r"[-_.]+", "-", package.name).lower()
        url = PackageURL("pypi", name=name, version=package.version)
        component = Component(
            name=name, version=package.version, type=ComponentType.LIBRARY, purl=url, bom_ref=url.to_string()
        )
        bom.components.add(component)
    bom.register_dependency(bom.metadata.component, bom.components)
    file.write_text(JsonV1Dot6(bom).output_as_string(indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(prefix) for prefix in sys.argv[3:]])
