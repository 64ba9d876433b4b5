"""What a run trains on, and what its validation loss is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdxl_core.cached_images import CachedImages, load_images
from sdxl_core.compiling import refuse_many_sizes
from sdxl_core.data.buckets import refuse_mixed_sizes
from sdxl_core.data.pairs import has_pairs
from sdxl_core.errors import UserError
from sdxl_core.families import family_of
from sdxl_core.held_out import choose_held_out, refuse_shared
from sdxl_core.identity.training_faces import TrainingFaces
from sdxl_core.model import vae_folder, zeros_for_empty_prompt
from sdxl_core.objectives import Objective
from sdxl_core.objectives.pairs import OfPairs
from sdxl_core.pair_set import PairSet
from sdxl_core.preferences import (
    PairedImages,
    labelled_images,
    labels_of,
    paired_images,
    preferred_images,
    read_labels,
    read_pairs,
    split_by_prompt,
)
from sdxl_core.text_encoders import Tokenizers
from sdxl_core.train_job import TrainJob
from sdxl_core.training_set import StepRows, TrainingSet
from sdxl_core.training_text import CachedText, LiveText, TrainingText
from sdxl_core.vae_settings import load_scaling_factor
from sdxl_core.validation_loss import HeldOutMeasure, ValidationLoss, validation_timesteps
from sdxl_core.validation_pairs import PairValidation


@dataclass(frozen=True)
class RunImages:
    trained: CachedImages
    held_out: CachedImages | None
    """For the validation loss."""
    classes: CachedImages | None
    pairs: PairedImages | None = None
    """What is learned from, in place of `trained`, which are all pictures of pairs."""
    held_out_pairs: PairedImages | None = None
    """What is measured on, in place of `held_out`."""

    def captions(self, class_prompt: str | None) -> set[str]:
        """All that have to be encoded."""
        measured = None if self.held_out_pairs is None else self.held_out_pairs.images
        groups = [images for images in (self.trained, self.held_out, self.classes, measured) if images is not None]
        return {caption for images in groups for caption in images.captions} | (
            {class_prompt} if class_prompt else set()
        )


def load_run_images(job: TrainJob, objective: Objective) -> RunImages:
    """
    Raises:
        UserError: pictures are of too many sizes to compile for, class images are of other sizes, masks are asked for
            and not there, or the held-out pictures are none, all, or trained on as well.
    """
    if job.latents is None:
        raise UserError("the job names no latents to train on, and no data was given in their place")
    images = load_images(job.latents)
    refuse_many_sizes(job.training, images.sizes)
    classes = load_images(job.class_latents) if objective.uses_class_images and job.class_latents else None
    if classes is not None:
        refuse_mixed_sizes({*images.sizes}, {*classes.sizes})
    if job.training.masked_loss is not None and images.mask_NVHW is None:
        fix = "Set dataset.masks to a folder or to alpha, or training.masked_loss=null"
        raise UserError.about("training.masked_loss", expected="pictures with masks", got="none", fix=fix)
    if objective.learns_from != "pictures":
        return _of_preferences(images, job, objective)
    trained, held_out = _split(images, job)
    return RunImages(trained, held_out, classes)


def _of_preferences(images: CachedImages, job: TrainJob, objective: Objective) -> RunImages:
    folder, config = job.preferences, job.training.validation_loss
    if folder is None:
        raise UserError(f"training.objective = {job.training.objective.kind} needs preferences; the job names none")
    if not has_pairs(folder):
        labelled = labelled_images(images, read_labels(folder), _liked_share(job))
        return RunImages(*_split(labelled, job), None)
    splits = config if config is not None and config.splits_dataset else None
    pairs, held_out = split_by_prompt(read_pairs(folder), splits)
    measured = images
    if job.validation_latents is not None and job.validation_preferences is not None:
        measured = load_images(job.validation_latents)
        refuse_shared(images.sha256s, measured.sha256s)
        held_out = read_pairs(job.validation_preferences)
    trained, paired = images, None
    if objective.learns_from == "pairs":
        paired = paired_images(images, pairs)
    elif objective.learns_from == "preferred":
        trained = preferred_images(images, pairs)
    else:
        trained = labelled_images(images, labels_of(pairs), _liked_share(job))
    return RunImages(trained, None, None, paired, paired_images(measured, held_out) if held_out else None)


def _liked_share(job: TrainJob) -> float | None:
    share: float | None = getattr(job.training.objective, "liked_share", None)
    return share


def _split(images: CachedImages, job: TrainJob) -> tuple[CachedImages, CachedImages | None]:
    config = job.training.validation_loss
    if config is None:
        return images, None
    if config.splits_dataset:
        return images.split(choose_held_out(images.sha256s, config))
    if job.validation_latents is None:
        raise UserError("training.validation.loss: no pictures to measure on; set share or pictures")
    held_out = load_images(job.validation_latents)
    refuse_shared(images.sha256s, held_out.sha256s)
    return images, held_out


def refuse_what_is_not_there(job: TrainJob, objective: Objective) -> None:
    """Raises UserError where class images are needed and missing, or text is cached that training would change."""
    if objective.uses_class_images and job.class_latents is None:
        kind = job.training.objective.kind
        raise UserError(f"training.objective = {kind} needs class images: add a section `prior`")
    if job.training.live_text != (job.text is None):
        raise UserError(
            "captions are encoded before training exactly where neither training.text_encoders nor "
            f"training.new_tokens would change their embeddings; got cached text: {job.text}"
        )


def refuse_with_own_data(job: TrainJob) -> None:
    """Raises UserError for what has to know the pictures and captions."""
    for where, there in (
        ("training.new_tokens", bool(job.training.new_tokens)),
        ("training.validation.loss", job.training.validation_loss is not None),
        ("training.consistency.identity_loss", job.training.consistency.identity_loss is not None),
    ):
        if there:
            raise UserError(f"{where} needs the job's own pictures and captions, and data was given in their place")


def build_data(
    job: TrainJob,
    images: RunImages,
    tokenizers: Tokenizers | None,
    objective: Objective,
    faces: TrainingFaces | None,
    timesteps: int,
    rows_per_step: int,
) -> tuple[StepRows, HeldOutMeasure | None]:
    """What the run trains on, and its validation loss where that is asked for.

    `timesteps` are as many as the schedule has; `tokenizers` are needed where the job has no cached text.
    """
    config, class_prompt = job.training, objective.class_prompt
    text = _load_text(job, tokenizers, images.captions(class_prompt))
    factor = load_scaling_factor(vae_folder(job.model, job.vae), family_of(job.model))
    validation = _validation(job, images, text, objective, factor, timesteps)
    how: dict[str, Any] = {
        "config": config,
        "scaling_factor": factor,
        "timesteps": timesteps,
        "rows_per_step": rows_per_step,
    }
    if images.pairs is not None:
        return PairSet(images.pairs, text, **how), validation
    return TrainingSet(images.trained, images.classes, text, **how, class_prompt=class_prompt, faces=faces), validation


def _validation(
    job: TrainJob, images: RunImages, text: TrainingText, objective: Objective, factor: float, timesteps: int
) -> HeldOutMeasure | None:
    config = job.training.validation_loss
    if config is None:
        return None
    measured_at = validation_timesteps(config, job.training.timesteps, timesteps)
    how: dict[str, Any] = {
        "scaling_factor": factor,
        "timesteps": measured_at,
        "rows_at_once": job.training.micro_batch_size,
    }
    if images.held_out_pairs is not None:
        assert isinstance(objective, OfPairs), "who learns from preferences has something to say of pairs"
        return PairValidation(config, images.held_out_pairs, text, objective, **how)
    return None if images.held_out is None else ValidationLoss(config, images.held_out, text, **how)


def _load_text(job: TrainJob, tokenizers: Tokenizers | None, captions: set[str]) -> TrainingText:
    """As it was encoded before; or as tokens, where what encodes it is trained."""
    if job.text is not None:
        return CachedText.load(job.text)
    assert tokenizers is not None
    return LiveText.tokenize(captions, tokenizers, job.captions, zeros_for_empty_prompt(job.model))
