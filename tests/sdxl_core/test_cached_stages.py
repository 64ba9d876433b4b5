"""Latents, text, class images and image sets: right against diffusers, computed once, and rebuilt to the same bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file

from sdxl_core.cached_pictures import Caches
from sdxl_core.class_images import generate_class_images
from sdxl_core.config import PriorConfig, SamplingConfig, TransformConfig
from sdxl_core.data.records import read_records
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.errors import UserError
from sdxl_core.generate import generate_images
from sdxl_core.latents import encode_latents
from sdxl_core.model import load_unet, stored
from sdxl_core.picture_files import pixel_digest
from sdxl_core.prompt_sets import read_prompts
from sdxl_core.prompts import Prompt, prompt_seed
from sdxl_core.text import encode_text

from .conftest import write_portraits

SAMPLING = SamplingConfig(steps=2, width_px=64, height_px=64, batch_size=2)
PROMPTS = (Prompt("a", "a photo of a person"), Prompt("b", "a person at night", "scene"))


def base(folder: Path, digest: str = "m") -> DrawingModel:
    return DrawingModel(folder, None, (), digest, "text")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_latents_are_the_posterior_of_what_the_ids_describe(random_sdxl: Path, tmp_path: Path) -> None:
    """A wide picture, cropped by hand and encoded by diffusers' VAE."""
    dataset = write_portraits(tmp_path / "data", 1, seed=3)
    record = read_records(dataset)[0]
    encode_latents(
        transform=TransformConfig(resolution_px=64, flip=True),
        dataset=dataset,
        vae=random_sdxl / "vae",
        vae_digest="v",
        out=tmp_path / "out",
        cells={},
    )
    tensors = load_file(tmp_path / "out" / "latents.safetensors")
    vae = AutoencoderKL.from_pretrained(random_sdxl / "vae", dtype=torch.float32)
    pixels = np.asarray(Image.open(dataset / record.image).convert("RGB"), dtype=np.float32) / 127.5 - 1
    for variant, array in enumerate((pixels, pixels[:, ::-1].copy())):
        with torch.no_grad():
            posterior = vae.encode(torch.from_numpy(array).permute(2, 0, 1)[None]).latent_dist
        assert torch.allclose(tensors["mean_NVCHW"][0, variant], posterior.mean[0], atol=1e-5)
        assert torch.allclose(tensors["std_NVCHW"][0, variant], posterior.std[0], atol=1e-5)
        assert tensors["time_ids_NV6"][0, variant].tolist() == [64, 64, 0, 0, 64, 64]


def test_one_new_picture_costs_one_encode(random_sdxl: Path, tmp_path: Path) -> None:
    cells: dict[str, bytes] = {}

    def encode(dataset: Path, out: str, resolution: int = 64, digest: str = "v") -> int:
        summary = encode_latents(
            transform=TransformConfig(resolution_px=resolution),
            dataset=dataset,
            vae=random_sdxl / "vae",
            vae_digest=digest,
            out=tmp_path / out,
            cells=cells,
        )
        return summary["encoded"]

    three, four = write_portraits(tmp_path / "three", 3, seed=4), write_portraits(tmp_path / "four", 4, seed=4)
    assert [encode(three, "a"), encode(four, "b"), encode(three, "c")] == [3, 1, 0]
    assert contents(tmp_path / "a") == contents(tmp_path / "c")
    assert encode(three, "d", resolution=32) == 3, "another transform is another latent"
    assert encode(three, "e", digest="w") == 3, "other VAE weights are another latent"


class Interrupted(dict[str, bytes]):
    """Cells of a process that dies after the second picture."""

    def __setitem__(self, key: str, value: bytes) -> None:
        if len(self) == 2:
            raise KeyboardInterrupt
        super().__setitem__(key, value)


