"""What methods that learn from preferences see of pairs, and what is measured on held-out ones."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdxl_core.batch import EncodedText
from sdxl_core.cached_images import CachedImages, load_images
from sdxl_core.data.pairs import Pair
from sdxl_core.errors import UserError
from sdxl_core.latent_files import INDEX_FILE
from sdxl_core.preferences import (
    labelled_images,
    labels_of,
    paired_images,
    preferred_images,
    split_by_prompt,
)
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import ValidationLossConfig
from sdxl_core.validation_pairs import PairValidation
from tests.sdxl_core.jobs import Jobs, history, run
from tests.sdxl_core.preferring import CAPTION, digests, preferring, some_pairs, started


@pytest.fixture(scope="module")
def cached(jobs: Jobs) -> CachedImages:
    return load_images(jobs.inputs["class_latents"])


def flipped(pair: Pair) -> Pair:
    return Pair(pair.second, pair.first, 1 - pair.label, pair.text, pair.source)


def test_a_pair_shares_all_but_its_pictures(jobs: Jobs, tmp_path: Path) -> None:
    there = started(preferring(jobs, tmp_path, "dpo", noise={"offset": 0.1, "perturbation": 0.1}, caption_dropout=0.5))
    for step in range(4):
        batch = there.data.batch(step, range(2))
        text = batch.conditioning.text
        assert isinstance(text, EncodedText)
        shared = (batch.eps_BCHW, batch.input_eps_BCHW, batch.t_B, batch.conditioning.time_ids_B6, text.text_BSE)
        assert all(torch.equal(*tensor.chunk(2)) for tensor in shared)
        preferred, rejected = batch.x_BCHW.chunk(2)
        assert not torch.allclose(preferred, rejected, atol=1e-2)


def test_an_epoch_shows_every_pair_once_and_no_tie(jobs: Jobs, tmp_path: Path) -> None:
    there = started(preferring(jobs, tmp_path, "dpo"))
    expected = Counter((pair.preferred, pair.rejected) for pair in some_pairs(jobs) if pair.preferred)
    for epoch in range(2):
        seen: Counter[tuple[str, str]] = Counter()
        for step in (2 * epoch, 2 * epoch + 1):
            pictures = there.data.pictures(step, range(2))
            seen.update(zip(pictures[:2], pictures[2:], strict=True))
        assert seen == expected


def test_which_picture_is_listed_first_changes_nothing_but_the_time_ids(jobs: Jobs, tmp_path: Path) -> None:
    batches = []
    for name, pairs in (("as listed", some_pairs(jobs)), ("flipped", [flipped(pair) for pair in some_pairs(jobs)])):
        batches.append(started(preferring(jobs, tmp_path / name, "dpo", pairs)).data.batch(1, range(2)))
    assert torch.equal(batches[0].x_BCHW, batches[1].x_BCHW) and torch.equal(batches[0].t_B, batches[1].t_B)


def test_ties_alone_are_refused(jobs: Jobs, tmp_path: Path) -> None:
    first, second, *_ = digests(jobs)
    tie = Pair(first, second, 0.5, CAPTION, "#0")
    with pytest.raises(UserError, match="none or ties alone"):
        started(preferring(jobs, tmp_path, "dpo", [tie]))


def test_sft_sees_what_is_preferred_as_often_as_it_is(jobs: Jobs, cached: CachedImages) -> None:
    a, b, c, _ = digests(jobs)
    pairs = [Pair(a, b, 1.0, CAPTION, "#0"), Pair(c, a, 0.0, CAPTION, "#1"), Pair(b, c, 1.0, CAPTION, "#2")]
    seen = preferred_images(cached, pairs)
    assert dict(zip(seen.sha256s, seen.shares or (), strict=True)) == {a: 2.0, b: 1.0}


@pytest.mark.parametrize("share", [None, 0.8])
def test_kto_sees_likes_and_dislikes_in_the_share_that_is_asked_for(
    jobs: Jobs, cached: CachedImages, share: float | None
) -> None:
    seen = labelled_images(cached, labels_of(some_pairs(jobs)), share)
    assert seen.liked is not None and seen.shares is not None
    liked = sum(s for s, like in zip(seen.shares, seen.liked, strict=True) if like) / sum(seen.shares)
    assert liked == pytest.approx(0.5 if share is None else share)
    a = digests(jobs)[0]
    assert sorted(like for like, sha256 in zip(seen.liked, seen.sha256s, strict=True) if sha256 == a) == [True]


def test_kto_batches_are_labelled(jobs: Jobs, tmp_path: Path) -> None:
    there = started(preferring(jobs, tmp_path, "kto", micro_batch_size=4))
    batch = there.data.batch(0, range(4))
    a, _, c, _ = digests(jobs)  # each of them is preferred wherever it is, the others never
    assert batch.liked_B is not None
    assert batch.liked_B.tolist() == [sha256 in (a, c) for sha256 in there.data.pictures(0, range(4))]
    assert 0 < sum(batch.liked_B.tolist()) < 4


def test_pairs_of_two_sizes_are_named(cached: CachedImages) -> None:
    wide = CachedImages(
        [*cached.mean_NVCHW[:2], cached.mean_NVCHW[2][..., :8]],
        [*cached.std_NVCHW[:2], cached.std_NVCHW[2][..., :8]],
        list(cached.time_ids_NV6[:3]),
        cached.captions[:3],
        cached.sha256s[:3],
    )
    a, b, c = cached.sha256s[:3]
    assert len(paired_images(wide, [Pair(a, b, 1.0, CAPTION, "#0")]).members) == 1
    with pytest.raises(UserError, match=r"1 pairs with two \(#1\).*transform\.buckets=null"):
        paired_images(wide, [Pair(a, b, 1.0, CAPTION, "#0"), Pair(a, c, 1.0, CAPTION, "#1")])


PAIRS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([0.0, 1.0])), min_size=40, max_size=80)


@given(PAIRS)
def test_all_pairs_of_a_prompt_are_on_one_side(told: list[tuple[int, float]]) -> None:
    pairs = [Pair(f"a{i}", f"b{i}", label, f"prompt {prompt}", f"#{i}") for i, (prompt, label) in enumerate(told)]
    if len({pair.text for pair in pairs}) < 4:
        return
    trained, held_out = split_by_prompt(pairs, ValidationLossConfig(pictures=3))
    assert not {pair.text for pair in trained} & {pair.text for pair in held_out}
    assert len({pair.text for pair in held_out}) == 3 and len(trained) + len(held_out) == len(pairs)
    more = [*pairs, Pair("x", "y", 1.0, pairs[0].text, "#more")]
    assert {p.text for p in split_by_prompt(more, ValidationLossConfig(pictures=3))[1]} == {p.text for p in held_out}


def test_held_out_pairs_begin_undecided_and_are_measured_alike_whatever_the_rows_at_once(
    jobs: Jobs, tmp_path: Path
) -> None:
    found = []
    for rows in (1, 3):
        there = started(of_two_prompts(jobs, tmp_path / f"{rows}", "dpo"))
        measured = there.validation_loss
        assert isinstance(measured, PairValidation) and len(measured.pairs) == 1
        measured.rows_at_once = rows
        measured.begin(there.state.denoiser, torch.device("cpu"))
        first = measured.measure(there.state)
        assert float(first["validation/loss"]) == pytest.approx(math.log(2))
        assert float(first["validation/implicit_accuracy"]) == 0.5 and float(first["validation/margin"]) == 0
        with torch.no_grad():
            for parameter in there.state.parameters:
                parameter.add_(0.01)
        found.append({name: float(value) for name, value in measured.measure(there.state).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    by_timestep = [found[0][f"validation/t{t}"] for t in (100, 400, 800)]
    assert found[0]["validation/loss"] == pytest.approx(sum(by_timestep) / 3)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["dpo", "sft", "kto", "mapo"])
def test_every_method_is_measured_on_held_out_pairs_and_the_best_step_is_exported(
    jobs: Jobs, tmp_path: Path, kind: str
) -> None:
    job = of_two_prompts(jobs, tmp_path, kind, export="best", best_by="implicit_accuracy")
    assert run(job)
    lines = history(job)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    measured = {line["step"]: line["validation/implicit_accuracy"] for line in lines if line["step"] in (0, 2, 4)}
    assert measured[0] == 0.5
    best = max((2, 4), key=lambda step: (measured[step], -step))
    described = json.loads((job.out / "training.json").read_text())
    assert described["exported"]["step"] == best and described["validation_loss"]["pairs"] == 1


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["sft", "kto"])
def test_held_out_prompts_are_encoded_too_where_text_encoders_learn(jobs: Jobs, tmp_path: Path, kind: str) -> None:
    """The prompt that is held out belongs to no picture that is trained on."""
    job = of_two_prompts(jobs, tmp_path, kind, text_encoders={}, ema=None).model_copy(update={"text": None})
    assert run(job)
    assert math.isfinite(history(job)[-1]["validation/loss"])


def of_two_prompts(jobs: Jobs, root: Path, kind: str, **training: Any) -> TrainJob:
    """Two pairs, of a prompt each; one of the prompts is held out."""
    other = load_images(jobs.inputs["latents"]).captions[0]
    latents = root / "latents"
    shutil.copytree(jobs.inputs["class_latents"], latents)
    lines = [json.loads(line) for line in (latents / INDEX_FILE).read_text().splitlines()]
    for line in lines[2:]:
        line["text"] = other
    (latents / INDEX_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    a, b, c, d = digests(jobs)
    pairs = [Pair(a, b, 1.0, CAPTION, "#0"), Pair(c, d, 0.0, other, "#1")]
    validation = {"loss": {"every_steps": 2, "pictures": 1, "timesteps": [100, 400, 800]}}
    job = preferring(jobs, root, kind, pairs, validation=validation, **training)
    return job.model_copy(update={"latents": latents})
