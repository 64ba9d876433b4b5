"""The command line: what it prints, how it ends, and what it leaves unloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.cli_doctor import doctor
from tasks.doctor_training import Forecast
from tasks.store import ArtifactStore
from tests.flows.conftest import Cli
from tests.tasks.toy import fill_store, write_experiment

HEAVY = ("torch", "diffusers", "transformers", "datasets", "prefect", "pandas", "matplotlib")
SECRET = "hf_mustNotBeSeenAnywhere"
TELL_HEAVY = f"""
import atexit
atexit.register(lambda: print("loaded:", [name for name in {HEAVY!r} if name in sys.modules]))
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "toy")


@pytest.fixture
def filled(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A store in which `sdxl-flows run toy/toy.yaml` finds everything."""
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore(tmp_path / "store")
    fill_store(config, store, "sdxl-flows run toy/toy.yaml")
    return store


def test_a_cached_run_loads_nothing_heavy_and_names_its_report(cli: Cli, filled: ArtifactStore, tmp_path: Path) -> None:
    done = cli("run", "toy/toy.yaml", before=TELL_HEAVY)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "loaded: []"
    assert lines[-2] == f"report: {tmp_path / 'runs' / 'toy' / 'report.html'}"
    assert (tmp_path / "runs" / "toy" / "report.html").is_file()
    assert sum("reused" in line for line in lines) == len(list(filled.manifests()))


def test_a_plan_loads_nothing_heavy_and_explains(cli: Cli, filled: ArtifactStore) -> None:
    done = cli("plan", "toy/toy.yaml", "--set", "training.learning_rate=5e-4", before=TELL_HEAVY)
    assert "training.learning_rate: 0.001 → 0.0005" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "no such configuration file"),
        (["plan", "toy/toy.yaml", "--set", "training.adapter.rnk=3"], "Did you mean 'rank'?"),
        (["run", "toy/toy.yaml", "--set", "model.base=/nowhere"], "model.base: expected a folder or file that exists"),
        (
            ["evaluate", "toy/toy.yaml", "--candidate", "./nowhere.safetensors"],
            "evaluation.candidate: expected an existing LoRA",
        ),
        (["report", "toy/toy.yaml"], "not in the store for this configuration"),
        (["make-metadata", "nowhere", "--prompt", "a dog"], "nowhere"),
        (["doctor", "toy/toy.yaml", "--set", "training.attention=fast"], "training.attention"),
        (["doctor", "toy/toy.yaml", "--set", "model.base=/nowhere"], "model.base: expected a folder or file"),
        (["artifacts", "show", "train/"], "no artifact"),
        (["artifacts", "ls", "--store", "nowhere"], "there is no store"),
        (
            ["export", "nobody", "--format", "kohya", "--out", "x.safetensors"],
            "nobody: expected the name",
        ),
        (["export", "train/1", "--format", "kohya", "--out", "x.safetensors"], "no artifact"),
        (["merge", "--lora", "nowhere.safetensors", "--out", "x.safetensors"], "--lora: expected an existing FILE"),
        (["extract", "--base", "./nowhere", "--tuned", "./x", "--rank", "4", "--out", "x"], "--out: expected a file"),
        (["resize", "nowhere.safetensors", "--out", "x.safetensors"], "expected --rank N or --energy SHARE"),
        (["push", "nobody", "--repo", "me", "--dry-run", "--to", "up"], "--repo: expected user/name"),
        (["push", "nobody", "--repo", "me/x", "--dry-run"], "--dry-run: expected --to FOLDER"),
    ],
)
def test_a_mistake_ends_in_a_message_and_exit_code_2(
    cli: Cli, config: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "store").mkdir()
    done = cli(*arguments, before=TELL_HEAVY)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
    assert "torch" not in done.stdout


@pytest.mark.ci
def test_a_stage_that_refuses_its_input_says_so_once(
    cli: Cli, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through Prefect, whose own account of it, tracebacks and all, stays off the console; as do secrets everywhere."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    (config.parent / "pictures" / "0.png").write_text("<html>not found</html>")
    done = cli("run", "toy/toy.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: dataset pictures: 1 entry cannot be used:\n  0.png:")
    assert "Traceback" not in done.stderr and done.stderr.count("0.png") == 1
    assert SECRET not in done.stdout + done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


@pytest.mark.ci
def test_a_server_that_is_away_is_named(cli: Cli, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    done = cli("run", "toy/toy.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: PREFECT_API_URL: the Prefect server http://127.0.0.1:9/api does not answer")


@pytest.mark.ci
def test_evaluate_and_report_come_to_the_runs_own_report(cli: Cli, filled: ArtifactStore) -> None:
    for command in ("evaluate", "report"):
        done = cli(command, "toy/toy.yaml")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("report: ")


@pytest.mark.parametrize(
    "command",
    [
        *([], ["run"], ["plan"], ["evaluate"], ["report"], ["artifacts"], ["artifacts", "gc"], ["doctor"]),
        *(["export"], ["merge"], ["extract"], ["resize"], ["push"], ["prompts"]),
    ],
)
def test_help_is_worth_reading(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert len(done.stdout) > 300


@pytest.mark.ci
def test_artifacts_are_listed_shown_verified_and_cleared(cli: Cli, filled: ArtifactStore) -> None:
    count = len(list(filled.manifests()))
    assert f"{count} artifacts" in cli("artifacts", "ls").stdout
    [report] = filled.manifests("report")
    shown = cli("artifacts", "show", f"report/{report.key[:8]}").stdout
    assert "dataset" in shown and "report.html" in shown
    assert cli("artifacts", "trainings").stdout == "0 trainings\n"
    assert cli("artifacts", "verify").stdout == "all artifacts are whole\n"
    (filled.path(report.ref) / "summary.md").write_bytes(b"x" * report.files["summary.md"].bytes)
    damaged = cli("artifacts", "verify")
    assert damaged.returncode == 1 and f"report/{report.key}" in damaged.stderr
    assert f"{count - 1} artifacts, " in cli("artifacts", "gc", "--min-age-hours", "0").stdout
    assert len(list(filled.manifests())) == count - 1
    cli("artifacts", "gc", "--min-age-hours", "0", "--apply")
    assert not list(filled.manifests())


def test_make_metadata_lists_pictures(cli: Cli, config: Path, tmp_path: Path) -> None:
    listed = tmp_path / "toy" / "pictures" / "metadata.jsonl"
    listed.unlink()
    assert cli("make-metadata", "toy/pictures", "--prompt", "a dog").returncode == 0
    assert [json.loads(line)["text"] for line in listed.read_text().splitlines()] == ["a dog"] * 3


MINIATURE = Path(__file__).parents[2] / "configs" / "miniature" / "lora.yaml"


@pytest.mark.ci
def test_doctor_tells_what_a_training_needs(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON by the command; and what people read, of the same figures."""
    told = cli("doctor", MINIATURE, "--set", "training.micro_batch_size=2", "--json")
    assert told.returncode == 0, told.stderr
    found = Forecast.model_validate_json(told.stdout)
    assert found.rows_per_step == 2 and found.peak_bytes == sum(found.parts.values())
    monkeypatch.setattr("tasks.doctor_training.forecast", lambda config: found)
    doctor(MINIATURE)
    shown = capsys.readouterr().out
    for words in ("activations", "2 rows a step", "80 GB (H100)", "Not measured on a GPU"):
        assert words in shown
    nothing = cli("doctor", "--json")
    assert nothing.returncode == 2 and "CONFIG" in nothing.stderr


def test_the_schema_is_json(cli: Cli) -> None:
    assert "training" in json.loads(cli("schema").stdout)["properties"]
