"""The cached inputs of training, and which rows a step sees.

All tensors stay in the host's memory; a batch is indexing and arithmetic. Every draw is a function of
(seed, optimizer step, slot), the slot being a row's place among all rows of the step, whatever micro-batch,
accumulation step or process computes it. Where pictures have several sizes, the slots of one configured micro-batch are
of one size (`sdxl_core.row_order`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sdxl_core import randomness
from sdxl_core.batch import Batch, Conditioning, FaceTargets
from sdxl_core.cached_images import CachedImages
from sdxl_core.concepts import concept_settings
from sdxl_core.errors import UserError
from sdxl_core.identity.training_faces import Place, TrainingFaces
from sdxl_core.noise import draw_noise, draw_timestep
from sdxl_core.row_order import RowOrder
from sdxl_core.training_config import ConceptConfig, TrainingConfig
from sdxl_core.training_text import TrainingText

# N pictures, V variants, B rows


class StepRows(Protocol):
    """What the loop asks of data."""

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The rows at some places of an optimizer step; a function of both alone."""
        ...

    def pictures(self, step: int, slots: Sequence[int]) -> list[str]:
        """Names of the pictures in that batch."""
        ...


class _Row(NamedTuple):
    """A row of a step, and what it shows."""

    group: int
    """0 is the instance's; 1, where there are class images, theirs."""
    step: int
    slot: int
    picture: int
    variant: int


def require_encoded(captions: Iterable[str], text: TrainingText) -> None:
    """Raises UserError for a caption that is not among the encoded ones."""
    if unknown := [caption for caption in captions if caption not in text.rows]:
        raise UserError(f"the caption {unknown[0]!r} was not encoded; encode this dataset's text first")


def shape_CHW(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], x.shape[2]


def draw_latents(images: CachedImages, picture: int, variant: int, *draw: str | int) -> Tensor:
    """C x H x W, from the posterior; not scaled."""
    mean, std = images.mean_NVCHW[picture][variant], images.std_NVCHW[picture][variant]
    return mean + std * randomness.normal(shape_CHW(mean), "posterior", *draw)


def draw_text(text: TrainingText, caption: str, dropout: float, *draw: str | int) -> int:
    """The row of a caption, or of none."""
    rows = text.rows[caption]
    dropped = dropout > 0 and randomness.uniform("caption", *draw) < dropout  # seeding costs more than all else
    return 0 if dropped else rows[randomness.integer(len(rows), "caption-variant", *draw)]


