"""Typed, closed configuration of the core: models, data, sampling. Importing this imports no torch.

A *local path* in a configuration begins with `/`, `./`, `../` or `~`; anything else that names a model or a dataset is
a hub id. Relative paths have been made absolute (against the configuration file's folder) before they come here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Config(BaseModel):
    """Base of every configuration section: frozen, unknown keys refused, docstrings of fields are their help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


Precision = Literal["fp32", "fp16", "bf16"]
PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class ModelConfig(Config):
    """The base model: a diffusers folder or a hub id."""

    base: str
    """Diffusers folder (`./dir`, `/dir`) or hub id of a Stable Diffusion XL checkpoint."""
    revision: str | None = None
    """Hub commit or tag. Pin it: a branch name can move under you."""
    variant: str | None = None
    """Weight variant to load, such as `fp16`."""
    vae: str | None = None
    """Folder or hub id of another VAE, such as `madebyollin/sdxl-vae-fp16-fix`."""
    vae_revision: str | None = None


class DatasetConfig(Config):
    """Where the pictures and captions come from."""

    source: Literal["imagefolder", "prompt", "captions", "concepts", "parquet", "hub"] = "imagefolder"
    """imagefolder: a folder with metadata.jsonl; prompt: a plain folder, one `prompt` for all; captions: a `.txt`
    beside each picture; concepts: one sub-folder per concept, named by its prompt or holding prompt.txt; parquet: local
    parquet files; hub: a `datasets` hub id."""
    path: str
    """Folder, parquet file or folder of them, or hub id."""
    prompt: str | None = None
    """The caption of every picture (source `prompt`); with other sources, of pictures that have none."""
    image_column: str | None = None
    """Column that holds the picture or its file name. Default: `file_name` for imagefolder, `image` otherwise."""
    caption_column: str = "text"
    revision: str | None = None
    """Hub revision."""
    split: str = "train"
    """Hub split."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with pictures that cannot be read: refuse the dataset, naming all of them, or leave them out."""
    max_bad_share: Probability = 0.05
    """With `skip`: refuse the dataset when more than this share of it is bad."""
    max_megapixels: Annotated[float, Field(gt=0)] = 100.0
    """Refuse larger pictures before they are decoded."""


class TransformConfig(Config):
    """How a picture becomes a training picture. Everything here changes the latents."""

    resolution_px: Annotated[int, Field(ge=16, multiple_of=8)] = 1024
    """Side of the square training picture; the picture's shorter side is resized to it, then the longer is cropped."""
    crop: Literal["center", "random"] = "center"
    crops_per_image: PositiveInt = 1
    """With `crop: random`, how many fixed crops of every picture are cached; training draws among them."""
    flip: bool = False
    """Also cache every crop mirrored, and draw among both."""

    @model_validator(mode="after")
    def _one_center(self) -> TransformConfig:
        if self.crop == "center" and self.crops_per_image != 1:
            raise ValueError("crops_per_image above 1 needs crop: random; all center crops of a picture are the same")
        return self


class ShuffleConfig(Config):
    """Captions that are lists of tags, in other orders, so that no tag is learned by its place."""

    separator: Annotated[str, Field(min_length=1, max_length=8)] = ","
    keep_tags: Annotated[int, Field(ge=0)] = 1
    """So many first tags stay where they are: the trigger word."""
    variants: Annotated[int, Field(ge=1, le=64)] = 8
    """Different orders of every caption, each encoded once; training draws among them."""
    tag_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the other tags that a variant leaves out."""


class CaptionsConfig(Config):
    """How a caption is read in training."""

    max_chunks: Annotated[int, Field(ge=1, le=8)] = 1
    """A chunk holds 75 tokens beside its start and end; what is longer than all chunks is cut off. Above 1, chunks are
    encoded one by one and laid side by side, as ComfyUI and A1111 do; set sampling.max_chunks too."""
    shuffle: ShuffleConfig | None = None


class SamplingConfig(Config):
    """How pictures are generated."""

    steps: PositiveInt = 30
    guidance_scale: Annotated[float, Field(ge=0)] = 5.0
    scheduler: Literal["euler", "ddim", "dpmpp_2m"] = "euler"
    width_px: Annotated[int, Field(ge=16, multiple_of=8)] = 1024
    height_px: Annotated[int, Field(ge=16, multiple_of=8)] = 1024
    guidance_rescale: Probability = 0.0
    """How far guidance is scaled back to the picture's own contrast (Lin et al. 2023, arXiv:2305.08891, section 3.4);
    0.7 goes with training.schedule.zero_terminal_snr."""
    negative_prompt: str | None = None
    max_chunks: Annotated[int, Field(ge=1, le=8)] = 1
    """As captions.max_chunks, for prompts."""
    precision: Precision = "fp32"
    batch_size: PositiveInt | None = None
    """Pictures per forward pass; unset: from free memory. Does not enter any key."""


class PriorConfig(Config):
    """Class images for prior preservation (DreamBooth, Ruiz et al. 2022), generated by the base model."""

    prompt: str
    """What the subject is one of: `a photo of a person`."""
    count: PositiveInt = 100
    seed: Annotated[int, Field(ge=0)] = 0
    sampling: SamplingConfig = SamplingConfig()
