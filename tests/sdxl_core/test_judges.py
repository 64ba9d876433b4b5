"""The miniature's judges do what they are shipped for, on people, scenes and views that no training saw."""

from __future__ import annotations

import hashlib
import json
import math
import random
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors import safe_open
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, CLIPTokenizer, ViTModel

from eval.notes import note_of
from eval.openclip import OpenClip
from eval.scorers.hps import hps_pixels_CHW
from sdxl_core.miniature import recipe
from sdxl_core.miniature.judges import aesthetics, dino, hps, pick
from sdxl_core.miniature.judges.flaws import FLAWS, Flaw, Take, make_pictures
from sdxl_core.miniature.judges.measure import choices_of, draw_meeting, measure
from sdxl_core.miniature.render import render
from sdxl_core.miniature.world import caption, draw_person, draw_view
from sdxl_core.model import load_vae

pytestmark = pytest.mark.ci

WEIGHTS = Path(recipe.__file__).parent / "weights"


@pytest.fixture(scope="module")
def figures() -> Any:
    """A fifth of what the manifest's figures come from, of other people."""
    return measure(WEIGHTS, split="test", share=0.2)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return load_vae(WEIGHTS / "sdxl" / "vae", torch.device("cpu"))


def test_pick_prefers_the_better_picture(figures: Any) -> None:
    shares = figures["better_preferred"]
    assert shares["pick"]["all"] >= 0.88
    assert shares["pick"]["all"] >= shares["clip"]["all"] + 0.08, "clearly more often than what it was made of"
    for sort in ("drawn worse", "shown wrong"):
        assert shares["pick"][sort] > shares["clip"][sort]


def test_hps_has_an_opinion_of_its_own(figures: Any) -> None:
    shares = figures["better_preferred"]
    assert shares["hps"]["all"] >= 0.78
    assert shares["hps"]["drawn worse"] >= shares["clip"]["drawn worse"] + 0.08, "which is what it has learned"
    assert shares["agree"] < 0.9


def test_aesthetics_ranks_pictures_by_how_well_they_are_drawn(figures: Any) -> None:
    assert figures["rank_correlation"]["all"] >= 0.8


def test_dino_knows_who_is_who_wherever_they_are(figures: Any) -> None:
    shares = figures["same_is_nearer"]["dino"]
    assert shares["other_elsewhere"] >= 0.9
    assert shares["other_in_the_same_place"] >= 0.9, "and not where they are"
    assert figures["same_is_nearer"]["clip"]["other_in_the_same_place"] < 0.5, "which CLIP sees first"


def test_dino_knows_the_named_characters() -> None:
    """Of whom it has seen neither name nor picture."""
    from sdxl_core.miniature.judges.measure import load_dino
    from sdxl_core.miniature.world import CHARACTERS

    rng = random.Random("characters")
    people = [who.appear(rng, style="photo", hat="none") for who in CHARACTERS.values() for _ in range(8)]
    pictures = torch.stack([_tensor(render(person, draw_view(rng))) for person in people])
    with torch.no_grad():
        rows = dino.embed(load_dino(WEIGHTS / "dino"), pictures).unflatten(0, (len(CHARACTERS), 8))
    for i, one in enumerate(rows):
        others = torch.cat([rows[:i], rows[i + 1 :]]).flatten(0, 1)
        assert (one @ one.T).min() > (one @ others.T).max()


def _tensor(picture: Any) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def test_the_shipped_figures_are_no_worse_than_promised() -> None:
    measured = json.loads((WEIGHTS / "manifest.json").read_text())["figures"]["judges"]
    assert measured["better_preferred"]["pick"]["all"] >= 0.88
    assert measured["better_preferred"]["hps"]["all"] >= 0.83
    assert measured["rank_correlation"]["all"] >= 0.8
    assert (
        min(measured["same_is_nearer"]["dino"][place] for place in ("other_elsewhere", "other_in_the_same_place"))
        >= 0.9
    )


def test_the_manifest_has_every_file_as_it_is() -> None:
    files = json.loads((WEIGHTS / "manifest.json").read_text())["files"]
    found = {str(path.relative_to(WEIGHTS)): path for path in WEIGHTS.rglob("*") if path.is_file()}
    del found["manifest.json"]
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == files


