"""What is checked before anything runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from eval.scorers.ssim import Ssim
from sdxl_core.errors import UserError
from sdxl_core.training_config import optimizers
from sdxl_core.unet_shapes import unet_shapes
from tasks.experiment import Experiment, Lesson, prepare_experiment
from tasks.store import ArtifactStore
from tasks.train import train
from tasks.yaml_config import read_config
from tests.tasks.toy import ONE, UNET, write_experiment, write_weights

Prepare = Callable[..., Experiment]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "toy").parent


@pytest.fixture
def prepare(folder: Path, tmp_path: Path) -> Prepare:
    def prepared(*overrides: str) -> Experiment:
        store = ArtifactStore(tmp_path / "store")
        return prepare_experiment(read_config(folder / "toy.yaml", overrides), store, "command")

    return prepared


def lesson_of(experiment: Experiment) -> Lesson:
    assert experiment.lesson is not None
    return experiment.lesson


OVERRIDES = {
    "prior=null": "training.objective.kind = prior_preservation needs class images",
    "training.objective={kind: diffusion}": "prior: class images are not used",
    "evaluation.metrics=[{metric: ssim}]": "primary: true",
    "evaluation.prompts=/nowhere/prompts.jsonl": "evaluation.prompts: no such file",
    "evaluation.prompts=prompts.jsonl": r"evaluation\.prompts: expected a local file.*\./prompts\.jsonl",
    "model.base=/nowhere": r"model\.base: expected a folder or file that exists, got /nowhere",
    "model.vae=/nowhere": r"model\.vae: expected a folder or file that exists",
    "model.base=not a hub id": r"model\.base: expected a local path or a hub id",
    "model.base=someone/something": r"model\.base: cannot get 'someone/something' from the hub",
    "dataset.path=/nowhere": "/nowhere",
    "dataset.validation_path=./pictures": r"dataset\.validation_path: only training\.validation\.loss uses",
    "training.validation={loss: {every_steps: 1}}": r"validation\.loss needs pictures that are not trained on",
    "training.timesteps={high: 2000}": r"training\.timesteps\.high: expected below 1000",
    "training={objective: {kind: prior_preservation, target: base}, schedule: {prediction_type: v_prediction}}": (
        r"schedule\.prediction_type: expected epsilon, the checkpoint's own"
    ),
    "training.validation={prompts: [a], scores: [clip_j]}": (
        r"scores: expected metrics of evaluation\.metrics \(clip_i, ssim\), got clip_j\. Did you mean 'clip_i'"
    ),
    "training.validation={prompts: [a], scores: [kid]}": r"\(clip_i, ssim\), got kid\. Add it there, with its weights",
    "training={objective: {kind: prior_preservation}, export: best, best_by: ssim, "
    "validation: {prompts: [a], scores: [ssim, clip_i]}}": (
        r"best_by: expected a score that judges \(clip_i\), or validation_loss, got ssim, which only describes"
    ),
    "training.export=best": r"export: best is the step of the lowest validation loss",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_sections_and_places_that_do_not_fit_are_refused(prepare: Prepare, override: str) -> None:
    with pytest.raises(UserError, match=OVERRIDES[override]):
        prepare(override)


def test_a_metric_without_its_weights_is_left_out_and_says_so_unless_strict(
    prepare: Prepare, caplog: pytest.LogCaptureFixture
) -> None:
    weights = prepare("evaluation.metrics.0.model=/nowhere").metric_weights
    assert weights["clip_i"].missing.startswith("evaluation.metrics.0.model: expected a folder or file that exists")
    assert weights["clip_i"].missing.endswith("CLIP-I's weights: from the hub, openai/clip-vit-base-patch32")
    assert not weights["clip_i"].places and not weights["ssim"].missing
    assert "clip_i is not run, and as it is primary there will be no verdict: evaluation.metrics.0.model" in caplog.text
    with pytest.raises(UserError, match=r"evaluation\.metrics\.0\.model: expected a folder"):
        prepare("evaluation.metrics.0.model=/nowhere", "evaluation.strict=true")


def test_a_metric_that_is_asked_for_while_training_has_to_be_there(prepare: Prepare, folder: Path) -> None:
    """But not where nothing is trained; and metrics of whole sets are never asked."""
    scores = "training.validation={prompts: [a], every_steps: 1, scores: [clip_i]}"
    with pytest.raises(UserError, match=r"scores: clip_i cannot be measured: .*CLIP-I's weights: from the hub"):
        prepare(scores, "evaluation.metrics.0.model=/nowhere")
    assert prepare(scores, "evaluation.metrics.0.model=/nowhere", "evaluation.candidate=base").lesson is None
    more = f"[{{metric: clip_i, model: {folder}/clip, primary: true}}, {{metric: cmmd, model: {folder}/clip}}]"
    with pytest.raises(UserError, match=r"cmmd cannot be measured while training: it is one number of a whole set"):
        prepare("training.validation={prompts: [a], scores: [cmmd]}", f"evaluation.metrics={more}")


def test_a_metric_without_its_package_says_how_to_get_it(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ssim, "packages", {"nowhere": 'pip install "sdxl-flows[more]"'})
    assert prepare().metric_weights["ssim"].missing == (
        'evaluation.metrics.1: ssim needs nowhere, which is not installed: pip install "sdxl-flows[more]"'
    )


def test_an_optimizer_that_is_not_installed_is_refused_before_anything_runs(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"training\.optimizer needs the package bitsandbytes.*\[8bit\]"):
        prepare("training.optimizer={kind: adamw_8bit}")


def test_held_out_pictures_come_from_one_place(prepare: Prepare, folder: Path) -> None:
    validation = "training.validation={loss: {every_steps: 1, share: 0.5}}"
    path = f"dataset.validation_path={folder / 'pictures'}"
    with pytest.raises(UserError, match=r"holds out a part of the dataset, and dataset\.validation_path"):
        prepare(validation, path)
    with pytest.raises(UserError, match="/nowhere"):
        prepare("training.validation={loss: {every_steps: 1}}", "dataset.validation_path=/nowhere")
    assert lesson_of(prepare(validation)).validation_fingerprint == ""
    elsewhere = prepare("training.validation={loss: {every_steps: 1}}", path)
    assert lesson_of(elsewhere).validation_fingerprint == elsewhere.fingerprint


def test_a_model_is_its_bytes(prepare: Prepare, folder: Path) -> None:
    before = prepare().model
    shutil.copytree(folder / "sdxl", folder / "copy")
    assert prepare(f"model.base={folder / 'copy'}").model.components == before.components
    (folder / "sdxl" / "README.md").write_text("notes do not matter")
    assert prepare().model.digest() == before.digest()
    write_weights(folder / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors", unet_shapes(UNET) or {}, value=1)
    after = prepare().model
    assert after.digest() != before.digest()
    assert after.digest("vae") == before.digest("vae")


def test_another_vae_takes_the_place_of_the_own_one(prepare: Prepare, folder: Path) -> None:
    shutil.copytree(folder / "sdxl" / "vae", folder / "vae")
    write_weights(folder / "vae" / "diffusion_pytorch_model.safetensors", ONE, value=1)
    before, after = prepare().model, prepare(f"model.vae={folder / 'vae'}").model
    assert after.vae_folder == folder / "vae"
    assert after.digest("vae") != before.digest("vae")
    assert after.digest("unet") == before.digest("unet")


def write_lora(path: Path, value: float = 0.0) -> None:
    """Of rank 2, on all attention of the toy's UNet."""
    tensors = {}
    for name, shape in (unet_shapes(UNET) or {}).items():
        if name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")):
            stem = f"unet.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = np.full((2, shape[1]), value, np.float32)
            tensors[f"{stem}.lora_B.weight"] = np.zeros((shape[0], 2), np.float32)
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path)


