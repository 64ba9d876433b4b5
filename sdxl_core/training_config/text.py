"""What is trained beside the UNet: `training.text_encoders` and `training.new_tokens`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sdxl_core.config import Config, PositiveInt

TOKEN = r"^<[a-z][a-z0-9-]{0,38}>$"


class TextEncodersConfig(Config):
    """The text encoders learn along with the UNet, by the same kind of adapter. Captions are encoded in every step."""

    first: bool = True
    """CLIP ViT-L."""
    second: bool = True
    """OpenCLIP ViT-bigG."""
    until_step: PositiveInt | None = None
    """Optimizer steps after which the encoders stop learning, and the rest learns on. Unset: never."""

    @model_validator(mode="after")
    def _one_at_least(self) -> TextEncodersConfig:
        if not self.first and not self.second:
            raise ValueError("expected first or second, got neither; to train no text encoder, leave the section out")
        return self


class NewToken(Config):
    """A word of its own in both vocabularies, whose embeddings are trained and kept with what else is trained."""

    token: Annotated[str, Field(pattern=TOKEN)]
    """How captions and prompts name it: lower-case letters, digits and `-` in angle brackets, such as `<kestrel>`."""
    initializer: str | None = None
    """Words whose embeddings it begins with, such as `person`. Default: numbers distributed as the vocabulary's."""
    vectors: Annotated[int, Field(ge=1, le=32)] = 1
    """Embeddings that the token stands for, each a word of the 75 that a caption can hold."""