def test_the_folders_load_whole_and_say_what_they_are() -> None:
    for kind, name in ((CLIPModel, "pick"), (ViTModel, "dino")):
        more = {"add_pooling_layer": False} if kind is ViTModel else {}
        model, report = kind.from_pretrained(WEIGHTS / name, output_loading_info=True, **more)
        assert not report["missing_keys"] and not report["unexpected_keys"], name
        assert model.dtype == torch.float32 and "no number it gives is a published score" in model.config.note
        AutoImageProcessor.from_pretrained(WEIGHTS / name, backend="pil")
    tokenizers = [AutoTokenizer.from_pretrained(WEIGHTS / name) for name in ("pick", "clip")]
    words = "a photo of kestrel person in the snow"
    assert tokenizers[0](words).input_ids == tokenizers[1](words).input_ids
    with safe_open(WEIGHTS / "aesthetics" / "head.safetensors", "pt") as head:
        assert "no number it gives is a published score" in head.metadata()["note"]
        assert head.get_tensor("weight").shape == (1, CLIPModel.from_pretrained(WEIGHTS / "pick").config.projection_dim)
        assert head.get_tensor("bias").shape == (1,)


def test_hps_is_what_the_evaluation_loads() -> None:
    file = WEIGHTS / "hps" / "hps.safetensors"
    network = OpenClip(WEIGHTS / "hps" / "architecture.json", file, "0", "cpu")
    whole = hps.load(WEIGHTS / "hps")
    pictures = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    prompts = ["a photo of a person", "a photo of kestrel person wearing a red cap and a blue shirt in the snow"]
    ours = hps.towers(whole)
    with torch.no_grad():
        text = network.load("text").encode_text(SimpleTokenizer()(prompts), normalize=True)
        prepared = torch.stack([
            hps_pixels_CHW(Image.fromarray(picture.permute(1, 2, 0).numpy()), network.side_px, antialias=True)
            for picture in pictures
        ])  # fmt: skip
        vision = torch.nn.functional.normalize(network.load("visual")(prepared), dim=1)
        torch.testing.assert_close(ours.prompts(prompts), text, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.pictures(pictures), vision, atol=1e-5, rtol=0)
    assert "no number it gives is a published score" in note_of(file)


def test_hps_begins_as_clip_s_picture_tower() -> None:
    """By other names, and for pictures that are normalised otherwise."""
    clip = CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32).eval()
    model = hps.CLIP(**hps.ARCHITECTURE).eval()
    model.visual.load_state_dict(hps.visual_of(clip))
    pictures = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = pick.clip_towers(pick.shortened(clip), CLIPTokenizer.from_pretrained(WEIGHTS / "clip"))
    with torch.no_grad():
        torch.testing.assert_close(hps.towers(model).pictures(pictures), theirs.pictures(pictures), atol=1e-5, rtol=0)


def test_judges_add_little_to_the_repository() -> None:
    """As git keeps them, compressed: of the many tokens of open_clip few are ever met."""
    new = [path for name in ("pick", "aesthetics", "dino", "hps") for path in (WEIGHTS / name).iterdir()]
    assert sum(len(zlib.compress(path.read_bytes())) for path in new) < 5_000_000
    assert sum(path.stat().st_size for path in (WEIGHTS / "dino").iterdir()) < 1_000_000


@pytest.mark.parametrize("kind", FLAWS)
def test_a_stronger_flaw_takes_a_picture_further_from_what_it_was(kind: str, vae: AutoencoderKL) -> None:
    rng = random.Random(kind)
    person, view = draw_person(rng, style="photo"), draw_view(rng)
    takes = [Take(person, view, Flaw(kind, level / 4) if level else None, True, 5) for level in range(5)]
    pictures = make_pictures(takes, vae).float()
    distances = (pictures[1:] - pictures[0]).square().mean(dim=(1, 2, 3)).tolist()
    assert distances[0] > 1
    # of a figure that is all but gone, a little more may be nearer by chance
    assert all(stronger > 0.98 * weaker for weaker, stronger in pairwise(distances))
    assert [take.quality for take in takes] == [10, 7.75, 5.5, 3.25, 1]
    assert torch.equal(make_pictures(takes, vae).float(), pictures), "the same take is the same picture"


def test_a_wrong_person_contradicts_the_prompt_in_one_thing() -> None:
    for family in pick.draw_families("unit", 40):
        first, words = family.people[0], family.prompts[0]
        for other, name in zip(family.people[1:], family.wrong, strict=True):
            assert replace(other, **{name: getattr(first, name)}) == first
            assert name in pick.told(first, words)
        assert family.contradictions()[0].tolist() == [False, True, True, True]
        assert not family.contradictions().diagonal().any()


