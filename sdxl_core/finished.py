"""What a finished training run leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sdxl_core.adapters import TRAINED_FILE
from sdxl_core.best import HISTORY_FILE, Measured, best_of, validation_losses
from sdxl_core.bundle import read_bundle
from sdxl_core.bundles import bundle_name
from sdxl_core.errors import UserError
from sdxl_core.hooks import validation_file
from sdxl_core.run import Run
from sdxl_core.sharding import whole
from sdxl_core.together import Action


def export(run: Run) -> None:
    """Write the files of a run that is at its last step into the job's `out`; as the last that is done with it.

    Raises:
        UserError: the best step is to be exported and there is none: no validation loss was finite.
    """
    job = run.job
    ancestor = job.ancestor.digest if job.ancestor is not None else None
    provenance = dict(job.identity) | ({"ancestor": ancestor} if ancestor else {})
    step, why = _chosen(run)
    run.state.together.lead(Action.EXPORT, step)
    with _weights_of(run, step):
        run.trained.export(job.model, job.out, provenance)
    (job.out / HISTORY_FILE).write_text(run.history, encoding="utf-8")
    prompts = job.training.validation_prompts
    _copy_pictures(run)
    described = json.dumps(
        {"training": job.training.lasting, "inputs": dict(job.identity), "validation_prompts": list(prompts)}
        | {"steps": run.state.step, "skipped_steps": run.state.skipped_in_all, "ancestor": ancestor}
        | {"exported": {"step": step, "why": why}, "validation_loss": _described_losses(run)},
        indent=1,
        sort_keys=True,
    )
    (job.out / TRAINED_FILE).write_text(described + "\n", encoding="utf-8")


def share_weights_of(run: Run, step: int) -> None:
    """What `export` asks of the other processes where each holds a share of the weights."""
    with _weights_of(run, step):
        for part in run.trained.adapted:
            whole(run.trained.networks.parts[part].state_dict())


def _chosen(run: Run) -> tuple[int, str]:
    """Which step's weights are exported, and why."""
    if run.job.training.export == "last":
        return run.state.step, "the last step"
    best = best_of(run.history, run.job.first_step)
    if best is None:
        raise UserError("training.export = best, but no validation loss was finite; set training.export=last")
    return best.step, f"the lowest validation loss, {best.loss:.6g}"


@contextmanager
def _weights_of(run: Run, step: int) -> Iterator[None]:
    """The networks hold what is used of a step: its weights, or an average where the run keeps one."""
    if step != run.state.step:
        run.load_weights(read_bundle(run.job.work / "bundles" / bundle_name(step)))
    with run.state.weights_for_use():
        yield


def _described_losses(run: Run) -> dict[str, Any] | None:
    """What was measured, for reports."""
    measuring = run.validation_loss
    if measuring is None:
        return None
    found = validation_losses(run.history)
    base = next((measured.loss for measured in found if measured.step == 0), None)
    best = best_of(run.history, run.job.first_step)
    return {
        "pictures": len(measuring.images),
        "timesteps": list(measuring.timesteps),
        "weighted": measuring.config.weighted,
        "base": base,
        "best": _as_json(best),
        "last": _as_json(found[-1] if found else None),
    }


def _as_json(measured: Measured | None) -> dict[str, Any] | None:
    return None if measured is None else {"step": measured.step, "loss": measured.loss}


def _copy_pictures(run: Run) -> None:
    """Of the steps of this run alone: a longer run with the same beginning works in the same folder."""
    validation, job = run.job.training.validation, run.job
    if validation is None or not validation.prompts:
        return
    (job.out / "validation").mkdir(exist_ok=True)
    every = validation.every_steps
    for step in range((job.first_step // every + 1) * every, run.state.step + 1, every):
        for i in range(len(validation.prompts)):
            name = validation_file(step, i)
            (job.out / "validation" / name).write_bytes((job.work / "validation" / name).read_bytes())
