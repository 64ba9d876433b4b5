"""The whole pipeline on the shipped miniature, short: what is computed, what is reused, and that it heals."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.wiring import finetune
from sdxl_core.errors import UserError
from sdxl_core.miniature.render import render
from sdxl_core.miniature.world import CHARACTERS, draw_view
from tasks.experiment import prepare_experiment
from tasks.manifest import Ref
from tasks.plan import Planner
from tasks.runs import Recorder
from tasks.stage import Call, Handle, Pending, Runner, materialise
from tasks.store import ArtifactStore
from tasks.trainings import Resume
from tasks.yaml_config import read_config

WEIGHTS = Path(__file__).parents[2] / "sdxl_core" / "miniature" / "weights"
CONFIG = """\
name: short
model: {{base: {weights}/sdxl}}
dataset: {{path: ./pictures}}
transform: {{resolution_px: 64}}
prior: {{prompt: a photo of a person, count: 2, sampling: {{steps: 1, width_px: 64, height_px: 64}}}}
training:
  objective: {{kind: prior_preservation}}
  adapter: {{kind: lora, rank: 2}}
  learning_rate: 1e-3
  max_steps: 2
  save_every_steps: 1
sampling: {{steps: 2, width_px: 64, height_px: 64}}
evaluation:
  prompts: ./prompts.txt
  metrics:
    - {{metric: clip_i, model: {weights}/clip, primary: true}}
    - {{metric: ssim}}
"""
SECRET = "mustNotBeSeenAnywhere"
JUDGING = ["train", "images/candidate", "scores", "comparison", "report"]


def write_pictures(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    lines = []
    for i in range(first, count):
        rng = random.Random(i)
        person = CHARACTERS["kestrel"].appear(rng, style="photo")
        render(person, draw_view(rng)).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"a photo of kestrel person {person.scene}"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))


class Pipeline:
    """An experiment in a folder, run without Prefect."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "short.yaml"
        self.store = ArtifactStore(folder / "store")

    def run(self, *overrides: str) -> dict[str, Ref]:
        recorder = Recorder(lambda call: materialise(call, self.store, "cpu"))
        self._wire(recorder, overrides)
        return recorder.refs

    def train(self, *overrides: str, resume: Resume | None = None) -> Ref:
        """The training and what it needs; nothing is judged."""

        def up_to_training(call: Call) -> Handle:
            if call.stage.kind in ("images", "scores", "comparison", "report"):
                return Pending(call.stage.kind, call.label)
            return materialise(call, self.store, "cpu")

        recorder = Recorder(up_to_training)
        self._wire(recorder, overrides, resume)
        return recorder.refs["train"]

    def would_run(self, *overrides: str) -> list[str]:
        """Labels of the stages that a run would not reuse."""
        planner = Planner(self.store)
        self._wire(planner, overrides)
        return [stage.label for stage in planner.stages if stage.action == "run"]

    def _wire(self, runner: Runner, overrides: Sequence[str], resume: Resume | None = None) -> None:
        """In the experiment's folder, since the report shows places relative to where one is."""
        with contextlib.chdir(self.config.parent):
            config = read_config(self.config, overrides)
            finetune(prepare_experiment(config, self.store, "test", resume=resume), runner)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished experiment; tests work on copies."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_pictures(folder / "pictures", 3)
    (folder / "prompts.txt").write_text("a photo of kestrel person on a beach\na photo of kestrel person at night\n")
    (folder / "short.yaml").write_text(CONFIG.format(weights=WEIGHTS))
    with pytest.MonkeyPatch.context() as environment:
        for name in ("HF_TOKEN", "WANDB_API_KEY"):
            environment.setenv(name, SECRET)
        Pipeline(folder).run()
    return folder


@pytest.fixture
def pipeline(finished: Path, tmp_path: Path) -> Pipeline:
    shutil.copytree(finished, tmp_path / "copy")
    return Pipeline(tmp_path / "copy")


def test_finished_pipeline_has_nothing_to_do(pipeline: Pipeline) -> None:
    assert pipeline.would_run() == []


