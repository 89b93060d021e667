"""Keeps what is built once for a model, such as ONNX files and TensorRT engines; each result is one complete folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cascade_models import weights
from cascade_models.engines import EngineError

DESCRIPTION: Final = "made-of.json"


def built(identity: Mapping[str, object], build: Callable[[Path], object]) -> Path:
    """The folder with the result of ``build``; if it does not exist, ``build`` is called with an empty folder.

    ``identity`` must contain everything that the result depends on. If several replicas build at the same time, the
    first result is kept. Raises EngineError if the cache cannot be written.
    """
    text = json.dumps(identity, sort_keys=True, default=str)
    parent = weights.cache() / "cascade" / "engines"
    folder = parent / hashlib.sha256(text.encode()).hexdigest()[:24]
    if folder.is_dir():
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    except OSError as error:
        raise EngineError(f"cannot write {parent}: {error.strerror}: name a folder of yours in HF_HOME") from None
    try:
        build(scratch)
        (scratch / DESCRIPTION).write_text(text, encoding="utf-8")
        scratch.chmod(0o755)
        scratch.rename(folder)
    except OSError as error:
        if not folder.is_dir():
            why = error.strerror or os.strerror(error.errno or 0)
            raise EngineError(f"cannot write {folder}: {why}: make room there") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
