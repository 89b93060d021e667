"""Fitting prompt scorers: what is learned from labels, what is held out, and what is refused."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest

from cascade_api.command import CommandFailed
from cascade_profiler.fit.evaluation import RIDGE_LEXICON, evaluate_features, evaluate_labels
from cascade_profiler.fit.labels import LabelledPrompts, load_features, load_labels
from cascade_profiler.fit.measures import area_under_curve, captured, rank_correlation
from cascade_profiler.fit.session import FitOptions, run
from cascade_profiler.fit.splits import by_subject, held_out
from cascade_profiler.fit.words import fit_words
from cascade_profiler.frontier.reference import reference_folder
from cascade_router.prompts.features import lexicon, read_tables
from cascade_router.prompts.scorers import make_scorer
from cascade_router.prompts.words import words_of
from support.simulation import needs_reference

EASY, HARD = ("dog", "cat", "cow", "cup"), ("clock", "hand", "crowd", "sign")
PLACES = ("on a table", "in a field", "near a wall", "under a tree", "at night")


def labelled(count: int = 400) -> LabelledPrompts:
    """Captions whose gain is told by their noun, with noise."""
    rng = random.Random(3)
    prompts, gain = [], []
    for _ in range(count):
        noun = rng.choice(EASY + HARD)
        prompts.append(f"a {rng.choice(('red', 'small', 'big'))} {noun} {rng.choice(PLACES)}")
        gain.append((noun in HARD) + rng.gauss(0, 0.3))
    return LabelledPrompts("made", tuple(prompts), np.asarray(gain))


def options(**changed: object) -> FitOptions:
    """The command's defaults with changes."""
    given: dict[str, object] = {
        "labels": "",
        "features": "",
        "file": None,
        "prompts": 40,
        "kind": "words",
        "out": "",
        "save_labels": "",
        "seeds": 2,
        "seed": 0,
        "json": False,
    }
    return FitOptions(**(given | changed))  # type: ignore[arg-type]


def written(path: Path, rows: list[tuple[object, ...]]) -> str:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return str(path)


def test_words_that_tell_the_gain_are_learned_and_the_coin_learns_nothing() -> None:
    rows = {(row.name, row.split): row.figures for row in evaluate_labels(labelled(), seeds=3)}
    by_word = rows["fitted: a weight per word", "prompt"]
    coin = rows["coin-flip", "prompt"]
    assert by_word["rank correlation"].mean > 0.5
    assert by_word["AUC"].mean > 0.75
    assert abs(coin["rank correlation"].mean) < 0.3
    assert rows["fitted: a weight per word", "class"]["rank correlation"].mean < 0.3, "no noun was seen in fitting"


def test_the_written_file_is_what_the_learned_scorer_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = labelled()
    source = written(tmp_path / "labels.csv", [("prompt", "gain"), *zip(made.prompts, made.gain, strict=True)])
    out = tmp_path / "weights.json"
    run(options(labels=source, out=str(out), json=True))
    table = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in table} >= {"coin-flip", "rules", "fitted: a weight per word"}
    assert all({"rank_correlation", "rank_correlation_sd", "AUC", "held_out_by"} <= set(row) for row in table)
    scorer = make_scorer("learned", str(out))
    assert scorer.score("a red clock on a table", draw=0) > scorer.score("a red dog on a table", draw=0)
    assert scorer.quantiles[0] <= scorer.score("a red dog on a table", draw=0) <= scorer.quantiles[-1]


