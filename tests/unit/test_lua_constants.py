"""Constants that Lua scripts and Python share are only defined in Python; every script uses them by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

import pytest

from cascade_router import lua
from cascade_router.jobs.records import JobState
from cascade_router.jobs.store import Submitted
from cascade_router.queue.calls import shared_constants
from cascade_router.queue.operations import QueueTiming

SHARED = {
    "cascade_router.queue": shared_constants(QueueTiming()),
    "cascade_router.jobs": lua.constants(STATE=JobState, SUBMITTED=Submitted),
}


def defined(line: str) -> Mapping[str, str]:
    """Names and values, as Lua has them."""
    names, values = line.strip().removeprefix("local ").split(" = ")
    return dict(zip(names.split(", "), values.split(", "), strict=True))


def sources(package: str) -> str:
    """The package's scripts without their comments."""
    texts = [file.read_text() for file in (files(package) / "scripts").iterdir() if file.name.endswith(".lua")]
    return re.sub(r"--.*", "", "\n".join(texts))


def test_enums_are_defined_member_by_member() -> None:
    line = lua.constants(LIMIT=3, SHARE=1e-6, STATE=JobState)
    assert defined(line) == {
        "LIMIT": "3",
        "SHARE": "1e-06",
        **{f"STATE_{state.name}": f'"{state.value}"' for state in JobState},
    }


@pytest.mark.parametrize("package", SHARED)
def test_no_script_writes_a_shared_word_or_large_number_of_its_own(package: str) -> None:
    text = sources(package)
    for name, value in defined(SHARED[package]).items():
        quoted = value.startswith('"')
        literal = rf"['\"]{re.escape(value[1:-1])}['\"]" if quoted else rf"\b{re.escape(value)}\b"
        if quoted or float(value) > 1000:
            assert not re.search(literal, text), f"{value} stands in a script: write {name}"


def test_every_constant_of_the_queue_is_used_by_its_scripts() -> None:
    text = sources("cascade_router.queue")
    assert [name for name in defined(SHARED["cascade_router.queue"]) if not re.search(rf"\b{name}\b", text)] == []
