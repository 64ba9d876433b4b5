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
from tasks.weights import BaseModel, local_folders


@dataclass(frozen=True)
class AdapterFile:
    """A LoRA from outside the store."""

    path: Path
    digest: str


Adapter = Handle | AdapterFile | None
"""A train artifact, a LoRA file, or none for the base itself."""


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.generate import generate_images

    model, vae = local_folders(job.local)
    adapter = job.inputs.get("training")
    if job.local["adapter"] is not None:
        adapter = Path(job.local["adapter"])
    digests = [job.store.digest_file(file) for file in _weights(adapter)]
    weights = {"base": job.params["model"], "adapter": digests}
    return generate_images(
        sampling=SamplingConfig.model_validate(job.local["sampling"]),
        prompts=tuple(Prompt(**prompt) for prompt in job.params["prompts"]),
        replicates=job.params["replicates"],
        seed=job.params["seed"],
        model=model,
        vae=vae,
        adapter=adapter,
        model_digest=digest_json(weights),
        out=job.out,
        cells=job.store.cells("images"),
        device=job.device,
        progress=job.progress,
    )


def _weights(adapter: Path | None) -> list[Path]:
    if adapter is None:
        return []
    return [adapter] if adapter.is_file() else trained_weights(adapter)


STAGE = Stage(kind="images", version="3", build=_build, retries=1)


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
        "sampling": sampling.model_dump(mode="json", exclude={"batch_size"}),
    }
    inputs = {} if adapter is None or isinstance(adapter, AdapterFile) else {"training": adapter}
    local = {
        "sampling": sampling.model_dump(mode="json"),
        "adapter": str(file.path) if file else None,
        **model.located,
    }
    return Call(STAGE, label, params, inputs, local)
