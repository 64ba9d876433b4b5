"""From scores to rows of the long table."""

from __future__ import annotations

from eval.questions import Answers
from eval.scorers.base import Judge, Metric, Sample, Score
from eval.table import INSTANCES, Row


def row_of(sample: Sample, model_id: str, metric: Metric, score: Score, reason: str) -> Row:
    """`reason`: why there is no score; empty where there is one."""
    first, found = sample.pictures[0], (model_id, metric.id, score.value, reason, score.evidence)
    if metric.scored == "set":
        return Row("", "", 0, 0, *found)
    digest = "+".join(picture.identity for picture in sample.pictures)
    if metric.scored == "prompt":
        return Row(digest, first.prompt_id, 0, 0, *found)
    of = first.storyboard if metric.scored == "board" else first.prompt_id
    return Row(digest, of, first.seed, first.replicate, *found)


def instance_rows(judge: Judge, metric: Metric, answers: Answers) -> list[Row]:
    """Of the instance pictures, each among the others; their place among them stands where a replicate does."""
    return [
        Row(picture.identity, "", None, place, INSTANCES, metric.id, score.value, evidence=score.evidence)
        for place, (picture, score) in enumerate(judge.instances(answers))
    ]
