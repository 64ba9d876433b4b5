"""Batches of preference pairs: what `sdxl_core.training_set` is for single pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdxl_core import randomness
from sdxl_core.batch import Batch, Conditioning
from sdxl_core.noise import draw_noise, draw_timestep
from sdxl_core.preferences import Members, PairedImages
from sdxl_core.row_order import RowOrder
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_set import draw_latents, draw_text, require_encoded, shape_CHW
from sdxl_core.training_text import TrainingText

PREFERRED, REJECTED = 0, 1


class PairSet:
    """Batches for any optimizer step, without state. A slot is a pair: every pair once an epoch.

    A pair's pictures share caption, noise, timestep, variant and time ids (those of the one that is listed first, so
    that nothing in the condition tells which is preferred); only the latents differ.

    Raises:
        UserError: a pair's caption is not among the encoded ones.
    """

    def __init__(
        self,
        paired: PairedImages,
        text: TrainingText,
        *,
        config: TrainingConfig,
        scaling_factor: float,
        timesteps: int,
        rows_per_step: int,
    ) -> None:
        self.images, self.members = paired.images, paired.members
        require_encoded(self.images.captions, text)
        self.text = text
        self.config = config
        self.scaling_factor = scaling_factor
        self.timesteps = timesteps
        self.rows_per_step = rows_per_step
        self.order = RowOrder(paired.sizes, [1.0] * len(self.members), config.micro_batch_size, config.seed, 0)

    def batch(self, step: int, slots: Sequence[int]) -> Batch:
        """The preferred pictures of `slots` at `step`, then the rejected ones."""
        drawn = [self._draw(step, slot) for slot in slots]
        preferred, rejected, eps, input_eps, t, ids, texts = zip(*drawn, strict=True)
        rows_2B = torch.tensor([*texts, *texts])
        ids_2B6 = torch.stack([*ids, *ids])
        return Batch(
            x_BCHW=torch.stack([*preferred, *rejected]),
            conditioning=Conditioning(self.text.pick(rows_2B), self.text.lengths_U[rows_2B], ids_2B6),
            eps_BCHW=torch.stack([*eps, *eps]),
            input_eps_BCHW=torch.stack([*input_eps, *input_eps]),
            t_B=torch.tensor([*t, *t]),
        )

    def pictures(self, step: int, slots: Sequence[int]) -> list[str]:
        """sha256 of the pictures in `batch(step, slots)`, to name a sample that did damage."""
        pairs = [self._pair(step, slot) for slot in slots]
        places = [pair.preferred for pair in pairs] + [pair.rejected for pair in pairs]
        return [self.images.sha256s[place] for place in places]

    def _draw(self, step: int, slot: int) -> tuple[Tensor, Tensor, Tensor, Tensor, int, Tensor, int]:
        config, pair, images = self.config, self._pair(step, slot), self.images
        draw = (config.seed, PREFERRED, step, slot)
        variant = randomness.integer(len(images.mean_NVCHW[pair.first]), "variant", *draw)
        preferred = draw_latents(images, pair.preferred, variant, *draw) * self.scaling_factor
        rejected = draw_latents(images, pair.rejected, variant, config.seed, REJECTED, step, slot) * self.scaling_factor
        eps, input_eps = draw_noise(shape_CHW(preferred), config.noise, *draw)
        t = draw_timestep(config.timesteps, self.timesteps, *draw)
        text = draw_text(self.text, images.captions[pair.first], config.caption_dropout, *draw)
        return preferred, rejected, eps, input_eps, t, images.time_ids_NV6[pair.first][variant], text

    def _pair(self, step: int, slot: int) -> Members:
        return self.members[self.order.picture(step * self.rows_per_step + slot)]
