"""Runs that are cancelled, killed or over their limit: what they had is saved, and nothing of them stays behind.

With a real server, a real worker and the real trainer, each a process; minutes.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tasks.locks import held_if_free
from tasks.slot_queue import SlotQueue
from tasks.slots import slots_folder
from tasks.store import ArtifactStore
from tests.flows.conftest import REPOSITORY, Cli
from tests.flows.test_pipeline import CONFIG, WEIGHTS, write_pictures

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="adopting descendants is Linux's")]
PREFECT_YAML = """\
name: cancellation
pull:
  - prefect.deployments.steps.set_working_directory: {{directory: {folder}}}
deployments:
  - name: short
    entrypoint: flows.finetune.finetune
    work_pool: {{name: machine, job_variables: {{env: {environment}}}}}
    parameters: {{config: {folder}/short.yaml, overrides: []}}
"""
ENDLESS = ["training.max_steps=1000000", "training.save_every_steps=1000000"]
SLOW_PICTURES = ["sampling.steps=999", "evaluation.replicates=20"]
WITHIN_S = 90.0
"""Five seconds where nothing else runs; Prefect kills what has not ended after thirty."""


class Site:
    """A server, a worker and a deployment in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, ArtifactStore(folder / "store")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "sdxl_flows",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._port = str(port)
        self._write_files()

    def open(self) -> None:
        self._start("server", "start", "--host", "127.0.0.1", "--port", self._port)
        until(self._answers, 180)
        subprocess.run(self._line("work-pool", "create", "machine", "--type", "process"), **self._how(), check=True)
        subprocess.run(self._line("--no-prompt", "deploy", "--all"), **self._how(), check=True)
        self.worker = self.start_worker()

    def _write_files(self) -> None:
        write_short(self.folder)
        marked = {"SDXL_FLOWS_STORE": str(self.store.root), "SDXL_FLOWS_CPU_SLOTS": "1"}
        text = PREFECT_YAML.format(folder=self.folder, environment=json.dumps(marked))
        (self.folder / "prefect.yaml").write_text(text)

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._start("worker", "start", "--pool", "machine")

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            how = {**self._how(), "stdout": log, "stderr": log}
            self._started.append(subprocess.Popen(self._line(*words), start_new_session=True, **how))
        return self._started[-1]

    def _line(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "prefect", *words]

    def _how(self) -> dict[str, Any]:
        return {"cwd": self.folder, "env": self.environment}

    def close(self) -> None:
        for process in reversed(self._started):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        return of_store(self.store)

    def flow_process(self) -> int:
        [pid] = [pid for pid in self.processes() if b"prefect" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return pid

    def holder(self) -> str:
        """Label of the stage that computes."""
        return str(SlotQueue(slots_folder(self.store.root)).look().holders.get("cpu-0", {}).get("label", ""))

    def waits(self) -> bool:
        return bool(SlotQueue(slots_folder(self.store.root)).look().waiting)

    def require_nothing_left(self) -> None:
        until(lambda: not self.processes(), WITHIN_S)
        found = SlotQueue(slots_folder(self.store.root)).look()
        assert (found.holders, found.waiting) == ({}, ())
        for lock in self.store.root.rglob("locks/*.lock"):
            with held_if_free(lock) as free:
                assert free, lock

    def begin(self, *overrides: str) -> UUID:
        with self.client() as client:
            deployment = client.read_deployment_by_name("finetune/short")
            parameters = {"overrides": list(overrides)}
            run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
            found: UUID = run.id
            return found

    def cancel(self, run: UUID) -> None:
        from prefect.states import Cancelling

        with self.client() as client:
            client.set_flow_run_state(run, Cancelling())

    def ended(self, run: UUID, within_s: float = WITHIN_S) -> str:
        """The name of the final state."""
        states: list[str] = []

        def final() -> bool:
            with self.client() as client:
                state = client.read_flow_run(run).state
            states.append(state.name if state is not None else "")
            return state is not None and state.is_final()

        until(final, within_s)
        return states[-1]

    @contextmanager
    def client(self) -> Iterator[Any]:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: self.url}), get_client(sync_client=True) as client:
            yield client

    def _answers(self) -> bool:
        with self.client() as client:
            return client.api_healthcheck() is None

    def events(self) -> list[dict[str, Any]]:
        return events(self.store)


