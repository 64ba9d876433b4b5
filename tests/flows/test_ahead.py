"""What is prepared ahead is what a run would have made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.wiring import cache, class_pictures
from sdxl_core.errors import UserError
from tasks.experiment import Experiment, prepare_experiment
from tasks.runs import Recorder
from tasks.stage import Runner, materialise
from tasks.yaml_config import read_config
from tests.flows.conftest import Cli
from tests.flows.test_pipeline import CONFIG, WEIGHTS, Pipeline, write_pictures
from tests.tasks.toy import write_experiment


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    write_pictures(tmp_path / "pictures", 3)
    (tmp_path / "prompts.txt").write_text("a photo of kestrel person on a beach\n")
    (tmp_path / "short.yaml").write_text(CONFIG.format(weights=WEIGHTS))
    return Pipeline(tmp_path)


def ahead(pipeline: Pipeline, wiring: Callable[[Experiment, Runner], object], *overrides: str) -> list[str]:
    """Labels of what it made or reused."""
    recorder = Recorder(lambda call: materialise(call, pipeline.store, "cpu"))
    with contextlib.chdir(pipeline.config.parent):
        wiring(prepare_experiment(read_config(pipeline.config, overrides), pipeline.store, "test"), recorder)
    return list(recorder.refs)


def test_a_run_begins_with_the_training_where_the_rest_is_there(pipeline: Pipeline) -> None:
    assert ahead(pipeline, class_pictures) == ["class_images"]
    assert "class_images" not in pipeline.would_run()
    made = ahead(pipeline, cache)
    assert made == ["dataset", "preflight", "latents", "class_images", "class_latents", "text"]
    assert not {*made} & {*pipeline.would_run()}
    assert pipeline.would_run()[0] == "train"


def test_what_has_nothing_to_prepare_says_so(pipeline: Pipeline) -> None:
    without = ("prior=null", "training.objective={kind: diffusion}")
    with pytest.raises(UserError, match="no section `prior"):
        ahead(pipeline, class_pictures, *without)
    with pytest.raises(UserError, match=r"evaluation\.candidate: expected trained, got base"):
        ahead(pipeline, cache, "evaluation.candidate=base")
    assert "class_images" not in ahead(pipeline, cache, *without)


@pytest.mark.ci
@pytest.mark.parametrize(("command", "count"), [("cache", 5), ("class-images", 1)])
def test_the_commands_name_what_is_there(cli: Cli, tmp_path: Path, command: str, count: int) -> None:
    from tasks.store import ArtifactStore
    from tests.tasks.toy import fill_store

    fill_store(write_experiment(tmp_path / "toy"), ArtifactStore(tmp_path / "store"), "test")
    done = cli(command, "toy/toy.yaml")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("class_images") for line in lines) and len(lines) >= count