def test_interrupted_caching_goes_on_with_what_is_missing(random_sdxl: Path, tmp_path: Path) -> None:
    dataset = write_portraits(tmp_path / "dataset", 5, seed=9)

    def encode(out: str, cells: dict[str, bytes]) -> int:
        spec = TransformConfig(resolution_px=64)
        place = tmp_path / out
        vae = random_sdxl / "vae"
        return encode_latents(transform=spec, dataset=dataset, vae=vae, vae_digest="v", out=place, cells=cells)[
            "encoded"
        ]

    cells = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        encode("killed", cells)
    assert encode("gone_on", dict(cells)) == 3
    assert encode("undisturbed", {}) == 5
    written = [(tmp_path / out / "latents.safetensors").read_bytes() for out in ("gone_on", "undisturbed")]
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("layer", "number"),
    [("encoder.conv_in.weight", 1e38), ("quant_conv.bias", math.nan), ("quant_conv.bias", math.inf)],
)
def test_overflowing_vae_is_refused_by_the_pictures_name(
    random_sdxl: Path, tmp_path: Path, layer: str, number: float
) -> None:
    """Whether what comes out is not a number, or one too large."""
    dataset = write_portraits(tmp_path / "data", 1, seed=5)
    broken = tmp_path / "vae"
    vae = AutoencoderKL.from_pretrained(random_sdxl / "vae", dtype=torch.float32)
    vae.get_parameter(layer).data.fill_(number)
    vae.save_pretrained(broken)
    cells: dict[str, bytes] = {}
    with pytest.raises(UserError, match=r"00\.png: the VAE gives latents that are not finite"):
        encode_latents(
            transform=TransformConfig(resolution_px=64),
            dataset=dataset,
            vae=broken,
            vae_digest="v",
            out=tmp_path / "out",
            cells=cells,
        )
    assert not cells


def test_text_is_what_the_pipeline_itself_would_use(random_sdxl: Path, tmp_path: Path) -> None:
    dataset = write_portraits(tmp_path / "data", 3, seed=6)
    encode_text(datasets=[dataset], model=random_sdxl, model_digest="m", out=tmp_path / "out", cells={})
    tensors = load_file(tmp_path / "out" / "text.safetensors")
    captions = json.loads((tmp_path / "out" / "captions.json").read_text())["texts"]
    assert captions == ["", *sorted({r.text for r in read_records(dataset)})]
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl, add_watermarker=False)
    with torch.no_grad():
        text, nothing, pooled, nothing_pooled = pipeline.encode_prompt(captions[1:])
    assert torch.allclose(tensors["text_USE"][1:], text, atol=1e-5)
    assert torch.allclose(tensors["pooled_UP"][1:], pooled, atol=1e-5)
    assert torch.equal(tensors["text_USE"][0], nothing[0]) and torch.equal(tensors["pooled_UP"][0], nothing_pooled[0])


