"""Stable Diffusion 1.5 through the same code: what is encoded, predicted, drawn and exported is diffusers' own."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from peft import PeftModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from sdxl_core.adapters import Addition, load_trained
from sdxl_core.cached_images import load_images
from sdxl_core.config import SamplingConfig
from sdxl_core.denoiser import Denoiser
from sdxl_core.drawing_model import DrawingModel
from sdxl_core.errors import UserError
from sdxl_core.estimate import Given, count_step
from sdxl_core.export import DIFFUSERS_FILE, KOHYA_FILE
from sdxl_core.families import FAMILIES, SD15, SDXL, family_of
from sdxl_core.miniature.sd15 import MINIATURE, main
from sdxl_core.model import load_pipeline, load_unet, zeros_for_empty_prompt
from sdxl_core.networks import Networks
from sdxl_core.prompts import prompt_seed
from sdxl_core.sampling import Request, draw, sample
from sdxl_core.scheduler import SCHEDULERS, load_noise_schedule
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_set import TrainingSet
from sdxl_core.training_text import CachedText
from sdxl_core.vae_settings import load_scaling_factor
from sdxl_core.weight_files.architecture import Architecture
from sdxl_core.weight_files.components import Checkpoint
from sdxl_core.weight_files.lora_files import read_lora
from tests.sdxl_core.conftest import cache_inputs
from tests.sdxl_core.jobs import SAMPLING, Jobs, history, run
from tests.sdxl_core.preferring import preferring
from tests.sdxl_core.test_text_training import TOKEN, job_of

CPU = torch.device("cpu")
REQUESTS = [Request("a photo of a person in the snow", 3), Request("a cat", 4)]
LORA: dict[str, Any] = {"kind": "lora", "rank": 2, "targets": "all-linear"}
MUCH: dict[str, Any] = {"ema": None, "learning_rate": 3e-2}
"""Of a change that can be seen."""


@pytest.fixture(scope="module")
def jobs15(random_sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(random_sd15, cache_inputs(random_sd15, tmp_path_factory.mktemp("cached15")))


def plain(model: Path, **parts: Any) -> StableDiffusionPipeline:
    """As anyone loads it."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        model, safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts
    )
    pipeline.scheduler = SCHEDULERS["euler"].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(pipeline: StableDiffusionPipeline, request: Request, **changed: Any) -> NDArray[np.int64]:
    settings = {"num_inference_steps": 2, "guidance_scale": 5.0, "width": 64, "height": 64} | changed
    drawn = pipeline(request.prompt, generator=torch.Generator("cpu").manual_seed(request.seed), **settings).images[0]
    return np.asarray(drawn, dtype=int)


def own_picture(model: Path, request: Request, *added: Addition) -> NDArray[np.int64]:
    pipeline, prompts = DrawingModel(model, None, added, "model", "text").prepared([request], SAMPLING, CPU, {})
    [[(_, pixels)]] = draw(pipeline, [request], prompts, SAMPLING)
    return np.asarray(pixels, dtype=int)


# --- what is encoded, predicted and drawn ---


def test_text_is_the_last_state_after_the_norm(jobs15: Jobs, random_sd15: Path) -> None:
    pipeline, text = plain(random_sd15), CachedText.load(jobs15.inputs["text"])
    rows = torch.tensor([0, text.rows["a photo of a person"][0]])
    found = text.pick(rows)
    expected = [pipeline.encode_prompt(words, "cpu", 1, False)[0][0] for words in ("", "a photo of a person")]
    torch.testing.assert_close(found.text_BSE, torch.stack(expected), atol=1e-6, rtol=1e-5)
    assert found.pooled_BP.shape == (2, 0)
    assert not zeros_for_empty_prompt(random_sd15) and found.text_BSE[0].any(), "no caption is the empty text"


