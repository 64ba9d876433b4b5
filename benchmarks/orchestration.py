"""What is paid before any work begins: `python -m benchmarks.orchestration [--rounds 5] [--write]`.

Starts the command line in processes of their own, in turn, round after round, and takes wall time and processor time of
each with all its children. The reruns are of the demo's configuration in a store that holds everything under the very
keys a run would give it (`--store` and `--set` for one that was really run). With `--write`, the tables go into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import torch

from benchmarks.common import provenance, table, write_section
from flows.reproduction import made_by
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.tasks.toy import fill_store

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "configs" / "miniature" / "dreambooth.yaml"
CLI = [sys.executable, "-m", "flows.cli"]
SERVER_START_S = 240
FLOW = """
import json, sys, time
from pathlib import Path
from flows.cli_runs import prepare
from tasks.prefect_home import local_prefect
prepared = prepare(Path(sys.argv[1]), sys.argv[3:], trains=True)
assert prepared.planner.complete, "the store lacks something"
with local_prefect(prepared.store.root):
    from flows.finetune import finetune
    for _ in range(int(sys.argv[2])):
        started = time.perf_counter()
        finetune(prepared.experiment.config, command=prepared.experiment.command)
        print(json.dumps({"flow_s": time.perf_counter() - started, "stages": len(prepared.planner.stages)}))
"""
PLAN = """
import json, sys, time
from pathlib import Path
from flows.cli_runs import prepare
for _ in range(int(sys.argv[2])):
    started = time.perf_counter()
    prepared = prepare(Path(sys.argv[1]), sys.argv[3:], trains=True)
    print(json.dumps({"plan_s": time.perf_counter() - started, "stages": len(prepared.planner.stages)}))
