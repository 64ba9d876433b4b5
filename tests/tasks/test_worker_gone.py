"""A flow does not outlive the worker that started it; one that nobody's worker started is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.test_supervise import alive, wait_for, wait_gone

FLOW = """
import os, signal, sys, time
from pathlib import Path
import tasks.worker_gone
tasks.worker_gone.LOOK_EVERY_S = 0.05
def stop(number, frame):
    Path(sys.argv[2]).write_text("saved")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
tasks.worker_gone.end_with_worker()
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(3)
"""
WORKER = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], start_new_session=True); time.sleep(600)"


@pytest.mark.ci
@pytest.mark.parametrize("by_worker", [True, False])
def test_a_flow_ends_with_its_worker(by_worker: bool, tmp_path: Path) -> None:
    environment = {**os.environ, **({"PREFECT__FLOW_RUN_ID": "1"} if by_worker else {})}
    line = [sys.executable, "-c", FLOW, str(tmp_path / "pid"), str(tmp_path / "saved")]
    worker = subprocess.Popen([sys.executable, "-c", WORKER, *line], env=environment)
    pids = wait_for(tmp_path / "pid")
    assert all(alive(pid) for pid in pids)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    wait_gone(pids)
    assert (tmp_path / "saved").exists() == by_worker
