"""`timeout`: asyncio's own where Python has it, else that of the package that redis brings."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout

__all__ = ["timeout"]