def test_empty_text_stands_for_nothing_where_the_checkpoint_says_so(random_sdxl: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for entry in random_sdxl.iterdir():
        (model / entry.name).symlink_to(entry)
    index = json.loads((random_sdxl / "model_index.json").read_text()) | {"force_zeros_for_empty_prompt": False}
    (model / "model_index.json").unlink()
    (model / "model_index.json").write_text(json.dumps(index))
    dataset = write_portraits(tmp_path / "data", 1, seed=6)
    encode_text(datasets=[dataset], model=model, model_digest="m", out=tmp_path / "out", cells={})
    assert load_file(tmp_path / "out" / "text.safetensors")["text_USE"][0].any()


@pytest.mark.ci
def test_class_images_are_topped_up(random_sdxl: Path, tmp_path: Path) -> None:
    cells: dict[str, bytes] = {}

    def generate(count: int, out: str, digest: str = "m", **other: Any) -> dict[str, int]:
        settings = {"prompt": "a photo of a person", "count": count, "sampling": SAMPLING, **other}
        prior = PriorConfig.model_validate(settings)
        drawing = base(random_sdxl, digest)
        return generate_class_images(prior=prior, model=drawing, out=tmp_path / out, caches=Caches(cells, {}))

    assert generate(2, "two") == {"pictures": 2, "generated": 2}
    assert generate(3, "three") == {"pictures": 3, "generated": 1}
    two, three = read_records(tmp_path / "two"), read_records(tmp_path / "three")
    assert three[:2] == two and len({r.sha256 for r in three}) == 3
    assert {r.text for r in three} == {"a photo of a person"}
    others: list[dict[str, Any]] = [
        {"prompt": "a photo of a cat"},
        {"seed": 1},
        {"digest": "n"},
        {"sampling": SAMPLING.model_copy(update={"guidance_scale": 3.0})},
    ]
    for number, other in enumerate(others):
        assert generate(1, f"other-{number}", **other)["generated"] == 1, "enough files, and none of them the right one"


@pytest.mark.ci
def test_pictures_come_from_their_own_seeds(random_sdxl: Path, tmp_path: Path) -> None:
    """Each picture is what plain diffusers makes of its prompt and seed; order and number of prompts do not matter."""
    cells: dict[str, bytes] = {}

    def generate(prompts: tuple[Prompt, ...], out: str, digest: str = "m") -> dict[str, int]:
        return generate_images(
            sampling=SAMPLING,
            prompts=prompts,
            replicates=2,
            seed=1,
            model=base(random_sdxl, digest),
            out=tmp_path / out,
            caches=Caches(cells, {}),
        )

    assert generate(PROMPTS, "set") == {"pictures": 4, "generated": 4}
    assert generate(PROMPTS[::-1], "reversed")["generated"] == 0
    assert generate(PROMPTS[:1], "other", digest="n")["generated"] == 2
    records = [json.loads(line) for line in (tmp_path / "set" / "records.jsonl").read_text().splitlines()]
    assert [(r["prompt_id"], r["replicate"]) for r in records] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    pipeline = StableDiffusionXLPipeline.from_pretrained(random_sdxl, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    record = records[3]
    alone = pipeline(
        record["prompt"],
        num_inference_steps=2,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(record["seed"]),
    ).images[0]
    ours = Image.open(tmp_path / "set" / record["file"])
    assert np.abs(np.asarray(alone, dtype=int) - np.asarray(ours, dtype=int)).max() <= 1  # a batch of another size
    assert ours.text["parameters"].startswith("a person at night\nSteps: 2, Sampler: euler, CFG scale: 5.0, Seed:")
    assert record["image_sha256"] == pixel_digest((tmp_path / "set" / record["file"]).read_bytes())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"prompt": "x"}\n{"prompt": "x"}', "stands twice"),
        ("p.jsonl", '{"prompt": "x", "sed": 1}', "unknown key 'sed'"),
        ("p.jsonl", '{"prompt": "x", "id": "../y"}', "it names files"),
        ("p.jsonl", "{", "line 1: not JSON"),
        ("p.jsonl", '{"prompt": " "}', "line 1: expected"),
        ("p.txt", "\n\n", "holds no prompt"),
        ("p.csv", "x", r"should end in \.jsonl, \.txt"),
    ],
)
def test_bad_prompt_sets_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name)


def test_prompts_keep_their_noise_when_others_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a cat\n")
    (tmp_path / "two.txt").write_text("a dog\na cat\n")
    (one,), (_, other) = read_prompts(tmp_path / "one.txt"), read_prompts(tmp_path / "two.txt")
    assert one == other and prompt_seed(3, one.id, 0) == prompt_seed(3, other.id, 0)
    assert len({prompt_seed(s, one.id, r) for s in (1, 2) for r in (0, 1)}) == 4


def test_unfit_checkpoints_are_refused(random_sdxl: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    plain.save_pretrained(tmp_path / "unet")
    with pytest.raises(UserError, match=r"expected addition_embed_type among .*Diffusion XL.*, got 'text'"):
        load_unet(tmp_path)


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["model.safetensors"], None),
        (["model.fp16.safetensors"], "fp16"),
        (["model.fp16.safetensors", "model.safetensors"], None),
        (["m.fp16-00001-of-00002.safetensors", "m.fp16-00002-of-00002.safetensors"], "fp16"),
        (["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"], None),
    ],
)
def test_weight_variant_is_the_one_that_is_there(tmp_path: Path, names: list[str], variant: str | None) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert stored(tmp_path)["variant"] == variant


@pytest.mark.ci
def test_interrupted_set_goes_on_in_the_same_batches(random_sdxl: Path, tmp_path: Path) -> None:
    """Two of five pictures are there from a first attempt; the others come out as if nothing had happened."""
    prompts = tuple(Prompt(str(i), f"a photo of a person {i}") for i in range(5))

    def generate(cells: dict[str, bytes], out: str) -> dict[str, bytes]:
        generate_images(
            sampling=SAMPLING,
            prompts=prompts,
            replicates=1,
            seed=1,
            model=base(random_sdxl),
            out=tmp_path / out,
            caches=Caches(cells, {}),
        )
        return contents(tmp_path / out)

    whole: dict[str, bytes] = {}
    undisturbed = generate(whole, "undisturbed")
    assert generate(dict(list(whole.items())[:2]), "resumed") == undisturbed