def test_no_secret_is_written_anywhere(finished: Path) -> None:
    """Neither into artifacts nor into logs, bundles or job descriptions."""
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert any(path.name == "job.json" for path in files) and any(path.suffix == ".pt" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_touched_but_identical_file_changes_nothing(pipeline: Pipeline) -> None:
    for path in (pipeline.config.parent / "pictures").iterdir():
        os.utime(path, (1, 1))
    assert pipeline.would_run() == []


def test_learning_rate_trains_and_judges_anew(pipeline: Pipeline) -> None:
    assert pipeline.would_run("training.learning_rate=5e-4") == JUDGING


@pytest.mark.parametrize("setting", ["training.save_every_steps=2", "training.keep_bundles=1"])
def test_settings_that_change_no_byte_change_nothing(pipeline: Pipeline, setting: str) -> None:
    assert [label for label in pipeline.would_run(setting) if label != "report"] == []


@pytest.mark.ci
def test_more_steps_run_the_new_ones_only(pipeline: Pipeline, finished: Path, tmp_path: Path) -> None:
    """And come to what as many steps in a store without the shorter run come to."""
    longer = pipeline.train("training.max_steps=4")
    shutil.copytree(finished, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("store"))
    elsewhere = Pipeline(tmp_path / "elsewhere")
    assert elsewhere.train("training.max_steps=4") == longer
    assert "going on from step 2 of 4" in trainer_events(pipeline)
    assert "going on" not in trainer_events(elsewhere)


def trainer_events(pipeline: Pipeline) -> str:
    return "".join(path.read_text() for path in pipeline.store.root.glob("trainings/*/logs/events.jsonl"))


@pytest.mark.ci
def test_a_finished_run_goes_on_at_another_rate(pipeline: Pipeline) -> None:
    """The result is another artifact than the pure run's, and says what it came from."""
    overrides = ("training.max_steps=4", "training.learning_rate=1e-4")
    resumed = pipeline.store.path(pipeline.train(*overrides, resume=Resume(override=("training.learning_rate",))))
    described = json.loads((resumed / "training.json").read_text())
    rates = (resumed / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in rates] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert len(described["ancestor"]) == 64
    assert pipeline.would_run(*overrides)[0] == "train"


def test_changed_metrics_only_score(pipeline: Pipeline) -> None:
    metrics = f"[{{metric: clip_i, model: {WEIGHTS}/clip, primary: true}}]"
    assert pipeline.would_run(f"evaluation.metrics={metrics}") == ["scores", "comparison", "report"]
    metrics = f"[{{metric: clip_score, model: {WEIGHTS}/clip, primary: true}}, {{metric: ssim}}]"
    assert pipeline.would_run(f"evaluation.metrics={metrics}") == ["scores", "comparison", "report"]


def test_one_more_picture_is_one_encode(pipeline: Pipeline) -> None:
    write_pictures(pipeline.config.parent / "pictures", 4)
    cells = pipeline.store.cells("latents")
    before = len(cells)
    pipeline.run()
    assert len(cells) == before + 1


@pytest.mark.parametrize(
    "label",
    [
        "dataset",
        "latents",
        "text",
        pytest.param("train", marks=pytest.mark.ci),
        "images/candidate",
        "comparison",
        "report",
    ],
)
def test_a_deleted_artifact_is_rebuilt_alone_with_the_same_bytes(pipeline: Pipeline, label: str) -> None:
    before = pipeline.run()
    made = {name: pipeline.store.path(ref).stat().st_mtime_ns for name, ref in before.items()}
    shutil.rmtree(pipeline.store.path(before[label]))
    assert label in pipeline.would_run()
    after = pipeline.run()
    assert after == before
    rebuilt = [name for name, ref in after.items() if pipeline.store.path(ref).stat().st_mtime_ns != made[name]]
    assert rebuilt == [label]


@pytest.mark.ci
def test_a_validation_set_of_its_own_is_encoded_and_measured(pipeline: Pipeline) -> None:
    """The dataset's own stages stay as they were; what is exported is no part of a training's identity."""
    write_pictures(pipeline.config.parent / "others", 5, first=3)
    loss = "training.validation={loss: {every_steps: 1, timesteps: [500]}}"
    overrides = (loss, "dataset.validation_path=./others")
    with contextlib.chdir(pipeline.config.parent):
        wanted = pipeline.would_run(*overrides)
    assert wanted[:3] == ["validation_dataset", "preflight", "validation_latents"] and "latents" not in wanted
    trained = pipeline.store.path(pipeline.train(*overrides))
    rows = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "validation/loss" in row] == [0, 1, 2]
    assert json.loads((trained / "training.json").read_text())["validation_loss"]["pictures"] == 2
    best = pipeline.store.path(pipeline.train(*overrides, "training.export=best"))
    assert best != trained and (best / "history.jsonl").read_bytes() == (trained / "history.jsonl").read_bytes()
    assert len(list(pipeline.store.root.glob("trainings/*/bundles"))) == 2  # the finished experiment's, and this one


def test_a_split_that_leaves_nothing_is_told_before_anything_is_encoded(pipeline: Pipeline) -> None:
    with pytest.raises(UserError, match=r"pictures: expected a picture at least to be left to train on.* 3 different"):
        pipeline.train("training.validation={loss: {every_steps: 1, pictures: 3}}")
    assert not list(pipeline.store.root.glob("work/latents/*"))


def save_as(kind: str) -> Callable[[Image.Image, Path], None]:
    def phone(picture: Image.Image, path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying, to be shown turned
        picture.rotate(90, expand=True).save(path.with_suffix(".jpg"), exif=exif)

    def transparent(picture: Image.Image, path: Path) -> None:
        picture.putalpha(picture.convert("L"))
        picture.save(path.with_suffix(".png"))

    def deep(picture: Image.Image, path: Path) -> None:
        grey = np.asarray(picture.convert("L"), dtype=np.uint16) * 257
        Image.fromarray(grey).save(path.with_suffix(".png"))

    def printed(picture: Image.Image, path: Path) -> None:
        picture.convert("CMYK").save(path.with_suffix(".jpg"))

    return {"phone": phone, "transparent": transparent, "deep": deep, "printed": printed}[kind]


@pytest.mark.ci
def test_photographs_of_all_kinds_go_through(finished: Path, tmp_path: Path) -> None:
    """Mixed sizes, EXIF rotation, alpha, 16 bits and CMYK, from pictures to report."""
    folder = tmp_path / "photos"
    (folder / "pictures").mkdir(parents=True)
    for i, kind in enumerate(["phone", "transparent", "deep", "printed"]):
        rng = random.Random(i)
        picture = render(CHARACTERS["corvo"].appear(rng, style="photo"), draw_view(rng), 90 + 40 * i)
        save_as(kind)(picture.crop((0, 0, picture.width, picture.height - 11 * i)), folder / "pictures" / kind)
    shutil.copy(finished / "prompts.txt", folder)
    text = CONFIG.format(weights=WEIGHTS).replace("path: ./pictures", "source: prompt, path: ./pictures, prompt: corvo")
    (folder / "short.yaml").write_text(text)
    refs = Pipeline(folder).run()
    page = (Pipeline(folder).store.path(refs["report"]) / "report.html").read_text()
    assert "<html" in page and "http://" not in page.replace("http://www.w3.org", "")
