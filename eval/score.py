"""The score stage: all metrics over the pictures of a base and a candidate, each picture opened once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eval.asking import Progress, ask_all, no_progress
from eval.errors import EvalError, NotScored
from eval.images import GeneratedImage, Picture, read_folder, read_references
from eval.notes import note_of
from eval.questions import Answers
from eval.rows import instance_rows, row_of
from eval.samples import NO_STORYBOARDS, read_set, samples, units
from eval.scorers.base import Judge, Metric, Resources, Sample, Score, missing_package
from eval.table import Row, write_pictures, write_scores

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Weights:
    """What one metric measures with, by weight or picture field; or why it cannot measure."""

    places: Mapping[str, Path]
    digests: Mapping[str, str]
    missing: str = ""


@dataclass
class Measured:
    """What one metric found."""

    rows: list[Row] = field(default_factory=list)
    truncated: set[str] = field(default_factory=set)
    """Prompts of which it saw only the beginning."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Model -> pictures that said nothing to it."""
    instances: list[Row] = field(default_factory=list)
    """Scores of the instance pictures themselves."""
    remark: str = ""
    """What a reader should know of how it judged."""


@dataclass(frozen=True)
class Found:
    measured: Mapping[str, Measured]
    """By metric id."""
    not_run: Mapping[str, str]
    """By metric id: why it could not be measured."""

    @property
    def rows(self) -> list[Row]:
        return [row for found in self.measured.values() for row in found.rows]


