"""Reads YAML into nodes that know their lines, and nodes into values.

Limits make sure that any file is either read quickly or refused with a YAMLError.
"""

from __future__ import annotations

from typing import Any, Final

import yaml

DEEPEST: Final = 64
"""The most levels of lists and mappings. A resource, with all that an API server adds, has a quarter of them."""
MOST_ALIASED: Final = 100_000
"""The most values that the aliases of a file may stand for: a few lines can stand for billions."""
MOST_BITS: Final = 64
"""The most bits of a whole number. No field takes more, and Python refuses to print one of several thousand digits."""

# Exceptions that PyYAML raises for a scalar that does not fit its tag, instead of a YAMLError.
_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def compose(text: str) -> list[yaml.Node]:
    """The documents of a text that are not empty.

    Raises YAMLError, also if they are nested too deep or if aliases stand for too many values.
    """
    return [node for node in yaml.compose_all(text, Loader=_Loader) if node is not None]


def construct(node: yaml.Node) -> Any:
    """The value of a document; raises YAMLError."""
    return _Loader("").construct_document(node)


def explain(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """The line (0: unknown) and the cause, in one line, of an error that was raised while reading ``text``."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return error.problem_mark.line + 1 if error.problem_mark else 0, error.problem
    position = getattr(error, "position", None)
    return text.count("\n", 0, position) + 1 if position is not None else 0, str(error).splitlines()[0]


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._composed = 0
        self._aliased = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if self._depth == DEEPEST:
            raise _error(f"nested more than {DEEPEST} levels deep", event.start_mark)
        before = self._composed
        self._composed += 1
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            self._count(node, event)
        else:
            self._sizes[id(node)] = self._composed - before
        return node

    def _count(self, node: yaml.Node | None, alias: yaml.AliasEvent) -> None:
        size = self._sizes.get(id(node))
        if size is None:
            problem = f"alias {alias.anchor!r} is used inside its own definition"
            raise _error(problem, alias.start_mark)
        self._composed += size
        self._aliased += size
        if self._aliased > MOST_ALIASED:
            problem = f"aliases stand for more than {MOST_ALIASED} values: write the values out instead"
            raise _error(problem, alias.start_mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if not isinstance(value, int) or value.bit_length() <= MOST_BITS:
                return value
        except _UNREADABLE:
            pass
        kind = node.tag.rsplit(":", 1)[-1]
        problem = f"{str(node.value)[:40]!r} is not of type {kind}: put it in quotes if it is text"
        raise _error(problem, node.start_mark)


def _error(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)
