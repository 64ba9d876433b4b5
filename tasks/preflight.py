"""Stage `preflight`: what the dataset holds and what training will make of it, told before any model loads."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from sdxl_core.config import PriorConfig, TransformConfig
from sdxl_core.data.crop_report import EpochSpec
from sdxl_core.training_config import TrainingConfig
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.weights import BaseModel

_LOG = logging.getLogger("sdxl_flows")


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.data.faces import read_faces
    from sdxl_core.data.landmarks import read_landmarks
    from sdxl_core.data.preflight import format_summary, summarise, token_counter
    from sdxl_core.data.records import read_records

    transform = TransformConfig.model_validate(job.params["transform"])
    summary = summarise(
        read_records(job.inputs["dataset"]),
        transform=transform,
        count_tokens=token_counter(Path(job.local["model"]) / "tokenizer"),
        faces=read_faces(job.inputs["faces"]) if "faces" in job.inputs else {},
        epoch=EpochSpec.model_validate(job.params["epoch"]),
        landmarks=read_landmarks(job.inputs["landmarks"]) if "landmarks" in job.inputs else None,
    )
    text = format_summary(summary)
    _LOG.info("%s", text)
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / "preflight.txt").write_text(text + "\n", encoding="utf-8")
    document = json.dumps(summary, indent=1, sort_keys=True, ensure_ascii=False)
    (job.out / "preflight.json").write_text(document + "\n", encoding="utf-8")
    return {"pictures": summary["pictures"], "long_captions": summary["long_captions"]["pictures"]}


STAGE = Stage(kind="preflight", version="2", build=_build, heavy=False)


def check(
    pictures: Mapping[str, Handle],
    transform: TransformConfig,
    training: TrainingConfig,
    prior: PriorConfig | None,
    model: BaseModel,
) -> Call:
    """`pictures` holds `dataset`; with a face detector `faces`; with an identity loss `landmarks`."""
    epoch = EpochSpec(
        rows_per_step=training.micro_batch_size * training.accumulation_steps * training.processes,
        concepts=training.concepts,
        class_image_px=None if prior is None else (prior.sampling.height_px, prior.sampling.width_px),
    )
    params = {
        "transform": transform.lasting,
        "tokenizer": model.digest("tokenizer"),
        "epoch": epoch.model_dump(mode="json"),
    }
    return Call(STAGE, "preflight", params, pictures, {**model.located})
