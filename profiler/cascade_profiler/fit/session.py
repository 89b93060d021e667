"""Runs `cascade fit-hardness`: loads labels, evaluates on held-out prompts, and writes the weights."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from cascade_api.command import CommandFailed
from cascade_router.prompts.features import PUBLISHED
from cascade_router.prompts.words import words_of

from .candidates import KINDS, ScorerKind, Table, fit, scorer_from, with_quantiles
from .evaluation import RIDGE_LEXICON, EvaluationRow, as_data, as_text, evaluate_features, evaluate_labels
from .labels import LabelledPrompts, as_csv, load_features, load_labels, make_labels
from .words import Floats, fit_words


@dataclass(frozen=True)
class FitOptions:
    """The options of the command line; exactly one of the first three is set."""

    labels: str
    features: str
    file: Path | None
    prompts: int
    kind: str
    out: str
    save_labels: str
    seeds: int
    seed: int
    json: bool


def run(options: FitOptions) -> None:
    """Fit, evaluate, write and print. The written weights give scores with a standard deviation of 1.

    Raises CommandFailed for errors that the user can fix.
    """
    if sum((bool(options.labels), bool(options.features), options.file is not None)) != 1:
        raise CommandFailed("give one of --labels, --features and --file", code=2)
    for option, target in (("--out", options.out), ("--save-labels", options.save_labels)):
        if target and not Path(target).parent.is_dir():
            raise CommandFailed(f"{option}: no folder {Path(target).parent}: create it first", code=2)
    if options.features:
        content, rows = _lexicon(Path(options.features), options)
    else:
        labelled = (
            load_labels(options.labels)
            if options.file is None
            else make_labels(options.file, prompts=options.prompts, seed=options.seed)
        )
        if options.save_labels:
            _save(labelled, Path(options.save_labels))
        content, rows = _weights(labelled, options)
    if options.out:
        _write(Path(options.out), content)
    typer.echo(json.dumps(as_data(rows), indent=2) if options.json else as_text(rows))
    if options.out and not options.json:
        typer.echo(f"written: {options.out}")


def _weights(labelled: LabelledPrompts, options: FitOptions) -> tuple[dict[str, Any], list[EvaluationRow]]:
    kind = _kind(options.kind)
    rows = evaluate_labels(labelled, seeds=options.seeds)
    everything = np.arange(len(labelled.prompts))
    table = Table(labelled.prompts)
    spread = _scores(fit(kind, table, labelled.gain, everything), labelled).std()
    content = fit(kind, table, labelled.gain, everything, scale=1 / spread if spread > 0 else 1.0)
    return with_quantiles(content, _scores(content, labelled)), rows


def _scores(content: dict[str, Any], labelled: LabelledPrompts) -> Floats:
    scorer = scorer_from(content)
    return np.asarray([scorer.score(prompt, draw=0.0) for prompt in labelled.prompts])


def _lexicon(file: Path, options: FitOptions) -> tuple[dict[str, Any], list[EvaluationRow]]:
    prompts, counts = load_features(file)
    rows = evaluate_features(prompts, counts, seeds=options.seeds)
    words = [words_of(prompt) for prompt in prompts]
    return fit_words(words, {name: counts[name] for name in PUBLISHED}, ridge=RIDGE_LEXICON), rows


def _kind(text: str) -> ScorerKind:
    for kind in KINDS:
        if kind == text:
            return kind
    raise CommandFailed(f"--kind: {text!r} is none of {', '.join(KINDS)}", code=2)


def _save(labelled: LabelledPrompts, path: Path) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(as_csv(labelled))
    except OSError as error:
        raise CommandFailed(f"--save-labels: {path}: {error.strerror}", code=2) from None


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with one line per entry, so that differences between versions are easy to read."""
    try:
        path.write_text(_lines(content) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"--out: {path}: {error.strerror}", code=2) from None


def _lines(value: Any, depth: int = 0) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    pad = " " * depth
    inside = ",\n".join(f"{pad} {json.dumps(key)}: {_lines(part, depth + 1)}" for key, part in value.items())
    return f"{{\n{inside}\n{pad}}}"
