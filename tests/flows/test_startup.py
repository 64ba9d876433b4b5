"""What commands leave alone: libraries they do not need, files whose digests are known, and other processes.

Time itself is measured by benchmarks/orchestration.py; here stands what it is made of, which no busy machine blurs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.store import ArtifactStore
from tests.flows.conftest import REPOSITORY, Cli
from tests.tasks.toy import fill_store, write_experiment

LIBRARIES = "torch diffusers transformers accelerate peft datasets prefect pandas pyarrow scipy matplotlib numpy PIL"
HEAVY = tuple(LIBRARIES.split())
"""Nothing that only looks up, plans or reuses needs any of these."""
FOR_CONFIGURATIONS = ("ruamel", "sdxl_core.training_config")
FOR_RECORDS = ("pydantic", "sqlite3")
FOR_PAGES = ("rich", "markdown_it", "jinja2")
WATCH = f"""
import atexit, hashlib, json
digested, started = [], []
digest = hashlib.file_digest
hashlib.file_digest = lambda file, *how: digested.append(file.name) or digest(file, *how)
STARTS = {{"subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system"}}
sys.addaudithook(lambda event, details: started.append(event) if event in STARTS else None)
names = {HEAVY + FOR_CONFIGURATIONS + FOR_RECORDS + FOR_PAGES!r}
seen = lambda: [[name for name in names if name in sys.modules], digested, started]
atexit.register(lambda: print(json.dumps(seen())))
"""
EVERY_HELP = """
import contextlib, io, json, sys
from typer.main import get_command
from flows.cli import app

def walk(command, path=()):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))

def modules_after(path):
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        app([*path, "--help"])
    return [name for name in sys.argv[1:] if name in sys.modules] + ([] if len(page.getvalue()) > 200 else ["no page"])

before = [name for name in sys.argv[1:] if name in sys.modules]
after = {" ".join(path): modules_after(path) for path in walk(get_command(app))}
print(json.dumps({"import flows.cli": before, **after}))
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy whose files, all of a moment ago, count as settled: their digests are remembered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tasks.digests._SETTLED_NS", -(10**15))
    return write_experiment(tmp_path / "toy")


@pytest.fixture
def filled(config: Path, tmp_path: Path) -> ArtifactStore:
    """A store in which `sdxl-flows run toy/toy.yaml` finds everything."""
    store = ArtifactStore(tmp_path / "store")
    fill_store(config, store, "sdxl-flows run toy/toy.yaml")
    return store


@pytest.mark.ci
def test_no_help_loads_what_only_work_needs() -> None:
    """Of any command or group, and nor does importing the command line."""
    unwanted = (*HEAVY, *FOR_CONFIGURATIONS, *FOR_RECORDS, *FOR_PAGES)
    line = [sys.executable, "-c", EVERY_HELP, *unwanted]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert {"run", "doctor", "artifacts ls", "prepare-dataset push", "prepare-dataset check"} <= loaded.keys()
    assert {command: names for command, names in loaded.items() if names} == {}


def test_the_version_is_told_by_itself(cli: Cli) -> None:
    done = cli("--version", before=WATCH)
    assert done.returncode == 0, done.stderr
    version, seen = done.stdout.splitlines()
    assert version.startswith("sdxl-flows ")
    assert json.loads(seen) == [[], [], []]


@pytest.mark.parametrize("command", [["ls"], ["show", "report/"]])
def test_looking_into_the_store_loads_no_configuration(cli: Cli, filled: ArtifactStore, command: list[str]) -> None:
    done = cli("artifacts", *command, before=WATCH)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [list(FOR_RECORDS), [], []]


@pytest.mark.ci
@pytest.mark.parametrize("command", ["run", "plan", "evaluate", "report"])
def test_a_cached_run_starts_nothing_and_reads_no_file_twice(cli: Cli, filled: ArtifactStore, command: str) -> None:
    done = cli(command, "toy/toy.yaml", before=WATCH)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[*FOR_CONFIGURATIONS, *FOR_RECORDS], [], []]


def test_only_the_file_that_changed_is_digested(cli: Cli, filled: ArtifactStore, tmp_path: Path) -> None:
    """Size and time of modification are as before: only the time of change tells."""
    weights = tmp_path / "toy" / "sdxl" / "unet" / "diffusion_pytorch_model.safetensors"
    data, stat = bytearray(weights.read_bytes()), weights.stat()
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    done = cli("plan", "toy/toy.yaml", before=WATCH)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])[1:] == [[str(weights)], []]
    assert any(line.startswith("train ") and " run " in line for line in done.stdout.splitlines())


def test_a_store_without_a_memo_digests_everything(cli: Cli, config: Path) -> None:
    """The memo is the store's own; and the tests above would see a digest."""
    done = cli("plan", "toy/toy.yaml", before=WATCH)
    assert done.returncode == 0, done.stderr
    digested = json.loads(done.stdout.splitlines()[-1])[1]
    for kind in ("*.safetensors", "*.png"):
        assert {str(path) for path in config.parent.rglob(kind)} <= set(digested)
    assert len(digested) == len(set(digested))