def test_predicted_noise_is_that_of_diffusers_own_call(jobs15: Jobs, random_sd15: Path) -> None:
    config = TrainingConfig(micro_batch_size=3)
    text, images = CachedText.load(jobs15.inputs["text"]), load_images(jobs15.inputs["latents"])
    scale = load_scaling_factor(random_sd15 / "vae", SD15)
    rows = TrainingSet(images, None, text, config=config, scaling_factor=scale, timesteps=1000, rows_per_step=3)
    batch = rows.batch(0, [0, 1, 2])
    unet = load_unet(random_sd15)
    denoiser = Denoiser(Networks(unet), load_noise_schedule(random_sd15), config)
    theirs = plain(random_sd15)
    scheduler = SCHEDULERS["ddim"].from_config(theirs.scheduler.config)
    noisy_BCHW = scheduler.add_noise(batch.x_BCHW, batch.eps_BCHW, batch.t_B)
    with torch.no_grad():
        expected = theirs.unet(noisy_BCHW, batch.t_B, batch.conditioning.text.text_BSE).sample  # type: ignore[union-attr]
        torch.testing.assert_close(denoiser.predict(batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("settings", [{"scheduler": s} for s in SCHEDULERS] + [
    {"guidance_scale": 1.0}, {"guidance_rescale": 0.7}, {"negative_prompt": "snow"}
], ids=str)  # fmt: skip
def test_pictures_are_those_of_diffusers_own_call(random_sd15: Path, settings: dict[str, Any]) -> None:
    sampling = SamplingConfig.model_validate(SAMPLING.model_dump() | settings | {"batch_size": 1})
    theirs = plain(random_sd15)
    theirs.scheduler = SCHEDULERS[sampling.scheduler].from_config(theirs.scheduler.config)
    ours = sample(load_pipeline(random_sd15, None, sampling, CPU), REQUESTS, sampling)
    told = {key: getattr(sampling, key) for key in ("guidance_scale", "guidance_rescale", "negative_prompt")}
    for request, own in zip(REQUESTS, ours, strict=True):
        assert np.abs(np.asarray(own, dtype=int) - picture(theirs, request, **told)).max() <= 1


def test_several_chunks_are_read(random_sd15: Path) -> None:
    long = Request("a photo of a person " * 40, 1)
    sampling = SAMPLING.model_copy(update={"max_chunks": 8, "negative_prompt": "snow"})
    [cut], [whole] = (sample(load_pipeline(random_sd15, None, s, CPU), [long], s) for s in (SAMPLING, sampling))
    assert cut.tobytes() != whole.tobytes()


# --- what is trained, and what other programs load of it ---


@pytest.mark.ci
@pytest.mark.parametrize("text_encoder", [False, True], ids=["unet", "text-encoder"])
def test_lora_files_draw_the_same_in_plain_diffusers(
    jobs15: Jobs, random_sd15: Path, tmp_path: Path, text_encoder: bool
) -> None:
    settings: dict[str, Any] = {"adapter": LORA, **MUCH}
    if text_encoder:
        job = job_of(jobs15, tmp_path, **settings, text_encoders={"second": False})
    else:
        job = jobs15(tmp_path, **settings)
    assert run(job)
    base = own_picture(random_sd15, REQUESTS[0])
    own = own_picture(random_sd15, REQUESTS[0], Addition(job.out))
    assert np.abs(own - base).max() > 3
    for file in (DIFFUSERS_FILE, KOHYA_FILE):
        theirs = plain(random_sd15)
        theirs.load_lora_weights(job.out, weight_name=file)
        assert np.abs(picture(theirs, REQUESTS[0]) - own).max() <= 1, file
        assert np.abs(own_picture(random_sd15, REQUESTS[0], Addition(job.out / file)) - own).max() <= 1, file
    names = {name.partition(".")[0] for name in load_file(job.out / KOHYA_FILE)}
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q" in names
    assert ("lora_te_text_model_encoder_layers_0_self_attn_q_proj" in names) is text_encoder
    with safe_open(job.out / KOHYA_FILE, "pt") as opened:
        header = opened.metadata()
    assert header["modelspec.architecture"] == "stable-diffusion-v1/lora" and header["ss_base_model_version"] == "sd_v1"


@pytest.mark.ci
@pytest.mark.parametrize("adapter", [
    {"use_dora": True}, {"conv_rank": 2, "conv_alpha": 1}, {"init": "pissa"}
], ids=str)  # fmt: skip
def test_every_kind_of_lora_is_read_again(
    jobs15: Jobs, random_sd15: Path, tmp_path: Path, adapter: dict[str, Any]
) -> None:
    job = jobs15(tmp_path, adapter={**LORA, "targets": "attention", **adapter}, **MUCH)
    assert run(job)
    architecture = Architecture.of(random_sd15)
    both = [read_lora(job.out / file, architecture) for file in (DIFFUSERS_FILE, KOHYA_FILE)]
    for (part, name, ours), (_, other, theirs) in zip(*both, strict=True):
        assert name == other
        torch.testing.assert_close(ours.delta(), theirs.delta(), msg=f"{part} {name}")
    own = own_picture(random_sd15, REQUESTS[0], Addition(job.out))
    assert np.abs(own_picture(random_sd15, REQUESTS[0], Addition(job.out / KOHYA_FILE)) - own).max() <= 1


@pytest.mark.ci
def test_a_lora_begins_with_either_file(jobs15: Jobs, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"adapter": LORA, **MUCH, "text_encoders": {"second": False}}
    first = job_of(jobs15, tmp_path / "first", **settings)
    assert run(first)
    begun = []
    for file in (DIFFUSERS_FILE, KOHYA_FILE):
        again = {**settings, "adapter": {**LORA, "start_from": str(first.out / file)}, "learning_rate": 1e-30}
        job = job_of(jobs15, tmp_path / file, **again)
        assert run(job)
        begun.append(load_file(job.out / DIFFUSERS_FILE))
    for name, tensor in load_file(first.out / DIFFUSERS_FILE).items():
        for held in begun:
            torch.testing.assert_close(held[name], tensor)


@pytest.mark.ci
def test_a_full_fine_tune_is_components(jobs15: Jobs, random_sd15: Path, tmp_path: Path) -> None:
    settings = {"adapter": {"kind": "full"}, "text_encoders": {"second": False}, **MUCH, "learning_rate": 1e-3}
    job = job_of(jobs15, tmp_path, **settings)
    assert run(job)
    own = own_picture(random_sd15, REQUESTS[0], Addition(job.out))
    unet = UNet2DConditionModel.from_pretrained(job.out / "unet")
    encoder = CLIPTextModel.from_pretrained(job.out / "text_encoder")
    theirs = plain(random_sd15, unet=unet, text_encoder=encoder)
    assert np.abs(picture(theirs, REQUESTS[0]) - own).max() <= 1
    assert np.abs(own_picture(random_sd15, REQUESTS[0]) - own).max() > 3
    assert not (job.out / "text_encoder_2").exists()


@pytest.mark.ci
def test_a_learned_word_is_one_tensor(jobs15: Jobs, random_sd15: Path, tmp_path: Path) -> None:
    words = [{"token": TOKEN, "initializer": "person", "vectors": 2}]
    settings = {"adapter": {"kind": "none"}, "new_tokens": words, **MUCH}
    job = job_of(jobs15, tmp_path, **settings)
    assert run(job)
    file = job.out / "embeddings" / "kestrel.safetensors"
    assert list(load_file(file)) == ["emb_params"]
    request = Request(f"a photo of {TOKEN} person", 1)
    theirs = plain(random_sd15)
    theirs.load_textual_inversion(str(file), token=TOKEN)
    assert np.abs(picture(theirs, request) - own_picture(random_sd15, request, Addition(job.out))).max() <= 1


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["loha", "lokr", "oft"])
def test_other_adapters_leave_peft_folders(jobs15: Jobs, random_sd15: Path, tmp_path: Path, kind: str) -> None:
    adapter = {"kind": kind, "block_size": 8} if kind == "oft" else {"kind": kind, "rank": 2}
    job = jobs15(tmp_path, adapter=adapter, **MUCH)
    assert run(job)
    theirs = plain(random_sd15)
    theirs.unet = PeftModel.from_pretrained(theirs.unet, job.out / "peft" / "unet").base_model.model
    own = own_picture(random_sd15, REQUESTS[0], Addition(job.out))
    assert np.abs(picture(theirs, REQUESTS[0]) - own).max() <= 1


@pytest.mark.parametrize("adapter", [LORA, {"kind": "full"}], ids=["lora", "full"])
def test_preferences_begin_undecided(jobs15: Jobs, tmp_path: Path, adapter: dict[str, Any]) -> None:
    """Model and reference are the same at first, so that DPO's loss is log 2 whatever the pair."""
    job = preferring(jobs15, tmp_path, "dpo", adapter=adapter, max_steps=1, log_every_steps=1)
    assert run(job)
    assert history(job)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.ci
def test_validation_pictures_are_those_of_the_result(jobs15: Jobs, random_sd15: Path, tmp_path: Path) -> None:
    validation = {"every_steps": 6, "prompts": [REQUESTS[0].prompt], "seed": 1}
    job = jobs15(tmp_path, adapter=LORA, **MUCH, validation=validation)
    assert run(job)
    [last] = sorted((job.out / "validation").glob("*6*.png"))
    request = Request(REQUESTS[0].prompt, prompt_seed(1, REQUESTS[0].prompt, 0))
    own = own_picture(random_sd15, request, Addition(job.out))
    assert np.abs(np.asarray(Image.open(last), dtype=int) - own).max() <= 1


def test_a_checkpoint_written_anew_names_no_part_that_is_not_there(random_sd15: Path, tmp_path: Path) -> None:
    Checkpoint.open(random_sd15).write_folder(tmp_path / "copy", None, {"format": "pt"})
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "copy")
    pipeline.scheduler = SCHEDULERS["euler"].from_config(pipeline.scheduler.config)
    assert pipeline.safety_checker is None and not pipeline.config.requires_safety_checker
    assert np.array_equal(picture(pipeline, REQUESTS[0]), picture(plain(random_sd15), REQUESTS[0]))
    with pytest.raises(UserError, match=r"expected a folder, got one file of Stable Diffusion 1\.5"):
        Checkpoint.open(random_sd15).write_single_file(tmp_path / "one.safetensors", None, {})


