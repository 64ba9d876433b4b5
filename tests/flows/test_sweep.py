"""Sweeps on the miniature: what is prepared once, what is trained, what is told, and how it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flows.sweeping import Sweeping, search
from tasks.errors import TrainerFailed
from tasks.plan import Planner
from tasks.runs import Recorder, finish_run
from tasks.stage import Call, Handle, materialise
from tasks.store import ArtifactStore
from tasks.sweeps.grid import parse_grid
from tasks.sweeps.order import Checked, Order, check
from tasks.sweeps.search import SearchConfig
from tasks.sweeps.variants import Asked
from tests.flows.conftest import REPOSITORY, Cli
from tests.flows.short import Evaluations
from tests.tasks.toy import write_experiment

ARGUMENTS = ("--grid", "training.seed=1,2", "--grid", "training.adapter.rank=2,4")


class Sweeps:
    """Of one experiment, run without Prefect; `built` are the labels of the stages of the last one that ran."""

    def __init__(self, evaluations: Evaluations) -> None:
        self.folder, self.built = evaluations.folder, list[str]()
        self.failing = ""
        self.store = ArtifactStore(self.folder / "store")

    def check(self, *grid: str, overrides: tuple[str, ...] = (), searched: SearchConfig | None = None) -> Checked:
        asked = Asked((self.folder / "short.yaml",), (f"runtime.store={self.store.root}", *overrides))
        return check(Order(asked, parse_grid(grid), searched))

    def run(self, *grid: str, overrides: tuple[str, ...] = (), searched: SearchConfig | None = None) -> Recorder:
        self.built.clear()
        recorder = Recorder(self._run)
        with contextlib.chdir(self.folder):
            checked = self.check(*grid, overrides=overrides, searched=searched)
            sweeping = Sweeping(checked, recorder, "test")
            if searched is not None:
                search(sweeping, searched)
            else:
                sweeping.train(checked.prepared)
            sweeping.report()
            finish_run(self.store, checked.name, "test", recorder.refs)
        return recorder

    def plan(self, *grid: str) -> tuple[Planner, list[Handle]]:
        planner = Planner(self.store)
        with contextlib.chdir(self.folder):
            checked = self.check(*grid)
            return planner, Sweeping(checked, planner, "test").plan(checked.prepared)

    def _run(self, call: Call) -> Handle:
        if self.store.find_whole(call.recipe().kind, call.recipe().key) is None:
            if self.failing and self.failing in call.label:
                raise TrainerFailed("the trainer failed: the loss is not finite; all it said is in /some/where")
            self.built.append(call.label)
        return materialise(call, self.store, "cpu")

    def kinds(self) -> list[str]:
        return sorted(label.partition("/")[0] for label in self.built)

    def document(self, recorder: Recorder, label: str = "report") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.store.path(recorder.refs[label]) / "report.json").read_text())
        return found


@pytest.fixture
def sweeps(evaluations: Evaluations) -> Sweeps:
    return Sweeps(evaluations)


@pytest.mark.ci
def test_what_variants_share_is_made_once(sweeps: Sweeps) -> None:
    """The dataset, its caches, and the base's pictures are those of the run that was before; nothing twice."""
    grid = ("training.seed=0,1", "training.learning_rate=5e-2,1e-2")
    done = sweeps.run(*grid)
    trainings = [label for label in sweeps.built if label.startswith("train/")]
    assert len(trainings) == 3, "one of the four is what the run has trained"
    assert not {"dataset", "latents", "text"} & {*sweeps.kinds()} and "images/base" not in sweeps.built
    assert len([label for label in done.refs if label.startswith("train/")]) == 4
    document = sweeps.document(done)
    assert [group["values"] for group in document["sweep"]["groups"]] == [["0.05"], ["0.01"]]
    assert [[one["seed"] for one in group["members"]] for group in document["sweep"]["groups"]] == [["0", "1"]] * 2
    assert len({one["training"] for group in document["sweep"]["groups"] for one in group["members"]}) == 4
    published = sweeps.folder / "runs" / "short-sweep"
    assert len([*published.glob("*/report.html")]) == 4 and not [*published.rglob("*.safetensors")]

    again = sweeps.run(*grid)
    assert sweeps.built == [] and sweeps.document(again) == document
    planner, _ = sweeps.plan(*grid)
    assert planner.complete

    # a setting that decides no byte
    same = sweeps.run("training.seed=0,1", "training.log_every_steps=1,7")
    assert not [label for label in sweeps.built if label.startswith("train/")]
    assert sweeps.document(same)["sweep"]["notes"] == [
        f"seed={seed}, log_every_steps=7 is the same training as seed={seed}, log_every_steps=1." for seed in (0, 1)
    ]

    sweeps.failing = "learning-rate-0-02"
    failed = sweeps.run("training.learning_rate=5e-2,2e-2")
    told = sweeps.document(failed)["sweep"]
    assert told["failed"] == [{"name": "learning_rate=0.02", "reason": "the trainer failed: the loss is not finite"}]
    assert [group["name"] for group in told["groups"]] == ["learning_rate=0.05"]
    assert not [label for label in sweeps.built if label.startswith(("train/", "images/", "scores/"))]


