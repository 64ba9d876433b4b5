"""The identity loss of a run, made ready from its job."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sdxl_core.errors import UserError
from sdxl_core.identity.face_model import TEMPLATE_PX, WHERE, require_timesteps
from sdxl_core.identity.loss import IdentityLoss
from sdxl_core.identity.recogniser import FaceRecogniser
from sdxl_core.identity.training_faces import TrainingFaces
from sdxl_core.model import load_vae, vae_folder
from sdxl_core.objectives import Objective
from sdxl_core.train_job import TrainJob


def add_identity_loss(
    objective: Objective,
    job: TrainJob,
    concepts: Mapping[str, str | None],
    timesteps: int,
    device: torch.device,
) -> tuple[Objective, TrainingFaces | None]:
    """The objective with the identity loss, and the faces of its rows; the objective alone where the loss is off.

    `concepts` are those of the instance pictures, by sha256; `timesteps` are as many as the schedule has.

    Raises:
        UserError: the job lacks the faces or the recogniser, or they do not fit.
    """
    config = job.training.consistency.identity_loss
    if config is None:
        return objective, None
    require_timesteps(config, timesteps)
    if job.face_targets is None or job.face_model is None:
        what = "where the faces are, and a face model"
        raise UserError.about(WHERE, expected=what, got="a job without")
    faces = TrainingFaces.load(job.face_targets, concepts, config.reference)
    recogniser = FaceRecogniser.load(job.face_model, device)
    _require_width(faces, recogniser, device)
    vae = load_vae(vae_folder(job.model, job.vae), device)
    if job.training.gradient_checkpointing:
        vae.enable_gradient_checkpointing()
    return IdentityLoss(objective, config, vae, vae.config.scaling_factor, recogniser), faces


@torch.no_grad()
def _require_width(faces: TrainingFaces, recogniser: FaceRecogniser, device: torch.device) -> None:
    """Raises UserError for another recogniser than the one that made the faces' embeddings."""
    width, made = recogniser(torch.zeros(1, 3, TEMPLATE_PX, TEMPLATE_PX, device=device)).shape[1], faces.width
    if width != made:
        raise UserError.about(f"{WHERE}.face_model", expected=f"embeddings of {made} numbers", got=width)
