"""Does a run survive the end of everything around it? `python -m benchmarks.survival [--kills 20]`.

Serves a folder of its own (`sdxl-flows serve`) and has it train, draw and judge a small experiment again and again,
each time from an empty store. Meanwhile the server, the worker, the flow's process, the trainer, or all of them and
`serve` itself (a machine that goes down) are killed with SIGKILL at random moments. Every run has to complete by
itself, with the digests of an undisturbed one, and nothing may be left: no process, no held lock. Prints a table for
docs/reliability.md.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.kill import PICTURES, WEIGHTS

ROOT = Path(__file__).parents[1]
CONFIG = f"""\
name: survivor
model: {{base: {WEIGHTS}/sdxl}}
dataset: {{path: {PICTURES}}}
transform: {{resolution_px: 64}}
prior: {{prompt: a photo of a person, count: 8, sampling: {{steps: 4, width_px: 64, height_px: 64}}}}
training:
  objective: {{kind: prior_preservation}}
  adapter: {{kind: lora, rank: 8, dropout: 0.1}}
  learning_rate: 1e-3
  max_steps: 40
  micro_batch_size: 2
  save_every_steps: 4
  log_every_steps: 2
sampling: {{steps: 6, width_px: 64, height_px: 64}}
evaluation:
  prompts: ./prompts.txt
  metrics: [{{metric: clip_i, model: {WEIGHTS}/clip, primary: true}}, {{metric: ssim}}]