def test_where_nothing_could_be_trained_there_is_no_report(sweeps: Sweeps) -> None:
    sweeps.failing = "train/"
    with pytest.raises(TrainerFailed, match=r"(?s)none of 2 variants.*seed=8: the trainer failed"):
        sweeps.run("training.seed=8,9")


def test_what_a_run_has_trained_is_a_variant(sweeps: Sweeps) -> None:
    """The key has no name in it."""
    planner, handles = sweeps.plan("training.seed=0,1")
    assert handles[0] == next(sweeps.store.manifests("train")).ref
    [missing] = [stage.label for stage in planner.stages if stage.action == "run"]
    assert missing.startswith("train/seed-1-")


def test_a_dry_run_tells_and_makes_nothing(cli: Cli, tmp_path: Path) -> None:
    write_experiment(tmp_path / "toy")
    done = cli("sweep", "toy/toy.yaml", *ARGUMENTS, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("train/seed-") for line in lines) == 4
    assert sum(line.startswith("latents ") for line in lines) == 1
    assert "trainings: 0 reused, 4 to run" in lines
    assert any("no training of this base yet to tell the time by" in line for line in lines)
    assert not [*ArtifactStore(tmp_path / "store").manifests()]


@pytest.mark.ci
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grid", "training.adapter.rank=0,4"], "rank=0: toy/toy.yaml: training.adapter.rank: expected"),
        (["--grid", "training.seed=1"], "expected 2 to 500 variants, got 1"),
        (["--optuna", "3"], "nothing to search"),
        (["--search", "training.seed=1..4"], "go with --optuna"),
        (["--optuna", "3", "--search", "training.seed=4..1"], "the smaller first"),
    ],
)
def test_mistakes_are_told_without_a_traceback(cli: Cli, tmp_path: Path, arguments: list[str], said: str) -> None:
    write_experiment(tmp_path / "toy")
    done = cli("sweep", "toy/toy.yaml", *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_search_goes_on_and_is_judged_on_other_prompts(fourteen: Evaluations) -> None:
    sweeps = Sweeps(fourteen)
    space = {"training.learning_rate": "log:1e-3..1e-1"}
    first = sweeps.run(searched=SearchConfig(trials=2, space=space, objective="clip_i"))
    assert first.refs["report"].kind == "report" and first.refs["selection"].kind == "matrix"
    assert len(sweeps.document(first, "selection")["sweep"]["groups"]) == 2
    assert "2 trials" in sweeps.document(first, "selection")["sweep"]["notes"][0]
    more = sweeps.run(searched=SearchConfig(trials=3, space=space, objective="clip_i"))
    assert len([label for label in sweeps.built if label.startswith("train/")]) == 1
    for journal in (sweeps.store.root / "sweeps").iterdir():
        journal.unlink()
    again = sweeps.run(searched=SearchConfig(trials=3, space=space, objective="clip_i"))
    assert sweeps.built == [] and again.refs["report"] == more.refs["report"], "its results alone decide a proposal"


@pytest.mark.slow
def test_a_stopped_sweep_saves_and_goes_on(sweeps: Sweeps, tmp_path: Path) -> None:
    """SIGTERM to the command alone, while two trainings run in threads of it."""
    arguments = ["sweep", "short.yaml", "--grid", "training.seed=1,2", "--set", "training.max_steps=40"]
    line = [sys.executable, "-c", "from flows.cli import main; main()", *arguments, "--parallel", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SDXL_FLOWS_STORE": str(sweeps.store.root)}
    log = tmp_path / "log.txt"
    with log.open("w") as said:
        process = subprocess.Popen(line, cwd=sweeps.folder, env=environment, stderr=said, stdout=said)
    bundles = sweeps.store.root / "trainings"
    before = {*bundles.glob("*/bundles/*")}
    deadline = time.monotonic() + 300
    while len({path.parent for path in {*bundles.glob("*/bundles/*")} - before}) < 2:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 75, log.read_text()
    left = subprocess.run(["pgrep", "-f", f"sdxl_core.train {sweeps.store.root}"], capture_output=True, text=True)
    assert left.stdout == ""
    done = subprocess.run(line, cwd=sweeps.folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
