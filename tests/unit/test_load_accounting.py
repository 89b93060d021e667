"""The account of a load test: every sent request ends exactly once, and the results follow from that."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_api.command import CommandFailed, seconds
from cascade_models.shapes import grammar, render
from cascade_profiler.load import arrivals, summary
from cascade_profiler.load.ledger import Ledger, Outcome, OutcomeKind
from cascade_profiler.load.prompts import is_shapes, prompts
from cascade_profiler.load.verdicts import Gallery

OUTCOMES = st.sampled_from(
    [
        Outcome(OutcomeKind.ANSWERED, 0.1, route="light"),
        Outcome(OutcomeKind.ANSWERED, 0.9, route="direct"),
        Outcome(OutcomeKind.ANSWERED, 2.5, route="escalated"),
        Outcome(OutcomeKind.ANSWERED, 1.9, route="degraded"),
        Outcome(OutcomeKind.REFUSED, 0.0, status="RESOURCE_EXHAUSTED"),
        Outcome(OutcomeKind.LOST, 0.2),
        Outcome(OutcomeKind.SILENT, 7.0),
    ]
)


@given(st.lists(OUTCOMES, max_size=40), st.integers(0, 5))
def test_sent_is_the_sum_of_what_became_of_it(outcomes: list[Outcome], open_ones: int) -> None:
    ledger = Ledger(deadline_s=2.0)
    for index in range(len(outcomes) + open_ones):
        ledger.send(str(index), behind_s=0.0)
    for index, outcome in enumerate(outcomes):
        ledger.settle(str(index), outcome)
    data = summary.as_data(ledger, rate=1, duration_s=1, quality=None)
    assert data["sent"] == data["answered"] + sum(data["refused"].values()) + data["lost"] + data["silent"]
    assert data["balanced"] == (data["silent"] == 0)
    on_time = sum(o.kind is OutcomeKind.ANSWERED and o.latency_s <= 2.0 for o in outcomes)
    assert data["violations"] == data["sent"] - on_time
    realised = data["shares"]["realised"]
    assert not realised or sum(realised.values()) == pytest.approx(1)
    assert summary.as_text(data)
    assert summary.progress_line(ledger, 2.0)


def test_a_second_answer_to_the_same_request_is_noticed() -> None:
    ledger = Ledger(deadline_s=2.0)
    ledger.send("a", behind_s=0.0)
    ledger.settle("a", Outcome(OutcomeKind.ANSWERED, 0.1, route="light"))
    assert ledger.balanced
    ledger.settle("a", Outcome(OutcomeKind.ANSWERED, 0.2, route="direct"))
    assert ledger.answered_twice == 1
    assert not ledger.balanced
    assert ledger.routes == {"light": 1}


@pytest.mark.parametrize(("behind_s", "said"), [(0.03, False), (0.3, True)])
def test_a_load_that_is_late_itself_says_so(behind_s: float, said: bool) -> None:
    ledger = Ledger(deadline_s=2.0)
    ledger.send("a", behind_s=behind_s)
    ledger.settle("a", Outcome(OutcomeKind.ANSWERED, 0.5, route="light"))
    data = summary.as_data(ledger, rate=1, duration_s=1, quality=None)
    assert data["sentBehindP99"] == behind_s
    assert ("this command was late itself" in summary.as_text(data)) is said


def test_an_id_is_sent_once_and_settled_only_if_sent() -> None:
    ledger = Ledger(deadline_s=2.0)
    ledger.send("a", behind_s=0.0)
    with pytest.raises(ValueError, match="sent before"):
        ledger.send("a", behind_s=0.0)
    with pytest.raises(ValueError, match="never sent"):
        ledger.settle("b", Outcome(OutcomeKind.LOST, 0.0))


def test_a_degraded_answer_counts_as_light_beside_the_plan() -> None:
    ledger = Ledger(deadline_s=2.0)
    for index, route in enumerate(["light", "degraded", "escalated", "direct"]):
        ledger.send(str(index), behind_s=0.0)
        ledger.settle(str(index), Outcome(OutcomeKind.ANSWERED, 0.1, route=route))
        ledger.plan_in_force({"light": 0.25, "escalated": 0.5, "direct": 0.25})
    assert ledger.realised_shares == {"direct": 0.25, "escalated": 0.25, "light": 0.5}
    assert ledger.planned_shares == {"light": 0.25, "escalated": 0.5, "direct": 0.25}
    text = summary.as_text(summary.as_data(ledger, rate=1, duration_s=1, quality=None))
    assert "escalated  planned   50.0%  realised 25.0%" in text
    assert "1 were degraded" in text


def test_arrivals_come_at_the_rate_whatever_the_answers_and_repeat_with_the_seed() -> None:
    times = list(arrivals.poisson(rate=50, duration_s=100, rng=random.Random(1)))
    assert times == sorted(times)
    assert times == list(arrivals.poisson(rate=50, duration_s=100, rng=random.Random(1)))
    assert len(times) == pytest.approx(5000, rel=0.06)
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    assert max(times) < 100


def test_prompts_come_from_the_grammar_with_a_seed_and_a_split() -> None:
    first, second = (prompts("shapes:heldout", seed=3) for _ in range(2))
    sampled = [next(first) for _ in range(20)]
    assert sampled == [next(second) for _ in range(20)]
    assert {grammar.split_of(grammar.parse(prompt)) for prompt in sampled} == {"heldout"}
    assert is_shapes("shapes")
    with pytest.raises(CommandFailed, match="--prompts: 'tset' is not a split"):
        prompts("shapes:tset", seed=0)


def test_prompts_come_from_a_file_in_turn(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\na dog\n")
    source = prompts(str(file), seed=0)
    assert [next(source) for _ in range(3)] == ["a cat", "a dog", "a cat"]
    file.write_text("\n")
    with pytest.raises(CommandFailed, match="has no prompts"):
        prompts(str(file), seed=0)
    with pytest.raises(CommandFailed, match="cannot read"):
        prompts(str(tmp_path / "none"), seed=0)


def test_quality_is_judged_on_a_uniform_sample() -> None:
    rng = np.random.default_rng(0)
    gallery = Gallery(rng=random.Random(0), size=10)
    for index in range(30):
        scene = grammar.sample_scene(rng, objects=1)
        right = render.to_uint8(render.render([scene], rng))[0]
        gallery.add(grammar.describe(scene), right if index % 2 else np.zeros_like(right))
    quality = gallery.judge()
    assert quality is not None
    assert quality.images == 10
    assert 0 < quality.strict.mean < 1
    assert 0 < quality.strict.half_width < 0.4
    assert Gallery(rng=random.Random(0)).judge() is None


@pytest.mark.parametrize(("text", "expected"), [("30", 30.0), ("1.5", 1.5), ("500ms", 0.5), ("2m", 120.0)])
def test_durations_may_have_a_unit(text: str, expected: float) -> None:
    assert seconds(text, option="--duration") == expected


@pytest.mark.parametrize("text", ["soon", "-1s", "0", "0s", "1 s", ""])
def test_a_duration_that_is_none_is_refused_by_flag(text: str) -> None:
    with pytest.raises(CommandFailed, match="--deadline: ") as failure:
        seconds(text, option="--deadline")
    assert failure.value.code == 2
