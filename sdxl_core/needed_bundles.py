"""Bundles without which a run could not export what it has to. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from sdxl_core.best import criteria
from sdxl_core.bundles import bundle_name, bundle_step, damage
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config.exported_steps import exported_steps


def step_bundles(job: TrainJob) -> list[Path]:
    """Of the run's own steps that `training.export_every_steps` asks for."""
    steps = exported_steps(job.training, job.first_step)
    return [job.work / "bundles" / bundle_name(step) for step in steps]


def damage_or_lost(job: TrainJob, bundle: Path) -> str | None:
    """What is wrong with a bundle, or with an earlier one that is to be exported by a run that goes on from it."""
    config = job.training
    if config.export == "best":
        problem = criteria(job)[config.best_by].damage_or_lost_best(bundle, job.first_step)
    else:
        problem = damage(bundle)
    if problem is not None:
        return problem
    for needed in step_bundles(job):
        if bundle_step(needed) >= bundle_step(bundle):
            break
        asked = f"{needed.name}, which training.export_every_steps asks for, is"
        if not needed.is_dir():
            return f"{asked} not there"
        if problem := damage(needed):
            return f"{asked} not whole: {problem}"
    return None


def steps_left_out(job: TrainJob) -> tuple[int, ...]:
    """Steps that `training.export_every_steps` asks for and that are another run's."""
    config = job.training
    return tuple(step for step in exported_steps(config) if step <= job.first_step)
