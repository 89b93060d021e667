"""Finds a model's files: in a folder (`file://`), or in the cache, to which they are downloaded from the hub (`hf://`).

Only files that are needed are downloaded, and an interrupted download continues where it stopped. Each downloaded file
is checked once: its size and, if the hub knows it, its SHA-256 must be right, and the header of a safetensors file must
fit its length. Checked files are recorded beside the cache, so that a complete model can be used without a network.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from cascade_models.recipe import COMMIT, FILE, HUB, RecipeError

SAFETENSORS: Final = ".safetensors"
SAY_EVERY_S: Final = 10.0
"""How often a long download reports its progress."""
_HTTP: Final = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
"""The HTTP libraries that versions of the hub's client use."""
_HEADER_LIMIT: Final = 100_000_000
"""The longest header of a safetensors file that the format allows."""


class WeightsError(RuntimeError):
    """A model's files are not available; the message says why and what to do."""


class Files(Protocol):
    """The files of one revision of a model."""

    @property
    def names(self) -> Sequence[str]:
        """All files of the revision, as paths with slashes."""

    def size(self, name: str) -> int:
        """The bytes of one of these files, before it is fetched; 0 for a file that is not there."""

    def folder(self, names: Sequence[str]) -> Path:
        """The folder that contains these files, all of them complete; raises WeightsError."""


def say(text: str) -> None:
    """Write one line to the log of the server."""
    sys.stderr.write(f"cascade: {text}\n")
    sys.stderr.flush()


def check(source: str, revision: str) -> None:
    """Raise RecipeError unless ``source`` has a valid form and ``revision`` pins it. This needs no network."""
    if source.startswith(FILE):
        place = Path(source.removeprefix(FILE))
        if not place.is_absolute():
            raise RecipeError("source", f"{source!r} is not an absolute path: write {FILE}/path/to/model")
        return
    repository_of(source)
    if not COMMIT.fullmatch(revision):
        raise RecipeError(
            "revision",
            f"{revision!r} is not a commit, and may later mean other files: pin a commit of 40 hexadecimal digits; "
            f"`cascade model-repo resolve {source} {revision}` prints the present one",
        )


def repository_of(source: str) -> str:
    """``owner/name`` of a source on the hub; raises RecipeError."""
    name = source.removeprefix(HUB)
    if not source.startswith(HUB) or name.count("/") != 1 or not all(name.split("/")):
        raise RecipeError("source", f"{source!r} is not a model: write {HUB}owner/name")
    return name


def find(source: str, revision: str) -> Files:
    """The files of a model; the hub is asked unless they are recorded. Raises WeightsError or RecipeError."""
    check(source, revision)
    if source.startswith(FILE):
        return _Folder(Path(source.removeprefix(FILE)), revision)
    return _Snapshot.known(repository_of(source), revision) or _Snapshot.asked(repository_of(source), revision)


def cache() -> Path:
    """The folder for models and for what is built from them, ``HF_HOME``; raises WeightsError if there is none."""
    try:
        return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    except RuntimeError:
        raise WeightsError("there is no home folder here to keep models in: name a folder in HF_HOME") from None


def resolve(source: str, revision: str) -> str:
    """The present commit of a branch or tag; raises WeightsError or RecipeError."""
    repository = repository_of(source)
    with _explained(repository, revision):
        from huggingface_hub import HfApi

        return str(HfApi().model_info(repository, revision=revision).sha)


