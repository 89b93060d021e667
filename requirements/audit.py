"""Ask PyPI's vulnerability service about every pinned release (`make audit`); says so where it does not answer."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
KNOWN = "jinja2==2.10"
"""A release whose vulnerabilities are known for years: a service that has none for it tells nothing."""


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
    """Exit code 1 where a pinned release is vulnerable, 2 where nothing could be found out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--if-possible", action="store_true", help="exit code 0 where the service does not answer")
    arguments = parser.parse_args()
    if not answers():
        sys.stdout.write(f"audit: NOT DONE: the service does not answer here (it knows nothing of {KNOWN})\n")
        sys.exit(0 if arguments.if_possible else 2)
    vulnerable = []
    for lock in sorted(HERE.glob("*.lock")):
        verdict = audit(lock)
        sys.stdout.write(f"audit: {lock.name}: {'vulnerable' if verdict.returncode else 'nothing known'}\n")
        if verdict.returncode:
            vulnerable.append(lock.name)
            sys.stdout.write(verdict.stdout + verdict.stderr)
    sys.exit(1 if vulnerable else 0)


if __name__ == "__main__":
    main()
