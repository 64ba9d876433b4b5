"""Which pictures are kept out of training: always the same ones, whatever else the dataset holds."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
import torch

from sdxl_core.errors import UserError
from sdxl_core.held_out import choose_held_out, refuse_shared
from sdxl_core.training_config import TrainingConfig, ValidationLossConfig
from sdxl_core.training_set import TrainingSet
from tests.sdxl_core.test_training_set import images, training_set

SHA256S = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(2000)]
SHARE, NUMBER = ValidationLossConfig(share=0.1), ValidationLossConfig(pictures=5)


def test_a_share_is_about_that_share() -> None:
    held_out = choose_held_out(SHA256S, SHARE)
    assert 150 < len(held_out) < 250  # 200, binomial deviation 13
    assert len(choose_held_out(SHA256S, NUMBER)) == 5


@pytest.mark.parametrize("size", [40, 200, 1999])
def test_by_share_no_picture_changes_sides_when_the_dataset_grows(size: int) -> None:
    small, large = choose_held_out(SHA256S[:size], SHARE), choose_held_out(SHA256S, SHARE)
    assert small == large & set(SHA256S[:size])


@pytest.mark.parametrize("size", [6, 40, 200, 1999])
def test_by_number_no_picture_that_was_trained_on_is_held_out_later(size: int) -> None:
    trained = set(SHA256S[:size]) - choose_held_out(SHA256S[:size], NUMBER)
    assert not trained & choose_held_out(SHA256S, NUMBER)


@pytest.mark.parametrize("config", [SHARE, NUMBER])
def test_order_and_copies_do_not_matter(config: ValidationLossConfig) -> None:
    some = SHA256S[:100]
    assert choose_held_out([*reversed(some), *some, some[0]], config) == choose_held_out(some, config)


@pytest.mark.parametrize(
    ("count", "settings", "message"),
    [
        (3, {"share": 0.001}, r"loss\.share: expected a picture at least to hold out.*pictures=1 in its stead"),
        (3, {"share": 0.999}, r"loss\.share: expected a picture at least to be left to train on, got none with 0\.999"),
        (3, {"pictures": 3}, r"loss\.pictures: expected a picture at least to be left to train on.* 3 different"),
        (1, {"pictures": 1}, r"left to train on"),
    ],
)
def test_a_split_that_leaves_nothing_is_refused(count: int, settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_held_out(SHA256S[:count], ValidationLossConfig.model_validate(settings))


def test_pictures_on_both_sides_are_refused_by_name() -> None:
    refuse_shared(SHA256S[:5], SHA256S[5:9])
    with pytest.raises(UserError, match=rf"validation_path: .* got 2 that dataset\.path holds too.*{SHA256S[3][:12]}"):
        refuse_shared(SHA256S[:5], SHA256S[3:9])


def test_held_out_pictures_are_in_no_row_that_is_trained_on() -> None:
    """Nor are others lost: rest and held-out pictures are all of them, with their own latents."""
    everything = images(12)
    rest, held_out = everything.split({"picture-3", "picture-7"})
    assert held_out.sha256s == ("picture-3", "picture-7") and len(rest) == 10
    assert torch.equal(torch.stack([*held_out.mean_NVCHW]), torch.stack([*everything.mean_NVCHW])[[3, 7]])
    assert torch.equal(rest.time_ids_NV6[3], everything.time_ids_NV6[4])
    text = training_set(4).text
    data = TrainingSet(rest, None, text, config=TrainingConfig(), scaling_factor=0.13, timesteps=1000, rows_per_step=4)
    seen = Counter(name for step in range(30) for name in data.pictures(step, range(4)))
    assert set(seen) == set(rest.sha256s) and set(seen.values()) == {12}
