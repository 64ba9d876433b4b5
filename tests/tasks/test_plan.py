"""Plans: what would run, and why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.wiring import SCORED, TRAINED, finetune
from tasks.errors import ConfigError
from tasks.experiment import prepare_experiment
from tasks.plan import Expecting, Planned, Planner
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.tasks.toy import fill_store, write_experiment, write_pictures

ALL_AFTER_TRAINING = {"train", "images/candidate", "scores"}
DRAWING = {"images/base", "images/candidate", "scores"}
END = {"comparison", "report"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "toy")


@pytest.fixture
def filled(config: Path, store: ArtifactStore) -> ArtifactStore:
    fill_store(config, store, "command")
    return store


def plan(config: Path, store: ArtifactStore, *overrides: str) -> dict[str, Planned]:
    planner = Planner(store)
    finetune(prepare_experiment(read_config(config, overrides), store, "command"), planner)
    assert planner.complete == all(stage.action == "reuse" for stage in planner.stages)
    return {stage.label: stage for stage in planner.stages}


def to_run(stages: dict[str, Planned]) -> set[str]:
    return {label for label, stage in stages.items() if stage.action == "run"}


def test_in_an_empty_store_everything_runs(config: Path, store: ArtifactStore) -> None:
    stages = plan(config, store)
    assert to_run(stages) == stages.keys()
    assert stages["dataset"].why == "never run before"
    assert not list(store.manifests())


def test_in_a_filled_store_nothing_runs(config: Path, filled: ArtifactStore) -> None:
    assert to_run(plan(config, filled)) == set()


@pytest.mark.parametrize(
    ("override", "runs", "because", "why"),
    [
        (
            "training.learning_rate=5e-4",
            ALL_AFTER_TRAINING | END,
            "train",
            "training.learning_rate: 0.001 → 0.0005",
        ),
        ("training.save_every_steps=7", {"report"}, "report", "config.training.save_every_steps: nothing → 7"),
        ("evaluation.confidence=0.9", END, "comparison", "evaluation.confidence: 0.95 → 0.9"),
        ("evaluation.metrics.1={metric: ssim, name: s2}", {"scores"} | END, "comparison", "after"),
        ("evaluation.gallery.wins=2", {"report"}, "report", "gallery.wins: 12 → 2"),
        ("sampling.batch_size=3", DRAWING | END, "images/base", "sampling.batch_size: 4 → 3"),
        ("runtime.device=cpu", set(), "", ""),
    ],
)
def test_a_change_runs_what_depends_on_it(
    config: Path, filled: ArtifactStore, override: str, runs: set[str], because: str, why: str
) -> None:
    stages = plan(config, filled, override)
    assert to_run(stages) == runs
    if because:
        assert why in stages[because].why


def test_one_more_picture_is_named_as_the_reason(config: Path, filled: ArtifactStore) -> None:
    shutil.rmtree(config.parent / "pictures")
    write_pictures(config.parent / "pictures", 4)
    stages = plan(config, filled)
    assert stages["dataset"].why.startswith("source: ")
    assert {"latents", "text", "train"} <= to_run(stages)
    assert to_run(stages).isdisjoint({"class_images", "class_latents", "images/base"})


def test_touching_and_moving_change_nothing(config: Path, filled: ArtifactStore) -> None:
    for path in config.parent.rglob("*"):
        path.touch()
    assert to_run(plan(config, filled)) == set()


def test_damage_is_named(config: Path, filled: ArtifactStore) -> None:
    [base] = [manifest for manifest in filled.manifests("images") if manifest.label == "images/base"]
    (filled.path(base.ref) / "report.html").unlink()
    assert plan(config, filled)["images/base"].why == "damaged: report.html is missing"


def test_the_nearest_earlier_artifact_is_compared(config: Path, filled: ArtifactStore) -> None:
    fill_store(config, filled, "command", {"training.learning_rate": 0.5, "training.max_steps": 9})
    near = plan(config, filled, "training.learning_rate=0.25", "training.max_steps=9")
    assert near["train"].why == "training.learning_rate: 0.5 → 0.25"


def test_what_is_expected_has_to_be_there(config: Path, filled: ArtifactStore) -> None:
    changed = prepare_experiment(read_config(config, ["training.learning_rate=5e-4"]), filled, "command")
    with pytest.raises(ConfigError, match=r"train: not in the store.*learning_rate: 0\.001 → 0\.0005"):
        finetune(changed, Expecting(TRAINED, filled, Planner(filled)))
    more = prepare_experiment(read_config(config, ["evaluation.replicates=2"]), filled, "command")
    finetune(more, Expecting(TRAINED, filled, Planner(filled)))
    with pytest.raises(ConfigError, match="images/base: not in the store"):
        finetune(more, Expecting(SCORED, filled, Planner(filled)))
