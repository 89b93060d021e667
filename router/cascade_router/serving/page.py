"""The playground page: one self-contained document."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