def of_store(store: ArtifactStore) -> list[int]:
    """Processes of runs: all that have the store in their environment, whoever is their parent."""
    mark = f"SDXL_FLOWS_STORE={store.root}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def events(store: ArtifactStore) -> list[dict[str, Any]]:
    """What trainers have said; a line that is being written is left out."""
    files = store.root.glob("trainings/*/logs/events.jsonl")
    lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n") and line.startswith("{")]


def steps(found: list[dict[str, Any]]) -> list[int]:
    return [event["step"] for event in found if event["event"] == "progress"]


def last_step(store: ArtifactStore) -> int:
    """That trainers have made; their events end with whoever reads them."""
    histories = [file.read_text().splitlines() for file in store.root.glob("trainings/*/history.jsonl")]
    return max(int(json.loads(line)["step"]) for lines in histories for line in lines[-1:])


def newest_bundle(store: ArtifactStore) -> int:
    """Its step."""
    names = [path.name for path in store.root.glob("trainings/*/bundles/*") if path.is_dir()]
    return max(int(number) for name in names for number in re.findall(r"\d+", name))


def until(true: Callable[[], bool], within_s: float) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "did not come"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.open()
        yield made
    finally:
        made.close()


def train(site: Site) -> UUID:
    """Begin the endless training, or go on with it, until it has made some steps."""
    before = len(steps(site.events()))
    run = site.begin(*ENDLESS)
    until(lambda: len(steps(site.events())) >= before + 3, 180)
    assert site.holder() == "train"
    return run


def test_cancelled_while_training_it_saves_the_step_it_is_at(site: Site) -> None:
    run = train(site)
    site.cancel(run)
    assert site.ended(run) == "Cancelled"
    site.require_nothing_left()
    assert newest_bundle(site.store) == last_step(site.store) > 0, "although nothing was to be saved before the end"


def test_it_goes_on_from_there_and_leaves_nothing_when_killed(site: Site) -> None:
    """`kill -9` of the flow's process: the trainer saves and ends, since its supervisor sees the flow go."""
    before = newest_bundle(site.store)
    run = train(site)
    assert f"going on from step {before} of 1000000" in {event.get("message") for event in site.events()}
    os.kill(site.flow_process(), signal.SIGKILL)
    assert site.ended(run) == "Crashed"
    site.require_nothing_left()
    assert newest_bundle(site.store) == last_step(site.store) > before


def test_a_killed_worker_leaves_nothing_either(site: Site) -> None:
    before = newest_bundle(site.store)
    run = train(site)
    site.worker.kill()
    site.worker.wait()
    try:
        site.require_nothing_left()
        assert newest_bundle(site.store) == last_step(site.store) > before
        assert site.ended(run) == "Crashed"
    finally:
        site.worker = site.start_worker()


def test_cancelled_while_waiting_or_drawing(site: Site) -> None:
    """Who waits leaves no ticket, and who draws no lock."""
    drawing = site.begin(*SLOW_PICTURES)
    until(lambda: site.holder() == "images/base", 300)
    waiting = site.begin(*SLOW_PICTURES, "evaluation.seed=5")
    until(site.waits, 120)
    site.cancel(waiting)
    assert site.ended(waiting) == "Cancelled"
    assert site.holder() == "images/base" and not site.waits()
    time.sleep(3)
    site.cancel(drawing)
    assert site.ended(drawing) == "Cancelled"
    site.require_nothing_left()


def test_over_its_limit_a_training_saves_and_the_next_run_goes_on(site: Site) -> None:
    run = site.begin(*ENDLESS, "runtime.timeout_hours.train=0.01")
    assert site.ended(run, 240) == "TimedOut"
    site.require_nothing_left()
    assert newest_bundle(site.store) == last_step(site.store)
    with site.client() as client:
        message = client.read_flow_run(run).state.message
    assert "train: stopped after 0.01 h, the limit that runtime.timeout_hours.train sets" in message


def write_short(folder: Path) -> None:
    write_pictures(folder / "pictures", 3)
    prompts = "a photo of kestrel person on a beach\na photo of kestrel person at night\n"
    (folder / "prompts.txt").write_text(prompts)
    (folder / "short.yaml").write_text(CONFIG.format(weights=WEIGHTS))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_the_run_for_good(number: signal.Signals, tmp_path: Path) -> None:
    """The supervisor gets it as well, and so the trainer says that it was preempted: no reason to begin it again."""
    write_short(tmp_path)
    settings = [word for setting in ENDLESS for word in ("--set", setting)]
    line = [sys.executable, "-m", "flows.cli", "run", "short.yaml", *settings]
    store = ArtifactStore(tmp_path / "store")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "SDXL_FLOWS_STORE": str(store.root)}
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    run = subprocess.Popen(line, cwd=tmp_path, env=environment, **how)  # type: ignore[call-overload]
    until(lambda: len(steps(events(store))) >= 2, 240)
    os.killpg(run.pid, number)
    said = run.communicate(timeout=60)[1]
    assert run.returncode in ({75} if number == signal.SIGTERM else {130, -signal.SIGINT, 1}), said
    assert newest_bundle(store) == last_step(store) > 0
    until(lambda: not of_store(store), WITHIN_S)
    assert "going on" not in "".join(str(event.get("message")) for event in events(store))


def test_so_it_is_without_a_server(tmp_path: Path, cli: Cli) -> None:
    write_short(tmp_path)
    settings = [word for setting in ENDLESS for word in ("--set", setting)]
    done = cli("run", "short.yaml", *settings, "--set", "runtime.timeout_hours.train=0.01")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "error: train: stopped after 0.01 h" in done.stderr
    store = ArtifactStore(tmp_path / "store")
    reached = newest_bundle(store)
    assert reached == last_step(store) > 0
    assert "going on" not in "".join(str(event.get("message")) for event in events(store)), "it was not tried again"
    again = cli("run", "short.yaml", *settings, "--set", "runtime.timeout_hours.train=0.01")
    assert again.returncode == 1
    assert f"going on from step {reached} of 1000000" in {event.get("message") for event in events(store)}
