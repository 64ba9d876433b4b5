"""What a retraining trains, judges and promotes, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from sdxl_core.errors import UserError
from tests.flows.conftest import REPOSITORY
from tests.flows.retraining import FAILED, PASSED, UNDECIDED, RetrainingWorld
from tests.flows.short import CONFIG
from tests.flows.test_pipeline import write_pictures

PROMPTS = [{"prompt": f"a photo of a person {n}"} for n in range(12)]


def start(folder: Path) -> RetrainingWorld:
    write_pictures(folder / "pictures", 3)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "short.yaml").write_text(CONFIG)
    return RetrainingWorld(folder)


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose first candidate was promoted; tests work on copies."""
    folder = tmp_path_factory.mktemp("promoted")
    done = start(folder).retrain()
    assert (done.outcome, done.version, done.production) == ("promoted", 1, 1)
    return folder


@pytest.fixture
def world(promoted: Path, tmp_path: Path) -> RetrainingWorld:
    shutil.copytree(promoted, tmp_path / "copy", symlinks=True)
    return RetrainingWorld(tmp_path / "copy")


@pytest.fixture(scope="module")
def promoted_twice(promoted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after two more pictures."""
    folder = tmp_path_factory.mktemp("twice") / "copy"
    shutil.copytree(promoted, folder, symlinks=True)
    write_pictures(folder / "pictures", 5)
    assert RetrainingWorld(folder).retrain().production == 2
    return folder


@pytest.fixture
def later(promoted_twice: Path, tmp_path: Path) -> RetrainingWorld:
    shutil.copytree(promoted_twice, tmp_path / "copy", symlinks=True)
    return RetrainingWorld(tmp_path / "copy")


def test_what_is_promoted_is_whole(world: RetrainingWorld) -> None:
    link = Path(world.registry.at("short"))
    assert os.readlink(link) == "versions/1"
    files = {path.relative_to(link).as_posix() for path in link.rglob("*") if path.is_file()}
    wanted = {"pytorch_lora_weights.safetensors", "kohya_lora.safetensors", "README.md", "report.html", "lineage.json"}
    assert wanted <= files
    assert world.happened() == [("judged", 1), ("promoted", 1)]
    stated = json.loads((link / "lineage.json").read_text())
    assert {"train", "report", "dataset"} <= {one["label"] for one in stated["artifacts"]}


def test_the_same_again_is_nothing_new(world: RetrainingWorld) -> None:
    again = world.retrain()
    assert (again.outcome, again.version, again.production) == ("nothing new", 1, 1)
    assert world.built == [] and world.happened() == [("judged", 1), ("promoted", 1)]


def test_pictures_that_were_only_touched_are_nothing_new(world: RetrainingWorld) -> None:
    for picture in (world.folder / "pictures").iterdir():
        os.utime(picture)
    assert world.retrain().outcome == "nothing new"


@pytest.mark.ci
def test_new_pictures_make_a_candidate_that_is_held_against_base_and_production(world: RetrainingWorld) -> None:
    write_pictures(world.folder / "pictures", 5)
    done = world.retrain()
    assert (done.outcome, done.version, done.production) == ("promoted", 2, 2)
    assert world.built.count("train") == 1 and "images/base" not in world.built
    assert [path.parent.name for path in done.reports] == ["short", "short-against-production-short-1"]
    link = Path(world.registry.at("short"))
    against = json.loads((link / "against-incumbent" / "report.json").read_text())
    assert {role: one["name"] for role, one in against["image_sets"].items()} == {
        "base": "production/short@1",
        "candidate": "trained",
    }
    assert (world.folder / "store" / "models" / "short" / "versions" / "1" / "README.md").is_file()


@pytest.mark.ci
@pytest.mark.parametrize(("gates", "outcome"), [(FAILED, "rejected"), (UNDECIDED, "inconclusive")])
def test_what_is_not_proven_better_is_kept_and_changes_nothing(
    world: RetrainingWorld, gates: str, outcome: str
) -> None:
    before = os.readlink(world.registry.at("short"))
    write_pictures(world.folder / "pictures", 4)
    done = world.retrain(gates)
    assert (done.outcome, done.version, done.production) == (outcome, 2, 1)
    assert os.readlink(world.registry.at("short")) == before
    kept = world.folder / "store" / "models" / "short" / "versions" / "2"
    assert (kept / "report.html").is_file() and (kept / "against-incumbent" / "report.html").is_file()
    again = world.retrain(gates)
    assert (again.outcome, again.version) == ("nothing new", 2) and world.built == []


@pytest.mark.ci
def test_gates_against_production_can_be_others(world: RetrainingWorld) -> None:
    write_pictures(world.folder / "pictures", 4)
    gates = FAILED.removeprefix("evaluation.gates=")
    done = world.retrain(PASSED, f"retraining.against_incumbent={gates}")
    assert done.outcome == "rejected" and done.reason == "promote against the base and reject against production"
    with pytest.raises(UserError, match=r"retraining\.against_incumbent: gates\[0\]: no metric is called 'dino'"):
        world.retrain(PASSED, "retraining.against_incumbent=[{metric: dino, require: better}]")


@pytest.mark.ci
def test_a_rollback_is_not_undone_by_the_next_run(later: RetrainingWorld) -> None:
    earlier = later.registry.earlier("short", later.registry.require("short"))
    later.registry.point("short", earlier.number, "rolled back", expected=2, reason="hands")
    assert later.production() == 1
    assert later.retrain().outcome == "nothing new" and later.production() == 1
    assert later.retrain(force=True).outcome == "promoted" and later.production() == 3


@pytest.mark.ci
def test_a_warm_start_begins_with_what_is_in_production(world: RetrainingWorld) -> None:
    write_pictures(world.folder / "pictures", 4)
    done = world.retrain(PASSED, "retraining.warm_start=true")
    version = world.registry.version("short", done.version or 0)
    facts = json.loads((world.store.path(version.training) / "training.json").read_text())
    first = world.registry.version("short", 1)
    assert facts["training"]["adapter"]["kind"] == "lora" and "start" in facts["inputs"]
    assert version.training != first.training
    assert world.retrain(PASSED, "retraining.warm_start=true").outcome == "nothing new"


@pytest.mark.ci
def test_production_that_moves_while_a_candidate_is_judged_is_judged_against(later: RetrainingWorld) -> None:
    write_pictures(later.folder / "pictures", 6)
    moves = [lambda: later.registry.point("short", 1, "rolled back", expected=2, reason="meanwhile")]
    later.before_judging = lambda: moves.pop()() if moves else None
    done = later.retrain()
    judged = [later.registry.version("short", number).against for number in (3, 4)]
    assert done.outcome == "promoted" and done.production == 4 and judged == [1, 1]


def test_a_promotion_that_was_cut_off_is_made_good(world: RetrainingWorld) -> None:
    """As if the process had died between the verdict and the link."""
    Path(world.registry.at("short")).unlink()
    history = world.folder / "store" / "models" / "short" / "history.jsonl"
    history.write_text(history.read_text().splitlines()[0] + "\n")
    assert world.production() is None
    assert world.retrain().outcome == "nothing new"
    assert world.production() == 1 and world.happened() == [("judged", 1), ("promoted", 1)]
    assert world.told == [1]


@pytest.mark.ci
def test_a_release_that_was_put_back_alone_is_held_against(world: RetrainingWorld) -> None:
    """As from a backup of `models` and `artifacts/release`."""
    for folder in (world.folder / "store").iterdir():
        if folder.name not in ("models", "artifacts"):
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    for folder in (world.folder / "store" / "artifacts").iterdir():
        if folder.name != "release":
            shutil.rmtree(folder)
    write_pictures(world.folder / "pictures", 4)
    done = world.retrain(PASSED, "retraining.warm_start=true")
    assert (done.outcome, done.version) == ("promoted", 2) and world.registry.version("short", 2).against == 1


@pytest.mark.ci
def test_a_damaged_release_is_not_put_into_production(later: RetrainingWorld) -> None:
    weights = later.store.path(later.registry.version("short", 1).release) / "kohya_lora.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"short@1: its release .* is damaged"):
        later.registry.point("short", 1, "rolled back", expected=2, reason="")
    assert later.production() == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.gates=[]", r"evaluation\.gates: expected at least one gate"),
        ("evaluation.candidate=base", r"evaluation\.candidate: expected trained, to retrain, got base"),
        ("evaluation.baseline=./dog", r"evaluation\.baseline: expected base, to retrain"),
    ],
)
def test_what_cannot_be_retrained_by_is_refused(world: RetrainingWorld, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        world.retrain(PASSED, override)


@pytest.mark.ci
def test_the_command_line_shows_and_moves_what_is_in_production(world: RetrainingWorld) -> None:
    def sdxl_flows(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SDXL_FLOWS_STORE": str(world.folder / "store")}
        line = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(line, cwd=world.folder, env=environment, capture_output=True, text=True, timeout=120)

    write_pictures(world.folder / "pictures", 4)
    world.retrain(FAILED)
    again = sdxl_flows("retrain", "short.yaml", "--set", FAILED, "--set", "runtime.store=./store")
    assert (again.returncode, again.stdout) == (
        0,
        "nothing new: version 2 was made of the same data and settings (reject)\n",
    )
    assert "short  version 1  2 versions" in sdxl_flows("models", "ls").stdout
    shown = sdxl_flows("models", "show", "short").stdout
    assert "version 1" in shown and "in production" in shown and "against base and version 1" in shown
    refused = sdxl_flows("models", "rollback", "short")
    assert refused.returncode == 2 and "nothing was in production before version 1" in refused.stderr
    by_hand = sdxl_flows("models", "promote", "short", "2", "--reason", "the art director's choice")
    assert by_hand.returncode == 0 and "version 2 is in production, instead of 1" in by_hand.stdout
    assert world.production() == 2
    assert "version 1 is in production, instead of 2" in sdxl_flows("models", "rollback", "short").stdout
    history = sdxl_flows("models", "history", "short").stdout
    assert "the art director's choice" in history and history.count("rolled back") == 1
    unknown = sdxl_flows("models", "show", "shrot")
    assert unknown.returncode == 2 and "Did you mean 'short'?" in unknown.stderr
    judged = sdxl_flows("plan", "short.yaml", "--candidate", "production/short", "--set", "runtime.store=./store")
    assert judged.returncode == 0, judged.stderr


@pytest.mark.slow
def test_under_prefect_the_state_says_what_became_of_it(
    prefect_api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without JSON, Prefect would pickle what a flow gives back."""
    from prefect import State

    from flows.retrain import retrain

    world = start(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDXL_FLOWS_STORE", str(world.store.root))

    def state_of(*overrides: str) -> State[Any]:
        return cast(Any, retrain)(Path("short.yaml"), overrides=list(overrides), return_state=True)

    promoted = state_of(PASSED)
    assert (promoted.type.value, promoted.name) == ("COMPLETED", "Promoted"), promoted.message
    assert promoted.message == "short: promoted (promote against the base)"
    told = promoted.result()
    assert json.loads(json.dumps(told))["production"] == 1 and Path(told["reports"][0]).is_file()
    assert state_of(PASSED).name == "NothingNew"
    write_pictures(tmp_path / "pictures", 4)
    assert state_of(FAILED).name == "Rejected"
    assert world.production() == 1
    assert [event.what for event in world.registry.history("short")].count("announced") == 1