"""


@dataclass(frozen=True)
class Case:
    """A command to be timed."""

    name: str
    line: Sequence[str]
    environment: Mapping[str, str]
    aim_s: float | None = None


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float
    """Of the process and of all children it waited for."""


def measure(case: Case, folder: Path) -> Cost:
    """Run it once. Raises RuntimeError where it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(case.line, cwd=folder, env=case.environment, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            said.seek(0)
            raise RuntimeError(f"{case.name}: ended with {child.returncode}\n{said.read().decode()[-2000:]}")
    return Cost(wall_s, usage.ru_utime + usage.ru_stime)


@contextmanager
def prefect_server(home: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """A Prefect server of its own with a database in `home`; yields its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    quiet = {"PREFECT_HOME": str(home), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    server = subprocess.Popen(
        line, env={**environment, **quiet}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until_healthy(port, server)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def wait_until_healthy(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/api/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the Prefect server did not answer")


def cases(environment: Mapping[str, str], url: str, rerun: Sequence[str]) -> list[Case]:
    """In the order of the table."""
    python, served = sys.executable, {**environment, "PREFECT_API_URL": url}
    flow = [python, "-c", FLOW, rerun[0], "1", *rerun[1:]]
    return [
        Case("python, doing nothing", [python, "-c", "pass"], environment),
        Case("import flows.cli", [python, "-c", "import flows.cli"], environment, 0.5),
        Case("sdxl-flows --help", [*CLI, "--help"], environment, 0.5),
        Case("sdxl-flows --version", [*CLI, "--version"], environment, 0.5),
        Case("sdxl-flows run --help", [*CLI, "run", "--help"], environment, 0.5),
        Case("sdxl-flows artifacts ls", [*CLI, "artifacts", "ls"], environment),
        Case("sdxl-flows plan", [*CLI, "plan", rerun[0], *settings(rerun[1:])], environment),
        Case("cached rerun", [*CLI, "run", rerun[0], *settings(rerun[1:])], environment, 15),
        Case("cached rerun, a server running", [*CLI, "run", rerun[0], *settings(rerun[1:])], served, 5),
        Case("cached flow on Prefect's embedded engine", flow, environment, 15),
        Case("cached flow, a server running", flow, served, 5),
    ]


def settings(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def per_stage(environment: Mapping[str, str], url: str, folder: Path, rerun: Sequence[str]) -> list[tuple[str, ...]]:
    """What a stage that is reused costs, in a process that has done the same before."""
    rows = []
    for name, code, server in (("planned", PLAN, {}), ("a Prefect task", FLOW, {"PREFECT_API_URL": url})):
        line = [sys.executable, "-c", code, rerun[0], "6", *rerun[1:]]
        done = subprocess.run(
            line, cwd=folder, env={**environment, **server}, capture_output=True, text=True, check=True
        )
        found = [json.loads(row) for row in done.stdout.splitlines() if row.startswith("{")][1:]
        took_s, stages = min(next(iter(row.values())) for row in found), found[0]["stages"]
        rows.append((name, f"{took_s * 1e3:.0f} ms", str(stages), f"{took_s / stages * 1e3:.1f} ms"))
    return rows


def whole_path(place: str) -> Path:
    return Path(place).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", type=whole_path, default=DEMO)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--store", type=whole_path, help="a store in which the configuration has been run")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdxl-flows-orchestration-") as name:
        text = report(args, Path(name))
    print(text)
    if args.write:
        write_section("orchestration", text)


def report(args: argparse.Namespace, folder: Path) -> str:
    """Measure, and say it in Markdown."""
    os.chdir(folder)
    store, rerun = args.store or folder / "store", [str(args.config), *args.changes]
    if args.store is None:
        changes = dict(change.split("=", 1) for change in args.changes)
        command = made_by(args.config, args.changes, read_config(args.config, args.changes), (), ())
        fill_store(args.config, ArtifactStore(store), command, changes)
        time.sleep(2.5)  # younger files' digests are not remembered
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "PYTHONDONT"))},
        **{"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder / "pycache"), "HOME": str(folder)},
        **{"SDXL_FLOWS_STORE": str(store), "COLUMNS": "120"},
    }
    if args.store is not None:  # its report was made elsewhere, and says so
        subprocess.run([*CLI, "run", rerun[0], *settings(args.changes)], cwd=folder, env=environment, check=True)
    with prefect_server(folder / "server", environment) as url:
        todo = cases(environment, url, rerun)
        costs: list[list[Cost]] = [[] for _ in todo]
        for number in range(args.rounds + 1):
            for case, found in zip(todo, costs, strict=True):
                cost = measure(case, folder)
                if number:  # the first round fills caches
                    found.append(cost)
                print(f"{number} {case.name}: {cost.wall_s:.2f} s, {cost.cpu_s:.2f} s of processor", file=sys.stderr)
        stages = per_stage(environment, url, folder, rerun)
    rows = [row(case, found) for case, found in zip(todo, costs, strict=True)]
    load = f"Load of the machine at the end: {os.getloadavg()[0]:.1f}; {args.rounds} rounds."
    command = " ".join(["python -m benchmarks.orchestration", *sys.argv[1:]])
    shutil.rmtree(folder / "pycache", ignore_errors=True)
    return "\n\n".join(
        [
            f"{provenance(command, torch.device('cpu'))} {load}",
            table(("process", "wall, median", "wall, least", "processor, median", "aim"), rows),
            table(("stages found in the store", "all", "stages", "each"), stages),
        ]
    )


def row(case: Case, costs: Sequence[Cost]) -> tuple[str, ...]:
    walls, cpus = [cost.wall_s for cost in costs], [cost.cpu_s for cost in costs]
    aim = "" if case.aim_s is None else f"{case.aim_s:g} s"
    times = (statistics.median(walls), min(walls), statistics.median(cpus))
    return (
        f"`{case.name}`" if case.name.startswith(("sdxl", "import")) else case.name,
        *(f"{s:.2f} s" for s in times),
        aim,
    )


if __name__ == "__main__":
    main()
