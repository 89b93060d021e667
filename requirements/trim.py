"""Removes from an environment what `left_out.toml` names for its lock, and from libraries what is never loaded.

Usage, with any Python of 3.11 or later: trim.py libraries|product LOCK PREFIX
"""

from __future__ import annotations

import re
import shutil
import struct
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

import tomllib

LIST: Final = Path(__file__).with_name("left_out.toml")
_ELF_64_LITTLE: Final = b"\x7fELF\x02\x01"


def main(part: str, lock: str, prefix: Path) -> None:
    """Trims the environment at ``prefix``; ends with a message where the list names what is not there."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))[part]
    chosen = [entry for entry in entries if lock in entry["locks"]]
    for site in prefix.glob("lib/python3.*/site-packages"):
        leave_out(site, chosen)
        if chosen:
            for library in sorted(site.rglob("*.so*")):
                if library.is_file() and not library.is_symlink():
                    drop_unloaded(library)


def leave_out(site: Path, entries: list[dict[str, Any]]) -> None:
    """Removes the packages and files of ``entries`` from a site-packages."""
    installed = {normal(found.name): found for found in distributions(path=[str(site)])}
    for entry in entries:
        for pattern in entry.get("files", []):
            paths = [path for path in sorted(site.glob(pattern)) if path.exists()]
            if not paths:
                sys.exit(f"{LIST.name}: no file matches {pattern}: take it out of the list")
            for path in paths:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for package in entry.get("packages", []):
            if package not in installed:
                sys.exit(f"{LIST.name}: {package} is not installed: take it out of the list")
            remove(installed[package], site)


def remove(package: Distribution, site: Path) -> None:
    """Removes the files of a package, its programs among them, and the folders that are empty then."""
    for file in package.files or []:
        path = Path(str(package.locate_file(file))).resolve()
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == site.resolve() or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()


def drop_unloaded(library: Path) -> None:
    """Cuts off a shared library what follows the last byte that the loader reads: debugging information, mostly.

    The loader goes by the program's headers alone. The table of sections, at the end, is for debuggers and linkers.
    """
    data = library.read_bytes()
    if not data.startswith(_ELF_64_LITTLE):
        return
    headers_at, _, _, _, size, count = struct.unpack_from("<QQIHHH", data, 0x20)
    end = headers_at + size * count
    for index in range(count):
        offset, _, _, in_file = struct.unpack_from("<QQQQ", data, headers_at + size * index + 8)
        end = max(end, offset + in_file)
    kept = bytearray(data[:end])
    struct.pack_into("<Q", kept, 0x28, 0)  # where the table of sections is
    struct.pack_into("<HH", kept, 0x3C, 0, 0)  # how many there are, and which holds their names
    library.write_bytes(kept)


def normal(name: str) -> str:
    """A package's name as locks have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
