"""A store in a temporary folder, and calls of toy stages that write what their parameters say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage
from tasks.store import ArtifactStore


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
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def call() -> MakeCall:
    def make(text: str = "hello", label: str = "greeting", inputs: Mapping[str, Handle] | None = None) -> Call:
        return Call(TEXT, label, {"text": text}, inputs or {})

    return make
