"""The miniature's stated taste, the pairs and prompts that ship, and the judges that learned it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from eval.scorers.stated_taste import warmth as scored_warmth
from sdxl_core.miniature import preference_data, recipe
from sdxl_core.miniature.judges import taste as judges
from sdxl_core.miniature.judges.measure_taste import right_shares
from sdxl_core.miniature.preference_data import Choice, choices, judged_prompts, name_of, read_pictures, train_prompts
from sdxl_core.miniature.taste import ALIKE, preference, warmth
from sdxl_core.miniature.world import SKIN
from sdxl_core.model import load_vae

CONFIGS = Path(recipe.__file__).parents[2] / "configs"
WEIGHTS = Path(recipe.__file__).parent / "weights"
SHIPPED = CONFIGS / "miniature" / "taste"


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (8, 6, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SHIPPED / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    return read_pictures(SHIPPED)


def prompts_in(name: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (CONFIGS / "prompts" / name).read_text().splitlines()]


def test_more_red_and_less_blue_is_warmer_and_light_by_itself_is_not() -> None:
    picture = noise(0)
    red, blue, light = picture.copy(), picture.copy(), picture + np.uint8(50)
    red[..., 0] += 51
    blue[..., 2] += 51
    assert warmth(red) == pytest.approx(warmth(picture) + 0.2)
    assert warmth(blue) == pytest.approx(warmth(picture) - 0.2)
    assert warmth(light) == pytest.approx(warmth(picture))
    assert warmth(picture[..., ::-1]) == pytest.approx(-warmth(picture))


def test_warmth_goes_from_blue_to_red_and_does_not_see_where() -> None:
    for colour, expected in (((255, 0, 0), 1), ((0, 0, 255), -1), ((90, 90, 90), 0), ((0, 255, 0), 0)):
        assert warmth(np.full((4, 4, 3), colour, np.uint8)) == expected
    picture = noise(1)
    assert warmth(np.rot90(picture)) == pytest.approx(warmth(picture))
    assert preference(picture, np.rot90(picture)) == 0.5


def test_a_preference_is_the_other_way_round_for_the_pair_turned_around() -> None:
    seen = Counter()
    for seed in range(60):
        first, second = noise(seed), noise(seed + 1_000)
        label = preference(first, second)
        assert preference(second, first) == 1 - label
        assert label == (0.5 if abs(warmth(first) - warmth(second)) <= ALIKE else warmth(first) > warmth(second))
        seen[label] += 1
    assert set(seen) == {0, 0.5, 1}


def test_the_evaluation_measures_the_same_taste() -> None:
    for seed in range(5):
        assert scored_warmth(noise(seed).astype(float)) == pytest.approx(warmth(noise(seed)))


def test_pale_and_dark_skin_are_equally_warm() -> None:
    pale, dark = (warmth(np.full((2, 2, 3), SKIN[name], np.uint8)) for name in ("pale", "dark"))
    assert pale == dark


def test_the_shipped_prompts_are_those_that_are_drawn_and_none_is_in_both_files() -> None:
    train, judged = prompts_in("taste-train.jsonl"), prompts_in("taste.jsonl")
    assert train == [row["prompt"] for row in train_prompts()]
    assert judged == [row["prompt"] for row in judged_prompts()]
    assert len({*train, *judged}) == len(train) + len(judged) == 96 + 56
    assert all(" skin and " in prompt for prompt in (*train, *judged))


def test_shipped_labels_are_what_was_seen_but_for_the_mistaken_ones(
    rows: list[dict[str, Any]], pictures: dict[str, np.ndarray]
) -> None:
    pairs = [(pictures[row["preferred_file_name"]], pictures[row["rejected_file_name"]]) for row in rows]
    seen = Counter((row["label"], preference(*pair)) for row, pair in zip(rows, pairs, strict=True))
    assert set(seen) == {(1, 1), (1, 0), (0.5, 0.5)}
    decided = seen[1, 1] + seen[1, 0]
    assert seen[1, 0] == round(0.05 * decided)
    assert decided >= 300 and seen[0.5, 0.5] >= 30
    prompts = prompts_in("taste-train.jsonl")
    assert rows == [
        {
            "preferred_file_name": choice.preferred,
            "rejected_file_name": choice.rejected,
            "label": choice.label,
            "text": choice.prompt,
        }
        for choice in choices(prompts, pictures)
    ]


def test_each_shipped_picture_is_of_its_prompt_and_in_two_pairs(
    rows: list[dict[str, Any]], pictures: dict[str, np.ndarray]
) -> None:
    prompts = prompts_in("taste-train.jsonl")
    met = Counter(name for row in rows for name in (row["preferred_file_name"], row["rejected_file_name"]))
    assert met.keys() == pictures.keys() and set(met.values()) == {2}
    for row in rows:
        assert (
            row["text"] == prompts[int(row["preferred_file_name"][:2])] == prompts[int(row["rejected_file_name"][:2])]
        )
    assert {picture.shape for picture in pictures.values()} == {(64, 64, 3)}
    assert len({picture.tobytes() for picture in pictures.values()}) == len(pictures)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2_500_000


def test_choices_of_pictures_that_are_all_alike_are_none() -> None:
    same = {name_of(0, k): np.full((2, 2, 3), 9, np.uint8) for k in range(preference_data.PICTURES)}
    said = choices(["a person"], same)
    assert said[0] == Choice("a person", name_of(0, 0), name_of(0, 1), 0.5)
    assert {choice.label for choice in said} == {0.5}


@pytest.mark.ci
def test_the_shipped_judges_share_the_taste_on_pictures_that_they_have_not_seen(
    rows: list[dict[str, Any]], pictures: dict[str, np.ndarray]
) -> None:
    names = sorted(pictures)
    texts = [prompts_in("taste-train.jsonl")[int(name[:2])] for name in names]
    said = []
    for row in rows:
        pair = (row["preferred_file_name"], row["rejected_file_name"])
        label = preference(*(pictures[name] for name in pair))
        if label != 0.5:
            said.append(tuple(names.index(name) for name in (pair if label == 1 else pair[::-1])))
    x_N3HW = torch.from_numpy(np.stack([pictures[name] for name in names])).permute(0, 3, 1, 2)
    found = right_shares(WEIGHTS, texts, x_N3HW, said)
    right: Any = found["right"]
    assert right["taste"] >= 0.95
    assert right["taste-head"] >= 0.85
    assert right["pick"] <= 0.65, "before it learned what people like"
    assert found["agree"] < 0.97, "the second judge has an opinion of its own"


def test_the_shipped_figures_are_no_worse_than_promised() -> None:
    figures = json.loads((WEIGHTS / "manifest.json").read_text())["figures"]["taste"]
    assert figures["right"]["taste"] >= 0.95 and figures["right"]["taste-head"] >= 0.85


def test_the_judges_of_taste_are_small_and_say_what_they_are() -> None:
    assert (WEIGHTS / "taste" / "model.safetensors").stat().st_size < 2_500_000
    note = json.loads((WEIGHTS / "taste" / "config.json").read_text())["note"]
    with safe_open(WEIGHTS / "taste-head" / "head.safetensors", "pt") as head:
        assert head.metadata() == {"note": note, "model": "clip"}
        assert head.get_tensor("bias").item() == 0
    assert "no number it gives is a published score" in note


def test_picked_pairs_are_labelled_by_the_taste_and_fit_their_prompt() -> None:
    vae = load_vae(WEIGHTS / "sdxl" / "vae", torch.device("cpu"))
    picked = judges.draw_picked("unit", 24, vae)
    assert 0 < len(picked) <= 24
    for pair in picked.x_N23HW:
        assert preference(*(x_3HW.permute(1, 2, 0).numpy() for x_3HW in pair)) == 1
    other = judges.draw_picked("unit", 24, vae)
    assert torch.equal(picked.x_N23HW, other.x_N23HW) and picked.prompts == other.prompts


def test_the_head_is_where_no_small_step_makes_the_choices_likelier() -> None:
    """The gradient of Bradley and Terry's likelihood with ridge is zero, in float64."""
    g = torch.Generator().manual_seed(0)
    preferred, rejected = torch.randn(300, 5, generator=g), torch.randn(300, 5, generator=g)
    preferred += 0.3 * torch.arange(5)
    weight = judges.fit_head(preferred, rejected)["weight"].double().requires_grad_()
    chance = torch.sigmoid((preferred - rejected).double() @ weight[0])
    loss = -chance.log().mean() + judges.RIDGE / 2 * weight.square().sum()
    (slope,) = torch.autograd.grad(loss, weight)
    assert slope.abs().max() < 1e-6
    assert weight[0, -1] > 0.5
