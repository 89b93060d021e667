"""What `cascade up` prints when it is ready: where it listens, how to request an image, how to stop it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

from cascade_api.documents import CascadeFile
from cascade_api.local import Addresses
from cascade_api.workers import Hosting

from .supervisor import script

PROMPT = "a small red circle left of a large blue square"
_SAVE = (
    "python3 -c 'import base64, json, sys; "
    'sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))\''
)


def text(file: CascadeFile, addresses: Addresses, *, took_s: float, state_dir: Path | None, detached: bool) -> str:
    """The lines to print."""
    program = _program(here=not detached)
    models = [cascade.metadata.name for cascade in file.cascades]
    where = f" --state-dir {shlex.quote(str(state_dir))}" if state_dir is not None else ""
    which = f" --cascade {models[0]}" if len(models) > 1 else ""
    body = json.dumps({"model": models[0], "prompt": PROMPT})
    stop = f"{program} down{where}" if detached else "Ctrl-C"
    return f"""
Ready after {took_s:.1f} s. Models: {", ".join(models)}
{_workers(file)}
  gRPC  {addresses.grpc} (KServe v2, any Triton client)
  HTTP  http://{addresses.http} (POST /v1/images/generations, /metrics)
  Page  http://{addresses.http}/ to see what it does and why, and to try prompts in a browser

Ask for a picture:
  {program} generate "{PROMPT}" -o out.png{which}{where}
  curl -s http://{addresses.http}/v1/images/generations -H 'content-type: application/json' \\
    -d '{body}' | {_SAVE} > out.png
Put load on it:      {program} load --rate 10 --duration 30{which}{where}
See what it does:    {program} status{where}
Ask why:             {program} explain{where}
Stop it:             {stop}
"""


def _workers(file: CascadeFile) -> str:
    """How many workers there are for each cascade, or in each WorkerPool, and what they host."""
    lines = []
    for shared in file.pools:
        count = shared.spec.workers.max
        lines.append(f"  {shared.metadata.name}: at most {count} workers, which the cascades that name it share")
    for cascade in file.cascades:
        for pool in (each for each in cascade.spec.workers if each.pool is None):
            variants = " and ".join(v.name for v in cascade.spec.variants if pool in cascade.spec.pools_of(v))
            hosts = f"each hosts {variants}" if pool.hosting is Hosting.SHARED else f"each hosts one of {variants}"
            lines.append(f"  {cascade.metadata.name}: {pool.max} workers, {hosts}")
    return "\n".join(lines)


def _program(*, here: bool) -> str:
    """How to call this program in a shell: by name if PATH has it, else by path (relative if ``here`` and shorter)."""
    path = script("cascade")
    found = shutil.which("cascade")
    if found is not None and os.path.samefile(found, path):
        return "cascade"
    relative = os.path.relpath(path)
    # A name without a slash would be looked up in PATH.
    nearest = min(path, relative if os.sep in relative else f"./{relative}", key=len)
    return shlex.quote(nearest if here else path)
