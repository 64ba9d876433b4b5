"""Metrics of the evaluation while training: the same numbers as the score stage's, in a real trainer's process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from eval.images import open_rgb, pixel_digest
from eval.score import Weights, score_metrics
from eval.table import read_scores
from sdxl_core.data.records import Record, write_records
from sdxl_core.errors import UserError
from sdxl_core.train_job import TrainJob
from tasks.manifest import Ref
from tasks.train_process import scorer
from tasks.validation_scores import METRICS, ScorersFile
from tests.flows.test_pipeline import CONFIG, WEIGHTS, Pipeline, trainer_events, write_pictures
from tests.sdxl_core.jobs import bundle_steps, files, history, run, wait_for_step, write_job

pytestmark = pytest.mark.ci

SCORED = """\
  validation:
    every_steps: 2
    prompts: [a photo of kestrel person on a beach, a photo of kestrel person at night]
    pictures_per_prompt: 2
    scores: [clip_i, ssim, saturation]
  export: best
  best_by: clip_i
"""
TRAINING = (("learning_rate: 1e-3", "learning_rate: 0.03"), ("max_steps: 2", "max_steps: 6"))
"""On the miniature it goes wrong at that rate, so that its steps differ."""


@dataclass(frozen=True)
class Finished:
    """A finished training, and what its process was told."""

    pipeline: Pipeline
    trained: Ref
    job: TrainJob
    scorers: ScorersFile

    @property
    def out(self) -> Path:
        return self.pipeline.store.path(self.trained)

    def elsewhere(self, root: Path, scorers: ScorersFile, **validation: Any) -> tuple[TrainJob, Path]:
        """The same training in folders of its own, and the file of its scorers."""
        config = self.job.training.validation
        assert config is not None
        training = self.job.training.model_copy(update={"validation": config.model_copy(update=validation)})
        folders = {"work": root / "run" / "work", "out": root / "run" / "out"}
        folders["work"].mkdir(parents=True)
        (root / "scorers.json").write_text(scorers.model_dump_json())
        return self.job.model_copy(update={"training": training, **folders}), root / "scorers.json"

    def scores(self) -> dict[int, dict[str, float]]:
        rows = [json.loads(line) for line in (self.out / "history.jsonl").read_text().splitlines()]
        return {row["step"]: row for row in rows if "validation/clip_i" in row}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("scored")
    write_pictures(folder / "pictures", 3)
    (folder / "prompts.txt").write_text("a photo of kestrel person on a beach\n")
    text = CONFIG.format(weights=WEIGHTS).replace("save_every_steps: 1\n", f"save_every_steps: 4\n{SCORED}")
    for old, new in TRAINING:
        text = text.replace(old, new)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("prior:"))
    text = text.replace("prior_preservation", "diffusion") + "\n    - {metric: saturation}\n"
    (folder / "short.yaml").write_text(text)
    pipeline = Pipeline(folder)
    trained = pipeline.train()
    (told,) = pipeline.store.root.glob("trainings/*/job.json")
    job = TrainJob.model_validate_json(told.read_text())
    scorers = ScorersFile.model_validate_json(told.with_name("scorers.json").read_text())
    return Finished(pipeline, trained, job, scorers)


def image_set(folder: Path, pictures: Path, step: int) -> Path:
    """A step's validation pictures as the stage `images` would leave them."""
    folder.mkdir(parents=True)
    lines = []
    for file in sorted(pictures.glob(f"{step:06d}-*.png")):
        _, place, *replicate = file.stem.split("-")
        record = {
            "file": str(file),
            "prompt_id": place,
            "prompt": f"prompt {place}",
            "replicate": int(replicate[0]) if replicate else 0,
            "seed": 0,
            "image_sha256": pixel_digest(open_rgb(file)),
        }
        lines.append(json.dumps(record) + "\n")
    (folder / "records.jsonl").write_text("".join(lines))
    return folder


