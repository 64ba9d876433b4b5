"""Stage `matrix`: several candidates side by side, as one page that opens offline."""

from __future__ import annotations

from collections.abc import Mapping

from eval.config import GalleryConfig
from tasks.additions import Model
from tasks.experiment import Experiment
from tasks.manifest import Json, Ref
from tasks.pictures import GivenPictures
from tasks.provenance import provenance
from tasks.stage import Call, Handle, Job, Stage
from tasks.yaml_config import to_yaml

_COMPARISONS = "comparisons"


def _build(job: Job) -> dict[str, Json]:
    from eval.matrix import build_matrix
    from eval.matrix_words import Choosing, Contender
    from eval.sweep import Sweep

    params = job.params
    return build_matrix(
        title=params["title"],
        contenders=[Contender(**one) for one in params["candidates"]],
        comparisons=job.inputs[_COMPARISONS],
        sets={role: place for role, place in job.inputs.items() if role != _COMPARISONS},
        baseline=params["baseline"],
        axes=tuple(params["axes"]) if params["axes"] else None,
        choosing=Choosing(**params["choosing"]) if params["choosing"] else None,
        provenance=provenance(job.store, [Ref.model_validate(ref) for ref in job.local["sources"]]),
        command=params["command"],
        config_yaml=to_yaml(params["config"]),
        gallery=GalleryConfig.model_validate(params["gallery"]),
        out=job.out,
        sweep=Sweep.of(params["sweep"]) if "sweep" in params else None,
    )


STAGE = Stage(kind="matrix", version="1", build=_build, heavy=False)


def build(
    label: str,
    experiment: Experiment,
    comparisons: Handle,
    sets: Mapping[str, Handle],
    sweep: Mapping[str, Json] | None = None,
) -> Call:
    """`sets`: image sets, by candidate and the `base`'s. `sweep`: with which settings they were trained, as
    `eval.sweep.Sweep` has it."""
    evaluation, inputs = experiment.config.evaluation, {_COMPARISONS: comparisons, **sets}
    choosing = None
    if evaluation.selection is not None:
        choosing = {"by": evaluation.chosen_by, "further_prompts": len(experiment.looks[-1].prompts)}
    params = {
        "title": experiment.name,
        "candidates": [_contender(slug, one) for slug, one in experiment.candidates.items()],
        "baseline": experiment.models["base"].name,
        "axes": list(evaluation.axes) if evaluation.axes else None,
        "choosing": choosing,
        "command": experiment.command,
        "config": experiment.shown_config,
        "gallery": evaluation.gallery.model_dump(mode="json"),
        **({} if sweep is None else {"sweep": dict(sweep)}),
    }
    sources = [handle.model_dump() for handle in inputs.values() if isinstance(handle, Ref)]
    return Call(STAGE, label, params, inputs, {"sources": sources})


def _contender(slug: str, model: Model | GivenPictures) -> dict[str, Json]:
    step = None if isinstance(model, GivenPictures) else model.step
    return {"slug": slug, "name": model.name, "step": step}
