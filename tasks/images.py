"""Stage `images`: a prompt set drawn by the base, or by the base with an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.config import SamplingConfig
from sdxl_core.prompts import Prompt
from tasks.digests import digest_json
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.train import trained_weights
from tasks.weights import TEXT_PARTS, BaseModel, local_folders


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA from outside the store."""

    path: Path
    digest: str


Adapter = Handle | AdapterFile | None
"""A train artifact, a LoRA file, or none for the base itself."""


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.drawing_model import DrawingModel
    from sdxl_core.generate import generate_images

    base, vae = local_folders(job.local)
    adapter = job.inputs.get("training")
    if job.local["adapter"] is not None:
        adapter = Path(job.local["adapter"])
    digests = [job.store.digest_file(file) for file in _weights(adapter)]
    model = DrawingModel(
        base=base,
        vae=vae,
        trained=adapter,
        digest=digest_json({"base": job.params["model"], "adapter": digests}),
        text_digest=_text_digest(job, adapter, digests),
    )
    return generate_images(
        sampling=SamplingConfig.model_validate(job.params["sampling"]),
        prompts=tuple(Prompt.from_dict(prompt) for prompt in job.params["prompts"]),
        replicates=job.params["replicates"],
        seed=job.params["seed"],
        model=model,
        out=job.out,
        caches=Caches(job.store.cells("images"), job.store.cells("prompts")),
        device=job.device,
        progress=job.progress,
    )


def _text_digest(job: Job, adapter: Path | None, digests: Sequence[str]) -> str:
    """Of the base's text encoders, unless the adapter changes them: then every prompt is encoded anew."""
    from sdxl_core.adapters import encodes_otherwise

    base: str = job.local["text_digest"]
    if adapter is None or not encodes_otherwise(adapter):
        return base
    return digest_json({"base": base, "adapter": list(digests)})


def _weights(adapter: Path | None) -> list[Path]:
    if adapter is None:
        return []
    return [adapter] if adapter.is_file() else trained_weights(adapter)


STAGE = Stage(kind="images", version="4", build=_build, retries=1)


@dataclass(frozen=True)
class PromptSet:
    """What is drawn: every prompt `replicates` times, with noise that follows from the seed and the prompt's id."""

    prompts: Sequence[Prompt]
    replicates: int
    seed: int


def generate(label: str, model: BaseModel, adapter: Adapter, drawn: PromptSet, sampling: SamplingConfig) -> Call:
    file = adapter if isinstance(adapter, AdapterFile) else None
    params = {
        "model": model.digest(),
        "adapter": file.digest if file else None,
        "prompts": [prompt.as_dict() for prompt in drawn.prompts],
        "replicates": drawn.replicates,
        "seed": drawn.seed,
        "sampling": sampling.model_dump(mode="json"),
    }
    inputs = {} if adapter is None or isinstance(adapter, AdapterFile) else {"training": adapter}
    local = {
        "text_digest": model.digest(*TEXT_PARTS),
        "adapter": str(file.path) if file else None,
        **model.located,
    }
    return Call(STAGE, label, params, inputs, local)