def test_a_score_is_what_the_stage_makes_of_the_same_pictures(finished: Finished, tmp_path: Path) -> None:
    """Bit for bit, with nothing remembered from the training."""
    scorers, pictures = finished.scorers, finished.out / "validation"
    assert list(finished.scores()) == [0, 2, 4, 6]
    base = image_set(tmp_path / "base", pictures, 0)
    for step in (2, 4, 6):
        out = tmp_path / f"scores-{step}"
        score_metrics(
            metrics=METRICS.validate_python(scorers.metrics),
            weights={
                name: Weights({field: Path(place) for field, place in known["places"].items()}, known["digests"])
                for name, known in scorers.weights.items()
            },
            sets={"base": base, "candidate": image_set(tmp_path / f"{step}", pictures, step)},
            references=scorers.references,
            out=out,
            cells={},
            device="cpu",
        )
        for name in ("clip_i", "ssim", "saturation"):
            found = [row.value for row in read_scores(out) if row.metric_id == name and row.model_id != "base"]
            assert len(found) == 4 and finished.scores()[step][f"validation/{name}"] == fmean(found)


def test_the_result_is_the_step_of_the_highest_score(finished: Finished) -> None:
    own = {step: row["validation/clip_i"] for step, row in finished.scores().items() if step}
    facts = json.loads((finished.out / "training.json").read_text())
    best = max(own, key=lambda step: own[step])
    assert facts["exported"] == {
        "step": best,
        "why": f"the highest CLIP-I of the validation pictures, {own[best]:.6g}",
    }
    assert facts["scores"]["saturation"]["best"] is None and facts["scores"]["ssim"]["base"] == pytest.approx(1)
    said = [json.loads(line) for line in trainer_events(finished.pipeline).splitlines()]
    (last,) = [event for event in said if event["event"] == "progress" and event["step"] == 6]
    assert last["scores"]["clip_i"] == own[6]


def test_what_is_exported_needs_no_training_and_another_metric_does(finished: Finished) -> None:
    pipeline = finished.pipeline
    before = trainer_events(pipeline).count('"progress"')
    last = pipeline.train("training.export=last", "training.best_by=validation_loss")
    assert last.key != finished.trained.key
    assert trainer_events(pipeline).count('"progress"') == before
    assert "train" not in pipeline.would_run("evaluation.resamples=999")
    other = ("evaluation.metrics.0.name=o", "training.validation.scores=[o]", "training.best_by=o")
    assert "train" in pipeline.would_run(*other)


def test_killed_and_gone_on_with_it_ends_the_same(finished: Finished, tmp_path: Path) -> None:
    job, scorers = finished.elsewhere(tmp_path, finished.scorers)
    often = job.training.model_copy(update={"log_every_steps": 1, "save_every_steps": 1})
    description = write_job(job.model_copy(update={"training": often}))
    line = [sys.executable, "-m", "tasks.train_process", str(description), str(scorers)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_step(process, 5)
        process.kill()
    assert (job.work / "bundles" / "step-00000004").is_dir() and not (job.out / "history.jsonl").exists()
    assert run(job, scorer(scorers))
    left, wanted = files(job.out), files(finished.out)
    assert left == {name: wanted[name] for name in left} and "history.jsonl" in left


def test_the_best_step_may_be_in_the_middle(finished: Finished, tmp_path: Path) -> None:
    """The instance picture is what the model drew at step 4: nothing is more like it than that."""
    (tmp_path / "dataset" / "images").mkdir(parents=True)
    shutil.copy(finished.out / "validation" / "000004-00.png", tmp_path / "dataset" / "images" / "a.png")
    write_records(tmp_path / "dataset", [Record("images/a.png", "a" * 64, 64, 64, "", None, "a.png")])
    known = finished.scorers.model_copy(update={"references": tmp_path / "dataset", "cells": None})
    one = {"prompts": finished.job.training.validation_prompts[:1], "pictures_per_prompt": 1}
    job, scorers = finished.elsewhere(tmp_path, known, **one)
    assert run(job, scorer(scorers))
    found = {row["step"]: row["validation/clip_i"] for row in history(job) if "validation/clip_i" in row}
    assert found[4] == pytest.approx(1) and all(found[step] < 0.9999 for step in (0, 2, 6))
    assert json.loads((job.out / "training.json").read_text())["exported"]["step"] == 4
    assert 4 in bundle_steps(job)


def test_weights_that_do_not_fit_are_told_before_the_first_step(finished: Finished, tmp_path: Path) -> None:
    places = {"clip_i": {**finished.scorers.weights["clip_i"], "places": {"model": str(tmp_path)}}}
    weights = {**finished.scorers.weights, **places}
    known = finished.scorers.model_copy(update={"weights": weights, "cells": None})
    job, scorers = finished.elsewhere(tmp_path, known)
    with pytest.raises(UserError, match=r"training\.validation\.scores: clip_i: "):
        run(job, scorer(scorers))
    assert not bundle_steps(job)
