"""Converts the published systems' tables, in the folder that CASCADE_REFERENCE_DATA names, to CascadeProfiles.

Times are in the seconds of the traces, whose clock HADIS compressed tenfold: its models of 0.5, 1.3, 13 and 27 s take
0.05, 0.13, 1.3 and 2.7 s here. A batch of b images takes 0.9·b·e, as published, where e is the time of one image. The
two large models only have batch 1, because measurements of larger batches contradict that formula.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cascade_api.base import Metadata
from cascade_api.profile import (
    CascadeProfile,
    DiscriminatorExecution,
    Execution,
    Metric,
    ProfileSource,
    ProfileSpec,
    QualityRow,
    ScoreQuantiles,
    Startup,
)

from .inputs import BadInput, Record, records

VARIABLE: Final = "CASCADE_REFERENCE_DATA"

HADIS_MODELS: Final = ("sdxl-lightning", "sd35-large-turbo", "sd35-medium", "sd35-large")
HADIS_CLASS: Final = "nvidia-l40s"
_HADIS_MICROS: Final = (50_000, 130_000, 1_300_000, 2_700_000)
_HADIS_LIGHT: Final = 2
"""How many of the models, the first ones, are served in batches."""
_HADIS_BATCHES: Final = (2, 4, 8)
_HADIS_LOAD_MILLIS: Final = 120
"""Time to load weights from pinned host memory; the start of a pod would take 4.5 s."""
DISCRIMINATOR_MICROS: Final = 10_000
SIZE: Final = "1024x1024"
"""Size of all images; the tables do not name one, and all of their images have the same."""
_EVEN_QUANTILES: Final = [50 * index for index in range(21)]
"""Quantiles of the scores. The published scores are percentiles, so they are evenly distributed."""

# table -> (file, columns of r, d and T)
_HADIS_TABLES: Final[Mapping[str, tuple[str, str | None, str | None, str]]] = {
    "hadis-726": ("cascade_configs_hybrid_726.csv", "router_ratio", "disc_ratio", "threshold"),
    "hadis-66": ("cascade_configs_disc_only_66.csv", None, "threshold", "threshold"),
    "hadis-49": ("hadis_pareto_table_49.csv", "router_ratio", "disc_ratio", "heavy_ratio"),
    "hadis-46": ("derived_pareto_hybrid_46.csv", "router_ratio", "disc_ratio", "threshold"),
    "hadis-25": ("derived_pareto_disc_only_25.csv", None, "threshold", "threshold"),
    "hadis-24": ("derived_pareto_router_only_24.csv", "router_ratio", None, "threshold"),
}
# profile -> (light, heavy, file of run times, column of FID by light share)
_DIFFSERVE: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "diffserve-sdturbo": ("sd-turbo", "sd15", "diffserve_runtimes_sdturbo.csv", "fid_sdturbo_sdv15"),
    "diffserve-sdxs": ("sdxs", "sd15", "diffserve_runtimes_sdxs.csv", "fid_sdxs_sdv15"),
    "diffserve-sdxlltn": ("sdxl-lightning", "sdxl", "diffserve_runtimes_sdxlltn.csv", "fid_sdxlightning_sdxl"),
}
_DIFFSERVE_CLASS: Final = "nvidia-a100"
_OUT_OF_MEMORY_MS: Final = 100_000
REFERENCE_PROFILES: Final = (*_HADIS_TABLES, *_DIFFSERVE)
FULL_GRID: Final = "hadis-726"
"""The table with all points of its chains; the other tables of HADIS are selections from it."""


def reference_folder() -> Path:
    """The folder of the reference data; raises BadInput, which names the variable, if there is none."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        raise BadInput(VARIABLE, "is not set: set it to the folder of the reference tables and traces")
    folder = Path(text)
    if not folder.is_dir():
        raise BadInput(VARIABLE, f"{text} is not a folder")
    return folder


def reference_profile(name: str) -> CascadeProfile:
    """The profile of a name in REFERENCE_PROFILES."""
    folder = reference_folder()
    if name in _HADIS_TABLES:
        return _hadis(name, folder)
    return _diffserve(name, folder)


