"""Typed, closed configuration of the core: models, data, sampling. Importing this imports no torch.

A *local path* in a configuration begins with `/`, `./`, `../` or `~`; anything else that names a model or a dataset is
a hub id. Relative paths have been made absolute (against the configuration file's folder) before they come here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sdxl_core.families import FamilyName
from sdxl_core.pair_rules import refuse_misplaced
from sdxl_core.urls import is_url, refuse_bad_url


class Config(BaseModel):
    """Base of every configuration section: frozen, unknown keys refused, docstrings of fields are their help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


Precision = Literal["fp32", "fp16", "bf16"]
SamplingCompile = Literal["none", "default", "cuda_graphs"]
PositiveInt = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class ModelConfig(Config):
    """The base model: a diffusers folder or a hub id."""

    family: FamilyName = "sdxl"
    """What kind of checkpoint it is. sdxl: Stable Diffusion XL; sd15: Stable Diffusion 1.5, of one text encoder, whose
    pictures have 512 px where nothing else is said."""
    base: str
    """Diffusers folder (`./dir`, `/dir`) or hub id of a checkpoint of the family."""
    revision: str | None = None
    """Hub commit or tag. Pin it: a branch name can move under you."""
    variant: str | None = None
    """Weight variant to load, such as `fp16`."""
    vae: str | None = None
    """Folder or hub id of another VAE, such as `madebyollin/sdxl-vae-fp16-fix`."""
    vae_revision: str | None = None
    vae_precision: Precision = "fp32"
    """In which training pictures are encoded. fp16 (only on a GPU) wants a VAE that was mended for it, as SDXL's own
    overflows; bf16 holds every VAE's numbers, more coarsely. What is not finite is refused by the picture's name."""

    @model_validator(mode="after")
    def _revisions_of_something(self) -> ModelConfig:
        if self.vae_revision is not None and self.vae is None:
            raise ValueError("vae_revision has no effect without vae; set that, or for the base's own, revision")
        return self


class PairColumnsConfig(Config):
    """Columns of preference pairs, where they are called otherwise."""

    first: str | None = None
    """The picture that label 1 prefers: its bytes, or with source `pairs` its file name. Default: `preferred_file_name`
    for pairs, `jpg_0` otherwise."""
    second: str | None = None
    """Default: `rejected_file_name` for pairs, `jpg_1` otherwise."""
    label: str | None = None
    """1: the first is preferred; 0: the second; 0.5: neither. Default: `label` for pairs, where a line without it means
    1, and `label_0` otherwise."""
    text: str | None = None
    """Default: `text` for pairs, `caption` otherwise."""


Source = Literal[
    "imagefolder", "prompt", "captions", "concepts", "parquet", "hub", "pairs", "pairs-parquet", "pairs-hub", "drawn"
]


