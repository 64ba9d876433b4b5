"""Scores of validation pictures: when they are asked for, what becomes of them, and that they disturb nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from sdxl_core.best import Criterion, Measured, criteria
from sdxl_core.bundle import read_bundle
from sdxl_core.errors import UserError
from sdxl_core.overrides import check_override, refuse_changes
from sdxl_core.run import set_up
from sdxl_core.scores import MeanScore, ScoreFacts, ValidationPicture
from sdxl_core.train_job import Ancestor, TrainJob
from sdxl_core.training_config import TrainingConfig
from tests.sdxl_core.jobs import LORA, Jobs, bundle_steps, files, history, run
from tests.sdxl_core.test_trackers import read_events

VALIDATION: dict[str, Any] = {
    "every_steps": 2,
    "prompts": ["a photo of a person", "a photo of a person at night"],
    "pictures_per_prompt": 2,
    "scores": ["light", "moved"],
}
SETTINGS: dict[str, Any] = {
    "objective": {"kind": "diffusion"},
    "adapter": LORA,
    "learning_rate": 0.03,
    "max_steps": 6,
    "keep_bundles": 1,
    "validation": VALIDATION,
}
LIGHT = ScoreFacts(title="Light", unit="share", decimals=3, direction=1, digest="l")
MOVED = ScoreFacts(title="Distance from the base", unit="share", decimals=3, direction=-1, with_base=True, digest="m")


class Brightness:
    """Mean brightness, of pictures above `faint` only; and how far a picture is from the base's."""

    def __init__(self, faint: float = 0.0) -> None:
        self.faint = faint
        self.asked: list[list[str]] = []

    def __call__(
        self, pictures: Sequence[ValidationPicture], base: Sequence[ValidationPicture]
    ) -> Mapping[str, MeanScore]:
        self.asked.append([picture.file.name for picture in pictures])
        lights = [float(read(picture.file).mean()) for picture in pictures]
        seen = [light for light in lights if light > self.faint]
        moved = [
            float(np.abs(read(mine.file) - read(other.file)).mean()) for mine, other in zip(pictures, base, strict=True)
        ]
        light = MeanScore(sum(seen) / len(seen) if seen else math.nan, len(seen))
        return {"light": light, "moved": MeanScore(sum(moved) / len(moved), len(moved))}


def read(file: Path) -> Any:
    return np.asarray(Image.open(file), dtype=np.float64) / 255


def scored(jobs: Jobs, root: Path, **settings: Any) -> TrainJob:
    job = jobs(root, **{**SETTINGS, **settings})
    return job.model_copy(update={"scores": {"light": LIGHT, "moved": MOVED}})


def values(job: TrainJob, name: str = "light") -> dict[int, float]:
    return {row["step"]: row[f"validation/{name}"] for row in history(job) if f"validation/{name}" in row}


def nearest_step(job: TrainJob) -> int:
    """The one of least `moved`."""
    return min((value, step) for step, value in values(job, "moved").items() if step)[1]


def described(job: TrainJob) -> dict[str, Any]:
    return dict(json.loads((job.out / "training.json").read_text()))


