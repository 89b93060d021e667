"""Network addresses as options and settings write them: ``HOST:PORT``, or ``[IPv6]:PORT``."""

from __future__ import annotations

import re


def split_address(text: str) -> tuple[str, int]:
    """The host, without brackets, and the port (0 to 65535). Raises ValueError, which names the accepted form."""
    match = re.fullmatch(r"(.+):([0-9]{1,5})", text)
    host = match[1].removeprefix("[").removesuffix("]") if match else ""
    if match is None or not host or int(match[2]) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT; write for example 127.0.0.1:8001")
    return host, int(match[2])
