"""What `doctor CONFIG` says, worked out from the counts of the core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sdxl_core.estimate
from sdxl_core.errors import UserError
from sdxl_core.estimate import StepCost
from sdxl_core.estimate.cards import on_a_gpu
from sdxl_core.training_config import ConsistencyConfig, TrainingConfig
from tasks.config import PipelineConfig
from tasks.doctor_training import Forecast, forecast
from tasks.yaml_config import read_config

LORA = Path(__file__).parents[2] / "configs" / "miniature" / "lora.yaml"
GiB = 2**30


def configured(*overrides: str) -> PipelineConfig:
    return read_config(LORA, overrides)


@pytest.fixture(scope="module")
def found() -> Forecast:
    return forecast(configured())


def test_the_miniature_is_counted_and_its_step_is_done(found: Forecast) -> None:
    assert found.rows_per_step == 6 and found.max_steps == 300
    assert found.peak_bytes == sum(found.parts.values()) and "copy of the base" not in found.parts
    assert all(card.fits and not card.changes for card in found.cards)
    assert [card.memory_gb for card in found.cards] == [8, 12, 16, 24, 40, 80]
    here = found.here
    assert here is not None and here.device and 0 < here.needed_bytes < here.memory_bytes and here.step_s > 0


def test_what_was_not_measured_is_said(found: Forecast) -> None:
    assert sum("Not measured on a GPU" in note for note in found.notes) == 2
    assert any("validation pictures" in note for note in found.notes)


def test_the_disk_that_exported_steps_take_is_that_of_their_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moments and average of each; 300 steps, every 50th but the last."""
    cost = StepCost(0, 3 * 10**9, 0, 6 * 10**9, 0, 0, GiB, flops=10**15, operations=1)
    monkeypatch.setattr(sdxl_core.estimate, "count_step", lambda given, training: cost)
    monkeypatch.setattr("sdxl_core.estimate.machine.matmul_flops_per_s", lambda device, precision: 1e12)
    every = "training.export_every_steps=50"
    said = [note for note in forecast(configured(every, "training.ema=null")).notes if note.startswith("Disk")]
    assert len(said) == 1 and "5 states of 9 GB, 45 GB in all" in said[0]
    said = [note for note in forecast(configured(every, "training.ema={device: cpu}")).notes if note.startswith("Disk")]
    assert len(said) == 1 and "5 states of 12 GB" in said[0]
    assert not any(note.startswith("Disk") for note in forecast(configured()).notes)


def test_the_identity_loss_is_said_to_be_left_out_and_the_largest_bucket_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides: list[int] = []

    def count(given: Any, training: TrainingConfig) -> StepCost:
        sides.append(given.resolution_px)
        return StepCost(0, 0, 0, 0, 0, 0, GiB, flops=10**15, operations=1)

    monkeypatch.setattr(sdxl_core.estimate, "count_step", count)
    monkeypatch.setattr("sdxl_core.estimate.machine.matmul_flops_per_s", lambda device, precision: 1e12)
    plain = configured("transform.buckets={step_px: 8, resolutions_px: [48, 96]}")
    identity = plain.training.model_copy(
        update={"consistency": ConsistencyConfig.model_validate({"identity_loss": {"face_model": "/x.onnx"}})}
    )
    said = [" ".join(forecast(each).notes) for each in (plain, plain.model_copy(update={"training": identity}))]
    assert set(sides) == {96} and "one of 96 px squares" in said[0]
    assert "identity loss" not in said[0] and "Not counted: the identity loss" in said[1]


def weighing(fractions: dict[str, float], full_gib: float) -> Any:
    """Counts of a large network, without counting: each setting that is on takes its share off."""

    def count(given: Any, training: TrainingConfig) -> StepCost:
        on = {
            "bf16": training.precision == "bf16",
            "one row": training.micro_batch_size == 1,
            "checkpointing": training.gradient_checkpointing,
            "int8": training.base_quantization is not None,
            "nf4": training.base_quantization is not None and training.base_quantization.kind == "nf4",
        }
        size = full_gib * GiB
        for name, share in fractions.items():
            size *= share if on[name] else 1
        return StepCost(0, 0, 0, 0, 0, 0, int(size), flops=10**15, operations=1)

    return count


def test_each_gpu_is_told_the_fewest_changes_that_make_it_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {"one row": 0.5, "bf16": 0.5, "checkpointing": 0.5, "int8": 0.9, "nf4": 0.5}
    monkeypatch.setattr(sdxl_core.estimate, "count_step", weighing(shares, 70))
    monkeypatch.setattr("sdxl_core.estimate.machine.matmul_flops_per_s", lambda device, precision: 1e12)
    cards = {card.memory_gb: card for card in forecast(configured("training.base_quantization=null")).cards}
    changes = {gb: [change.settings for change in card.changes] for gb, card in cards.items()}
    one_row = "training.micro_batch_size=1 training.accumulation_steps=6"
    assert changes[80] == []
    assert changes[40] == [one_row]
    assert changes[24] == [one_row, "training.precision=bf16"]
    assert changes[12] == [one_row, "training.precision=bf16", "training.gradient_checkpointing=true"]
    assert changes[8][-1] == "training.base_quantization.kind=nf4"
    assert not any("int8" in setting for setting in changes[8]), "the later takes its place"
    for gb, card in cards.items():
        assert card.fits and card.needed_bytes <= gb * GiB
        # and they are changes that the command line takes
        overrides = [word for change in card.changes for word in change.settings.split()]
        training = configured(*overrides).training
        assert on_a_gpu(weighing(shares, 70)(None, training).peak_bytes) == card.needed_bytes


def test_what_never_fits_is_said_with_the_least_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdxl_core.estimate, "count_step", weighing({"bf16": 0.5}, 2000))
    monkeypatch.setattr("sdxl_core.estimate.machine.matmul_flops_per_s", lambda device, precision: 1e12)
    for card in forecast(configured()).cards:
        assert not card.fits and card.needed_bytes == on_a_gpu(1000 * GiB)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.base=/nowhere"], "model.base: expected a folder or file that exists"),
        (["training.objective.kind=prior_preservation"], "needs class images"),
        (["training.attention=xformers", "captions.max_chunks=2", "sampling.max_chunks=2"], "several lengths"),
        (["training.checkpoint_every_blocks=2"], "needs gradient_checkpointing"),
        (["training.base_quantization.kind=int5"], "base_quantization.kind"),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        forecast(configured(*overrides))


def test_a_number_format_that_the_machine_lacks_is_no_reason_to_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdxl_core.estimate, "count_step", weighing({}, 10))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert forecast(configured("training.precision=fp16")).here is None


def test_of_a_model_on_the_hub_only_the_description_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: object) -> str:
        asked.append((repository, allow_patterns))
        return configured().model.base if repository == "some/sdxl" else f"{configured().model.base}/vae"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr(sdxl_core.estimate, "count_step", weighing({}, 10))
    monkeypatch.setattr("sdxl_core.estimate.machine.matmul_flops_per_s", lambda device, precision: 1e12)
    assert forecast(configured("model.base=some/sdxl", "model.vae=some/vae")).peak_bytes == 10 * GiB
    assert asked == [("some/sdxl", ["*.json", "*.txt"]), ("some/vae", ["*.json"])]
