"""`serve` as people use it: a run by name, an end that leaves nothing, and runs that outlive whoever ran them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.flows.conftest import REPOSITORY
from tests.flows.short import CONFIG, PROMPTS
from tests.flows.test_pipeline import write_pictures
from tests.flows.test_serve import free_port

pytestmark = pytest.mark.slow
FLOWS = '''
"""Flows without models: what is watched here is who runs them."""
import os, time
from pathlib import Path
from prefect import flow
from flows.attempts import refuse_after_crashes

@flow(name="steps")
def steps(count: int = 4, seconds: float = 0.0) -> int:
    """Does what is not done yet, and notes it."""
    refuse_after_crashes()
    done = Path("done")
    done.mkdir(exist_ok=True)
    Path("pid").write_text(str(os.getpid()))
    for number in range(count):
        if not (done / str(number)).exists():
            time.sleep(seconds)
            (done / str(number)).write_text(str(os.getpid()))
    return count

@flow(name="dying")
def dying() -> None:
    refuse_after_crashes()
    with open("deaths", "a") as deaths:
        deaths.write("x")
    os.kill(os.getpid(), 9)
'''
DEPLOYMENTS = """
name: toy
pull:
  - prefect.deployments.steps.set_working_directory: {directory: "{{ $SDXL_FLOWS_HOME }}"}
definitions:
  pool: &pool {name: "{{ $SDXL_FLOWS_POOL }}"}
deployments:
  - {name: toy, entrypoint: flows.finetune.finetune, work_pool: *pool, tags: [sdxl-flows], parameters: {config: a.yaml}}
  - {name: steps, entrypoint: served_flows.steps, work_pool: *pool, tags: [sdxl-flows]}
  - {name: dying, entrypoint: served_flows.dying, work_pool: *pool, tags: [sdxl-flows]}
  - name: minutely
    entrypoint: served_flows.steps
    work_pool: *pool
    tags: [sdxl-flows]
    schedules: [{cron: "* * * * *", timezone: UTC, slug: minutely, active: false}]
