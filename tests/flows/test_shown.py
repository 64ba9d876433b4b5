"""What Prefect's page shows of a run, and that no run ends for want of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sdxl_core.errors import UserError
from tasks.config import RuntimeConfig
from tasks.gc import Retention
from tasks.manifest import Json, Ref
from tasks.shown import artifact_key, board, code, stage_page, text_cell
from tasks.stage import Call, Job, Runner, Stage, materialise
from tasks.store import ArtifactStore
from tests.tasks.toy import fill_store, write_experiment

HOSTILE = "<script>alert(1)</script> [x](javascript:1) | `a`\n# head"


def build(job: Job) -> dict[str, Json]:
    (job.out / "text.txt").write_text("text")
    return {"pictures": 12, "loss": 0.123456789, "note": HOSTILE, "long": ["left out"]}


CALL = Call(Stage(kind="toy", version="1", build=build, heavy=False), "images/base_1", {})


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Ref]:
    """A working folder in which a run of toy/toy.yaml finds everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDXL_FLOWS_STORE", str(tmp_path / "store"))
    return fill_store(write_experiment(tmp_path / "toy"), ArtifactStore(tmp_path / "store"), "by hand")


def artifacts() -> dict[str, Any]:
    """The newest of each key."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(limit=100, sort=ArtifactSort.UPDATED_DESC)
    return {one.key: one for one in reversed(found) if one.key is not None}


def results() -> list[dict[str, Any]]:
    from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH

    files = [path for path in Path(PREFECT_RESULTS_LOCAL_STORAGE_PATH.value()).rglob("*") if path.is_file()]
    return [json.loads(path.read_bytes()) for path in files]


@pytest.mark.usefixtures("prefect_api")
def test_every_stage_is_on_the_page_and_results_are_json(
    filled: Sequence[Ref], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings

    from flows.finetune import finetune

    monkeypatch.setenv("SDXL_FLOWS_VIEW_URL", "http://127.0.0.1:8080")
    with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: tmp_path / "records"}):
        done = finetune(Path("toy/toy.yaml"), command="by hand")
        kept = results()
    assert {*done["artifacts"].values()} == {str(ref) for ref in filled}
    shown = artifacts()
    for label, name in done["artifacts"].items():
        page = shown[artifact_key(f"stage-toy-{label}")]
        assert page.description == label and page.type == "markdown" and page.flow_run_id is not None
        assert f"`{name}`" in page.data and "**reused" in page.data
    assert len({shown[artifact_key(f"stage-toy-{label}")].flow_run_id for label in done["artifacts"]}) == 1
    assert "http://127.0.0.1:8080/reports/" in shown["page-toy"].data and "http://" in shown["report-toy"].data
    assert shown["scores-toy"].type == "table"
    assert len(kept) == len(filled) + 1 and done in kept  # the stages', and the flow's own, as it is
    assert {record["metadata"]["serializer"]["type"] for record in kept if "metadata" in record} == {"json"}


@pytest.mark.usefixtures("prefect_api")
def test_garbage_goes_and_is_told_by_kind(filled: Sequence[Ref], tmp_path: Path) -> None:
    from flows.artifacts_gc import artifacts_gc

    nothing_kept = Retention(runs=0, min_age_h=0)
    would = artifacts_gc(nothing_kept, dry_run=True)
    store = ArtifactStore(tmp_path / "store")
    assert len(list(store.manifests())) == len(filled)
    done = artifacts_gc(nothing_kept)
    assert done["freed_bytes"] == would["would_free_bytes"] > 0 and done["rows"] == would["rows"]
    assert sum(row["bytes"] for row in done["rows"]) == done["freed_bytes"]
    assert list(store.manifests()) == []
    assert json.loads(artifacts()["artifacts-gc"].data) == done["rows"]


def test_without_a_server_the_stages_run_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    store = ArtifactStore(tmp_path / "store")
    caplog.set_level("WARNING", "sdxl_flows")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), board(store, "toy") as shown:
        run: Runner = shown.watching(lambda call: materialise(call, store, "cpu"))
        refs = [run(CALL) for _ in range(3)]
    assert len({*refs}) == 1
    told = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
    assert len(told) == 1


def test_what_others_wrote_is_no_markup(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    ref = materialise(CALL, store, "cpu")
    manifest = store.manifest(ref.kind, ref.key)
    assert manifest is not None
    page = stage_page(manifest, store.path(ref), built=True)
    assert "**built in" in page and "| pictures | 12 |" in page and "| loss | 0.123457 |" in page
    assert "<script" not in page and "[x](" not in page and "left out" not in page
    assert len([line for line in page.splitlines() if line.startswith("| note")]) == 1
    assert artifact_key("stage-toy-images/base_1") == "stage-toy-images-base-1"
    assert text_cell("a|b") == r"a\|b" and code("a`b|c") == r"`a'b\|c`"
    assert len(text_cell("x" * 5000)) == 200


def fail(job: Job) -> dict[str, Json]:
    raise UserError("mend your picture")


@pytest.mark.usefixtures("prefect_api")
def test_a_failed_run_leaves_nothing_pickled(tmp_path: Path) -> None:
    from prefect import flow
    from prefect.settings import PREFECT_RESULTS_LOCAL_STORAGE_PATH, temporary_settings

    from tasks.policies import prefect_runner

    @flow(name="toy", result_serializer="json")
    def run_one() -> None:
        failing = Stage(kind="failing", version="1", build=fail, heavy=False, retries=1)
        prefect_runner(ArtifactStore(tmp_path / "store"), RuntimeConfig(device="cpu"), "toy")(Call(failing, "toy", {}))

    with temporary_settings({PREFECT_RESULTS_LOCAL_STORAGE_PATH: tmp_path / "records"}):
        with pytest.raises(UserError, match="mend your picture"):
            run_one()
        assert results(), "the exception is kept, and read below as JSON"