def revision_of(folder: Path) -> str:
    """The SHA-256 over the names and contents of a folder's files, which a manifest pins for ``file://``."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def check_safetensors(file: Path) -> int:
    """How many numbers a file has, from its header. Raises WeightsError if its length does not fit the header."""
    return sum(numbers_in(file).values())


def numbers_in(file: Path) -> dict[str, int]:
    """How many numbers each tensor of a file has, as `check_safetensors`."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise ValueError("no header")
            header = json.loads(opened.read(length))
        tensors = {key: tensor for key, tensor in header.items() if key != "__metadata__"}
        ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError(f"{size} bytes, not the {8 + length + max(ends, default=0)} that its header says")
        return {key: math.prod(tensor["shape"]) for key, tensor in tensors.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise WeightsError(f"{file} is corrupt ({error}): remove it and start again") from None


@dataclass(frozen=True)
class _Folder:
    """A model in a folder of this machine."""

    path: Path
    revision: str

    @property
    def names(self) -> Sequence[str]:
        return [str(file.relative_to(self.path).as_posix()) for file in sorted(self.path.rglob("*")) if file.is_file()]

    def size(self, name: str) -> int:
        file = self.path / name
        return file.stat().st_size if file.is_file() else 0

    def folder(self, names: Sequence[str]) -> Path:
        if not self.path.is_dir():
            raise WeightsError(f"no folder {self.path}: mount it, or change the variant's source")
        for name in names:
            if not (self.path / name).is_file():
                raise WeightsError(f"{self.path} lacks {name}: it is not a complete diffusers model")
            if name.endswith(SAFETENSORS):
                check_safetensors(self.path / name)
        here = revision_of(self.path)
        if here != self.revision:
            raise WeightsError(f"{self.path} has revision {here}, not {self.revision}: write that revision instead")
        return self.path


@dataclass
class _Snapshot:
    """A commit of a repository on the hub.

    Attributes:
        sizes: the bytes of each file of the commit.
        digests: the SHA-256 of files for which the hub knows it.
        whole: the files that were downloaded and checked on this machine.
    """

    repository: str
    commit: str
    sizes: dict[str, int]
    digests: dict[str, str]
    whole: list[str] = field(default_factory=list)

    @classmethod
    def known(cls, repository: str, commit: str) -> _Snapshot | None:
        """The snapshot as it is recorded on this machine, or None."""
        try:
            return cls(**json.loads(_record(repository, commit).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def asked(cls, repository: str, commit: str) -> _Snapshot:
        """The snapshot as the hub describes it."""
        with _explained(repository, commit):
            from huggingface_hub import HfApi

            info = HfApi().model_info(repository, revision=commit, files_metadata=True)
        files = info.siblings or []
        return cls(
            repository=repository,
            commit=commit,
            sizes={file.rfilename: int(file.size or 0) for file in files},
            digests={file.rfilename: file.lfs.sha256 for file in files if file.lfs is not None},
        )

    @property
    def names(self) -> Sequence[str]:
        return sorted(self.sizes)

    def size(self, name: str) -> int:
        return self.sizes.get(name, 0)

    def folder(self, names: Sequence[str]) -> Path:
        from huggingface_hub import constants

        for name in names:
            if name not in self.sizes:
                raise WeightsError(
                    f"{HUB}{self.repository} has no file {name} at {self.commit}: "
                    "choose a revision that has it, or another source"
                )
        place = Path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}"
        folder = place / "snapshots" / self.commit
        missing = [name for name in names if not self._is_here(folder, name)]
        total, done = sum(self.sizes[name] for name in missing), 0
        for number, name in enumerate(missing, start=1):
            say(
                f"fetching {self.repository} {number}/{len(missing)}: {name}, {_bytes(self.sizes[name])} "
                f"({_bytes(done)} of {_bytes(total)} done)"
            )
            self._fetch(name, folder)
            done += self.sizes[name]
        return folder

    def _is_here(self, folder: Path, name: str) -> bool:
        file = folder / name
        return name in self.whole and file.is_file() and file.stat().st_size == self.sizes[name]

    def _fetch(self, name: str, folder: Path) -> None:
        with _explained(self.repository, self.commit):
            from huggingface_hub import hf_hub_download

            if name in self.digests:
                self._fetch_contents(name, folder.parent.parent / "blobs")
            hf_hub_download(self.repository, name, revision=self.commit, tqdm_class=_Lines)
        file = folder / name
        try:
            self._prove(file, name)
        except WeightsError:
            # The file is a link to its contents. Both are removed, so that the next start downloads them again.
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            raise
        self.whole = [*(known for known in self.whole if known != name), name]
        with _explained(self.repository, self.commit):
            record = _record(self.repository, self.commit)
            record.parent.mkdir(parents=True, exist_ok=True)
            scratch = record.with_name(f".{record.name}.{os.getpid()}")
            scratch.write_text(json.dumps(vars(self)), encoding="utf-8")
            scratch.replace(record)

    def _fetch_contents(self, name: str, blobs: Path) -> None:
        """Download a large file to the place where the hub's client looks for it before it downloads it itself.

        The client cannot continue a download if its process ended; this can.
        """
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.errors import OfflineModeIsEnabled
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        blob = blobs / self.digests[name]
        part = blob.with_name(f"{blob.name}.part")
        blobs.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            if blob.exists():
                part.unlink(missing_ok=True)
                return
            if constants.HF_HUB_OFFLINE:
                raise OfflineModeIsEnabled
            url = hf_hub_url(self.repository, name, revision=self.commit)
            size, there = self.sizes[name], opened.tell()
            http_get(url, opened, resume_size=there, headers=build_hf_headers(), expected_size=size, tqdm_class=_Lines)
            opened.flush()
            part.replace(blob)

    def _prove(self, file: Path, name: str) -> None:
        """Raise WeightsError unless the file is as the hub describes it."""
        size, digest = file.stat().st_size, self.digests.get(name)
        if size != self.sizes[name] or (digest is not None and digest != _sha256(file)):
            raise WeightsError(
                f"{name} of {HUB}{self.repository} was damaged ({size} of {self.sizes[name]} bytes, or other "
                "content) and was removed: start again"
            )
        if name.endswith(SAFETENSORS):
            check_safetensors(file)


class _Lines:
    """Takes the place of the progress bar of the hub's client, and writes a line now and then instead."""

    def __init__(self, *_: Any, total: float | None = None, initial: float = 0, desc: str = "", **__: Any) -> None:
        self.n, self.total, self.desc = float(initial or 0), total, desc
        self._said = time.monotonic()

    def update(self, n: float | None = 1) -> None:
        self.n += n or 0
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            say(f"fetching {self.desc}: {_bytes(self.n)}" + (f" of {_bytes(self.total)}" if self.total else ""))

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def set_description(self, *_: Any, **__: Any) -> None: ...

    def refresh(self, *_: Any, **__: Any) -> None: ...

    def reset(self, *_: Any, **__: Any) -> None: ...


@contextmanager
def _explained(repository: str, revision: str) -> Iterator[None]:
    """Turn errors of the hub's client into a WeightsError that says what to do."""
    source = f"{HUB}{repository}"
    try:
        from huggingface_hub import errors
    except ModuleNotFoundError:
        raise WeightsError(
            f"huggingface_hub is not installed here, so {source} cannot be fetched: "
            "name an environment made from requirements/diffusers.lock in CASCADE_TRITON_ENV"
        ) from None
    try:
        yield
    except errors.GatedRepoError:
        raise WeightsError(
            f"{source} is gated: accept its licence on its page with an account, and give a token of that account "
            "in HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"there is no model {source}, or it is private: correct the variant's source, or give a token in HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(
            f"{source} has no revision {revision}: `cascade model-repo resolve {source}` prints one that it has"
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        if isinstance(error, errors.OfflineModeIsEnabled) or _offline():
            raise WeightsError(
                f"{source} at {revision} is not complete in {cache()}, and HF_HUB_OFFLINE forbids to download it: "
                "unset it once, or run `cascade model-repo fetch` where there is a network"
            ) from None
        raise WeightsError(_unreachable(source, error.__cause__ or error)) from None
    except errors.EntryNotFoundError as error:
        raise WeightsError(f"{source} lacks a file that it should have: {first_line(error)}") from None
    except (errors.HfHubHTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise WeightsError(f"cannot write {error.filename or cache()}: {error.strerror}: make room there") from None
        raise WeightsError(_unreachable(source, error)) from None
    except Exception as error:
        # If a connection breaks, the client raises exceptions of its HTTP library, which it does not document.
        if type(error).__module__.partition(".")[0] not in _HTTP:
            raise
        raise WeightsError(_unreachable(source, error)) from None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _unreachable(source: str, error: BaseException) -> str:
    answer = getattr(error, "response", None)
    if answer is not None and answer.status_code in (401, 403):
        said = getattr(error, "server_message", None) or first_line(error)
        return f"the hub refuses {source} ({said}): give a token in HF_TOKEN that is valid and may read it"
    return (
        f"the download of {source} broke off: {first_line(error)}: start again, and it continues where it stopped; "
        "HF_ENDPOINT names another hub"
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line that is not endless."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _record(repository: str, commit: str) -> Path:
    return cache() / "cascade" / "models" / f"{repository.replace('/', '--')}@{commit}.json"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        digest = hashlib.sha256()
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
