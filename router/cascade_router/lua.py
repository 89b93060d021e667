"""Constants that Lua scripts share with Python: defined once, in Python, and put before a script's source."""

from __future__ import annotations

import json
from enum import Enum


def constants(**values: str | float | type[Enum]) -> str:
    """One line of Lua that defines ``values`` as locals.

    Of an enum of strings each member is one, called after the enum and itself: ``constants(STATE=JobState)`` defines
    ``STATE_QUEUED`` and so on. A script that misspells a name fails at once, as Lua in Redis knows no other globals.
    """
    locals_: dict[str, str | float] = {}
    for name, value in values.items():
        if isinstance(value, type):
            locals_ |= {f"{name}_{member.name}": str(member.value) for member in value}
        else:
            locals_[name] = value
    # JSON writes strings and numbers as Lua reads them.
    return f"local {', '.join(locals_)} = {', '.join(map(json.dumps, locals_.values()))}\n"
