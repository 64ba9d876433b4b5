"""Trainings as jobs: the artifact of a local run, one job for all who want it, and what becomes of one that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks.errors import JobStopped, StageTimedOut, TrainerFailed
from tasks.manifest import Json
from tasks.remote.config import SageMakerConfig
from tasks.remote.launch import materialise_elsewhere
from tasks.stage import Conditions
from tasks.store import ArtifactStore, Workplace
from tasks.trainings import read_record
from tests.sagemaker import REPOSITORY, SageMaker
from tests.tasks.remote.conftest import Lesson, Machine
from tests.tasks.shared.conftest import machine_at

LONG = ("training.max_steps=60", "training.save_every_steps=5")


def bundle_shared(store: ArtifactStore, step: int) -> None:
    """Wait until the shared store has a bundle of at least this step."""
    assert store.objects is not None
    deadline = time.monotonic() + 240
    while True:
        for name in store.objects.listed("trainings"):
            state = store.objects.read(f"{name}/state.json")
            if state is not None and int(state[: state.index(b",")].split(b":")[1]) >= step:
                return
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_artifact_is_that_of_a_local_run(
    lesson: Lesson, machine: Machine, service: SageMaker, train_on: SageMakerConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """The container has nothing but its command, its environment and the bucket."""
    here = lesson.trained_here()
    store = machine("driver")
    call = lesson.call(store)
    caplog.set_level("INFO", "sdxl_flows")
    ref = materialise_elsewhere(call, store, train_on, Conditions(run="short"))
    assert ref == here
    record = read_record(store, "short")
    assert record is not None and record.finished
    job = service.last
    assert "SageMaker: Training" in caplog.text and "SageMaker: Completed" in caplog.text
    assert {"Key": "sdxl-flows:run", "Value": "short"} in job.request["Tags"]
    assert not any("SECRET" in name or "KEY" in name for name in job.request["Environment"])
    assert (store.path(ref) / "pytorch_lora_weights.safetensors").is_file()
    assert store.objects is not None and not store.objects.sizes("calls"), "what was said is cleared away"
    assert materialise_elsewhere(call, store, train_on, Conditions()) == here and len(service.jobs) == 1


@pytest.mark.slow
def test_a_whole_run(lesson: Lesson, service: SageMaker, train_on: SageMakerConfig, url: str, tmp_path: Path) -> None:
    """By the command, under Prefect: all but the training is computed here."""
    (tmp_path / "here").mkdir()
    said = {**train_on.model_dump(mode="json", exclude_unset=True), "engine": "sagemaker"}
    settings = [f"runtime.store={url}", f"runtime.cache={tmp_path / 'driver'}", f"runtime.train_on={json.dumps(said)}"]
    words = [sys.executable, "-m", "flows.cli", "run", str(lesson.folder / "short.yaml")]
    words += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(words, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SageMaker job sdxl-flows-train-" in done.stderr and service.last.kept.training_job_status == "Completed"
    assert done.stdout.splitlines()[-1].startswith("report: ")
    built = {manifest.label for manifest in machine_at(url, tmp_path / "driver").manifests()}
    assert {"train", "images/candidate", "report"} <= built
    assert [path.name for path in (tmp_path / "driver" / "trainings").iterdir()] == ["names"], "trained elsewhere"


def driver(lesson: Lesson, root: Path, url: str, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.tasks.remote.driver", str(lesson.folder), str(root), url, str(folder), *LONG]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_driver_finds_its_job_again(
    lesson: Lesson, machine: Machine, service: SageMaker, url: str, tmp_path: Path
) -> None:
    """And a spot machine that is taken away meanwhile costs the steps since the last bundle."""
    here = lesson.trained_here(LONG)
    first = driver(lesson, tmp_path / "driver", url, tmp_path / "container")
    job = service.wait_for()
    bundle_shared(machine("other"), 5)
    first.kill()
    first.communicate()
    second = driver(lesson, tmp_path / "driver", url, tmp_path / "container")
    service.take_machine_away(job)
    said, complaint = second.communicate(timeout=400)
    assert second.returncode == 0, complaint[-3000:]
    assert said.split()[-1] == here.digest and len(service.jobs) == 1
    assert "is under way" in complaint
    assert "another machine has got to step" in "\n".join(job.said), "the second container went on from a bundle"


@pytest.mark.slow
def test_a_stopped_driver_stops_its_job_which_saves(
    lesson: Lesson, machine: Machine, service: SageMaker, url: str, tmp_path: Path
) -> None:
    here = lesson.trained_here(LONG)
    first = driver(lesson, tmp_path / "driver", url, tmp_path / "container")
    job = service.wait_for()
    bundle_shared(machine("other"), 5)
    first.terminate()
    first.communicate(timeout=60)
    assert first.returncode == 75
    assert job.stopping and job.over.wait(60) and job.kept.training_job_status == "Stopped"
    assert job.child is not None and job.child.returncode == 75
    second = driver(lesson, tmp_path / "driver", url, tmp_path / "second")
    said, complaint = second.communicate(timeout=400)
    assert second.returncode == 0 and said.split()[-1] == here.digest, complaint[-3000:]
    assert len(service.jobs) == 2, "a job that is over is not waited for"
    assert "another machine has got to step" in "\n".join(service.last.said)


@pytest.mark.slow
def test_the_limit_of_time_ends_the_job(
    lesson: Lesson, machine: Machine, service: SageMaker, train_on: SageMakerConfig
) -> None:
    store = machine("driver")
    with pytest.raises(StageTimedOut, match=r"runtime\.timeout_hours\.train"):
        materialise_elsewhere(lesson.call(store, ("training.max_steps=9000",)), store, train_on, Conditions(limit_s=12))
    assert service.last.over.wait(60) and service.last.kept.training_job_status == "Failed"


@pytest.mark.ci
def test_somebody_stops_the_job(
    lesson: Lesson, machine: Machine, service: SageMaker, train_on: SageMakerConfig
) -> None:
    service.holds = True
    store = machine("driver")
    call = lesson.call(store)

    def stop() -> None:
        while not service.jobs:
            time.sleep(0.05)
        service.stop(service.last.name)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(JobStopped, match="run again"):
        materialise_elsewhere(call, store, train_on, Conditions())


@pytest.mark.ci
def test_a_job_that_ends_without_a_word(
    lesson: Lesson,
    machine: Machine,
    service: SageMaker,
    train_on: SageMakerConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And no device of this machine is asked for."""
    service.holds = True
    store = machine("driver")
    call = lesson.call(store)
    monkeypatch.setattr("tasks.stage.device_slot", lambda *_: pytest.fail("nothing is computed here"))

    def fail() -> None:
        while not service.jobs:
            time.sleep(0.05)
        service.last.becomes("Failed", "Failed", "ClientError: the image cannot be pulled")

    threading.Thread(target=fail, daemon=True).start()
    with pytest.raises(TrainerFailed, match="the image cannot be pulled"):
        materialise_elsewhere(call, store, train_on, Conditions())
    other = lesson.call(store, ("training.learning_rate=1e-3",))
    with pytest.raises(UserError, match=r"training\.learning_rate"):
        materialise_elsewhere(other, store, train_on, Conditions())
    assert len(service.jobs) == 1, "an unfinished training is not left without a word"


