"""Buckets, concepts and masks through the VAE and the loop: cached right, mixed right, and resumed bit for bit."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from sdxl_core.cached_images import CachedImages, load_images
from sdxl_core.config import DatasetConfig, TransformConfig
from sdxl_core.data.buckets import Size
from sdxl_core.data.decode import open_rgb
from sdxl_core.data.prepare import prepare_dataset
from sdxl_core.data.records import read_records
from sdxl_core.data.transform import variants
from sdxl_core.errors import UserError
from sdxl_core.latents import encode_latents
from sdxl_core.objectives import OBJECTIVES
from sdxl_core.run import set_up
from sdxl_core.text import encode_text
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_set import TrainingSet
from sdxl_core.training_text import CachedText
from tests.sdxl_core.jobs import LORA, Jobs, files, history, run
from tests.sdxl_core.test_faults import SmallMemory

SHAPES = [(64, 64), (100, 60), (60, 100), (70, 64), (300, 90), (30, 20), (64, 64)]
"""Width and height: some squares, some wide, one high, one sliver, one tiny."""
BUCKETS = {"step_px": 16, "max_aspect": 2.5, "resolutions_px": [32, 64], "max_upscale": 1.5}
TRANSFORM = TransformConfig.model_validate({"buckets": BUCKETS, "crop": "random", "crops_per_image": 2, "flip": True})
METHOD: dict[str, Any] = {
    "objective": {"kind": "diffusion"},
    "adapter": {**LORA, "dropout": 0.1},
    "micro_batch_size": 2,
    "accumulation_steps": 2,
    "masked_loss": {"unmasked_weight": 0.1, "normalize": True, "prior_weight": 0.5},
    "concepts": {"dog": {"repeats": 2.5}, "(none)": {"loss_weight": 0.5}},
}


@pytest.fixture(scope="module")
def inputs(
    random_sdxl: Path, cached_inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Artifacts of noisy pictures of several shapes, with alpha masks; every other one is of a dog."""
    root = tmp_path_factory.mktemp("sizes")
    (root / "set").mkdir()
    lines = []
    for number, (width, height) in enumerate(SHAPES):
        noise_HWC = np.random.default_rng(number).integers(0, 256, (height, width, 4), dtype=np.uint8)
        noise_HWC[: height // 2, :, 3], noise_HWC[height // 2 :, :, 3] = 255, 0
        Image.fromarray(noise_HWC).save(root / "set" / f"{number}.png")
        line = {"file_name": f"{number}.png", "text": f"picture {number % 3}", "what": "dog" if number % 2 else None}
        lines.append(json.dumps(line) + "\n")
    (root / "set" / "metadata.jsonl").write_text("".join(lines))
    config = DatasetConfig(path=str(root / "set"), concept_column="what", masks="alpha")
    prepare_dataset(config, root / "dataset")
    vae = random_sdxl / "vae"
    folders = {"dataset": root / "dataset", "latents": root / "latents", "text": root / "text"}
    encode_latents(
        transform=TRANSFORM, dataset=folders["dataset"], vae=vae, vae_digest="v", out=folders["latents"], cells={}
    )
    datasets = [folders["dataset"], cached_inputs["class_dataset"]]
    encode_text(datasets=datasets, model=random_sdxl, model_digest="m", out=folders["text"], cells={})
    return folders


@pytest.fixture
def sized(jobs: Jobs, inputs: dict[str, Path]) -> Jobs:
    return Jobs(jobs.model, {**jobs.inputs, **inputs})


@pytest.fixture
def images(inputs: dict[str, Path]) -> CachedImages:
    return load_images(inputs["latents"])


def training_set(inputs: dict[str, Path], images: CachedImages, passes: int = 2, **training: Any) -> TrainingSet:
    config = TrainingConfig.model_validate(METHOD | training)
    return TrainingSet(
        images,
        None,
        CachedText.load(inputs["text"]),
        config=config,
        scaling_factor=0.13,
        timesteps=1000,
        rows_per_step=config.micro_batch_size * passes,
    )


def test_what_is_cached_is_what_the_vae_makes_of_what_the_ids_describe(
    random_sdxl: Path, inputs: dict[str, Path], images: CachedImages
) -> None:
    index = [json.loads(line) for line in (inputs["latents"] / "index.jsonl").read_text().splitlines()]
    names = {f"latents-{line['size']}.safetensors" for line in index} | {"index.jsonl"}
    assert {path.name for path in inputs["latents"].iterdir()} == names and len(names) > 4
    records = {record.sha256: record for record in read_records(inputs["dataset"])}
    assert {line["image_sha256"] for line in index} == {*records}, "no picture is left out"
    vae = AutoencoderKL.from_pretrained(random_sdxl / "vae", dtype=torch.float32)
    for number, line in enumerate(index):
        record, size = records[line["image_sha256"]], Size(*map(int, line["size"].split("x")))
        views = variants(open_rgb(inputs["dataset"] / record.image), size, record.sha256, TRANSFORM)
        assert images.time_ids_NV6[number].tolist() == [list(view.time_ids) for view in views]
        assert all(view.time_ids[:2] == (record.height, record.width) for view in views)
        with torch.no_grad():
            posterior = vae.encode(torch.stack([torch.from_numpy(view.pixels_CHW) for view in views])).latent_dist
        assert torch.allclose(images.mean_NVCHW[number], posterior.mean, atol=1e-5)
        assert torch.allclose(images.std_NVCHW[number], posterior.std, atol=1e-5)
        assert images.mask_NVHW is not None and images.mask_NVHW[number].shape == posterior.mean[:, 0].shape
        whole_V = images.mask_NVHW[number].mean(dim=(1, 2))  # upper half of the picture
        assert torch.equal(whole_V[0::2], whole_V[1::2]), "mirrored, a mask is as large"


def test_masks_say_where_the_picture_was_opaque(inputs: dict[str, Path], images: CachedImages) -> None:
    """The picture is white wherever its alpha, and so its mask, is zero."""
    assert images.mask_NVHW is not None
    index = [json.loads(line) for line in (inputs["latents"] / "index.jsonl").read_text().splitlines()]
    records = {record.sha256: record for record in read_records(inputs["dataset"])}
    for number, line in enumerate(index):
        record, size = records[line["image_sha256"]], Size(*map(int, line["size"].split("x")))
        views = variants(open_rgb(inputs["dataset"] / record.image), size, record.sha256, TRANSFORM)
        for view, mask_HW in zip(views, images.mask_NVHW[number], strict=True):
            cell = view.pixels_CHW.shape[1] // mask_HW.shape[0]
            cells_CHW = view.pixels_CHW.reshape(3, mask_HW.shape[0], cell, mask_HW.shape[1], cell)
            white_HW = cells_CHW.min(axis=(0, 2, 4)) > 0.95
            clear_of_the_edge = (np.asarray(mask_HW) == 0) & np.roll(np.asarray(mask_HW) == 0, 1, axis=0)
            clear_of_the_edge[0] = False
            assert bool(white_HW[clear_of_the_edge].all())
            assert not bool(white_HW[np.asarray(mask_HW) == 1].any())


def test_a_micro_batch_is_of_one_size_and_a_row_the_same_in_any_part_of_it(
    inputs: dict[str, Path], images: CachedImages
) -> None:
    data, sizes = training_set(inputs, images), set()
    for step, number in itertools.product(range(12), range(2)):
        whole = data.batch(step, [2 * number, 2 * number + 1])
        sizes.add(tuple(whole.x_BCHW.shape[-2:]))
        for row in range(2):
            alone = training_set(inputs, images).batch(step, [2 * number + row])
            for part in ("x_BCHW", "eps_BCHW", "t_B", "weight_B", "mask_B1HW"):
                assert torch.equal(getattr(alone, part)[0], getattr(whole, part)[row])
    assert len(sizes) > 2


def test_accumulation_and_processes_only_divide_the_work(inputs: dict[str, Path], images: CachedImages) -> None:
    """Four rows a step in two passes of one process, in one of two; or eight: the same pictures in the same order."""
    one, two, four = (training_set(inputs, images, passes) for passes in (1, 2, 4))
    for row in range(0, 64, 2):
        expected = one.pictures(row // 2, [0, 1])
        assert two.pictures(row // 4, [row % 4, row % 4 + 1]) == expected
        assert four.pictures(row // 8, [row % 8, row % 8 + 1]) == expected


def test_concepts_are_seen_as_often_and_weigh_as_much_as_they_should(
    inputs: dict[str, Path], images: CachedImages
) -> None:
    data = training_set(inputs, images, micro_batch_size=1)
    dogs = {record.sha256 for record in read_records(inputs["dataset"]) if record.concept == "dog"}
    epochs, rows = 20, int(20 * 2 * (4 + 3 * 2.5))  # two resolutions, four pictures of nothing, three of a dog
    seen = Counter(sha256 for step in range(rows // 2) for sha256 in data.pictures(step, [0, 1]))
    for sha256, count in seen.items():
        assert count == pytest.approx(epochs * 2 * (2.5 if sha256 in dogs else 1), abs=3)
    for step in range(5):
        batch = data.batch(step, [0])
        assert batch.weight_B is not None
        assert batch.weight_B.tolist() == [1.0 if data.pictures(step, [0])[0] in dogs else 0.5]


@pytest.mark.ci
def test_a_run_made_longer_equals_a_long_one(sized: Jobs, tmp_path: Path) -> None:
    """All of it together: buckets, two resolutions, crops, mirrors, concepts, masks, the base outside of them."""
    straight = sized(tmp_path / "straight", **METHOD, max_steps=4)
    assert run(straight)
    assert run(sized(tmp_path / "halves", **METHOD, max_steps=2))
    job = sized(tmp_path / "halves", **METHOD, max_steps=4)
    assert run(job)
    assert files(job.out) == files(straight.out)
    assert all(np.isfinite(row["loss"]) for row in history(job))


@pytest.mark.ci
def test_smaller_passes_for_want_of_memory_are_the_same_step(
    sized: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {**METHOD, "adapter": LORA, "micro_batch_size": 4, "max_steps": 2}
    whole, small = (sized(tmp_path / name, **method) for name in ("whole", "small"))
    assert run(whole)
    monkeypatch.setitem(OBJECTIVES, "diffusion", SmallMemory)
    assert run(small)
    for ours, theirs in zip(history(small), history(whole), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_settings_and_cached_pictures_that_do_not_fit_are_refused(sized: Jobs, jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"training\.masked_loss: expected pictures with masks, got none.*dataset\.masks"
    ):
        set_up(jobs(tmp_path, masked_loss={}))
    with pytest.raises(UserError, match=r"training\.concepts\.dgo: .*has \(none\), dog.*Did you mean 'dog'"):
        set_up(sized(tmp_path, **{**METHOD, "concepts": {"dgo": {}}}))
    with pytest.raises(UserError, match=r"prior_preservation: expected pictures and class images of one size"):
        set_up(sized(tmp_path, objective={"kind": "prior_preservation"}))


def test_class_images_count_everywhere_and_once(jobs: Jobs, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Prior preservation with masks and concepts: both concern the instance rows alone."""
    folder = tmp_path / "square"
    encode_latents(
        transform=TransformConfig(resolution_px=64),
        dataset=inputs["dataset"],
        vae=jobs.model / "vae",
        vae_digest="v",
        out=folder,
        cells={},
    )
    square = Jobs(jobs.model, {**jobs.inputs, "latents": folder, "text": inputs["text"]})
    prepared = set_up(square(tmp_path / "run", masked_loss={}, concepts={"(none)": {"loss_weight": 3}}))
    batch = prepared.data.batch(random.Random(0).randrange(100), range(4))
    assert batch.mask_B1HW is not None and batch.weight_B is not None
    assert torch.equal(batch.mask_B1HW[4:], torch.ones(4, 1, 16, 16)) and batch.weight_B[4:].tolist() == [1.0] * 4
    assert {*batch.weight_B[:4].tolist()} <= {3.0, 1.0} and bool((batch.mask_B1HW[:4].amin(dim=(1, 2, 3)) == 0).all())
