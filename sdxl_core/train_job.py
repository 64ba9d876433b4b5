"""What the trainer process is asked to do. Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from sdxl_core.config import Config, SamplingConfig, TrainingConfig


class TrainJob(Config):
    """One training run: `python -m sdxl_core.train JOB.json` or `accelerate launch -m sdxl_core.train JOB.json`."""

    model: Path
    """Diffusers folder of the base model."""
    vae: Path | None = None
    """Folder of another VAE than the base model's."""
    training: TrainingConfig
    latents: Path
    """Folder of the latents artifact of the instance pictures."""
    text: Path
    """Folder of the text artifact: the captions of instance and class pictures."""
    class_latents: Path | None = None
    sampling: SamplingConfig
    """How validation pictures are generated."""
    work: Path
    """Folder of resumable bundles; a run that finds one here goes on from it."""
    out: Path
    """Folder of the finished LoRA, history and validation pictures."""
    identity: Mapping[str, str] = Field(default_factory=dict)
    """Digests of the data, caches and base weights; kept in bundles and written into the exported files."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, EXIT_PREEMPTED = 0, 1, 2, 75