@pytest.mark.parametrize("kind", ["counts", "features"])
def test_weights_of_features_are_written_too(tmp_path: Path, kind: str) -> None:
    made = labelled(80)
    source = written(tmp_path / "labels.csv", [("prompt", "gain"), *zip(made.prompts, made.gain, strict=True)])
    out = tmp_path / "weights.json"
    run(options(labels=source, out=str(out), kind=kind))
    assert make_scorer("learned", str(out)).quantiles


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("prompt",), ("a dog",)], "labels.csv:1: gain"),
        ([("prompt", "gain"), ("a dog", "nan")], "labels.csv:2: gain: 'nan' is not a finite"),
        ([("prompt", "gain"), ("a dog", "much")], "labels.csv:2: gain: 'much' is not a number"),
        ([("prompt", "gain"), ("", "1")], "labels.csv:2: prompt: is missing"),
        ([("prompt", "gain"), ("a dog", "1")], "at least 40"),
        ([("prompt", "gain"), *[("a dog", "1")] * 50], "gain: is the same for all"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path: Path, rows: list[tuple[object, ...]], said: str) -> None:
    source = written(tmp_path / "labels.csv", rows)
    with pytest.raises(CommandFailed, match=said) as raised:
        run(options(labels=source))
    assert raised.value.code == 2


@pytest.mark.parametrize(
    "changed",
    [{}, {"labels": "a.csv", "features": "b.csv"}, {"labels": "confidence:dall-e"}, {"labels": "missing.csv"}],
)
def test_options_that_make_no_sense_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(CommandFailed) as raised:
        run(options(**changed))
    assert raised.value.code == 2


def test_labels_are_not_written_over_a_folder(tmp_path: Path) -> None:
    made = labelled(80)
    source = written(tmp_path / "labels.csv", [("prompt", "gain"), *zip(made.prompts, made.gain, strict=True)])
    with pytest.raises(CommandFailed, match=r"--save-labels: .*: Is a directory"):
        run(options(labels=source, save_labels=str(tmp_path)))


def test_no_group_is_on_both_sides_of_a_split() -> None:
    groups = by_subject(labelled().prompts)
    test = held_out(groups, seed=1)
    assert 0.2 < test.mean() < 0.6
    assert not {g for g, t in zip(groups, test, strict=True) if t} & {
        g for g, t in zip(groups, test, strict=True) if not t
    }
    assert (held_out(groups, seed=1) == test).all()


def test_measures_of_order() -> None:
    scores = np.asarray([0.1, 0.2, 0.3, 0.4])
    assert rank_correlation(scores, scores**3) == pytest.approx(1)
    assert rank_correlation(scores, np.ones(4)) == 0
    assert area_under_curve(scores, scores > 0.25) == 1
    assert area_under_curve(np.ones(4), scores > 0.25) == 0.5
    assert captured(scores, scores, share=0.5) == pytest.approx(1)
    assert captured(np.ones(4), scores, share=0.5) == pytest.approx(0)


@needs_reference
def test_the_shipped_word_tables_order_held_out_prompts_as_the_parser_does() -> None:
    prompts, counts = load_features(reference_folder() / "router_prompt_features_imagenet5k.csv")
    rows = {(row.name, row.split): row.figures for row in evaluate_features(prompts, counts, seeds=1)}
    for split in ("prompt", "class"):
        assert rows["composite", split]["rank correlation"].mean > 0.95
        assert abs(rows["coin-flip", split]["rank correlation"].mean) < 0.15


@needs_reference
def test_the_shipped_word_tables_are_what_the_tool_fits() -> None:
    prompts, counts = load_features(reference_folder() / "router_prompt_features_imagenet5k.csv")
    again = read_tables(fit_words([words_of(prompt) for prompt in prompts], counts, ridge=RIDGE_LEXICON))
    for name, table in lexicon().items():
        assert table.known.keys() == again[name].known.keys()
        assert all(abs(table.known[word] - again[name].known[word]) < 0.005 for word in table.known)


@needs_reference
def test_words_tell_what_the_published_discriminator_rejects_and_the_rules_do_not() -> None:
    rows = {
        (row.name, row.split): row.figures
        for row in evaluate_labels(load_labels("confidence:sd35-large-turbo"), seeds=1)
    }
    for split, least in (("prompt", 0.45), ("class", 0.25)):
        assert rows["fitted: a weight per word", split]["rank correlation"].mean > least
        assert abs(rows["rules", split]["rank correlation"].mean) < 0.15
