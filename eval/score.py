"""The score stage: one metric over one image set, or over a base and a candidate set for pair metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path

from eval.errors import EvalError, NotScored
from eval.images import GeneratedImage, read_image_set, read_references
from eval.scorers.base import Judge, Metric, Resources, Sample, Score
from eval.table import Row, write_scores

Progress = Callable[[int, int], None]
METRIC_FILE = "metric.json"


def no_progress(done: int, total: int) -> None:
    """For callers who do not watch."""


def score_metric(
    *,
    metric: Metric,
    weights: Mapping[str, Path],
    weights_digests: Mapping[str, str],
    base: Path | None = None,
    candidate: Path | None = None,
    references: Path | None = None,
    out: Path,
    cells: MutableMapping[str, bytes],
    device: str = "auto",
    progress: Progress = no_progress,
) -> dict[str, object]:
    """Score image sets with one metric and write scores.parquet and metric.json into `out`.

    Args:
        metric: what to measure, from `EvaluationConfig.metrics`.
        weights: weight field -> local path, for every one of `metric.locations()`.
        weights_digests: weight field -> digest of the weights there.
        base, candidate: image sets. A pair metric takes both, any other exactly one of them.
        references: dataset artifact with the instance pictures, for metrics that need references.
        out: folder for the results, made if absent.
        cells: embeddings and values known already, by digest; new ones are added.
        device: torch device, or `auto` for a GPU where there is one.
        progress: told (done, total) after each picture or pair.

    Returns:
        A summary: the metric's id and the numbers of pictures scored, not scored and judged on a truncated prompt.

    Raises:
        EvalError: inputs do not fit the metric or each other, or the weights are not what the metric needs.
    """
    model_id, samples = _samples(metric, base, candidate)
    judge = metric.judge(_resources(metric, weights, weights_digests, references, cells, device))
    rows, truncated = [], []
    for done, sample in enumerate(samples, start=1):
        score, reason = _judged(judge, sample)
        rows.append(_row(sample, model_id, metric.id, score.value, reason))
        if score.truncated:
            truncated.append(sample.pictures[0].prompt_id)
        progress(done, len(samples))
    out.mkdir(parents=True, exist_ok=True)
    write_scores(rows, out)
    truncated = sorted(set(truncated))
    facts = describe(metric) | {"weights": dict(sorted(weights_digests.items())), "truncated_prompts": truncated}
    (out / METRIC_FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    scored = sum(row.is_scored for row in rows)
    return {
        "metric": metric.id,
        "model_id": model_id,
        "scored": scored,
        "not_scored": len(rows) - scored,
        "truncated_prompts": len(truncated),
    }


def describe(metric: Metric) -> dict[str, object]:
    """The facts about a metric that a reader of its numbers needs."""
    return {
        "name": metric.id,
        "title": metric.title if metric.name is None else f"{metric.title} ({metric.name})",
        "direction": metric.direction,
        "unit": metric.unit,
        "convention": metric.convention,
        "licence": metric.licence,
        "decimals": metric.decimals,
        "tie": metric.tie,
        "version": metric.version,
    }


def _resources(
    metric: Metric,
    weights: Mapping[str, Path],
    digests: Mapping[str, str],
    references: Path | None,
    cells: MutableMapping[str, bytes],
    device: str,
) -> Resources:
    wanted = set(metric.locations())
    assert wanted == set(weights) == set(digests), f"{metric.id}: weights {sorted(wanted)}, got {sorted(weights)}"
    for field, path in weights.items():
        if not path.exists():
            raise EvalError(f"metric {metric.id}: {field}: no such file or folder: {path.name}")
    if metric.needs == "references" and references is None:
        raise EvalError(f"metric {metric.id}: needs instance pictures to compare with, and there are none")
    return Resources(
        weights=weights,
        digests=digests,
        references=read_references(references) if metric.needs == "references" and references else (),
        cells=cells,
        device=_device(device),
    )


def _samples(metric: Metric, base: Path | None, candidate: Path | None) -> tuple[str, list[Sample]]:
    sets = {"base": base, "candidate": candidate}
    given = {model_id: read_image_set(folder) for model_id, folder in sets.items() if folder is not None}
    wanted = 2 if metric.needs == "pair" else 1
    assert len(given) == wanted, f"{metric.id} is scored on {wanted} image set(s), got {sorted(given)}"
    for model_id, images in given.items():
        if not images:
            raise EvalError(f"metric {metric.id}: the {model_id} image set is empty")
    if metric.needs == "pair":
        return "pair", [Sample(pair) for pair in _pairs(given["base"], given["candidate"])]
    ((model_id, images),) = given.items()
    return model_id, [Sample((image,)) for image in images]


def _pairs(
    base: tuple[GeneratedImage, ...], candidate: tuple[GeneratedImage, ...]
) -> Iterator[tuple[GeneratedImage, GeneratedImage]]:
    others = {image.key: image for image in candidate}
    for image in base:
        other = others.get(image.key)
        if other is None:
            continue  # the comparison lists pictures without a counterpart
        if (image.seed, image.prompt) != (other.seed, other.prompt):
            raise EvalError(
                f"prompt {image.prompt_id!r}, replicate {image.replicate}: base and candidate differ in prompt or seed "
                f"({image.seed} against {other.seed}); generate both with one prompt file and one evaluation.seed"
            )
        yield image, other


def _judged(judge: Judge, sample: Sample) -> tuple[Score, str]:
    try:
        return judge(sample), ""
    except NotScored as reason:
        return Score(float("nan")), str(reason)


def _row(sample: Sample, model_id: str, metric_id: str, value: float, reason: str) -> Row:
    first = sample.pictures[0]
    digest = "+".join(picture.identity for picture in sample.pictures)
    return Row(digest, first.prompt_id, first.seed, first.replicate, model_id, metric_id, value, reason)


def _device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
