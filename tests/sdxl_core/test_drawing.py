"""Pictures in batches: diffusers' own, whatever the company, with no call too many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel

from sdxl_core.errors import UserError
from sdxl_core.model import load_pipeline
from sdxl_core.sampling import sample
from sdxl_core.scheduler import SCHEDULERS
from tests.sdxl_core.drawing import CPU, REQUESTS, SAMPLING, other, pixels, rows_of


@pytest.fixture(scope="module")
def pipeline(random_sdxl: Path) -> StableDiffusionXLPipeline:
    return load_pipeline(random_sdxl, None, SAMPLING, CPU)


# --- what is drawn ---


@pytest.mark.parametrize("settings", [{"scheduler": s} for s in SCHEDULERS] + [
    {"guidance_scale": 1.0}, {"guidance_rescale": 0.7}, {"negative_prompt": "snow"}, {"decode_batch_size": 2}
], ids=str)  # fmt: skip
def test_pictures_are_those_of_diffusers_own_call(
    pipeline: StableDiffusionXLPipeline, settings: dict[str, Any]
) -> None:
    sampling = other(**settings)
    scheduler = SCHEDULERS[sampling.scheduler].from_config(pipeline.scheduler.config)
    theirs = StableDiffusionXLPipeline(**pipeline.components | {"scheduler": scheduler}, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    some = REQUESTS[:2]
    expected = theirs(
        [request.prompt for request in some],
        negative_prompt=None if sampling.negative_prompt is None else [sampling.negative_prompt] * len(some),
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        guidance_rescale=sampling.guidance_rescale,
        width=64,
        height=64,
        generator=[torch.Generator("cpu").manual_seed(request.seed) for request in some],
    ).images
    for ours, picture in zip(sample(theirs, some, sampling), expected, strict=True):
        assert np.abs(np.asarray(ours, dtype=int) - np.asarray(picture, dtype=int)).max() <= 1


def test_no_bit_of_a_picture_depends_on_its_company(
    pipeline: StableDiffusionXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of its latents, which are finer than pixels: together, alone, and in another order."""
    latents: list[bytes] = []
    decode = AutoencoderKL.decode

    def keep(self: AutoencoderKL, z_1CHW: torch.Tensor, **kwargs: Any) -> Any:
        latents.append(z_1CHW.numpy().tobytes())
        return decode(self, z_1CHW, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "decode", keep)
    sample(pipeline, REQUESTS, SAMPLING)
    together, latents[:] = list(latents), []
    for request in REQUESTS:
        sample(pipeline, [request], SAMPLING)
    alone, latents[:] = list(latents), []
    sample(pipeline, REQUESTS[::-1], SAMPLING)
    assert together == alone == latents[::-1]
    assert len(set(together)) == len(REQUESTS)


def test_guidance_is_one_call_a_step_and_none_is_no_row(
    pipeline: StableDiffusionXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    for guidance, rows in ((5.0, 4), (1.0, 2)):
        with rows_of(UNet2DConditionModel, monkeypatch) as seen:
            sample(pipeline, REQUESTS[:3], other(guidance_scale=guidance, steps=3))
        assert seen == [rows] * 3 * 2, "three steps of two batches, the second filled up"


# --- memory ---


def test_passes_halve_where_memory_does_not_suffice(
    pipeline: StableDiffusionXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pixels(sample(pipeline, REQUESTS, other(batch_size=2)))
    with rows_of(UNet2DConditionModel, monkeypatch, most=4) as seen:
        found = pixels(sample(pipeline, REQUESTS, other(batch_size=4)))
    assert found == expected
    assert set(seen) == {4}
    with (
        rows_of(UNet2DConditionModel, monkeypatch, most=1),
        pytest.raises(UserError, match="precision=bf16"),
    ):
        sample(pipeline, REQUESTS, SAMPLING)


def test_decoding_halves_apart_from_drawing(
    pipeline: StableDiffusionXLPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, sampling = REQUESTS[:4], other(batch_size=4)
    expected = pixels(sample(pipeline, some, sampling))
    with rows_of(AutoencoderKL, monkeypatch, most=1) as decoded, rows_of(UNet2DConditionModel, monkeypatch) as drawn:
        found = pixels(sample(pipeline, some, other(batch_size=4, decode_batch_size=4)))
    assert found == expected
    assert decoded == [1] * 4 and drawn == [8] * 2
    with rows_of(AutoencoderKL, monkeypatch, most=0), pytest.raises(UserError, match=r"decode_tile_px=512"):
        sample(pipeline, some, sampling)


def test_tiles_bound_what_is_decoded_at_once(random_sdxl: Path) -> None:
    sides: list[int] = []
    pictures = []
    for tile_px in (None, 64):
        sampling = other(width_px=128, height_px=128, decode_tile_px=tile_px)
        tiled = load_pipeline(random_sdxl, None, sampling, CPU)
        tiled.vae.decoder.register_forward_pre_hook(lambda module, args: sides.append(args[0].shape[-1]))
        pictures.append(np.asarray(sample(tiled, REQUESTS[:1], sampling)[0], dtype=int))
    whole, *tiles = sides
    assert len(tiles) > 1 and max(tiles) == whole // 2
    assert np.abs(pictures[0] - pictures[1]).mean() < 20, "the same picture, but for what a tile sees of it"
