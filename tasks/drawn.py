"""Stage `drawn`: pictures that a model draws of prompts, as a dataset whose pairs AI feedback is to find."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.config import DatasetConfig, DrawnConfig
from sdxl_core.errors import UserError, did_you_mean
from sdxl_core.prompt_sets import read_prompts
from sdxl_core.prompt_sets.rows import WHERE as PROMPTS_SETTING
from sdxl_core.prompt_sets.subject import fill
from sdxl_core.prompts import Prompt
from tasks.additions import Model
from tasks.errors import ConfigError
from tasks.images import Scaled, drawing_model, named_model
from tasks.manifest import Json
from tasks.models import Surroundings, find_model
from tasks.pictures import GivenPictures
from tasks.references import names_trained
from tasks.stage import Call, Cells, Job, Stage

_LOG = logging.getLogger("sdxl_flows")
WHERE, MODEL = "dataset.path", "dataset.drawn.model"


@dataclass(frozen=True)
class Drawing:
    """What is drawn, and who draws it."""

    config: DrawnConfig
    prompts: tuple[Prompt, ...]
    model: Model


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.drawn_pictures import draw_dataset

    return draw_dataset(
        drawn=DrawnConfig.model_validate(job.params["drawn"]),
        prompts=tuple(Prompt.from_dict(prompt) for prompt in job.params["prompts"]),
        model=drawing_model(job),
        out=job.out,
        caches=Caches(job.store.cells("images"), job.store.cells("prompts")),
        device=job.device,
        progress=job.progress,
    )


def _cells(job: Job) -> Cells:
    from sdxl_core.cached_pictures import Caches
    from sdxl_core.drawn_pictures import drawn_cells

    return drawn_cells(
        drawn=DrawnConfig.model_validate(job.params["drawn"]),
        prompts=tuple(Prompt.from_dict(prompt) for prompt in job.params["prompts"]),
        model=drawing_model(job),
        caches=Caches(job.store.cells("images"), job.store.cells("prompts")),
    )


STAGE = Stage(kind="drawn", version="1", build=_build, cells=_cells)


def draw(drawing: Drawing, added: Sequence[Scaled]) -> Call:
    """`added`: what is put into the base of `drawing.model`."""
    params, inputs, local = named_model(drawing.model.base, added)
    params |= {
        "prompts": [prompt.as_dict() for prompt in drawing.prompts],
        "drawn": drawing.config.model_dump(mode="json", exclude={"model"}),
    }
    return Call(STAGE, "dataset", params, inputs, local)


def locate_drawing(dataset: DatasetConfig, around: Surroundings) -> Drawing | None:
    """None where the dataset is not drawn.

    Raises:
        UserError: the prompts or the model are not there, or do not fit.
    """
    if dataset.drawn is None:
        return None
    if names_trained([dataset.drawn.model]):
        fix = "For a second round name the first one's result: train/KEY or a run's name"
        raise ConfigError.about(
            MODEL, expected="a model that is there before training", got=dataset.drawn.model, fix=fix
        )
    model = find_model(dataset.drawn.model, MODEL, around)
    if isinstance(model, GivenPictures):
        raise ConfigError.about(MODEL, expected="a model", got="a folder of pictures")
    prompts = drawn_texts(dataset)
    judged = {prompt.prompt for prompt in around.drawn.prompts}
    if shared := judged & {prompt.prompt for prompt in prompts}:
        _LOG.warning(
            "%d of the evaluation's %d prompts are drawn to learn from: they say less", len(shared), len(judged)
        )
    return Drawing(dataset.drawn, prompts, model)


def drawn_texts(dataset: DatasetConfig) -> tuple[Prompt, ...]:
    """The prompts at `dataset.path`.

    Raises:
        UserError: the file is missing, malformed, or has a text twice.
    """
    assert dataset.drawn is not None
    path = Path(dataset.path)
    if not dataset.path.startswith("/") or not path.is_file():
        near = did_you_mean(path.name, [one.name for one in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise ConfigError.about(WHERE, expected="a prompt file (./prompts.jsonl or ./prompts.txt)", got=path, fix=near)
    try:
        prompts = fill(read_prompts(path, "own"), None, f"{PROMPTS_SETTING}: {path.name}")
        for prompt in prompts:
            prompt.sampling(dataset.drawn.sampling)
    except UserError as error:
        raise ConfigError(str(error).replace(PROMPTS_SETTING, WHERE, 1)) from None
    texts: dict[str, str] = {}
    for prompt in prompts:
        if (other := texts.setdefault(prompt.prompt, prompt.id)) != prompt.id:
            got = f"that of {other} and {prompt.id}: {prompt.prompt[:60]!r}"
            raise ConfigError.about(f"{WHERE}: {path.name}", expected="every prompt once", got=got)
    return prompts
