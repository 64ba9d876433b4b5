"""Prompts with settings of their own: drawn as a whole set with those would be, whatever is drawn beside them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image

from sdxl_core.cached_pictures import CachedPictures, Caches
from sdxl_core.config import SamplingConfig
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.errors import UserError
from sdxl_core.generate import generate_images
from sdxl_core.model import load_pipeline
from sdxl_core.picture_settings import PictureSettings
from sdxl_core.prompts import Prompt, prompt_seed
from sdxl_core.sampling import Request, sample
from sdxl_core.tensor_files import cell_key
from tests.sdxl_core.drawing import CPU, SAMPLING, other, pixels, rows_of
from tests.tiers import first_of

OWN: dict[str, dict[str, Any]] = {
    "negative_prompt": {"negative_prompt": "snow"},
    "steps": {"steps": 3},
    "guidance_scale": {"guidance_scale": 2.0},
    "no guidance": {"guidance_scale": 1.0},
    "guidance_rescale": {"guidance_rescale": 0.7},
    "size": {"width_px": 96, "height_px": 32},
}
REQUESTS = [
    Request(prompt, seed, PictureSettings(**own))
    for seed, (prompt, own) in enumerate([("a cat", {}), *(("a person", own) for own in OWN.values()), ("a dog", {})])
]


def drawn(folder: Path, requests: list[Request], kept: Caches, **settings: Any) -> CachedPictures:
    return CachedPictures(
        requests,
        model=DrawingModel(folder, None, (), "m", "text"),
        sampling=other(**settings),
        device=CPU,
        caches=kept,
        progress=lambda done, total: None,
    )


@pytest.mark.parametrize("name", first_of(OWN))
def test_a_prompt_s_own_setting_is_worth_the_same_as_one_of_all(random_sdxl: Path, name: str) -> None:
    """The same bytes, under the same key: what was drawn one way is there the other way."""
    alone, together = Caches({}, {}), Caches({}, {})
    (png,) = drawn(random_sdxl, [Request("a person", 1, PictureSettings(**OWN[name]))], alone)
    (same,) = drawn(random_sdxl, [Request("a person", 1)], together, **OWN[name])
    assert png == same and alone.pictures == together.pictures
    (plain,) = drawn(random_sdxl, [Request("a person", 1)], alone)
    assert plain != png


@pytest.mark.ci
def test_no_bit_depends_on_company_of_other_settings(random_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of the latents either: together, alone, and in another order."""
    pipeline = load_pipeline(random_sdxl, None, SAMPLING, CPU)
    latents: list[bytes] = []
    decode = AutoencoderKL.decode

    def keep(self: AutoencoderKL, z_1CHW: torch.Tensor, **kwargs: Any) -> Any:
        latents.append(z_1CHW.numpy().tobytes())
        return decode(self, z_1CHW, **kwargs)

    monkeypatch.setattr(AutoencoderKL, "decode", keep)
    together = pixels(sample(pipeline, REQUESTS, SAMPLING))
    seen, latents[:] = sorted(latents), []
    alone = [picture for request in REQUESTS for picture in pixels(sample(pipeline, [request], SAMPLING))]
    assert together == alone and seen == sorted(latents)
    assert together == pixels(sample(pipeline, REQUESTS[::-1], SAMPLING))[::-1]
    assert len(set(together)) == len(REQUESTS)


def test_every_pass_has_the_same_number_of_rows_and_one_size(
    random_sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load_pipeline(random_sdxl, None, SAMPLING, CPU)
    some = [REQUESTS[0], REQUESTS[6], REQUESTS[7]]
    with rows_of(UNet2DConditionModel, monkeypatch) as seen:
        pictures = sample(pipeline, some, SAMPLING)
    assert seen == [4] * 2 * SAMPLING.steps, "the two plain ones together, the wide one filled up"
    assert [picture.size for picture in pictures] == [(64, 64), (96, 32), (64, 64)]


def test_it_is_diffusers_own_call_with_those_settings(random_sdxl: Path) -> None:
    (ours,) = sample(
        load_pipeline(random_sdxl, None, SAMPLING, CPU),
        [Request("a cat", 5, PictureSettings(negative_prompt="snow", steps=3, guidance_scale=3.0, width_px=96))],
        other(batch_size=1),
    )
    theirs = StableDiffusionXLPipeline.from_pretrained(random_sdxl, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    (expected,) = theirs(
        "a cat",
        negative_prompt="snow",
        num_inference_steps=3,
        guidance_scale=3.0,
        width=96,
        height=64,
        generator=torch.Generator("cpu").manual_seed(5),
    ).images
    assert ours.tobytes() == expected.tobytes()


def test_what_says_nothing_keeps_its_key_and_its_record(random_sdxl: Path, tmp_path: Path) -> None:
    prompts = (Prompt("a", "a cat"), Prompt("b", "a cat", "pets", PictureSettings(steps=3, negative_prompt="snow")))
    kept = Caches({}, {})
    generate_images(
        sampling=SAMPLING,
        prompts=prompts,
        replicates=1,
        seed=1,
        model=DrawingModel(random_sdxl, None, (), "m", "text"),
        out=tmp_path,
        caches=kept,
    )
    spec = SAMPLING.model_dump(mode="json")
    seed = prompt_seed(1, "a", 0)
    assert prompts[0].as_dict() == {"id": "a", "prompt": "a cat", "category": ""}
    assert cell_key(what="picture", version=2, model="m", prompt="a cat", seed=seed, sampling=spec) in kept.pictures
    plain, own = (json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines())
    assert list(plain) == ["file", "prompt_id", "prompt", "category", "replicate", "seed", "image_sha256"]
    assert own["settings"] == {"steps": 3} and own["negative_prompt"] == "snow"
    png = Image.open(io.BytesIO((tmp_path / own["file"]).read_bytes()))
    assert "Negative prompt: snow\nSteps: 3," in png.text["parameters"]


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt("a", "a cat"),
        Prompt("a", "a cat", "pets", PictureSettings(negative_prompt="")),
        Prompt("a-01", "a cat", "a", PictureSettings(guidance_scale=2.0, height_px=64), "a", "a", 1),
    ],
)
def test_prompts_travel_as_json(prompt: Prompt) -> None:
    assert Prompt.from_dict(json.loads(json.dumps(prompt.as_dict()))) == prompt


def test_frames_share_the_noise_of_what_they_name() -> None:
    one, two = Prompt("a-01", "x", seed_of="a"), Prompt("a-02", "y", seed_of="a")
    assert one.seed(3, 1) == two.seed(3, 1) == Prompt("a", "z").seed(3, 1) == prompt_seed(3, "a", 1)
    assert one.seed(3, 0) != one.seed(3, 1)


def test_settings_that_do_not_go_with_those_of_all_are_refused_by_the_prompt_s_name() -> None:
    unguided = Prompt("quiet", "a cat", settings=PictureSettings(guidance_scale=1.0))
    assert unguided.sampling(SAMPLING).guidance_scale == 1.0
    with pytest.raises(UserError, match=r"prompt quiet.*no effect without guidance"):
        unguided.sampling(SamplingConfig(negative_prompt="snow"))
