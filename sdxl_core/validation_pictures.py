"""Validation pictures as files, shown in trackers, and scored by whoever was given to the trainer for that."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import torch
from PIL import Image

from sdxl_core.disk import write_durably
from sdxl_core.errors import UserError
from sdxl_core.loop import Metrics, TrainState
from sdxl_core.picture_files import png_bytes
from sdxl_core.prompts import prompt_seed
from sdxl_core.runtime import unless_out_of_memory
from sdxl_core.scores import PictureScorer, ValidationPicture, score_figure, scored_figure
from sdxl_core.together import Action
from sdxl_core.trackers import Tracker
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import ValidationConfig
from sdxl_core.validation import Validation

FOLDER = "validation"


def validation_files(config: ValidationConfig, folder: Path, step: int) -> list[ValidationPicture]:
    """Of a step: `<step>-<prompt>.png`, and `<step>-<prompt>-<replicate>.png` of further ones, prompt by prompt."""
    return [
        ValidationPicture(
            file=folder / f"{step:06d}-{place:02d}{f'-{replicate}' if replicate else ''}.png",
            prompt=prompt,
            place=place,
            replicate=replicate,
            seed=prompt_seed(config.seed, prompt, replicate),
        )
        for place, prompt in enumerate(config.prompts)
        for replicate in range(config.pictures_per_prompt)
    ]


def drawn(validation: Validation, state: TrainState) -> list[Image.Image]:
    """The validation pictures of a state."""
    state.together.lead(Action.DRAW)
    with state.weights_for_use():
        return validation.pictures()


class ValidationPictures:
    """Every so many steps, pictures made with the weights for use (an average, if one is kept), and their scores.

    Scores become figures of the step; a step without a picture that can be scored has none.
    """

    def __init__(
        self, validation: Validation, folder: Path, trackers: list[Tracker], scorer: PictureScorer | None = None
    ) -> None:
        self.validation = validation
        self.config = validation.config
        self.folder = folder
        self.trackers = trackers
        self.scorer = scorer

    def __call__(self, state: TrainState, metrics: Metrics) -> None:
        if state.step % self.config.every_steps == 0:
            metrics |= self.make(state)

    def make(self, state: TrainState) -> Metrics:
        """Draw, write, show and score; returns the scores."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = validation_files(self.config, self.folder, state.step)
        pictures = drawn(self.validation, state)
        shown = {}
        for file, picture in zip(files, pictures, strict=True):
            write_durably(file.file, png_bytes(picture, {"prompt": file.prompt}))
            shown[f"{file.prompt} ({file.replicate + 1})" if file.replicate else file.prompt] = picture
        for tracker in self.trackers:
            tracker.pictures(state.step, shown)
        return self._scores(files)

    def _scores(self, files: list[ValidationPicture]) -> Metrics:
        scorer = self.scorer
        if scorer is None:
            return {}
        found = unless_out_of_memory(lambda: scorer(files, validation_files(self.config, self.folder, 0)))
        gc.collect()
        torch.cuda.empty_cache()  # what the networks held is for training again
        if found is None:
            raise UserError(
                "training.validation.scores: the device's memory does not suffice for the metrics' networks beside the "
                "training: set training.validation.scores_device=cpu (a run goes on with --override "
                "training.validation), or leave scores out"
            )
        figures = {}
        for name in self.config.scores:
            figures[score_figure(name)] = found[name].value
            if found[name].pictures < len(files):
                figures[scored_figure(name)] = float(found[name].pictures)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()}


def refuse_without_scorer(job: TrainJob, scorer: PictureScorer | None) -> None:
    """Raises UserError where scores are asked for that nobody gives."""
    wanted = () if job.training.validation is None else job.training.validation.scores
    if wanted and scorer is None:
        raise UserError(
            "training.validation.scores: the trainer by itself has no metrics; run the pipeline, or call "
            "sdxl_core.train.train(job, scorer=...)"
        )
    if unknown := sorted(set(wanted) - set(job.scores)):
        raise UserError(f"training.validation.scores: {', '.join(unknown)}: the job's `scores` say nothing of them")


def bring_base_pictures(job: TrainJob) -> None:
    """Those of step 0, from the run that this one begins with; scores hold its own against them.

    Raises:
        UserError: they are not there and a score needs them.
    """
    config = job.training.validation
    if job.ancestor is None or config is None or not config.scores:
        return
    here, there = job.work / FOLDER, job.ancestor.path.parent.parent / FOLDER
    wanted = [picture.file for picture in validation_files(config, here, 0)]
    if not all(file.is_file() for file in wanted):
        found = [there / file.name for file in wanted]
        if all(file.is_file() for file in found):
            here.mkdir(parents=True, exist_ok=True)
            for file in found:
                shutil.copyfile(file, here / file.name)
        elif needing := [name for name in config.scores if job.scores[name].with_base]:
            raise UserError(
                f"training.validation.scores: {', '.join(needing)}: expected the base's pictures of the run that this "
                f"one begins with, got none in {there}; leave such metrics out, or start anew with --fresh"
            )


def finished_pictures(job: TrainJob) -> list[Path]:
    """This run's pictures, and the base's where they were scored; the folder may hold a longer run's too."""
    config = job.training.validation
    if config is None or not config.prompts:
        return []
    every = config.every_steps
    steps = list(range((job.first_step // every + 1) * every, job.training.max_steps + 1, every))
    base = [picture.file for picture in validation_files(config, job.work / FOLDER, 0)] if config.scores else []
    mine = [picture.file for step in steps for picture in validation_files(config, job.work / FOLDER, step)]
    return [file for file in base if file.is_file()] + mine