@pytest.mark.ci
def test_what_the_job_refuses_is_refused_here(
    lesson: Lesson, machine: Machine, service: SageMaker, train_on: SageMakerConfig
) -> None:
    """The container's own words, and its exit code."""
    store = machine("driver")
    call = lesson.call(store)
    assert store.objects is not None
    [text] = store.objects.listed("artifacts/text")
    [weights] = [name for name in store.objects.sizes(text) if name.endswith(".safetensors")]
    store.objects.write(weights, b"other bytes")
    with pytest.raises(UserError, match=r"damaged.*SageMaker job sdxl-flows-train-"):
        materialise_elsewhere(call, store, train_on, Conditions())
    assert service.last.over.wait(10) and service.last.child is not None and service.last.child.returncode == 2


@pytest.mark.ci
def test_another_driver_waits_for_the_same_job(
    lesson: Lesson, machine: Machine, service: SageMaker, train_on: SageMakerConfig
) -> None:
    """Two machines start one; neither holds the artifact's lease, which a container could not get otherwise."""
    service.holds = True
    stores = [machine("one"), machine("two")]
    calls = [lesson.call(store) for store in stores]
    ended: list[BaseException] = []

    def drive(number: int) -> None:
        try:
            materialise_elsewhere(calls[number], stores[number], train_on, Conditions())
        except TrainerFailed as error:
            ended.append(error)

    drivers = [threading.Thread(target=drive, args=(number,)) for number in range(2)]
    for one in drivers:
        one.start()
    deadline = time.monotonic() + 60
    while not service.jobs:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(4)
    assert len(service.jobs) == 1
    assert stores[0].objects is not None
    held = [name for name in stores[0].objects.listed("leases") if "train" in name]
    assert not any(stores[0].objects.listed(name) for name in held)
    service.last.becomes("Failed", "Failed", "over")
    for one in drivers:
        one.join(30)
    assert len(ended) == 2


@pytest.mark.ci
def test_no_job_is_paid_for_that_would_only_wait(
    lesson: Lesson, machine: Machine, service: SageMaker, train_on: SageMakerConfig
) -> None:
    """While a machine of ours trains."""
    store, other = machine("driver"), machine("other")
    call, begun = lesson.call(store), threading.Event()

    def build(place: Workplace) -> dict[str, Json]:
        begun.set()
        time.sleep(3)
        (place.out / "weights").write_bytes(b"weights")
        return {}

    building = threading.Thread(target=other.materialise, args=(call.recipe(), "train", build))
    building.start()
    assert begun.wait(30)
    ref = materialise_elsewhere(call, store, train_on, Conditions())
    building.join()
    assert (store.path(ref) / "weights").read_bytes() == b"weights" and not service.jobs
