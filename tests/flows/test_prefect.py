"""What Prefect is trusted with, and that its server works with the libraries that are pinned."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sdxl_core.errors import UserError
from tasks.config import RuntimeConfig, TimeoutHours
from tasks.errors import StageTimedOut, TrainerFailed, TrainerPreempted, TrainerStopped
from tasks.manifest import Json, Ref
from tasks.slot_queue import SlotQueue
from tasks.slots import Wish, device_slot, slots_folder
from tasks.stage import Call, Job, Runner, Stage
from tasks.store import ArtifactStore
from tests.flows.conftest import Cli
from tests.tasks.toy import fill_store, write_experiment

RUN_FLOW = """
import atexit, json
started = []
STARTS = {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system"}
sys.addaudithook(lambda event, details: started.append(str(details)) if event in STARTS else None)
from pathlib import Path
from flows.finetune import finetune
made = finetune(Path("toy/toy.yaml"), command="made by hand")["artifacts"]
loaded = [name for name in ("torch", "diffusers", "transformers", "prefect.server") if name in sys.modules]
print(json.dumps({"artifacts": len(made), "loaded": loaded, "started": started}))
sys.exit()
"""

pytestmark = pytest.mark.usefixtures("prefect_api")
BUILT: list[str] = []


def build(job: Job) -> dict[str, Json]:
    BUILT.append(job.params["text"])
    (job.out / "text.txt").write_text(job.params["text"])
    return {}


def failing_at_first(error: Exception) -> Callable[[Job], dict[str, Json]]:
    def fail_once(job: Job) -> dict[str, Json]:
        if not BUILT:
            BUILT.append(job.params["text"])
            raise error
        return build(job)

    return fail_once


STAGE = Stage(kind="toy", version="1", build=build, heavy=False)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    BUILT.clear()
    return ArtifactStore(tmp_path / "store")


def in_flow(store: ArtifactStore, *calls: Call) -> list[Ref]:
    from prefect import flow

    from tasks.policies import prefect_runner

    @flow(name="toy")
    def run_all() -> list[dict[str, str]]:
        run: Runner = prefect_runner(store, RuntimeConfig(device="cpu"), "toy")
        return [run(call).model_dump() for call in calls]  # type: ignore[union-attr]

    return [Ref.model_validate(ref) for ref in run_all()]


def test_a_record_is_reused_while_its_artifact_is_whole(store: ArtifactStore) -> None:
    call = Call(STAGE, "toy", {"text": "a"})
    [first] = in_flow(store, call)
    assert in_flow(store, call) == [first]
    assert BUILT == ["a"]
    shutil.rmtree(store.path(first))
    assert in_flow(store, call) == [first]
    assert BUILT == ["a", "a"]
    (store.path(first) / "text.txt").write_text("longer")
    assert in_flow(store, call) == [first]
    assert BUILT == ["a", "a", "a"]


def test_records_of_another_store_count_for_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    call = Call(STAGE, "toy", {"text": "b"})
    in_flow(store, call)
    in_flow(ArtifactStore(tmp_path / "other"), call)
    assert BUILT == ["b", "b"]


def test_stages_with_the_same_parameters_do_not_share_records(store: ArtifactStore) -> None:
    other = replace(STAGE, kind="other")
    refs = in_flow(store, Call(STAGE, "toy", {"text": "c"}), Call(other, "other", {"text": "c"}))
    assert [ref.kind for ref in refs] == ["toy", "other"]


@pytest.mark.parametrize(
    "error", [UserError("mend your picture"), TrainerFailed("not finite"), RuntimeError("a bug"), StageTimedOut("long")]
)
def test_what_would_come_again_is_not_tried_again(store: ArtifactStore, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        in_flow(store, Call(replace(STAGE, build=failing_at_first(error)), "toy", {"text": "d"}))
    assert BUILT == ["d"]


@pytest.mark.parametrize(
    "error", [ConnectionError("a passing trouble"), TrainerStopped("killed"), TrainerPreempted("asked to stop")]
)
def test_what_may_pass_is(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr("tasks.policies.RETRY_DELAYS_S", [0.0, 0.0])
    in_flow(store, Call(replace(STAGE, build=failing_at_first(error)), "toy", {"text": "e"}))
    assert BUILT == ["e", "e"]


def test_a_stage_over_its_limit_ends_as_timed_out(store: ArtifactStore) -> None:
    """As Prefect calls it, with our words, and once; by the stage's kind."""
    from prefect import flow

    from tasks.policies import prefect_runner

    def build_for_ever(job: Job) -> dict[str, Json]:
        BUILT.append("f")
        time.sleep(60)
        return {}

    endless = Stage(kind="text", version="1", build=build_for_ever)
    runtime = RuntimeConfig(device="cpu", timeout_hours=TimeoutHours(text=0.5 / 3600, train=1e-9))

    @flow(name="toy")
    def run_endless() -> None:
        prefect_runner(store, runtime, "toy")(Call(endless, "text", {"text": "f"}))

    state = run_endless(return_state=True)
    assert (
        state.name == "TimedOut"
        and "text: stopped after 0.000138889 h, the limit that runtime.timeout_hours.text" in (state.message or "")
    )
    assert BUILT == ["f"]


def test_what_prefect_shows_says_what_is_waited_for(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[str] = []
    monkeypatch.setenv("SDXL_FLOWS_CPU_SLOTS", "1")
    monkeypatch.setattr("tasks.progress._publish", lambda label, percent, text: shown.append(text))
    heavy = replace(STAGE, heavy=True)
    released = threading.Event()

    def hold() -> None:
        with device_slot(store.root, Wish("train", "cpu", run="dog"), lambda _: None):
            released.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    while not SlotQueue(slots_folder(store.root)).look().holders:
        time.sleep(0.01)
    watcher = threading.Thread(target=lambda: (_until(lambda: bool(shown)), released.set()))
    watcher.start()
    in_flow(store, Call(heavy, "toy", {"text": "g"}))
    holder.join()
    assert shown[0].startswith("toy: waiting for cpu-0; held by process ") and "(train of run dog)" in shown[0]
    assert BUILT == ["g"]


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.ci
def test_a_cached_flow_loads_neither_models_nor_the_server(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a deployment runs it: under Prefect, every stage a task. What it does not load, it cannot wait for."""
    from prefect.settings import PREFECT_API_URL, PREFECT_RESULTS_LOCAL_STORAGE_PATH

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    monkeypatch.setenv("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()))
    filled = fill_store(write_experiment(tmp_path / "toy"), ArtifactStore(tmp_path / "store"), "made by hand")
    done = cli(before=RUN_FLOW)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"artifacts": len(filled), "loaded": [], "started": []}


def test_the_servers_own_modules_import() -> None:
    """A fastapi that Prefect does not cap breaks exactly this, and nothing else says so."""
    import prefect.server.api.server as server

    assert server.create_app is not None


@pytest.mark.slow
def test_a_cron_schedule_yields_runs(tmp_path: Path) -> None:
    """A sqlalchemy that Prefect does not cap lets its scheduler fail in silence."""
    import asyncio

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.server.services.scheduler import schedule_deployments

    async def schedule() -> list[object]:
        async with get_client() as client:
            flow = await client.create_flow_from_name("toy")
            weekly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 3 * * 0"), active=True)
            await client.create_deployment(flow_id=flow, name="weekly", schedules=[weekly])
            await schedule_deployments()
            return list(await client.read_flow_runs())

    runs = asyncio.run(schedule())
    assert len([run for run in runs if run.state_name == "Scheduled"]) >= 3  # type: ignore[attr-defined]
