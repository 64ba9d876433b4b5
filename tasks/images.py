"""Stage `images`: a prompt set drawn by a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdxl_core.config import SamplingConfig
from sdxl_core.prompts import Prompt
from sdxl_core.training_config.exported_steps import step_folder
from tasks.additions import LocalFiles
from tasks.digests import digest_json
from tasks.manifest import Json
from tasks.prompt_sets import PromptSet
from tasks.stage import Call, Cells, Handle, Job, Stage
from tasks.train import trained_weights
from tasks.weights import BaseModel, local_folders

if TYPE_CHECKING:
    from sdxl_core.drawing_model import DrawingModel


@dataclass(frozen=True)
class AtStep:
    """A step that a train artifact has beside its result."""

    training: Handle
    step: int


Scaled = tuple[Handle | AtStep | LocalFiles, float]
"""A train or bundle artifact, a step of one, or files that are in no store; and its scale."""


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.generate import generate_images

    return generate_images(
        sampling=SamplingConfig.model_validate(job.params["sampling"]),
        prompts=tuple(Prompt.from_dict(prompt) for prompt in job.params["prompts"]),
        replicates=job.params["replicates"],
        seed=job.params["seed"],
        model=drawing_model(job),
        out=job.out,
        caches=Caches(job.store.cells("images"), job.store.cells("prompts")),
        device=job.device,
        progress=job.progress,
    )


def _cells(job: Job) -> Cells:
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.generate import image_cells

    return image_cells(
        sampling=SamplingConfig.model_validate(job.params["sampling"]),
        prompts=tuple(Prompt.from_dict(prompt) for prompt in job.params["prompts"]),
        replicates=job.params["replicates"],
        seed=job.params["seed"],
        model=drawing_model(job),
        caches=Caches(job.store.cells("images"), job.store.cells("prompts")),
    )


def drawing_model(job: Job) -> DrawingModel:
    """Of a job that names its model as `named_model` does."""
    return model_of(job.params, job.inputs, job.local, job.store.digest_file)


def model_of(
    params: Mapping[str, Json], inputs: Mapping[str, Path], local: Mapping[str, Json], digest: Callable[[Path], str]
) -> DrawingModel:
    """What `named_model` says, with the folders of the inputs."""
    from sdxl_core.additions import Addition
    from sdxl_core.drawing_model import DrawingModel

    base, vae = local_folders(local)
    steps = {name: step_folder(step) for name, step in params.get("steps", {}).items()}
    added = [Addition(inputs[name] / steps.get(name, ""), scale) for name, scale in params["scales"].items()]
    known = [[digest(file) for file in trained_weights(one.place)] for one in added]
    for place, file in zip(local["files"], params["files"], strict=True):
        added.append(Addition(Path(place), file["scale"]))
        known.append(file["digests"])
    said = _said(known, [one.scale for one in added])
    otherwise = any(one.encodes_otherwise for one in added)
    text: str = local["text_digest"]
    return DrawingModel(
        base=base,
        vae=vae,
        added=tuple(added),
        digest=digest_json({"base": params["model"], "adapter": said}),
        text_digest=digest_json({"base": text, "adapter": said}) if otherwise else text,
    )


def _said(digests: Sequence[Sequence[str]], scales: Sequence[float]) -> Json:
    """What is added, by which its pictures are known; a LoRA by itself at scale 1 by its digests alone."""
    if all(scale == 1 for scale in scales) and len(scales) <= 1:
        return [digest for some in digests for digest in some]
    return [[list(some), scale] for some, scale in zip(digests, scales, strict=True)]


STAGE = Stage(kind="images", version="4", build=_build, cells=_cells)


def generate(label: str, model: BaseModel, added: Sequence[Scaled], drawn: PromptSet, sampling: SamplingConfig) -> Call:
    params, inputs, local = named_model(model, added)
    params |= {
        "prompts": [prompt.as_dict() for prompt in drawn.prompts],
        "replicates": drawn.replicates,
        "seed": drawn.seed,
        "sampling": sampling.model_dump(mode="json"),
    }
    return Call(STAGE, label, params, inputs, local)


def named_model(
    model: BaseModel, added: Sequence[Scaled]
) -> tuple[dict[str, Json], dict[str, Handle], dict[str, Json]]:
    """-> params, inputs and local places of a call whose job `drawing_model` understands."""
    files = [(source, scale) for source, scale in added if isinstance(source, LocalFiles)]
    artifacts = [(source, scale) for source, scale in added if not isinstance(source, LocalFiles)]
    names = ["training", *(f"training_{number}" for number in range(2, len(artifacts) + 1))]
    params: dict[str, Json] = {
        "model": model.digest(),
        "files": [{"digests": list(source.digests), "scale": scale} for source, scale in files],
        "scales": {name: scale for name, (_, scale) in zip(names, artifacts, strict=False)},
    }
    sources = {name: source for name, (source, _) in zip(names, artifacts, strict=False)}
    steps = {name: source.step for name, source in sources.items() if isinstance(source, AtStep)}
    params |= {"steps": steps} if steps else {}
    inputs = {name: source.training if isinstance(source, AtStep) else source for name, source in sources.items()}
    local = {
        "text_digest": model.text_digest,
        "files": [str(source.place) for source, _ in files],
        **model.located,
    }
    return params, inputs, local
