"""`sdxl-flows artifacts verify WHAT`: what it prints, how it ends, and what it changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.runs import publish, record_run
from tasks.store import ArtifactStore
from tests.flows.conftest import Cli
from tests.tasks.toy import fill_store, write_experiment

REPORT = "runs/toy/report.html"


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A finished run `toy` with its copies below the working folder."""
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore(tmp_path / "store")
    fill_store(write_experiment(tmp_path / "toy"), store, "sdxl-flows run toy/toy.yaml")
    refs = {manifest.label: manifest.ref for manifest in store.manifests()}
    record_run(store, "toy", "sdxl-flows run toy/toy.yaml", refs)
    publish(store, refs, tmp_path / "runs" / "toy")
    return store


def place(store: ArtifactStore, label: str) -> Path:
    return next(store.path(manifest.ref) for manifest in store.manifests() if manifest.label == label)


def test_a_whole_lineage_ends_with_0(cli: Cli, filled: ArtifactStore) -> None:
    before = "import atexit; atexit.register(lambda: print('torch' in sys.modules or 'prefect' in sys.modules))"
    done = cli("artifacts", "verify", REPORT, before=before)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, closing, heavy = done.stdout.splitlines()
    assert heavy == "False"
    assert closing == "artifacts: 11 whole; copies: 6 whole; sources: 7 unchanged"
    assert lines[0] == "artifacts, sources first"
    assert [line for line in lines if line.startswith("  whole          dataset  dataset/")]


def test_damage_is_named_set_aside_and_ends_with_1_once(cli: Cli, filled: ArtifactStore) -> None:
    latents, train = place(filled, "latents"), place(filled, "train")
    (latents / "summary.md").write_text("x")
    done = cli("artifacts", "verify", "toy")
    assert done.returncode == 1
    assert f"  damaged        latents  latents/{latents.name[:12]}: summary.md has 1 bytes" in done.stdout
    assert [path.name.rpartition("-")[0] for path in (filled.root / "damaged").iterdir()] == [f"latents-{latents.name}"]
    assert train.is_dir() and not latents.exists()
    again = cli("artifacts", "verify", "toy")
    assert again.returncode == 0
    assert "1 gone" in again.stdout


def test_a_contradiction_ends_with_1_and_nothing_is_set_aside(cli: Cli, filled: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text("better!")
    done = cli("artifacts", "verify", REPORT)
    assert done.returncode == 1
    assert f"  contradiction  {REPORT}: holds other bytes than report/" in done.stdout
    assert not (filled.root / "damaged").exists()


def test_what_changed_since_and_what_gc_took_end_with_0(cli: Cli, filled: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "toy/pictures/0.png").unlink()
    shutil.rmtree(place(filled, "latents"))
    done = cli("artifacts", "verify", "toy")
    assert done.returncode == 0
    assert "1 gone" in done.stdout and "1 changed since" in done.stdout


def test_what_is_nothing_ends_with_2(cli: Cli, filled: ArtifactStore) -> None:
    done = cli("artifacts", "verify", "tooy")
    assert done.returncode == 2
    assert done.stderr.startswith("error: tooy: ") and "Did you mean 'toy'?" in done.stderr


def test_a_damaged_report_can_still_be_asked_for(cli: Cli, filled: ArtifactStore) -> None:
    (place(filled, "report") / "manifest.json").write_text("{")
    for what in ("toy", "runs/toy/report.json"):
        done = cli("artifacts", "verify", what)
        assert done.returncode == 1, done.stdout