"""
PROMPTS = 16
TARGETS = {
    "server": ("prefect server start", "prefect.server.api.server"),
    "worker": ("prefect worker start",),
    "flow": ("prefect.engine", "prefect.flow_engine"),
    "trainer": ("sdxl_core.train",),
}
EMPTIED = ("artifacts", "cells", "trainings", "work", "staging", "runs", "prefect/records")
COMPLETE_WITHIN_S = 900.0
GONE_WITHIN_S = 30.0
"""A process that has told the server that it is done still has to end."""


@dataclass
class Served:
    """`sdxl-flows serve` in a folder of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= {"PYTHONPATH": str(ROOT), "SDXL_FLOWS_STORE": str(self.store), "SDXL_FLOWS_CPU_SLOTS": "1"}
        environment |= {"SDXL_FLOWS_MOST_CRASHES": "50"}
        line = [sys.executable, "-m", "flows.cli", "serve", "--port", str(self.port), "--no-view"]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(line, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self._wait(lambda: "Prefect's UI" in (self.folder / "serve.log").read_text(), 240)
        self._wait(lambda: self.processes("worker"), 120)

    def kill_all(self) -> None:
        """As if the machine had gone down."""
        for process in [psutil.Process(self.process.pid), *self._descendants()]:
            _kill(process)
        self.process.wait()
        (self.folder / "serve.log").write_text("")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(120)

    def processes(self, target: str) -> list[psutil.Process]:
        """Those of a kind, without what supervises them."""
        lines = {one: _line(one) for one in self._descendants()}
        ours = {one: line for one, line in lines.items() if "tasks.supervise" not in line}
        return [one for one, line in ours.items() if any(name in line for name in TARGETS[target])]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def state(self, run: str) -> str:
        try:
            return str(self.ask("GET", f"/flow_runs/{run}")["state_type"])
        except OSError:
            return "UNKNOWN"

    def submit(self) -> str:
        deployment = self.ask("GET", "/deployments/name/finetune/miniature")["id"]
        parameters = {"config": str(self.folder / "survivor.yaml")}
        made = self.ask("POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def empty(self) -> None:
        for name in EMPTIED:
            shutil.rmtree(self.store / name, ignore_errors=True)

    def digests(self) -> dict[str, str]:
        """Of all artifacts of the last run, by label."""
        newest = max((self.store / "runs" / "survivor").glob("*.json"))
        return {label: ref["digest"] for label, ref in json.loads(newest.read_text())["refs"].items()}

    def left(self) -> list[str]:
        """Processes and held locks of a run that has ended."""
        left = [f"process: {_line(one)[:80]}" for target in ("flow", "trainer") for one in self.processes(target)]
        locks = [path for path in (self.store / "locks").rglob("*.lock") if path.name != "serve.lock"]
        return left + [f"lock: {path.name}" for path in locks if _held(path)]

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _wait(self, ready: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"serve did not start:\n{(self.folder / 'serve.log').read_text()[-3000:]}")
            time.sleep(0.5)


@dataclass
class Result:
    """One run."""

    kills: list[str]
    state: str
    seconds: float
    equal: bool
    left: list[str]


def _held(path: Path) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def one_run(
    served: Served, kills: int, within_s: float, rng: random.Random, expected: dict[str, str] | None, so_far: list[str]
) -> Result:
    """Submit a run to an empty store, kill at random, and wait until it has ended by itself.

    `so_far`: what was killed in earlier runs.
    """
    served.empty()
    began, run = time.monotonic(), served.submit()
    moments, done = sorted(rng.uniform(0, within_s) for _ in range(kills)), list[str]()
    running_since: float | None = None
    while (state := served.state(run)) not in ("COMPLETED", "FAILED", "CANCELLED"):
        if running_since is None and state in ("RUNNING", "PENDING"):
            running_since = time.monotonic()
        if running_since is not None and moments and time.monotonic() - running_since > moments[0]:
            moments.pop(0)
            done.append(strike(served, rng, [*so_far, *done]))
        if time.monotonic() - began > COMPLETE_WITHIN_S:
            break
        time.sleep(0.3)
    seconds = time.monotonic() - began
    while (left := served.left()) and time.monotonic() - began < seconds + GONE_WITHIN_S:
        time.sleep(1)
    equal = state == "COMPLETED" and (expected is None or served.digests() == expected)
    return Result(done, state, seconds, equal, left)


def strike(served: Served, rng: random.Random, so_far: list[str]) -> str:
    """Kill what was killed least of all that is there; returns what it was.

    At an even draw the trainer, which is there for a fraction of a run, would hardly ever be hit.
    """
    there = [*(target for target in TARGETS if served.processes(target)), "all"]
    target = min(there, key=lambda one: (so_far.count(one), rng.random()))
    if target == "all":
        served.kill_all()
        served.start()
    else:
        for process in served.processes(target):
            _kill(process)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-survival-") as place:
        folder = Path(place)
        shutil.copy(ROOT / "prefect.yaml", folder)
        shutil.copy(ROOT / "prefect.toml", folder)
        (folder / "survivor.yaml").write_text(CONFIG)
        (folder / "prompts.txt").write_text("".join(f"a photo of a person {n}\n" for n in range(PROMPTS)))
        served = Served(folder, _free_port())
        try:
            results = trial(served, chosen.kills, rng)
        finally:
            served.stop()
    report(results)
    if not all(result.equal and not result.left for result in results):
        raise SystemExit(1)


def trial(served: Served, kills: int, rng: random.Random) -> list[Result]:
    undisturbed = one_run(served, 0, 0, rng, None, [])
    expected = served.digests()
    print(f"undisturbed: {undisturbed.seconds:.0f} s, {undisturbed.state}, {len(expected)} artifacts", flush=True)
    assert undisturbed.state == "COMPLETED" and not undisturbed.left, undisturbed
    results: list[Result] = []
    while len(struck := [kill for result in results for kill in result.kills]) < kills:
        wanted = min(rng.choice([1, 1, 2, 3]), kills - len(struck))
        results.append(one_run(served, wanted, 0.9 * undisturbed.seconds, rng, expected, struck))
        last = results[-1]
        said = f"{', '.join(last.kills) or 'nothing'} killed: {last.state} after {last.seconds:.0f} s"
        print(f"{said}, digests {'equal' if last.equal else 'DIFFER'}, left: {last.left or 'nothing'}", flush=True)
    return results


def report(results: list[Result]) -> None:
    counts = Counter(kill for result in results for kill in result.kills)
    print("\n| killed | kills |\n|---|---:|")
    for target, count in sorted(counts.items()):
        print(f"| {target} | {count} |")
    equal = sum(result.equal for result in results)
    print(f"\n{len(results)} runs, {sum(counts.values())} kills, {equal} with the digests of the undisturbed run")


if __name__ == "__main__":
    main()