def test_what_an_adapter_begins_with_counts_by_its_content(prepare: Prepare, folder: Path) -> None:
    def start(place: str) -> tuple[str | None, str]:
        experiment = prepare(f"training.adapter={{rank: 2, start_from: {place}}}")
        continuing, none = lesson_of(experiment).continuing, {"latents": None, "text": None}
        config = experiment.config
        call = train(config.training, config.sampling, config.captions, experiment.model, none, continuing)
        return continuing.start, json.dumps(call.params)

    for place in ("a/lora.safetensors", "b/pytorch_lora_weights.safetensors"):
        write_lora(folder / place)
    first, params = start(str(folder / "a" / "lora.safetensors"))
    assert first is not None and first in params and str(folder) not in params
    assert start(str(folder / "b")) == (first, params)  # a folder's own file, elsewhere
    write_lora(folder / "a" / "lora.safetensors", value=1.0)
    assert start(str(folder / "a" / "lora.safetensors"))[0] not in (None, first)
    assert lesson_of(prepare()).continuing.start is None


def test_its_place_is_relative_to_the_configuration(folder: Path) -> None:
    text = (
        (folder / "toy.yaml").read_text().replace("training: {", "training: {adapter: {start_from: ./a.safetensors}, ")
    )
    (folder / "toy.yaml").write_text(text)
    assert read_config(folder / "toy.yaml").training.start_from == str(folder / "a.safetensors")


UNFIT = {
    "{targets: 'regex: nothing'}": "targets: expected a pattern that matches",
    "{block_ranks: {mid_blok: 4}}": "Did you mean 'mid_block'",
    "{kind: oft}": "block_size = 32 does not divide",
    "{rank: 2, start_from: /nowhere}": "start_from: expected a LoRA file",
    "{rank: 3, start_from: LORA}": "has rank 2, configured is 3",
    "{kind: loha, start_from: LORA}": "expected the folder of a finished training",
    "{rank: 2, targets: all-linear, start_from: LORA}": "it has nothing for",
}


@pytest.mark.parametrize("adapter", UNFIT)
def test_an_adapter_that_does_not_fit_is_refused_before_anything_runs(
    prepare: Prepare, folder: Path, adapter: str
) -> None:
    write_lora(folder / "lora.safetensors")
    with pytest.raises(UserError, match=UNFIT[adapter]):
        prepare(f"training.adapter={adapter.replace('LORA', str(folder / 'lora.safetensors'))}")


def test_what_is_shown_of_a_configuration_names_no_place_outside(
    prepare: Prepare, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    shown = prepare("runtime.store=./x").shown_config
    assert shown["model"] == {"base": "./sdxl"}
    assert str(folder) not in json.dumps(shown)
