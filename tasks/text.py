"""Stage `text`: every caption through both text encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.weights import BaseModel

# the index says whether an empty prompt stands for zeros
_PARTS = ("index", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.text import encode_text

    return encode_text(
        datasets=[job.inputs[name] for name in sorted(job.inputs)],
        model=Path(job.local["model"]),
        model_digest=job.params["model"],
        out=job.out,
        cells=job.store.cells("text"),
        device=job.device,
        progress=job.progress,
    )


STAGE = Stage(kind="text", version="2", build=_build)


def encode(datasets: Mapping[str, Handle], model: BaseModel) -> Call:
    """One artifact for the captions of all `datasets`."""
    return Call(STAGE, "text", {"model": model.digest(*_PARTS)}, datasets, {"model": str(model.folder)})
