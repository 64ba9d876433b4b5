"""A store in a temporary folder, and calls of toy stages that write what their parameters say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flows.wiring import finetune
from sdxl_core.config import SamplingConfig
from sdxl_core.train_job import TrainJob
from sdxl_core.training_config import TrainingConfig
from tasks.additions import Model
from tasks.experiment import Experiment, prepare_experiment
from tasks.manifest import Json, Ref
from tasks.references import as_local
from tasks.stage import Call, Handle, Job, Stage
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.tasks.toy import Plan, write_experiment


def write_text(job: Job) -> dict[str, Json]:
    """Three files: the text asked for, what came in, and a log that is different every time."""
    (job.out / "deep" / "er").mkdir(parents=True)
    (job.out / "deep" / "er" / "text.txt").write_text(job.params["text"])
    (job.out / "inputs.txt").write_text(" ".join(sorted(job.inputs)))
    (job.out / "logs").mkdir()
    (job.out / "logs" / "moment.txt").write_bytes(b"%d" % id(object()))
    return {"letters": len(job.params["text"])}


TEXT = Stage(kind="text", version="1", build=write_text, heavy=False)
MakeCall = Callable[..., Call]


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    """Of four steps, for trainers that are a few lines and only act one."""
    return TrainJob(
        model=tmp_path,
        training=TrainingConfig(max_steps=4),
        latents=tmp_path,
        text=tmp_path,
        sampling=SamplingConfig(),
        work=tmp_path / "work",
        out=tmp_path / "out",
        device="cpu",
    )


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The calls that a configuration with overrides would make, by label."""
    config = write_experiment(tmp_path / "toy")

    def planned(*overrides: str) -> dict[str, Call]:
        store, calls = ArtifactStore(tmp_path / "store"), dict[str, Call]()

        def run(call: Call) -> Handle:
            calls[call.label] = call
            return Ref(kind=call.stage.kind, key="k", digest=call.label)

        finetune(prepare_experiment(read_config(config, overrides), store, "command"), run)
        return calls

    return planned


@pytest.fixture
def call() -> MakeCall:
    def make(text: str = "hello", label: str = "greeting", inputs: Mapping[str, Handle] | None = None) -> Call:
        return Call(TEXT, label, {"text": text}, inputs or {})

    return make


Prepare = Callable[..., Experiment]


@pytest.fixture
def prepare(folder: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    """The experiment of `toy.yaml` in the module's own `folder`, with a candidate."""
    monkeypatch.chdir(folder)

    def prepared(candidate: str, *overrides: str) -> Experiment:
        return prepare_experiment(read_config(folder / "toy.yaml", overrides, [as_local(candidate)]), store, "command")

    return prepared


def candidate(experiment: Experiment) -> Model:
    found = experiment.models["candidate"]
    assert isinstance(found, Model)
    return found
