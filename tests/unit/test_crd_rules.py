"""Every CEL rule of the definitions, with objects that it takes and objects that it refuses, by an evaluator of CEL.

A rule without a case fails, so no rule can be added or changed untested. `make test-kube` asks an API server the same.
"""

from __future__ import annotations

from typing import Any

import pytest

from support.crd_cases import BAD, CASES, DEFINITIONS, DOCUMENTS, GOOD, Case
from support.resources import edited


def test_every_rule_has_a_case_and_every_case_a_rule() -> None:
    for plural, definition in DEFINITIONS.items():
        rules = definition.rules()
        mine = [case for case in CASES if case.plural == plural]
        for rule in rules:
            cases = [c for c in mine if c.path == rule.path and rule.message.startswith(c.begins)]
            assert len(cases) == 1, f"{plural}: the rule {rule.expression!r} at {rule.path} needs one case here"
        assert len(rules) == len(mine)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.begins)
def test_a_case_shows_both_sides(case: Case) -> None:
    assert case.bad
    assert case.good


@pytest.mark.parametrize(("case", "edits"), BAD, ids=[c.begins for c, _ in BAD])
def test_what_a_rule_refuses(case: Case, edits: dict[str, Any]) -> None:
    assert any(problem.startswith(case.begins) for problem in problems(case, edits))


@pytest.mark.parametrize(("case", "edits"), GOOD, ids=[c.begins for c, _ in GOOD])
def test_what_a_rule_takes(case: Case, edits: dict[str, Any]) -> None:
    assert problems(case, edits) == []


def problems(case: Case, edits: dict[str, Any]) -> list[str]:
    good = DOCUMENTS[case.plural]()
    return DEFINITIONS[case.plural].problems(edited(good, edits), good if case.update else None)
