"""Marks files of images with a C2PA manifest, which says that a model made them and is signed with a given key.

The key and the chain of certificates are files that the environment names. The manifest has the model's name and the
product's version, and nothing of the request. Only answers are marked: what is shown meanwhile is not.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from cascade_models import VERSION
from cascade_models.serving.encoding import Form, encode

CERTIFICATES: Final = "CASCADE_C2PA_CERTIFICATE_FILE"
KEY: Final = "CASCADE_C2PA_KEY_FILE"
ALGORITHM: Final = "CASCADE_C2PA_ALGORITHM"
"""Variables of the environment."""

ALGORITHMS: Final = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")

_SOURCE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for what a model made."""
_SETTINGS: Final = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
"""A thumbnail would be up to a thousand times as large as the rest. One image is verified at the start."""


class Marker:
    """Signs files of images; thread-safe.

    Args:
        certificates, key: PEM; the signer's certificate comes first, then those above it.
        algorithm: that of the key, one of `ALGORITHMS`.
        model, revision: what the manifest says made the image.
        version: of the product.

    Raises:
        ValueError: no image can be signed so that its manifest verifies, and why.
    """

    def __init__(
        self, certificates: bytes, key: bytes, algorithm: str, *, model: str, revision: str, version: str
    ) -> None:
        try:
            # 60 ms and 10 MB that only those pay for who want marks.
            import c2pa  # type: ignore[import-untyped]
        except ImportError:
            raise ValueError(f"{CERTIFICATES}: Triton's environment lacks c2pa-python; set it up anew") from None
        if algorithm not in ALGORITHMS:
            raise ValueError(f"{ALGORITHM}: {algorithm!r:.40} is none of {', '.join(ALGORITHMS)}")
        self._c2pa = c2pa
        self._manifest = json.dumps(_manifest(model=model, revision=revision, version=version))
        self._given = algorithm.encode(), certificates, key
        self._of_thread = threading.local()
        try:
            file = self.mark(encode(np.zeros((8, 8, 3), dtype=np.uint8), Form()), "png")
            verdict = c2pa.Reader("image/png", io.BytesIO(file)).get_validation_state()
        except c2pa.C2paError as error:
            raise ValueError(_unusable(str(error))) from None
        if verdict not in ("Valid", "Trusted"):
            raise ValueError(_unusable("the signature of an image does not verify, so they do not belong together"))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], *, model: str, revision: str) -> Marker | None:
        """The marker that the environment asks for; None if it asks for none. Raises ValueError naming the variable."""
        given = {name: environment.get(name, "") for name in (CERTIFICATES, KEY)}
        if not any(given.values()):
            return None
        for name, path in given.items():
            if not path:
                (other,) = set(given) - {name}
                raise ValueError(f"{name}: is missing beside {other}; set both, or neither")
        certificates, key = (_read(name, path) for name, path in given.items())
        algorithm = environment.get(ALGORITHM) or ALGORITHMS[0]
        version = environment.get(VERSION, "")
        return cls(certificates, key, algorithm, model=model, revision=revision, version=version)

    def mark(self, file: bytes, form: str) -> bytes:
        """The file of an image with a manifest in it; the pixels stay as they are."""
        marked = io.BytesIO()
        builder = self._c2pa.Builder(self._manifest, context=self._context)
        try:
            builder.sign(self._signer, f"image/{form}", io.BytesIO(file), marked)
        finally:
            builder.close()
        return marked.getvalue()

    @property
    def _signer(self) -> Any:
        """The signer of this thread: the library does not say whether threads may share one."""
        if not hasattr(self._of_thread, "signer"):
            info = self._c2pa.C2paSignerInfo(*self._given, b"")
            info.ta_url = None  # no server is asked for the time
            self._of_thread.signer = self._c2pa.Signer.from_info(info)
        return self._of_thread.signer

    @property
    def _context(self) -> Any:
        if not hasattr(self._of_thread, "context"):
            self._of_thread.context = self._c2pa.Context(self._c2pa.Settings.from_dict(_SETTINGS))
        return self._of_thread.context


def _manifest(*, model: str, revision: str, version: str) -> dict[str, Any]:
    made_by = {"name": model, **({"version": revision} if revision else {})}
    product = {"name": "Diffusion Cascade", **({"version": version} if version else {})}
    created = {"action": "c2pa.created", "digitalSourceType": _SOURCE, "softwareAgent": made_by}
    return {
        "claim_generator_info": [product],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ValueError(f"{name}: {path} cannot be read ({why}); name a PEM file that the worker may read") from None


def _unusable(why: str) -> str:
    return f"{CERTIFICATES}, {KEY}, {ALGORITHM}: images cannot be signed with these: {why[:200]}"
