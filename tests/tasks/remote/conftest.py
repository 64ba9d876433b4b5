"""Machines that share a store, a training that is ready to start, and a played SageMaker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from flows.wiring import finetune
from tasks.config import RuntimeConfig
from tasks.experiment import prepare_experiment
from tasks.manifest import Ref
from tasks.remote import launch
from tasks.remote.config import SageMakerConfig
from tasks.shared.leases import LASTS_S
from tasks.stage import Call, Handle, materialise
from tasks.store import ArtifactStore, StorePlace
from tasks.yaml_config import read_config
from tests.buckets import new_url, s3_server
from tests.flows.short import CONFIG, PROMPTS
from tests.flows.test_pipeline import write_pictures
from tests.sagemaker import ROLE, SageMaker, sagemaker

Machine = Callable[[str], ArtifactStore]


class _Reached(Exception):
    """The wiring has come to the training."""


class Lesson:
    """An experiment up to its training, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_pictures(folder / "pictures", 3)
        (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "{one["prompt"]}"}}\n' for one in PROMPTS))
        (folder / "short.yaml").write_text(CONFIG)
        self.store = ArtifactStore(folder / "store")
        self.call(self.store)

    def call(self, store: ArtifactStore, overrides: Sequence[str] = ()) -> Call:
        """The training's call; what it needs is in the store."""
        calls: list[Call] = []

        def run(call: Call) -> Handle:
            calls.append(call)
            if call.stage.kind == "train":
                raise _Reached
            return materialise(call, store, "cpu")

        with contextlib.chdir(self.folder), contextlib.suppress(_Reached):
            finetune(prepare_experiment(read_config(self.folder / "short.yaml", overrides), store, "test"), run)
        return calls[-1]

    def trained_here(self, overrides: Sequence[str] = ()) -> Ref:
        return materialise(self.call(self.store, overrides), self.store, "cpu")


@pytest.fixture(scope="session")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    return Lesson(tmp_path_factory.mktemp("lesson"))


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def url(server: str, tmp_path: Path) -> str:
    return new_url("s3", tmp_path)


@pytest.fixture
def service(server: str) -> Iterator[SageMaker]:
    with sagemaker() as played:
        yield played


@pytest.fixture
def machine(tmp_path: Path, url: str) -> Machine:
    """The store as a machine of some name has it."""
    return lambda name: ArtifactStore.at(StorePlace(str(tmp_path / name), "auto", url))


@pytest.fixture
def train_on(tmp_path: Path) -> SageMakerConfig:
    return SageMakerConfig(
        engine="sagemaker",
        role=ROLE,
        image="123456789012.dkr.ecr.us-east-1.amazonaws.com/sdxl-flows:1",
        instance="ml.g6e.xlarge",
        folder=str(tmp_path / "container"),
    )


@pytest.fixture
def runtime(train_on: SageMakerConfig, url: str) -> RuntimeConfig:
    return RuntimeConfig(store=url, train_on=train_on)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LASTS_S, "2")
    monkeypatch.setattr(launch, "POLL_S", 0.2)