class TrainingSet:
    """Batches for any optimizer step, without state.

    Raises:
        UserError: a picture's caption is not among the encoded ones.
    """

    def __init__(
        self,
        instances: CachedImages,
        class_images: CachedImages | None,
        text: TrainingText,
        *,
        config: TrainingConfig,
        scaling_factor: float,
        timesteps: int,
        rows_per_step: int,
        class_prompt: str | None = None,
        faces: TrainingFaces | None = None,
    ) -> None:
        self.groups = [instances] + ([class_images] if class_images is not None else [])
        self.class_prompt = class_prompt
        self.faces = faces
        needed = [caption for group in self.groups for caption in group.captions]
        needed += [] if class_prompt is None else [class_prompt]
        require_encoded(needed, text)
        self.text = text
        self.config = config
        self.scaling_factor = scaling_factor
        self.timesteps = timesteps
        self.rows_per_step = rows_per_step
        self.concepts = [concept_settings(instances.concepts or [None] * len(instances), config.concepts)]
        self.concepts += [[ConceptConfig()] * len(group) for group in self.groups[1:]]
        self.orders = [self._order(group) for group in range(len(self.groups))]

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The rows of `slots` at `step`: instance rows, then as many class rows.

        Class rows are class images, or with `class_prompt` the instance rows again with that caption. Where pictures
        have several sizes, `slots` are of one micro-batch as configured, or of part of one.
        """
        rows = [self._row(group, step, slot) for group in range(len(self.groups)) for slot in slots]
        drawn = [self._draw(row) for row in rows]
        if self.class_prompt is not None:
            class_row = self.text.rows[self.class_prompt][0]
            drawn += [(*row[:-1], class_row) for row in drawn]
            rows += rows
        x, eps, input_eps, t, ids, texts = zip(*drawn, strict=True)
        rows_B = torch.tensor(texts)
        conditioning = Conditioning(self.text.pick(rows_B), self.text.lengths_U[rows_B], torch.stack(ids))
        mask = torch.stack([self._mask(row) for row in rows]) if self.config.masked_loss is not None else None
        weight = torch.tensor([self.concepts[row.group][row.picture].loss_weight for row in rows])
        faces = self._faces(rows, len(slots)) if self.faces is not None else None
        liked = torch.tensor([labels[row.picture] for row in rows]) if (labels := self.groups[0].liked) else None
        noise = (torch.stack(eps), torch.stack(input_eps), torch.tensor(t))
        return Batch(torch.stack(x), conditioning, *noise, weight, mask, faces, liked)

    def pictures(self, step: int, slots: Sequence[int]) -> list[str]:
        """sha256 of the pictures in `batch(step, slots)`, to name a sample that did damage."""
        return [group.sha256s[self._picture(g, step, slot)] for g, group in enumerate(self.groups) for slot in slots]

    def _row(self, group: int, step: int, slot: int) -> _Row:
        picture = self._picture(group, step, slot)
        variants = len(self.groups[group].mean_NVCHW[picture])
        variant = randomness.integer(variants, "variant", self.config.seed, group, step, slot)
        return _Row(group, step, slot, picture, variant)

    def _draw(self, row: _Row) -> tuple[Tensor, Tensor, Tensor, int, Tensor, int]:
        images, picture, variant = self.groups[row.group], row.picture, row.variant
        draw = (self.config.seed, row.group, row.step, row.slot)
        x = draw_latents(images, picture, variant, *draw) * self.scaling_factor
        eps, input_eps = draw_noise(shape_CHW(x), self.config.noise, *draw)
        t = draw_timestep(self.config.timesteps, self.timesteps, *draw)
        dropout = self.config.caption_dropout if row.group == 0 else 0.0
        text = draw_text(self.text, images.captions[picture], dropout, *draw)
        return x, eps, input_eps, t, images.time_ids_NV6[picture][variant], text

    def _mask(self, row: _Row) -> Tensor:
        """1 x H x W; class images have no mask, and count everywhere."""
        images = self.groups[row.group]
        if images.mask_NVHW is None:
            return torch.ones(1, *images.mean_NVCHW[row.picture].shape[-2:])
        return images.mask_NVHW[row.picture][row.variant][None]

    def _faces(self, rows: Sequence[_Row], instances: int) -> FaceTargets:
        """Of the first so many rows; what follows them is of the class."""
        assert self.faces is not None
        none: list[tuple[Place, int] | None] = [None] * (len(rows) - instances)
        return self.faces.pick([self._place(row) for row in rows[:instances]] + none)

    def _place(self, row: _Row) -> tuple[Place, int]:
        images = self.groups[row.group]
        height, width = images.time_ids_NV6[row.picture][row.variant][4:].int().tolist()
        return (images.sha256s[row.picture], f"{height}x{width}"), row.variant

    def _picture(self, group: int, step: int, slot: int) -> int:
        return self.orders[group].picture(step * self.rows_per_step + slot)

    def _order(self, group: int) -> RowOrder:
        """Every picture once an epoch, times its concept's repeats, in an order of the epoch's own."""
        images = self.groups[group]
        shares = images.shares or (1.0,) * len(images)
        weights = [share * each.repeats for share, each in zip(shares, self.concepts[group], strict=True)]
        return RowOrder(images.sizes, weights, self.config.micro_batch_size, self.config.seed, group)