class DatasetConfig(Config):
    """Where the pictures and captions come from."""

    source: Source = "imagefolder"
    """imagefolder: a folder with metadata.jsonl; prompt: a plain folder, one `prompt` for all; captions: a `.txt`
    beside each picture; concepts: one sub-folder per concept, named by its prompt or holding prompt.txt; parquet: local
    parquet files; hub: a `datasets` hub id; pairs: a folder of preference pairs with metadata.jsonl; pairs-parquet and
    pairs-hub: preference pairs as Pick-a-Pic has them; drawn: what a model draws of prompts, for `feedback`."""
    path: str
    """Folder, parquet file or folder of them, or hub id; of source drawn, the prompt file. Folders and files may lie in
    a bucket (`s3://bucket/pictures`, or any other file system of fsspec), which is mirrored into the store."""
    drawn: DrawnConfig | None = None
    """How the pictures of source drawn are made."""
    validation_path: str | None = None
    """The same for pictures that are never trained on, for `training.validation.loss`; all else here holds for them."""
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
    concept_column: str | None = None
    """Column with the concept's name (sources imagefolder, parquet, hub); with source concepts it is the sub-folder."""
    face_box_column: str | None = None
    """Column with the largest face as [left, top, right, bottom], in pixels of the upright picture, or null (sources
    imagefolder, parquet, hub); for `transform.crop: face`."""
    masks: str | None = None
    """Where loss counts (`training.masked_loss`), white: yes, black: no. `alpha`: the picture's own transparency; or a
    folder (`./masks`) with a picture of the same name and size, in any format, for each picture of the dataset."""
    label_column: str | None = None
    """Column that says whether a picture is good (true, 1, `good`) or bad (false, 0, `bad`), for objectives that learn
    from single labels (sources imagefolder, parquet, hub)."""
    pair_columns: PairColumnsConfig = PairColumnsConfig()
    max_pairs: PositiveInt | None = None
    """Take the first so many usable pairs, ties included, and read no further."""
    skip_pairs: Annotated[int, Field(ge=0)] = 0
    """Pass over so many lines or rows of pairs first, without looking at them; not at `validation_path`."""
    stream: bool = False
    """Read a hub dataset over the network row by row, for one larger than the disk (source pairs-hub). What is used of
    it is kept all the same."""

    @model_validator(mode="after")
    def _pairs_or_not(self) -> DatasetConfig:
        refuse_misplaced(self)
        return self

    @model_validator(mode="after")
    def _columns_and_files(self) -> DatasetConfig:
        tables, files = ("imagefolder", "parquet", "hub"), ("imagefolder", "prompt", "captions", "concepts")
        for column in ("concept_column", "face_box_column", "label_column"):
            if getattr(self, column) is not None and self.source not in tables:
                raise ValueError(
                    f"{column} needs a source with columns ({', '.join(tables)}), got source: {self.source}"
                )
        if self.source not in ("hub", "pairs-hub") and (self.revision is not None or self.split != "train"):
            raise ValueError(f"revision and split are of source: hub, got source: {self.source}; leave them out")
        if self.masks not in (None, "alpha") and self.source not in files:
            raise ValueError(
                f"masks from a folder need a source of files ({', '.join(files)}), got {self.source}; use alpha"
            )
        if self.masks not in (None, "alpha") and not str(self.masks).startswith(("/", "./", "../", "~")):
            raise ValueError(f"masks: expected alpha or a folder, which begins with ./, got {self.masks!r}")
        return self

    @model_validator(mode="after")
    def _buckets(self) -> DatasetConfig:
        for setting in ("path", "validation_path"):
            place = getattr(self, setting)
            if not is_url(place):
                continue
            if self.source in ("hub", "pairs-hub", "drawn"):
                wanted = "a prompt file on this machine" if self.source == "drawn" else "a hub id"
                raise ValueError(f"{setting}: expected {wanted} (source: {self.source}), got a URL")
            try:
                refuse_bad_url(str(place))
            except ValueError as error:
                raise ValueError(f"{setting}: {error}") from None
        return self

    @model_validator(mode="after")
    def _drawn_or_found(self) -> DatasetConfig:
        if (self.drawn is not None) != (self.source == "drawn"):
            raise ValueError(
                "source: drawn and a section `drawn: {pictures_per_prompt: 4}` belong together, got source: "
                f"{self.source} {'without' if self.drawn is None else 'with'} the section"
            )
        others = {"validation_path", "prompt", "masks"} if self.source == "drawn" else set()
        if said := sorted(name for name in others if getattr(self, name) is not None):
            raise ValueError(f"{said[0]} has no effect on drawn pictures; leave it out")
        return self

    @property
    def validation(self) -> DatasetConfig | None:
        """The dataset at `validation_path`; its loss counts everywhere, so masks are not looked for, and of its pairs
        none is passed over."""
        changed = {"path": self.validation_path, "validation_path": None, "masks": None, "skip_pairs": 0}
        return None if self.validation_path is None else self.model_copy(update=changed)


Resolution = Annotated[int, Field(ge=16, multiple_of=8)]


class BucketConfig(Config):
    """Training pictures of several shapes, not squares, so that less is cut off (Podell et al. 2023, section 2.3).

    At 1024 px, with `min_side_px: 512` and `max_aspect: 4`, the buckets are those that SDXL was trained with.
    """

    step_px: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    """Sides of buckets are multiples of this."""
    min_side_px: PositiveInt | None = None
    """No bucket has a shorter side. Default: half of the resolution."""
    max_aspect: Annotated[float, Field(ge=1)] = 2.0
    """No bucket's long side is more than so many times its short side; what is cut off more is told before training."""
    resolutions_px: Annotated[tuple[Resolution, ...], Field(min_length=1)] | None = None
    """Several resolutions in place of `resolution_px`: every picture is trained at each of them. A bucket's area is at
    most the square of its resolution."""
    max_upscale: Annotated[float, Field(ge=1)] | None = None
    """Enlarge no picture more than this; 1: not at all. A picture is then trained at the resolutions that it is large
    enough for; if at none, in the largest smaller bucket. Default: pictures are enlarged as their buckets ask."""


class FaceConfig(Config):
    """Where faces are, for `crop: face`. Boxes come from `dataset.face_box_column`, and where that has none from the
    detector."""

    detector: str | None = None
    """Folder with an insightface detection model (`./buffalo_l`); needs the extra `faces`."""
    margin: Annotated[float, Field(ge=0)] = 0.25
    """What is kept around a face on each side, as a share of its width and height."""


