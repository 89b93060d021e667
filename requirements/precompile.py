"""Compiles what the modules of this distribution import, and nothing else: in a container nothing can be compiled.

Usage, with the Python of PREFIX: precompile.py PREFIX. The modules of PREFIX.product are imported; what is compiled is
put there, too, and never compared with its source again.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from py_compile import PycInvalidationMode, compile
from typing import Final

PACKAGES: Final = ("cascade_api", "cascade_operator", "cascade_router", "cascade_profiler", "cascade_models")


def main(prefix: Path) -> None:
    """Imports all that can be imported with the libraries of ``prefix``, and compiles it into ``PREFIX.product``."""
    product = prefix.with_name(f"{prefix.name}.product")
    (site,) = product.glob("lib/python3.*/site-packages")
    sys.path.insert(0, str(site))
    for name in PACKAGES:
        folder = [str(site / name)]
        for module in pkgutil.walk_packages(folder, f"{name}.", onerror=lambda _: None):
            if not module.name.endswith("__main__"):
                try_import(module.name)
    sources = {str(getattr(module, "__file__", "")) for module in list(sys.modules.values())}
    for source in (Path(source) for source in sources if source.endswith(".py")):
        for root in (product, prefix):
            if source.is_relative_to(root):
                path = source.relative_to(root)
                compiled = importlib.util.cache_from_source(str(product / path))
                mode = PycInvalidationMode.UNCHECKED_HASH
                compile(str(source), compiled, str(prefix / path), doraise=True, invalidation_mode=mode)


def try_import(name: str) -> None:
    """Imports a module, unless it is for another image: then its libraries are not here."""
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a library says where a part of it is missing
        sys.stderr.write(f"precompile.py: without {name}: {error}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
