"""Stage `self_test`: the base against itself. The same noise must give the same pictures, other noise no verdict."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from eval.config import EvaluationConfig
from sdxl_core.config import SamplingConfig
from sdxl_core.prompts import Prompt
from tasks.errors import ConfigError
from tasks.images import drawing_model, named_model
from tasks.manifest import Json, Ref
from tasks.prompt_sets import PromptSet
from tasks.stage import Call, Handle, Job, Stage
from tasks.store import ArtifactStore
from tasks.weights import BaseModel

RESULT = "self_test.json"
SUSPICIOUS = 0.01
"""Chance of so many differences or more, at which they are called no chance."""
DRAWN_AGAIN = 4
"""Prompts whose pictures are drawn anew and compared bit for bit."""


def _build(job: Job) -> dict[str, Json]:
    from eval.self_test import against_itself

    evaluation = EvaluationConfig.model_validate(job.local["evaluation"])
    comparisons = list(against_itself(evaluation, job.inputs["scores"]))
    again = _drawn_again(job)
    before = _digests(job.inputs["base"])
    found = {
        "level": 1 - evaluation.confidence,
        "drawn_again": len(again),
        "equal": sum(before[key] == digest for key, digest in again.items()),
        "comparisons": [comparison.model_dump(mode="json") for comparison in comparisons],
    }
    (job.out / RESULT).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {
        "comparisons": len(comparisons),
        "found": sum(comparison.outcome in ("better", "worse", "mixed") for comparison in comparisons),
        "drawn_again": found["drawn_again"],
        "equal": found["equal"],
    }


def _drawn_again(job: Job) -> dict[tuple[str, int], str]:
    """Pictures of a few prompts, with nothing remembered: prompt and replicate -> digest."""
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.generate import generate_images

    with tempfile.TemporaryDirectory() as folder:
        generate_images(
            sampling=SamplingConfig.model_validate(job.params["sampling"]),
            prompts=tuple(Prompt.from_dict(prompt) for prompt in job.params["prompts"]),
            replicates=1,
            seed=job.params["seed"],
            model=drawing_model(job),
            out=Path(folder),
            caches=Caches({}, {}),
            device=job.device,
            progress=job.progress,
        )
        return _digests(Path(folder))


def _digests(images: Path) -> dict[tuple[str, int], str]:
    lines = (images / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {(line["prompt_id"], line["replicate"]): line["image_sha256"] for line in map(json.loads, lines)}


STAGE = Stage(kind="self_test", version="1", build=_build)


def check(
    evaluation: EvaluationConfig,
    sampling: SamplingConfig,
    model: BaseModel,
    drawn: PromptSet,
    inputs: Mapping[str, Handle],
) -> Call:
    """`inputs`: the `base`'s pictures, and their `scores`."""
    settings = evaluation.model_dump(mode="json", include={"confidence", "resamples", "seed"})
    metrics = [{**metric.identity(), "primary": metric.primary} for metric in evaluation.metrics]
    named, _, places = named_model(model, ())
    params = {
        **named,
        "evaluation": settings,
        "metrics": metrics,
        "prompts": [prompt.as_dict() for prompt in drawn.prompts[:DRAWN_AGAIN]],
        "seed": drawn.seed,
        "sampling": sampling.model_dump(mode="json"),
    }
    local = {**places, "evaluation": evaluation.model_dump(mode="json")}
    return Call(STAGE, "self_test", params, inputs, local)


def changes(comparisons: int) -> list[str]:
    """To a configuration, so that its evaluation is a self-test."""
    if comparisons < 1:
        raise ConfigError.about("comparisons", expected="1 or more", got=comparisons)
    alone = ["evaluation.candidate=base", "evaluation.candidates=[]", "evaluation.selection=null"]
    return [f"evaluation.replicates={2 * comparisons}", "evaluation.baseline=base", *alone]


def result(store: ArtifactStore, found: Ref) -> dict[str, Json]:
    read: dict[str, Json] = json.loads((store.path(found) / RESULT).read_text(encoding="utf-8"))
    return read


def is_sound(found: Mapping[str, Json]) -> bool:
    """Whether the same noise gave the same pictures, and no more differences were found than chance may bring."""
    from scipy.stats import binom

    comparisons: list[Mapping[str, Json]] = found["comparisons"]
    wrong = sum(each["outcome"] in ("better", "worse", "mixed") for each in comparisons)
    by_chance = float(binom.sf(wrong - 1, len(comparisons), found["level"]))
    return bool(found["equal"] == found["drawn_again"]) and by_chance >= SUSPICIOUS
