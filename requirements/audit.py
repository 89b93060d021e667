"""Look for known vulnerabilities in every pinned release (`make audit`).

PyPI's vulnerability service is asked about packages, and it is said where that does not answer. It knows nothing of
images, so what NVIDIA has published of Triton stands here.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

HERE = Path(__file__).parent
KNOWN = "jinja2==2.10"
"""A release whose vulnerabilities are known for years: a service that has none for it tells nothing."""

TRITON_FIXED: Final = {
    "25.07": ("CVE-2025-23310", "CVE-2025-23311", "CVE-2025-23319", "CVE-2025-23320", "CVE-2025-23334"),
    "26.04": ("CVE-2026-24206", "CVE-2026-24207", "CVE-2026-24208", "CVE-2026-24209"),
}
"""Vulnerabilities of Triton by the first release of NVIDIA's image without them (security bulletins 5687 and 5828)."""
WHEEL: Final = ("nvidia-pytriton==0.7.0", "24.10")
"""The last wheel with a Triton, and the release that it is of: for one machine, and for tests on clusters."""


def triton_vulnerabilities(release: str) -> list[str]:
    """What is known of a release of Triton's image, such as ``25.06``."""
    return [name for fixed, names in TRITON_FIXED.items() if _number(release) < _number(fixed) for name in names]


def image_release(dockerfile: str) -> str:
    """The release of Triton that a Dockerfile builds on; raises ValueError where it names none."""
    found = re.search(r"^ARG BASE=\S+/tritonserver:(\d+\.\d+)", dockerfile, flags=re.MULTILINE)
    if found is None:
        raise ValueError("the Dockerfile names no release of Triton's image")
    return found[1]


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def audit_triton() -> bool:
    """Whether the image's Triton has no known vulnerability; says what is known of it, and of the wheel's."""
    release = image_release((HERE.parent / "model-repo" / "Dockerfile").read_text())
    found = triton_vulnerabilities(release)
    sys.stdout.write(f"audit: Triton {release} of the image: {', '.join(found) or 'nothing known'}\n")
    wheel, old = WHEEL
    for lock in sorted(HERE.glob("*.lock")):
        if wheel in lock.read_text():
            known = len(triton_vulnerabilities(old))
            sys.stdout.write(f"audit: {lock.name}: {wheel} is Triton {old}, {known} known: never for production\n")
    return not found


def audit(requirements: Path) -> subprocess.CompletedProcess[str]:
    """pip-audit's verdict on one file of pinned releases; its exit code is 1 where something was found."""
    command = [
        str(Path(sys.executable).parent / "pip-audit"),
        "--no-deps",
        "--disable-pip",
        "--progress-spinner",
        "off",
    ]
    return subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True, check=False)


def answers() -> bool:
    """Whether the service knows what is known."""
    with tempfile.TemporaryDirectory() as directory:
        trial = Path(directory) / "known.txt"
        trial.write_text(KNOWN + "\n")
        return audit(trial).returncode == 1


def main() -> None:
    """Exit code 1 where a pinned release is vulnerable, 2 where nothing could be found out about packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--if-possible", action="store_true", help="exit code 0 where the service does not answer")
    arguments = parser.parse_args()
    vulnerable = [] if audit_triton() else ["the image's Triton"]
    if not answers():
        sys.stdout.write(f"audit: packages: NOT DONE: the service does not answer here (it knows nothing of {KNOWN})\n")
        sys.exit(1 if vulnerable else 0 if arguments.if_possible else 2)
    for lock in sorted(HERE.glob("*.lock")):
        verdict = audit(lock)
        sys.stdout.write(f"audit: {lock.name}: {'vulnerable' if verdict.returncode else 'nothing known'}\n")
        if verdict.returncode:
            vulnerable.append(lock.name)
            sys.stdout.write(verdict.stdout + verdict.stderr)
    sys.exit(1 if vulnerable else 0)


if __name__ == "__main__":
    main()