def _hadis(name: str, folder: Path) -> CascadeProfile:
    file, direct, escalation, heavy_share = _HADIS_TABLES[name]
    columns = [c for c in ("light_model", "heavy_model", direct, escalation, heavy_share, "fid") if c is not None]
    rows = []
    for record in records(folder / file, columns=columns):
        r = record.number(direct, low=0, high=1) if direct else 0.0
        d = record.number(escalation, low=0, high=1) if escalation else 0.0
        t = record.number(heavy_share, low=0, high=1)
        if abs(r + (1 - r) * d - t) > 0.006:
            raise record.bad(heavy_share, f"{t} is not r + (1 - r)·d with r = {r:g} and d = {d:g}")
        light, heavy = _model(record, "light_model"), _model(record, "heavy_model")
        rows.append(_quality(record, light, heavy, r, d, record.number("fid", low=0)))
    execution = [
        _execution(model, HADIS_CLASS, batch, micros if batch == 1 else round(0.9 * batch * micros))
        for index, (model, micros) in enumerate(zip(HADIS_MODELS, _HADIS_MICROS, strict=True))
        for batch in (1, *(_HADIS_BATCHES if index < _HADIS_LIGHT else ()))
    ]
    return _profile(name, HADIS_CLASS, execution, rows, load_millis=_HADIS_LOAD_MILLIS)


def _model(record: Record, field: str) -> str:
    number = record.number(field, low=0)
    if number not in range(len(HADIS_MODELS)):
        raise record.bad(field, f"{number:g} is an unknown variant; known are 0 to {len(HADIS_MODELS) - 1}")
    return HADIS_MODELS[int(number)]


def _diffserve(name: str, folder: Path) -> CascadeProfile:
    light, heavy, runtimes, fid_column = _DIFFSERVE[name]
    rows = [
        _quality(
            record, light, heavy, 0.0, 1 - record.number("light_ratio", low=0, high=1), record.number(fid_column, low=0)
        )
        for record in records(folder / "diffserve_fid_vs_light_ratio.csv", columns=["light_ratio", fid_column])
    ]
    times: dict[tuple[str, int], float] = {}
    for record in records(folder / runtimes, columns=["Model", "batchsize", "avg_runtime"]):
        model, batch = record.text("Model"), int(record.number("batchsize", low=1))
        # The three accelerators of the file are copies of one measurement.
        times.setdefault((model, batch), record.number("avg_runtime", low=0.001))
    light_row, heavy_row = dict.fromkeys(model for model, _ in times)
    named = {light_row: light, heavy_row: heavy}
    execution = [
        _execution(named[model], _DIFFSERVE_CLASS, batch, round(ms * 1000))
        for (model, batch), ms in times.items()
        if ms < _OUT_OF_MEMORY_MS
    ]
    return _profile(name, _DIFFSERVE_CLASS, execution, rows, load_millis=_HADIS_LOAD_MILLIS)


def _quality(record: Record, light: str, heavy: str, r: float, d: float, fid: float) -> QualityRow:
    direct, escalation = round(100 * r), round(100 * d)
    if abs(direct - 100 * r) > 1e-6 or abs(escalation - 100 * d) > 1e-6:
        raise record.bad("router_ratio", f"({r:g}, {d:g}) are not whole percent")
    return QualityRow(
        chain=(light, heavy),
        direct_percent=direct,
        escalation_percent=escalation,
        values_milli={"fid": round(1000 * fid)},
    )


def _execution(variant: str, accelerator_class: str, batch: int, micros: int) -> Execution:
    return Execution(
        variant=variant,
        accelerator_class=accelerator_class,
        size=SIZE,
        batch=batch,
        p50_micros=micros,
        p95_micros=micros,
    )


def _profile(
    name: str,
    accelerator_class: str,
    execution: Sequence[Execution],
    quality: Sequence[QualityRow],
    *,
    load_millis: int,
) -> CascadeProfile:
    variants = list(dict.fromkeys(row.variant for row in execution))
    batches = sorted({row.batch for row in execution})
    return CascadeProfile(
        metadata=Metadata(name=name),
        spec=ProfileSpec(
            source=ProfileSource(kind="published"),
            metrics=[Metric(name="fid", direction="min")],
            objective_metric="fid",
            execution=list(execution),
            discriminator=[
                DiscriminatorExecution(
                    accelerator_class=accelerator_class,
                    batch=batch,
                    p50_micros=DISCRIMINATOR_MICROS,
                    p95_micros=DISCRIMINATOR_MICROS,
                )
                for batch in batches
            ],
            startup=[
                Startup(variant=v, accelerator_class=accelerator_class, cold_seconds=0, load_millis=load_millis)
                for v in variants
            ],
            quality=list(quality),
            scores=ScoreQuantiles(
                hardness_milli=_EVEN_QUANTILES, confidence_milli=dict.fromkeys(variants, _EVEN_QUANTILES)
            ),
        ),
    )
