"""`cascade up --detach`: starts a run as a separate process, and reads its reports until it is ready.

It imports little, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import subprocess

from cascade_api.command import CommandFailed

from .console import Say
from .logs import log_tail
from .options import LocalOptions
from .state import StateDir
from .supervisor import script


def start(options: LocalOptions, *, say: Say) -> str:
    """Start a run in a session of its own, and wait until it is ready; returns the greeting for the user.

    Raises CommandFailed if it cannot start; then nothing is left running.
    """
    state = StateDir(options.state_dir)
    state.prepare()
    output = state.log_file("supervisor")
    reading, writing = os.pipe()
    with output.open("ab") as log:
        process = subprocess.Popen(
            [script("cascade"), "up", *_arguments(options), f"--ready-fd={writing}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writing],
            start_new_session=True,
            cwd="/",
            # Not as an argument: everybody who lists processes could read the password.
            env={**os.environ, "REDIS_URL": options.redis_url or ""},
        )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            for line in pipe:
                message = json.loads(line)
                if "say" in message:
                    say(message["say"])
                elif "ready" in message:
                    return str(message["ready"])
                else:
                    process.wait()
                    raise CommandFailed(message["failed"], code=message["code"])
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    status = process.wait()
    raise CommandFailed(f"`cascade up` ended with {status} before it was ready; {output}:\n{log_tail(output)}")


def _arguments(options: LocalOptions) -> list[str]:
    return [
        f"--file={options.manifest.resolve()}",
        f"--grpc={options.grpc}",
        f"--http={options.http}",
        f"--state-dir={options.state_dir.absolute()}",
    ]
