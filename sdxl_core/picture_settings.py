"""Settings of single pictures. Importing this imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdxl_core.config import Config, PositiveInt, Probability, Resolution, SamplingConfig


class PictureSettings(Config):
    """What a prompt may say of its own pictures. What it does not say is as in `sampling`."""

    negative_prompt: str | None = None
    steps: PositiveInt | None = None
    guidance_scale: Annotated[float, Field(ge=0)] | None = None
    guidance_rescale: Probability | None = None
    width_px: Resolution | None = None
    height_px: Resolution | None = None

    def of(self, sampling: SamplingConfig) -> SamplingConfig:
        """How such a picture is drawn. Raises ValueError where the two do not go together."""
        said = self.model_dump(exclude_none=True)
        return SamplingConfig.model_validate(sampling.model_dump() | said) if said else sampling


AS_CONFIGURED = PictureSettings()
"""Says nothing."""