class TransformConfig(Config):
    """How a picture becomes a training picture. Everything here changes the latents."""

    resolution_px: Resolution = 1024
    """Side of the square training picture; the picture's shorter side is resized to it, then the longer is cropped."""
    buckets: BucketConfig | None = None
    """Several shapes instead of squares; the picture is resized to cover its bucket, then what is over is cropped."""
    crop: Literal["center", "random", "face"] = "center"
    """face: as near to the center as keeps the largest face inside; the center where there is none."""
    crops_per_image: PositiveInt = 1
    """With `crop: random`, how many fixed crops of every picture are cached; training draws among them."""
    face: FaceConfig = FaceConfig()
    flip: bool = False
    """Also cache every crop mirrored, and draw among both."""

    @model_validator(mode="after")
    def _one_center(self) -> TransformConfig:
        if self.crop != "random" and self.crops_per_image != 1:
            raise ValueError(
                f"crops_per_image above 1 needs crop: random; all {self.crop} crops of a picture are the same"
            )
        return self

    @model_validator(mode="after")
    def _a_square_fits(self) -> TransformConfig:
        if self.buckets is None:
            return self
        for resolution in self.base_resolutions_px:
            side = resolution // self.buckets.step_px * self.buckets.step_px
            if side < max(1, self.buckets.min_side_px or 0):
                raise ValueError(
                    f"buckets of {resolution} px: expected step_px and min_side_px to leave a square within it, "
                    f"got step_px {self.buckets.step_px} and min_side_px {self.buckets.min_side_px}"
                )
        return self

    @property
    def variants(self) -> int:
        """Training pictures made of each picture at each of its sizes."""
        return self.crops_per_image * (2 if self.flip else 1)

    @property
    def base_resolutions_px(self) -> tuple[int, ...]:
        """Every picture is trained at each of these."""
        several = self.buckets.resolutions_px if self.buckets is not None else None
        return (self.resolution_px,) if several is None else tuple(sorted(set(several)))

    @property
    def lasting(self) -> dict[str, Any]:
        """What decides the crops, as JSON; where the face detector lies does not."""
        return self.model_dump(mode="json", exclude={"face": {"detector"}})


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
    width_px: Resolution = 1024
    height_px: Resolution = 1024
    guidance_rescale: Probability = 0.0
    """How far guidance is scaled back to the picture's own contrast (Lin et al. 2023, arXiv:2305.08891, section 3.4);
    0.7 goes with training.schedule.zero_terminal_snr."""
    negative_prompt: str | None = None
    max_chunks: Annotated[int, Field(ge=1, le=8)] = 1
    """As captions.max_chunks, for prompts."""
    precision: Precision = "fp32"
    batch_size: PositiveInt = 4
    """Pictures drawn together. It decides their last bits, and so it is part of their key; their company is not."""
    decode_batch_size: PositiveInt = 1
    """Pictures decoded together, as far as a batch goes; each needs a few GB of a GPU at 1024 px."""
    decode_tile_px: Annotated[int, Field(ge=64, multiple_of=64)] | None = None
    """Decode in overlapping tiles of this side: less memory, for edges that may faintly be seen. 512 for small GPUs."""
    compile: SamplingCompile = "none"
    """Have torch.compile translate the UNet: it costs minutes first, and pays on many pictures. cuda_graphs: the same,
    and steps are replayed by the GPU without the CPU; needs one."""

    @model_validator(mode="after")
    def _guides_if_it_says_how(self) -> SamplingConfig:
        if self.guidance_scale <= 1 and (self.negative_prompt is not None or self.guidance_rescale):
            raise ValueError(
                "negative_prompt and guidance_rescale have no effect without guidance: expected guidance_scale above "
                f"1, got {self.guidance_scale:g}"
            )
        return self


class PriorConfig(Config):
    """Class images for prior preservation (DreamBooth, Ruiz et al. 2022), generated by the base model."""

    prompt: str
    """What the subject is one of: `a photo of a person`."""
    count: Annotated[int, Field(ge=1, le=100_000)] = 100
    seed: Annotated[int, Field(ge=0)] = 0
    sampling: SamplingConfig = SamplingConfig()


class DrawnConfig(Config):
    """Pictures to be taught by preference that a model draws itself."""

    pictures_per_prompt: Annotated[int, Field(ge=2, le=1000)] = 4
    """Each has noise of its own and is kept by itself: more of them later draw only the new ones."""
    seed: Annotated[int, Field(ge=0)] = 0
    model: str = "base"
    """Who draws: base, or any model that docs/evaluation/models.md names but `trained`."""
    sampling: SamplingConfig = SamplingConfig()
