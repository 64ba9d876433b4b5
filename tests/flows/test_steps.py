"""Steps of a training on the miniature: drawn, judged and exported, and the same as their bundles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks.exports import Wanted, export
from tasks.push import Upload, prepare_upload
from tests.flows.short import CONFIG, LORA, PROMPTS, Evaluations
from tests.flows.test_any_model import JUDGING
from tests.flows.test_pipeline import write_pictures

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    write_pictures(folder / "pictures", 3)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    every = CONFIG.replace("max_steps: 2", "max_steps: 3\n  export_every_steps: 1").replace("keep_bundles: 2", "")
    (folder / "short.yaml").write_text(every)
    Evaluations(folder).run(train=True)
    return folder


@pytest.fixture
def evaluations(finished: Path, tmp_path: Path) -> Evaluations:
    shutil.copytree(finished, tmp_path / "copy")
    return Evaluations(tmp_path / "copy")


def test_a_step_is_drawn_as_its_bundle_is(evaluations: Evaluations) -> None:
    """Bit for bit, alone and in a sum, by all its names; and it is neither the base nor the end."""
    step = evaluations.run("trained@1")
    assert evaluations.built == JUDGING
    pictures = evaluations.drawn(step)
    known = len(evaluations.store.cells("images"))
    [manifest] = evaluations.store.manifests("train")
    [bundle] = evaluations.store.root.glob("trainings/*/bundles/step-00000001")
    folder = evaluations.trained() / "steps" / "00000001"
    for name in (str(bundle), "short@1", f"train/{manifest.key[:9]}@1", str(folder)):
        assert evaluations.drawn(evaluations.run(name)) == pictures, name
    assert len(evaluations.store.cells("images")) == known
    assert evaluations.drawn(evaluations.run(str(folder / LORA))) == pictures
    others = [evaluations.drawn(evaluations.run(name)) for name in ("base", "trained", "trained@2")]
    assert pictures not in others and len({tuple(drawn) for drawn in others}) == 3
    half = evaluations.drawn(evaluations.run("trained@1:0.5 + trained@2:0.5"))
    two = " + ".join(f"{bundle.with_name(f'step-0000000{n}')}:0.5" for n in (2, 1))
    assert evaluations.drawn(evaluations.run(two)) == half and half not in [pictures, *others]


def test_the_last_step_is_what_was_trained(evaluations: Evaluations) -> None:
    expected = evaluations.run("trained")["images/candidate"]
    assert evaluations.run("trained@3")["images/candidate"] == expected
    assert evaluations.built == ["report"]


def test_a_step_s_report_stands_by_itself(evaluations: Evaluations) -> None:
    report = evaluations.file(evaluations.run("trained@2"), "report", "report.json")
    [drawn] = [one for one in report["provenance"]["artifacts"] if one["label"] == "images/candidate"]
    assert drawn["params"]["steps"] == {"training": 2}


@pytest.mark.slow
def test_more_steps_leave_the_earlier_ones_as_they_are(evaluations: Evaluations) -> None:
    before = evaluations.drawn(evaluations.run("trained@2"))
    known = evaluations.trained() / "steps"
    longer = evaluations.run("trained@2", "training.max_steps=5", train=True)
    assert "train" in evaluations.built and evaluations.drawn(longer) == before
    steps = evaluations.store.path(longer["train"]) / "steps"
    assert sorted(int(path.name) for path in steps.iterdir()) == [1, 2, 3, 4]
    for file in known.rglob("*.*"):
        assert (steps / file.relative_to(known)).read_bytes() == file.read_bytes()


def test_a_step_is_exported_by_name(evaluations: Evaluations, tmp_path: Path) -> None:
    export(evaluations.store, "short@1", Wanted("diffusers"), tmp_path / "one.safetensors")
    export(evaluations.store, "short", Wanted("diffusers"), tmp_path / "end.safetensors")
    drawn = [evaluations.drawn(evaluations.run(name)) for name in ("trained@1", str(tmp_path / "one.safetensors"))]
    assert drawn[0] == drawn[1]
    assert (tmp_path / "one.safetensors").read_bytes() != (tmp_path / "end.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"short: expected a step that it exported \(1, 2, 3\), got 4"):
        export(evaluations.store, "short@4", Wanted("diffusers"), tmp_path / "four.safetensors")
    with pytest.raises(UserError, match=r"push: expected a run's name.*got 'short@1'\. `sdxl-flows export RUN@STEP`"):
        prepare_upload(evaluations.store, Upload("short@1", "me/short"), tmp_path / "upload")
