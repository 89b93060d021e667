"""Records measurements in a file beside the profile, so that a run that was interrupted continues where it was.

The key of a measurement contains all that it depends on (the variant's model, batch, machine, prompts, metrics), so
that a measurement of something else is never used by mistake. Each is written in its own transaction: if a run is
killed, the file has all finished measurements and no partial ones.
"""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from cascade_api.command import CommandFailed

SUFFIX: Final = ".measured"
FORMAT: Final = 2
"""Version of the file's format; files of another version are not read."""
LOCK_TIMEOUT_S: Final = 0.5

Key = Mapping[str, Any]
"""All that a measurement depends on; the values can be written as JSON."""
Arrays = Mapping[str, npt.NDArray[Any]]


class Records:
    """The measurements in a file, which is created if it is missing. A context manager; each file is open only once."""

    def __init__(self, file: Path, *, fresh: bool = False) -> None:
        """Open the file, and delete its content if ``fresh``; raises CommandFailed if it cannot be opened."""
        self.file = file
        try:
            self._database = sqlite3.connect(file, timeout=LOCK_TIMEOUT_S, isolation_level=None)
            self._open(fresh=fresh)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                why = f"another `cascade` command writes {file}: wait for it, or choose another --output"
            else:
                why = f"cannot write {file}: {error}"
            raise CommandFailed(why) from None
        except sqlite3.DatabaseError as error:
            raise CommandFailed(f"{file} is not a file of measurements ({error}): remove it") from None

    def _open(self, *, fresh: bool) -> None:
        run = self._database.execute
        # The lock is held until the file is closed: two runs at once would disturb each other's timings anyway.
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("BEGIN EXCLUSIVE")
        (version,) = run("PRAGMA user_version").fetchone()
        if fresh or version != FORMAT:
            run("DROP TABLE IF EXISTS parts")
        run("CREATE TABLE IF NOT EXISTS parts (kind TEXT, key TEXT, value BLOB)")
        run("CREATE INDEX IF NOT EXISTS places ON parts (kind, key)")
        run(f"PRAGMA user_version = {FORMAT}")
        run("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._database.close()

    def values(self, kind: str, key: Key) -> list[Any]:
        """The values that were added under a key, in that order."""
        return [json.loads(value) for value in self._read(kind, key)]

    def add(self, kind: str, key: Key, value: Any) -> None:
        """Append a value, which can be written as JSON, to those of a key."""
        self._write(kind, key, json.dumps(value).encode())

    def arrays(self, kind: str, key: Key) -> list[dict[str, npt.NDArray[Any]]]:
        """The arrays that were added under a key, in that order."""
        found = []
        for value in self._read(kind, key):
            with np.load(io.BytesIO(value), allow_pickle=False) as held:
                found.append({name: held[name] for name in held.files})
        return found

    def add_arrays(self, kind: str, key: Key, arrays: Arrays) -> None:
        """Append named arrays to those of a key."""
        held = io.BytesIO()
        np.savez_compressed(held, allow_pickle=False, **arrays)
        self._write(kind, key, held.getvalue())

    def has(self, kind: str, key: Key) -> bool:
        """Whether anything was added under a key."""
        found = self._database.execute("SELECT 1 FROM parts WHERE kind = ? AND key = ?", (kind, _text(key)))
        return found.fetchone() is not None

    def count(self) -> int:
        """How many measurements the file has."""
        (found,) = self._database.execute("SELECT count(*) FROM parts").fetchone()
        return int(found)

    def _read(self, kind: str, key: Key) -> list[bytes]:
        rows = self._database.execute(
            "SELECT value FROM parts WHERE kind = ? AND key = ? ORDER BY rowid", (kind, _text(key))
        )
        return [value for (value,) in rows]

    def _write(self, kind: str, key: Key, value: bytes) -> None:
        self._database.execute("INSERT INTO parts VALUES (?, ?, ?)", (kind, _text(key), value))


def records_file(output: Path) -> Path:
    """The file of measurements that belongs to the file of a profile."""
    return output.with_name(output.name + SUFFIX)


def _text(key: Key) -> str:
    return json.dumps(key, sort_keys=True, default=str)
