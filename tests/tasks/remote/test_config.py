"""Where trainings run: what is refused before anything starts, and that no key knows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdxl_core.errors import UserError
from tasks.config import RuntimeConfig
from tasks.errors import ConfigError
from tasks.plan import Planner
from tasks.slots import Wish
from tasks.store import ArtifactStore
from tasks.yaml_config import build_section, read_config
from tests.sagemaker import ROLE
from tests.tasks.toy import CONFIG, Plan, write_experiment

TRAIN_ON = {"engine": "sagemaker", "role": ROLE, "image": "image", "instance": "ml.p5.48xlarge"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"role": "admin"}, "role"),
        ({"instance": "p5.48xlarge"}, "instance"),
        ({"instances": 2}, "instances"),
        ({"engine": "batch"}, "engine"),
        ({"environment": {"HF_TOKEN": "something"}}, "HF_TOKEN is the name of a secret"),
        ({"environment": {"SDXL_FLOWS_STORE": "s3://other"}}, "follows from runtime.store"),
        ({"environment": {"NOTE": "hf_" + "a" * 30}}, "access token"),
        ({"subnets": ["subnet-1"]}, "belong together"),
        ({"max_wait_hours": 3}, "no effect without spot"),
        ({"spot": True, "max_wait_hours": 3}, "at least max_hours"),
        ({"max_hours": 1000}, "max_hours"),
    ],
)
def test_mistakes_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_section(RuntimeConfig, {"train_on": {**TRAIN_ON, **changed}}, (), "config")


@pytest.mark.parametrize("store", [None, "./here", "gs://bucket/sdxl", "file:///here"])
def test_the_store_has_to_be_on_s3(store: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDXL_FLOWS_STORE", raising=False)
    with pytest.raises(ConfigError, match=r"runtime\.train_on: sagemaker: expected a store on s3://"):
        RuntimeConfig.model_validate({"store": store, "train_on": TRAIN_ON}).open_store()
    assert not list(tmp_path.iterdir())


def test_boto3_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.remote.config.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'sdxl-flows\[sagemaker\]'"):
        RuntimeConfig.model_validate({"store": "s3://bucket/sdxl", "train_on": TRAIN_ON}).open_store()


def test_no_key_knows_of_it(plan: Plan) -> None:
    """Nor does any other part of a call."""
    words = ["engine: sagemaker", f"role: '{ROLE}'", "image: image", "instance: ml.g6e.xlarge"]
    assert plan() == plan(f"runtime.train_on={{{', '.join(words)}}}", "runtime.store=s3://bucket/sdxl")


def test_devices_of_this_machine_do_not_matter(
    plan: Plan, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none(wish: Wish) -> None:
        raise UserError(f"{wish.label}: {wish.count}")

    monkeypatch.setattr("tasks.plan.require_devices", none)
    planner = Planner(store)
    planner(plan("training.processes=8")["train"])
    with pytest.raises(UserError, match="train: 8"):
        planner.require_devices("auto")
    planner.require_devices("auto", RuntimeConfig.model_validate({"train_on": TRAIN_ON}).elsewhere)
    with pytest.raises(UserError, match="train: 8"):
        planner.require_devices("auto", RuntimeConfig().elsewhere)


def test_a_file_says_it(tmp_path: Path) -> None:
    lines = "".join(f"    {name}: '{value}'\n" for name, value in TRAIN_ON.items())
    path = write_experiment(tmp_path / "toy", f"{CONFIG}runtime:\n  store: s3://bucket/sdxl\n  train_on:\n{lines}")
    train_on = read_config(path).runtime.train_on
    assert train_on is not None and train_on.model_dump(exclude_unset=True) == TRAIN_ON