# --- what is known of the family ---


def test_families_are_told_apart_by_their_unets(random_sd15: Path) -> None:
    assert (family_of(random_sd15), family_of(MINIATURE)) == (SD15, SDXL)
    assert FAMILIES == {"sdxl": SDXL, "sd15": SD15}


def test_a_vae_that_does_not_say_its_scale_has_the_family_s(random_sd15: Path, tmp_path: Path) -> None:
    shutil.copytree(random_sd15 / "vae", tmp_path / "vae")
    file = tmp_path / "vae" / "config.json"
    settings = json.loads(file.read_text())
    del settings["scaling_factor"]
    file.write_text(json.dumps(settings))
    assert load_scaling_factor(tmp_path / "vae", SD15) == 0.18215
    with pytest.raises(UserError, match="expected a VAE that says its scaling_factor"):
        load_scaling_factor(tmp_path / "vae", SDXL)


def test_a_lora_of_the_other_family_is_refused(jobs: Jobs, jobs15: Jobs, random_sd15: Path, tmp_path: Path) -> None:
    job = jobs(tmp_path, max_steps=1)
    assert run(job)
    for file in (DIFFUSERS_FILE, KOHYA_FILE):
        with pytest.raises(UserError, match="expected"):
            read_lora(job.out / file, Architecture.of(random_sd15))