def test_told_is_what_the_caption_says() -> None:
    person = replace(
        draw_person(random.Random(0), style="photo"), hat="none", glasses=False, beard=True, hair_style="long"
    )
    assert set(pick.told(person, caption(person, random.Random(0), complete=True))) == {
        "skin", "hair_style", "hair_colour", "shirt_colour", "beard", "expression", "scene", "style"
    }  # fmt: skip
    assert pick.told(person, "a photo of a person") == ["style"]


def test_a_family_s_loss_is_that_of_its_pairs() -> None:
    """By the paper's formula, pair after pair."""
    torch.manual_seed(0)
    families = pick.draw_families("unit", 2)
    logits, wrong = torch.randn(2, 4, 4, 3).double(), torch.stack([family.contradictions() for family in families])

    def cross_entropy(better: torch.Tensor, worse: torch.Tensor) -> float:
        return -math.log(better.exp() / (better.exp() + worse.exp()))

    drawn, shown = [], []
    for f in range(2):
        for p in range(4):
            drawn += [cross_entropy(logits[f, p, p, a], logits[f, p, p, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
            shown += [cross_entropy(logits[f, p, p, 0], logits[f, p, v, 0]) for v in range(4) if wrong[f, p, v]]
    expected = sum(drawn) / len(drawn) + sum(shown) / len(shown)
    assert pick.family_loss(logits, wrong).item() == pytest.approx(expected)


def test_heads_that_know_nothing_are_as_wrong_as_guessing(vae: AutoencoderKL) -> None:
    """ln(choices) for each attribute, once for pictures and once for the prompts that name it."""
    lessons = pick.Lessons("unit", 2, vae)
    for head in lessons.heads.values():
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    families = pick.draw_families("unit", 2, pick.ONE_VIEW_SHARE)
    named = {
        name for one in families for pair in zip(one.people, one.prompts, strict=True) for name in pick.told(*pair)
    }
    expected = sum(math.log(len(values)) * (1 + (name in named)) for name, values in pick.VALUES.items())
    found = lessons._misread(families, torch.randn(8, 128), torch.randn(8, 128))
    assert found.item() == pytest.approx(expected / len(pick.VALUES))


def test_measuring_pictures_are_drawn_apart_from_training() -> None:
    """People of `dino` by who they are; the others by their draws, which name the split."""
    assert all(dino.held_out(take.person) for i in range(20) for take in draw_meeting(f"unit/{i}"))
    rng = random.Random(0)
    assert not any(dino.held_out(dino.draw_somebody(rng, measured=False)) for _ in range(200))
    train, other, measured = ({*pick.draw_families(split, 20)} for split in ("train", "hps/train", "measure"))
    assert not train & other and not train & measured and not other & measured
    assert not {*aesthetics.draw_rated("train", 20)} & {*aesthetics.draw_rated("measure", 20)}


def test_a_meeting_is_of_one_person_and_three_others() -> None:
    for i in range(20):
        who, same, elsewhere, there, near = (take.person for take in draw_meeting(f"unit/{i}"))
        assert dino.identity(who) == dino.identity(same) != dino.identity(elsewhere) == dino.identity(there)
        assert (there.scene, there.shirt_colour) == (who.scene, who.shirt_colour)
        assert sum(a != b for a, b in zip(dino.identity(who), dino.identity(near), strict=True)) >= 1


def test_the_head_is_the_best_affine_one() -> None:
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(400, 8), dim=1)
    weight, bias = torch.randn(8), torch.tensor(5.0)
    head = aesthetics.fit_head(rows, rows @ weight + bias)
    assert torch.allclose(aesthetics.rate(head, rows), rows @ weight + bias, atol=1e-2)


def test_choices_are_between_a_good_picture_and_five_worse_ones() -> None:
    [family] = pick.draw_families("unit", 1)
    choices = choices_of(family)
    assert len(choices) == 5 and all(choice.better == family.takes[0] for choice in choices)
    assert [choice.worse.person == family.people[0] for choice in choices] == [True, True, False, False, False]
    assert all(choice.worse.quality < 10 for choice in choices[:2])
    assert all(choice.worse.quality == 10 for choice in choices[2:])
