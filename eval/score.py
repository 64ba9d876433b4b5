"""The score stage: all metrics over the pictures of a base and a candidate, each picture opened once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import EvalError, NotScored
from eval.images import Picture, read_folder, read_references
from eval.notes import note_of
from eval.questions import Answers, Progress, ask_all, no_progress
from eval.samples import read_set, samples, units
from eval.scorers.base import Judge, Metric, Resources, Sample, Score, missing_package
from eval.table import Row, write_pictures, write_scores

METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class Weights:
    """What one metric measures with, by weight or picture field; or why it cannot measure."""

    places: Mapping[str, Path]
    digests: Mapping[str, str]
    missing: str = ""


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
    judges, not_run = _judges(metrics, weights, references, cells, _device(device))
    asked = {metric.id: list(samples(metric, images)) for metric in metrics if metric.id in judges}
    answers = ask_all(units(judges, asked), cells, progress)
    rows: list[Row] = []
    truncated: dict[str, list[str]] = {}
    for metric in metrics:
        if metric.id not in judges:
            continue
        try:
            found, cut = _rows(metric, judges[metric.id], asked[metric.id], answers)
        except EvalError as problem:
            not_run[metric.id] = str(problem)
            continue
        rows += found
        truncated[metric.id] = cut
    facts = [
        _facts(metric, weights[metric.id], truncated.get(metric.id, []), not_run.get(metric.id, ""))
        for metric in metrics
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_scores(rows, out)
    write_pictures(images, out)
    (out / METRICS_FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    scored = Counter(row.metric_id for row in rows if row.is_scored)
    return {
        "scored": dict(scored),
        "not_scored": sum(not row.is_scored for row in rows),
        "not_run": not_run,
    }


def describe(metric: Metric) -> dict[str, object]:
    """The facts about a metric that a reader of its numbers needs."""
    title = f"{metric.title} {metric.variant}".rstrip()
    return {
        "name": metric.id,
        "title": title if metric.name is None else f"{title} ({metric.name})",
        "scored": metric.scored,
        "direction": metric.direction,
        "unit": metric.unit,
        "convention": metric.convention,
        "licence": metric.licence,
        "trained_on": list(metric.trained_on),
        "decimals": metric.decimals,
        "tie": metric.tie,
        "version": metric.version,
    }


def _facts(metric: Metric, weights: Weights, truncated: list[str], not_run: str) -> dict[str, object]:
    places = {field: place for field, place in weights.places.items() if field not in metric.picture_fields}
    more = {
        "weights": dict(sorted(weights.digests.items())),
        "notes": {field: note for field, place in sorted(places.items()) if (note := note_of(place))},
        "truncated_prompts": truncated,
        "not_run": not_run,
    }
    return describe(metric) | more


def _judges(
    metrics: Sequence[Metric],
    weights: Mapping[str, Weights],
    references: Path | None,
    cells: MutableMapping[str, bytes],
    device: str,
) -> tuple[dict[str, Judge], dict[str, str]]:
    """By metric id: how it scores, or why it does not."""
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
    for field, path in weights.places.items():
        if not path.exists():
            raise EvalError(f"{field}: no such file or folder: {path.name}")
    if metric.wants_instances and not references:
        raise EvalError("needs instance pictures to compare with, and there are none")
    return Resources(
        weights={field: place for field, place in weights.places.items() if field not in metric.picture_fields},
        digests=weights.digests,
        references=references if metric.wants_instances else (),
        cells=cells,
        device=device,
        pictures={field: read_folder(weights.places[field], field) for field in wanted & set(metric.picture_fields)},
    )


def _rows(
    metric: Metric, judge: Judge, samples: Sequence[tuple[str, Sample]], answers: Answers
) -> tuple[list[Row], list[str]]:
    """Its rows, and the ids of prompts of which it saw only the beginning."""
    rows, truncated = [], set()
    for model_id, sample in samples:
        score, reason = _judged(judge, sample, answers)
        rows.append(_row(sample, model_id, metric, score.value, reason))
        if score.truncated:
            truncated.add(sample.pictures[0].prompt_id)
    judge.free()
    return rows, sorted(truncated)


def _judged(judge: Judge, sample: Sample, answers: Answers) -> tuple[Score, str]:
    try:
        return judge.score(sample, answers), ""
    except NotScored as reason:
        return Score(float("nan")), str(reason)


def _row(sample: Sample, model_id: str, metric: Metric, value: float, reason: str) -> Row:
    first = sample.pictures[0]
    if metric.scored == "set":
        return Row("", "", 0, 0, model_id, metric.id, value, reason)
    digest = "+".join(picture.identity for picture in sample.pictures)
    if metric.scored == "prompt":
        return Row(digest, first.prompt_id, 0, 0, model_id, metric.id, value, reason)
    return Row(digest, first.prompt_id, first.seed, first.replicate, model_id, metric.id, value, reason)


def _device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
