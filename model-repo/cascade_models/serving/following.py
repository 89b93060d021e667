"""Follows the recipe of a model that is loaded: adapters may come while it serves, and are fetched beside its work.

The agent writes a new `config.pbtxt` when the manifest changes. Triton reads it only when it loads the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cascade_models import weights
from cascade_models.recipe import Recipe

EVERY_S: Final = 2.0


class Following:
    """Looks into a model's `config.pbtxt` every two seconds, and hands over the recipe, until closed."""

    def __init__(self, config: Path, follow: Callable[[Recipe], None], *, every_s: float = EVERY_S) -> None:
        self._config = config
        self._follow = follow
        self._every_s = every_s
        self._problem = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="following", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking; a download that is under way ends with the process."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            try:
                self._follow(Recipe.in_config(self._config.read_text(encoding="utf-8")))
                self._problem = ""
            except Exception as error:
                # The file may be gone for a moment, and the model serves without it.
                if str(error) != self._problem:
                    weights.say(f"{self._config} cannot be followed: {error!r}")
                self._problem = str(error)