"""


class Served:
    """A folder with flows, and `sdxl-flows serve` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.view_port = free_port(), free_port()
        (folder / "served_flows.py").write_text(FLOWS)
        (folder / "prefect.yaml").write_text(DEPLOYMENTS)
        (folder / "a.yaml").write_text(CONFIG)
        (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
        write_pictures(folder / "pictures", 3)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SDXL_"))}
        self.environment = {**kept, "PYTHONPATH": f"{REPOSITORY}:{folder}", "HOME": str(folder / "home")}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ports = ["--port", str(self.port), "--view-port", str(self.view_port)]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "serve", *ports],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        within(300, lambda: self.said(f"Worker '.*-{self.process.pid}' started"), self)  # type: ignore[union-attr]

    def said(self, pattern: str) -> bool:
        import re

        return re.search(pattern, (self.folder / "serve.log").read_text(errors="replace")) is not None

    def stop(self) -> float:
        """By Ctrl-C; returns the seconds it took."""
        assert self.process is not None
        begun = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(180) == 0
        return time.monotonic() - begun

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """In another terminal, with nothing but the folder in common."""
        line = [sys.executable, "-m", "prefect", *arguments]
        return subprocess.run(
            line, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400, check=False
        )

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return httpx.post(f"http://127.0.0.1:{self.port}/api{path}", json=body or {}, timeout=30).json()

    def runs(self, flow: str) -> list[dict[str, Any]]:
        return self.api("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})  # type: ignore[no-any-return]

    def states(self, flow: str) -> list[str]:
        return [run["state_name"] for run in self.runs(flow)]

    def processes(self) -> list[psutil.Process]:
        """All that know this folder's store."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SDXL_FLOWS_STORE") == str(self.folder / ".sdxl-flows"):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def process_of(self, words: str) -> psutil.Process:
        """The one whose parent is a supervisor, by what its command line has in it."""
        [found] = [
            process
            for process in self.processes()
            if words in " ".join(process.cmdline()) and "tasks.supervise" not in " ".join(process.cmdline())
        ]
        return found


def within(seconds: float, look: Callable[[], Any], served: Served) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s:\n{(served.folder / 'serve.log').read_text()[-6000:]}")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    one = Served(tmp_path)
    one.start()
    yield one
    if one.process is not None and one.process.poll() is None:
        one.process.send_signal(signal.SIGINT)
        one.process.wait(180)
    for left in one.processes():
        left.kill()


def test_a_run_by_name_and_then_nothing_is_left(served: Served) -> None:
    """All the way: from serving, over a run that somebody watches and reads the report of, to an empty machine."""
    done = served.prefect("deployment", "run", "finetune/toy", "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    refused = served.prefect("deployment", "run", "finetune/toy", "-p", 'resume={"fresh": "perhaps"}')
    assert refused.returncode != 0 and "resume" in refused.stdout + refused.stderr
    page = httpx.get(f"http://127.0.0.1:{served.view_port}/api/start").json()
    [report] = page["reports"]
    shown = httpx.get(f"http://127.0.0.1:{served.view_port}/reports/{report['id']}/report.html")
    assert shown.content == (served.folder / "runs/short/report.html").read_bytes()
    assert served.prefect("deployment", "run", "finetune/toy", "--watch").returncode == 0
    last = max(served.runs("finetune"), key=lambda run: str(run["start_time"]))
    assert last["total_run_time"] < 5, "everything is reused"
    served.stop()
    assert not (served.folder / ".env").exists()
    assert served.processes() == []


def test_what_dies_is_started_again_and_a_run_goes_on(served: Served) -> None:
    """The run and its worker at once, as when a machine is lost; then the server, in the middle of the run."""
    run = served.prefect("deployment", "run", "steps/steps", "-p", "count=12", "-p", "seconds=3")
    assert run.returncode == 0, run.stderr
    within(120, lambda: (served.folder / "done/1").exists(), served)
    flow = psutil.Process(int((served.folder / "pid").read_text()))
    worker = served.process_of("worker start")
    before = {path.name: path.stat().st_mtime_ns for path in (served.folder / "done").iterdir()}
    flow.kill()
    worker.kill()
    assert served.process_of("server start").is_running()
    within(300, lambda: served.said("worker: started again"), served)
    within(240, lambda: served.runs("steps")[0]["run_count"] == 2, served)
    served.process_of("server start").kill()
    within(300, lambda: served.said("server: started again"), served)
    within(300, lambda: (served.folder / "done/11").exists(), served)

    def states() -> list[str]:
        try:
            return served.states("steps")
        except httpx.HTTPError:
            return []

    within(120, lambda: states() == ["Completed"], served)
    after = {name: (served.folder / "done" / name).stat().st_mtime_ns for name in before}
    assert after == before, "what was done is not done again"


def test_a_run_waits_for_the_next_serve(served: Served) -> None:
    """Asked to stop, it is scheduled; killed with everything, it is found out by its silence. Both times it goes on."""
    served.prefect("deployment", "run", "steps/steps", "-p", "count=6", "-p", "seconds=10")
    within(120, lambda: (served.folder / "done/0").exists(), served)
    assert served.stop() < 60
    assert served.processes() == []
    served.start()
    within(120, lambda: served.runs("steps")[0]["run_count"] == 2, served)
    within(120, lambda: (served.folder / "done/2").exists(), served)
    assert served.process is not None
    served.process.kill()
    served.process.wait()
    within(120, lambda: served.processes() == [], served)
    assert (served.folder / ".env").exists(), "left behind"
    served.start()
    within(400, lambda: served.states("steps") == ["Completed"], served)


def test_who_dies_every_time_is_refused(served: Served) -> None:
    served.prefect("deployment", "run", "dying/dying")
    within(300, lambda: served.states("dying") == ["Failed"], served)
    assert (served.folder / "deaths").read_text() == "xxx"


def test_a_schedule_runs_until_somebody_switches_it_off(served: Served) -> None:
    [deployment] = served.api("/deployments/filter", {"deployments": {"name": {"any_": ["minutely"]}}})
    [schedule] = deployment["schedules"]
    place = f"http://127.0.0.1:{served.port}/api/deployments/{deployment['id']}/schedules/{schedule['id']}"
    # with its database locked, the server answers 503
    within(60, lambda: httpx.patch(place, json={"active": True}).status_code < 300, served)
    line = [sys.executable, "-m", "flows.cli", "deploy"]
    done = subprocess.run(line, cwd=served.folder, env=served.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [deployment] = served.api("/deployments/filter", {"deployments": {"name": {"any_": ["minutely"]}}})
    assert [schedule["active"] for schedule in deployment["schedules"]] == [True], "stays as somebody left it"
    within(150, lambda: served.states("steps").count("Completed") >= 1, served)