@pytest.fixture(scope="module")
def straight(jobs: Jobs, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    job = scored(jobs, tmp_path_factory.mktemp("straight"), export="best", best_by="light")
    assert run(job, Brightness())
    return job


def test_the_base_and_every_so_many_steps_are_scored(straight: TrainJob) -> None:
    assert list(values(straight)) == [0, 2, 4, 6] and values(straight, "moved")[0] == 0
    for step, value in values(straight).items():
        written = [read(file).mean() for file in sorted((straight.out / "validation").glob(f"{step:06d}-*.png"))]
        assert len(written) == 4 and value == pytest.approx(sum(written) / 4, abs=1e-12)
    assert not any(name.endswith("/scored") for row in history(straight) for name in row)
    tags = read_events(straight.work / "logs" / "tensorboard").Scalars("validation/light")
    assert [event.step for event in tags] == [0, 2, 4, 6]
    (first, second, *_) = sorted((straight.out / "validation").glob("000002-*.png"))
    assert (first.name, second.name) == ("000002-00-1.png", "000002-00.png")
    assert first.read_bytes() != second.read_bytes()


def test_the_best_step_is_exported_and_the_base_never(straight: TrainJob) -> None:
    own = {step: value for step, value in values(straight).items() if step}
    best = max(own, key=lambda step: own[step])
    facts = described(straight)
    assert facts["exported"] == {
        "step": best,
        "why": f"the highest Light of the validation pictures, {own[best]:.6g}",
    }
    light, moved = facts["scores"]["light"], facts["scores"]["moved"]
    assert light["base"] == values(straight)[0] and light["best"] == {"step": best, "value": own[best]}
    assert light["last"] == {"step": 6, "value": own[6]} and light["pictures"] == 4 and "digest" not in light
    nearest = nearest_step(straight)
    assert moved["base"] == 0 and moved["best"]["step"] == nearest != best
    assert set(bundle_steps(straight)) == {best, nearest, 6}


def test_another_choice_of_the_best_needs_no_training(
    jobs: Jobs, straight: TrainJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = scored(jobs, tmp_path, export="best", best_by="moved")
    scorer = Brightness()
    assert run(other.model_copy(update={"work": straight.work}), scorer)
    assert "progress" not in capsys.readouterr().out and scorer.asked == []
    assert described(other)["exported"]["step"] == nearest_step(straight)
    weights = [(job.out / "pytorch_lora_weights.safetensors").read_bytes() for job in (other, straight)]
    assert weights[0] != weights[1]
    assert (other.out / "history.jsonl").read_bytes() == (straight.out / "history.jsonl").read_bytes()


def test_scoring_does_not_disturb_training(jobs: Jobs, straight: TrainJob, tmp_path: Path) -> None:
    plain = jobs(tmp_path, **{**SETTINGS, "validation": None})
    assert run(plain)
    ends = [read_bundle(job.work / "bundles" / "step-00000006") for job in (plain, straight)]
    for part in ("weights", "average"):
        ours, theirs = (getattr(end, part) for end in ends)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    shown = [row for row in history(straight) if row["step"]]
    kept = [{name: value for name, value in row.items() if not name.startswith("validation/")} for row in shown]
    assert kept == history(plain)


@pytest.mark.ci
def test_a_run_that_is_interrupted_ends_the_same(jobs: Jobs, straight: TrainJob, tmp_path: Path) -> None:
    for steps in (3, 6):
        job = scored(jobs, tmp_path, export="best", best_by="light", max_steps=steps)
        assert run(job, Brightness())
    assert files(job.out) == files(straight.out)


@pytest.mark.ci
def test_pictures_without_a_score_are_counted_and_never_best(jobs: Jobs, straight: TrainJob, tmp_path: Path) -> None:
    lights = [read(file).mean() for file in (straight.out / "validation").glob("*.png")]
    some = scored(jobs, tmp_path / "some", export="best", best_by="light")
    assert run(some, Brightness(faint=float(np.median(lights))))
    rows = {row["step"]: row for row in history(some) if "validation/light" in row}
    counts = {step: row.get("validation/light/scored", 4.0) for step, row in rows.items()}
    assert sum(counts.values()) == sum(light > np.median(lights) for light in lights)
    assert all((counts[step] == 0) == (row["validation/light"] is None) for step, row in rows.items())
    none = scored(jobs, tmp_path / "none", export="best", best_by="light")
    with pytest.raises(UserError, match=r"export = best, but no picture of any step has a light; set training\.export"):
        run(none, Brightness(faint=1.0))


@pytest.mark.ci
def test_a_scorer_that_cannot_is_told_before_the_first_step(jobs: Jobs, tmp_path: Path) -> None:
    class Broken:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def __call__(self, pictures: Any, base: Any) -> Mapping[str, MeanScore]:
            raise self.error

    job = scored(jobs, tmp_path)
    with pytest.raises(UserError, match="no such weights"):
        run(job, Broken(UserError("no such weights")))
    with pytest.raises(UserError, match=r"memory does not suffice .*scores_device=cpu"):
        run(job, Broken(torch.OutOfMemoryError("full")))
    assert not (job.work / "bundles").exists() and not (job.work / "history.jsonl").read_text()


def test_the_trainer_alone_has_no_metrics(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validation\.scores: the trainer by itself has no metrics"):
        run(scored(jobs, tmp_path))
    job = scored(jobs, tmp_path).model_copy(update={"scores": {"light": LIGHT}})
    with pytest.raises(UserError, match=r"moved: the job's `scores` say nothing of them"):
        run(job, Brightness())


@pytest.mark.ci
def test_the_bases_pictures_come_along_from_another_run(jobs: Jobs, straight: TrainJob, tmp_path: Path) -> None:
    given = Ancestor.of(straight.work / "bundles" / "step-00000006")
    override = {"ancestor": given, "override": ("training.learning_rate",)}
    job = scored(jobs, tmp_path, export="best", best_by="light", max_steps=8, learning_rate=1e-5)
    job = job.model_copy(update=override)
    assert run(job, Brightness())
    assert described(job)["exported"]["step"] == 8
    assert {file.name[:6] for file in (job.out / "validation").iterdir()} == {"000000", "000008"}
    stray = tmp_path / "stray" / "bundles" / "step-00000006"
    stray.parent.mkdir(parents=True)
    given.path.rename(stray)
    lost = scored(jobs, tmp_path / "lost", max_steps=8, learning_rate=1e-5)
    lost = lost.model_copy(update=override | {"ancestor": Ancestor.of(stray)})
    with pytest.raises(UserError, match="moved: expected the base's pictures of the run that this one begins with"):
        run(lost, Brightness())
    stray.rename(given.path)


def test_what_scores_mean_cannot_change_within_a_run(jobs: Jobs, tmp_path: Path) -> None:
    def identity(scores: dict[str, ScoreFacts], **validation: Any) -> dict[str, Any]:
        job = scored(jobs, tmp_path, validation={**VALIDATION, **validation})
        return set_up(job.model_copy(update={"scores": scores})).identity

    before = identity({"light": LIGHT, "moved": MOVED})
    other = MOVED.model_copy(update={"digest": "other"})
    with pytest.raises(UserError, match=r"scores\.metrics\.moved: 'm' -> 'other'(.|\n)*cannot change within a run"):
        refuse_changes(before, identity({"light": LIGHT, "moved": other}), ("training.validation",), "the run")
    with pytest.raises(UserError, match=r"scores\.pictures\.prompts(.|\n)*cannot change within a run"):
        refuse_changes(
            before, identity({"light": LIGHT, "moved": MOVED}, prompts=["a"]), ("training.validation",), "the run"
        )
    with pytest.raises(UserError, match="cannot change within a run"):
        check_override(("training.validation.scores",))
    refuse_changes(
        before, identity({"light": LIGHT, "moved": MOVED}, scores_device="cpu"), ("training.validation",), "the run"
    )


def test_every_criterion_keeps_its_bundle_and_asks_for_room(jobs: Jobs, tmp_path: Path) -> None:
    loss = {"loss": {"every_steps": 2, "pictures": 1}}
    job = scored(jobs, tmp_path, validation=VALIDATION | loss)
    still = LIGHT.model_copy(update={"direction": 0})
    job = job.model_copy(update={"scores": {"light": still, "moved": MOVED}})
    assert list(criteria(job)) == ["validation_loss", "moved"]  # what only describes makes no step the best


def test_the_first_of_equals_is_best_and_higher_may_be_better() -> None:
    rows = [(0, 0.9), (1, 0.4), (2, None), (3, 0.6), (4, 0.6), (5, 0.5)]
    lines = "".join(json.dumps({"step": step, "validation/a": value}) + "\n" for step, value in rows)
    lines += json.dumps({"step": 6, "validation/a/scored": 9.0, "validation/ab": 7.0}) + "\n"
    best = Criterion("validation/a", "the highest", higher_is_better=True)
    assert best.best_of(lines, 0) == Measured(3, 0.6) and best.best_of(lines, 3) == Measured(4, 0.6)
    assert Criterion("validation/a", "the lowest").best_of(lines, 0) == Measured(1, 0.4)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"validation": {"scores": ["a"], "loss": {}}}, r"scores = \('a',\) has no effect without prompts"),
    ({"validation": {"pictures_per_prompt": 2, "loss": {}}}, "pictures_per_prompt = 2 has no effect without prompts"),
    ({"validation": {"prompts": ["p"], "scores_device": "cpu"}}, "scores_device = cpu has no effect without scores"),
    ({"validation": {"prompts": ["p"], "scores": ["a", "a"]}}, "expected each metric once, got a, a"),
    ({"validation": {"prompts": ["p"], "scores": ["t062"]}}, "validation/t062 is another figure"),
    ({"validation": {"prompts": ["p"], "scores": ["loss"]}}, "give the metric another `name`"),
    ({"best_by": "a"}, "best_by = a has no effect without export: best"),
    (
        {"export": "best", "validation": {"prompts": ["p"], "scores": ["a"]}},
        r"add a section validation\.loss, or set best_by to one of validation\.scores \(a\)",
    ),
    (
        {"export": "best", "best_by": "clip", "validation": {"prompts": ["p"], "scores": ["clip_i"]}},
        "best_by = clip: expected validation_loss or one of validation.scores, of which there are clip_i. Did you mean",
    ),
    (
        {"export": "best", "best_by": "a", "validation": {"every_steps": 7, "prompts": ["p"], "scores": ["a"]}},
        r"export: best needs validation\.every_steps <= max_steps = 6",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate({"max_steps": 6, **settings})


def test_what_is_exported_is_no_part_of_the_identity() -> None:
    validation = {"prompts": ["p"], "scores": ["a", "b"]}
    plain = TrainingConfig.model_validate({"validation": validation})
    for by in ("a", "b"):
        best = TrainingConfig.model_validate({"validation": validation, "export": "best", "best_by": by})
        assert best.lasting == plain.lasting