@pytest.mark.ci
@pytest.mark.parametrize("text", [{}, {"text_encoders": {"second": False}}], ids=["cached", "live"])
def test_a_step_is_counted(random_sd15: Path, text: dict[str, Any]) -> None:
    config = TrainingConfig.model_validate({"adapter": LORA, **text})
    cost = count_step(Given(random_sd15, random_sd15 / "vae", 64), config)
    parts = [sum(p.nbytes for p in load_unet(random_sd15).parameters())]
    parts += [sum(p.nbytes for p in CLIPTextModel.from_pretrained(random_sd15 / "text_encoder").parameters())]
    assert sum(parts[: 1 + bool(text)]) <= cost.frozen_bytes < 1.1 * sum(parts[: 1 + bool(text)])


def test_the_miniature_depends_on_its_seed_alone(random_sd15: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert main([str(tmp_path / "again")]) == 0 and torch.equal(torch.get_rng_state(), state)
    for file in sorted(random_sd15.rglob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(random_sd15)).read_bytes()
    assert main([str(tmp_path / "again")]) == main([]) == 2


def test_a_foreign_kohya_file_is_read_by_both_names(random_sd15: Path, tmp_path: Path) -> None:
    """Of a layer of each kind, with an alpha of its own, as other trainers write them."""
    stems = {
        "lora_unet_mid_block_attentions_0_proj_in": ((2, 32, 1, 1), (32, 2, 1, 1)),
        "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_0_proj": ((2, 32), (256, 2)),
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj": ((2, 64), (64, 2)),
    }
    tensors = {f"{stem}.alpha": torch.tensor(float(i + 1)) for i, stem in enumerate(stems)}
    tensors |= {f"{stem}.lora_down.weight": torch.randn(down) for stem, (down, _) in stems.items()}
    tensors |= {f"{stem}.lora_up.weight": torch.randn(up) for stem, (_, up) in stems.items()}
    save_file(tensors, tmp_path / "foreign.safetensors")
    lora = read_lora(tmp_path / "foreign.safetensors", Architecture.of(random_sd15))
    assert {(part, name) for part, name, _ in lora} == {
        ("unet", "mid_block.attentions.0.proj_in"),
        ("unet", "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj"),
        ("text_encoder", "text_model.encoder.layers.1.self_attn.q_proj"),
    }
    pipeline = load_pipeline(random_sd15, None, SAMPLING, CPU)
    load_trained(pipeline, Addition(tmp_path / "foreign.safetensors"))
    layer = pipeline.text_encoder.get_submodule("encoder.layers.1.self_attn.q_proj")
    [scale] = layer.scaling.values()
    [(A, B)] = [(layer.lora_A[name].weight, layer.lora_B[name].weight) for name in layer.lora_A]
    expected = next(module.delta() for part, _, module in lora if part == "text_encoder")
    torch.testing.assert_close(scale * B @ A, expected, atol=1e-5, rtol=1e-5)