def score_metrics(
    *,
    metrics: Sequence[Metric],
    weights: Mapping[str, Weights],
    sets: Mapping[str, Path],
    references: Path | None = None,
    out: Path,
    cells: MutableMapping[str, bytes],
    device: str = "auto",
    progress: Progress = no_progress,
) -> dict[str, object]:
    """Score image sets with all metrics and write scores.parquet, pictures.parquet and metrics.json into `out`.

    A metric that cannot be measured leaves its reason in metrics.json and no rows.

    Args:
        metrics: what to measure, from `EvaluationConfig.metrics`.
        weights: by metric id; places and digests for every one of its `locations()`, unless they are missing.
        sets: `base`, `candidate` or both -> image set. With one of them, metrics of pairs are not measured.
        references: dataset artifact with the instance pictures.
        out: folder for the results, made if absent.
        cells: answers known already, by digest; new ones are added.
        device: torch device, or `auto` for a GPU where there is one.
        progress: told (answered, of how many questions about pictures).

    Returns:
        A summary: metric -> scores, and what was not scored or not run.

    Raises:
        EvalError: the sets are empty, do not belong together, or were changed after they were made.
    """
    images = {model_id: read_set(model_id, folder) for model_id, folder in sets.items()}
    found = measure(
        metrics=metrics,
        weights=weights,
        images=images,
        references=references,
        cells=cells,
        device=device,
        progress=progress,
        with_instances=True,
    )
    nothing, rows = Measured(), found.rows
    facts = [
        _facts(metric, weights[metric.id], found.measured.get(metric.id, nothing), found.not_run.get(metric.id, ""))
        for metric in metrics
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_scores([*rows, *(row for mine in found.measured.values() for row in mine.instances)], out)
    write_pictures(images, out)
    (out / METRICS_FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    scored = Counter(row.metric_id for row in rows if row.is_scored)
    return {
        "scored": dict(scored),
        "not_scored": sum(not row.is_scored for row in rows),
        "not_run": dict(found.not_run),
    }


def measure(
    *,
    metrics: Sequence[Metric],
    weights: Mapping[str, Weights],
    images: Mapping[str, Sequence[GeneratedImage]],
    references: Path | None,
    cells: MutableMapping[str, bytes],
    device: str,
    progress: Progress = no_progress,
    with_instances: bool = False,
) -> Found:
    """What all metrics find in the pictures of `base`, `candidate` or both, and, if asked, in the instance pictures
    themselves; see `score_metrics`."""
    judges, not_run = judges_of(metrics, weights, references, cells, device)
    asked = {metric.id: list(samples(metric, images)) for metric in metrics if metric.id in judges}
    answers = ask_all(units(judges, asked), cells, progress)
    measured: dict[str, Measured] = {}
    for metric in metrics:
        if metric.id not in judges:
            continue
        if metric.scored == "board" and not asked[metric.id]:
            not_run[metric.id] = NO_STORYBOARDS
            continue
        try:
            found = _measure(metric, judges[metric.id], asked[metric.id], answers)
            found.instances += instance_rows(judges[metric.id], metric, answers) if with_instances else []
            measured[metric.id] = found
        except EvalError as problem:
            not_run[metric.id] = str(problem)
    return Found(measured, not_run)


def _notes(metric: Metric, weights: Weights) -> dict[str, str]:
    """What weights say of themselves, by field."""
    places = {name: place for name, place in weights.places.items() if name not in metric.picture_fields}
    return {name: note for name, place in sorted(places.items()) if (note := note_of(place))}


def describe(metric: Metric, weights: Weights | None = None) -> dict[str, object]:
    """The facts about a metric that a reader of its numbers needs.

    `weights` that say what they are themselves are not the published ones, so did not learn what those did.
    """
    return {
        "name": metric.id,
        "metric": metric.metric,
        "title": metric.full_title,
        "scored": metric.scored,
        "direction": metric.direction,
        "unit": metric.unit,
        "convention": metric.convention,
        "licence": metric.licence,
        "trained_on": [] if weights is not None and _notes(metric, weights) else list(metric.trained_on),
        "decimals": metric.decimals,
        "tie": metric.tie,
        "binary": metric.binary,
        "version": metric.version,
    }


def _facts(metric: Metric, weights: Weights, measured: Measured, not_run: str) -> dict[str, object]:
    return describe(metric, weights) | {
        "weights": dict(sorted(weights.digests.items())),
        "notes": _notes(metric, weights),
        "truncated_prompts": sorted(measured.truncated),
        "left_out": {model_id: count for model_id, count in sorted(measured.left_out.items()) if count},
        "not_run": not_run,
        **({"remark": measured.remark} if measured.remark else {}),
    }


def judges_of(
    metrics: Sequence[Metric],
    weights: Mapping[str, Weights],
    references: Path | None,
    cells: MutableMapping[str, bytes],
    device: str,
) -> tuple[dict[str, Judge], dict[str, str]]:
    """By metric id: how it scores, or why it does not. Arguments as of `score_metrics`."""
    device = _device(device)
    known = read_references(references) if references is not None else ()
    judges, not_run = {}, {}
    for metric in metrics:
        try:
            judges[metric.id] = metric.judge(_resources(metric, weights[metric.id], known, cells, device))
        except EvalError as problem:
            not_run[metric.id] = str(problem)
    return judges, not_run


def _resources(
    metric: Metric,
    weights: Weights,
    references: tuple[Picture, ...],
    cells: MutableMapping[str, bytes],
    device: str,
) -> Resources:
    if problem := weights.missing or missing_package(metric):
        raise EvalError(problem)
    wanted = set(metric.locations())
    assert wanted == set(weights.places) == set(weights.digests), f"{metric.id}: weights {sorted(wanted)}"
    for name, path in weights.places.items():
        if not path.exists():
            raise EvalError(f"{name}: no such file or folder: {path.name}")
    if metric.wants_instances and not references:
        raise EvalError("needs instance pictures to compare with, and there are none")
    return Resources(
        weights={name: place for name, place in weights.places.items() if name not in metric.picture_fields},
        digests=weights.digests,
        references=references if metric.wants_instances else (),
        cells=cells,
        device=device,
        pictures={name: read_folder(weights.places[name], name) for name in wanted & set(metric.picture_fields)},
    )


def _measure(metric: Metric, judge: Judge, samples: Sequence[tuple[str, Sample]], answers: Answers) -> Measured:
    found = Measured()
    for model_id, sample in samples:
        score, reason = _judged(judge, sample, answers)
        found.rows.append(row_of(sample, model_id, metric, score, reason))
        found.left_out[model_id] += score.left_out
        if score.truncated:
            found.truncated.add(sample.pictures[0].prompt_id)
    found.remark = judge.remark([sample for _, sample in samples])
    judge.free()
    return found


def _judged(judge: Judge, sample: Sample, answers: Answers) -> tuple[Score, str]:
    try:
        return judge.score(sample, answers), ""
    except NotScored as reason:
        return Score(float("nan")), str(reason)


def _device(device: str) -> str:
    """A torch device; `auto:1` is the second GPU where there are GPUs."""
    kind, _, number = device.partition(":")
    if kind != "auto":
        return device
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{number}" if number else "cuda"
