"""Stage `preflight`: what the dataset holds and what training will make of it, told before any model loads."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from sdxl_core.config import TransformConfig
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.weights import BaseModel

_LOG = logging.getLogger("sdxl_flows")


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.data.preflight import format_summary, summarise, token_counter
    from sdxl_core.data.records import read_records

    transform = TransformConfig.model_validate(job.params["transform"])
    count_tokens = token_counter(Path(job.local["model"]) / "tokenizer")
    summary = summarise(read_records(job.inputs["dataset"]), transform=transform, count_tokens=count_tokens)
    text = format_summary(summary)
    _LOG.info("%s", text)
    job.out.mkdir(parents=True, exist_ok=True)
    (job.out / "preflight.txt").write_text(text + "\n", encoding="utf-8")
    document = json.dumps(summary, indent=1, sort_keys=True, ensure_ascii=False)
    (job.out / "preflight.json").write_text(document + "\n", encoding="utf-8")
    return {"pictures": summary["pictures"], "long_captions": summary["long_captions"]["pictures"]}


STAGE = Stage(kind="preflight", version="1", build=_build, heavy=False)


def check(dataset: Handle, transform: TransformConfig, model: BaseModel) -> Call:
    params = {"transform": transform.model_dump(mode="json"), "tokenizer": model.digest("tokenizer")}
    return Call(STAGE, "preflight", params, {"dataset": dataset}, {**model.located})
