"""Several candidates on the miniature: what is drawn and reused, how one is chosen, and the quick look."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.reproduction import made_by
from flows.wiring import evaluate
from sdxl_core.errors import UserError
from tasks.experiment import prepare_experiment
from tasks.outside import verify_sources
from tasks.plan import Planner
from tasks.push import Upload, prepare_upload
from tasks.quick_look import quick_look
from tasks.runs import finish_run, record_run, report_files, score_rows, verdict_of
from tasks.stage import materialise
from tasks.store import ArtifactStore
from tasks.verify import sources_in, verify_artifacts, verify_published
from tasks.verify_target import find_target
from tasks.yaml_config import read_config
from tests.flows.conftest import Cli
from tests.flows.short import Evaluations
from tests.flows.test_stops_and_gates import SEQUENTIAL

pytestmark = pytest.mark.ci

BOTH = ("trained", "./style.safetensors")
SLUGS = ("1-trained", "2-style")
SELECTION = "evaluation.selection={share: 0.4}"


def test_each_candidate_draws_its_own_and_all_share_the_base(evaluations: Evaluations) -> None:
    alone = evaluations.run("trained")
    refs = evaluations.run(BOTH)
    style = [f"{stage}/2-style" for stage in ("images", "scores", "report")]
    assert set(evaluations.built) == {*style, "comparisons", "report/1-trained", "report"}
    assert refs["images/1-trained"] == alone["images/candidate"] and refs["scores/1-trained"] == alone["scores"]
    assert refs["report"].kind == "matrix" and evaluations.run(BOTH) == refs and evaluations.built == []
    one = evaluations.file(refs, "report/1-trained", "report.json")["comparison"]
    assert one["candidates"] == 2 and one == evaluations.file(refs, "report", "report.json")["comparisons"]["1-trained"]
    assert "One of 2 candidates judged at once" in " ".join(
        evaluations.file(refs, "report/1-trained", "report.json")["summary"]
    )


def test_reports_lie_where_they_are_linked(evaluations: Evaluations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evaluations.folder)
    refs = evaluations.run(BOTH, "evaluation.gates=[{metric: clip_i, require: at_most, limit: 2.0}]")
    place = finish_run(evaluations.store, "short", "test", refs)
    assert place == Path("runs/short/report.html").absolute()
    for slug in SLUGS:
        assert f'href="{slug}/report.html"' in place.read_text() and (place.parent / slug / "scores.parquet").is_file()
    for what in ("short", "runs/short/report.html", "runs/short/2-style/report.json"):
        target = find_target(evaluations.store, what)
        found = [*verify_artifacts(evaluations.store, target), *verify_published(evaluations.store, target)]
        found += verify_sources(evaluations.store, sources_in(evaluations.store, target), target.config, target.home)
        assert {one.state for one in found} == {"whole", "unchanged"}, [one for one in found if one.why]
    (place.parent / SLUGS[1] / "summary.md").write_text("better")
    target = find_target(evaluations.store, "short")
    assert [one.state for one in verify_published(evaluations.store, target)].count("contradiction") == 1
    assert verdict_of(evaluations.store, refs) == "inconclusive"
    rows = score_rows(report_files(evaluations.store, refs["report"])[1])
    assert [(row["model"], row["metric"]) for row in rows] == [("trained", "CLIP-I"), ("style", "CLIP-I")]
    (place.parent / SLUGS[1] / "mine.txt").write_text("kept")
    finish_run(evaluations.store, "short", "test", evaluations.run("trained"))
    assert (place.parent / "scores.parquet").is_file()
    finish_run(evaluations.store, "short", "test", refs)
    assert not (place.parent / "scores.parquet").exists(), "it was of another report"
    finish_run(evaluations.store, "short", "test", evaluations.run("trained"))
    assert not (place.parent / SLUGS[0]).exists() and (place.parent / SLUGS[1] / "mine.txt").is_file()


def test_the_best_is_judged_on_prompts_that_it_was_not_chosen_by(fourteen: Evaluations) -> None:
    refs = fourteen.run(BOTH, SELECTION)
    chosen_on = {line["prompt_id"] for line in records(fourteen, refs, "selection/images/base")}
    judged_on = {line["prompt_id"] for line in records(fourteen, refs, "images/base")}
    assert (len(chosen_on), len(judged_on), chosen_on & judged_on) == (6, 8, set())
    categories = [line["category"] for line in records(fourteen, refs, "selection/images/base")]
    assert categories.count("near") == categories.count("far") == 3
    selection = fourteen.file(refs, "selection", "report.json")
    deltas = {slug: mine["judged"][0]["delta"] for slug, mine in selection["comparisons"].items()}
    assert selection["chosen"] == max(deltas, key=lambda slug: deltas[slug])
    report = fourteen.file(refs, "report", "report.json")
    name = dict(zip(SLUGS, ("trained", "style"), strict=True))[selection["chosen"]]
    assert report["comparison"]["candidates"] == 1 and report["image_sets"]["candidate"]["name"] == name
    assert f"The candidate, {name}, was chosen among 2 by CLIP-I on 6 other prompts" in " ".join(report["summary"])
    assert refs["selection"].kind in {stage.split("/")[0] for stage in artifacts(report)}, "in its lineage"
    losers = [label for label in refs if label.startswith("images/")]
    assert losers == ["images/base", "images/candidate"], "nobody else is drawn for the prompts that judge"


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        ("trained:0.5", r"judges what is pushed, the training's result, got one of trained x 0\.5"),
        (BOTH, "no finished run has its images/candidate"),
    ],
)
def test_what_is_pushed_is_what_the_report_judged(
    judged: str | tuple[str, ...], said: str, evaluations: Evaluations
) -> None:
    record_run(evaluations.store, "other", "test", evaluations.run(judged))
    with pytest.raises(UserError, match=said):
        prepare_upload(evaluations.store, Upload("other", "me/model"), evaluations.folder / "upload")


def test_a_plan_ends_where_the_choice_is_made(fourteen: Evaluations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fourteen.folder)
    planner = Planner(fourteen.store)
    evaluate(fourteen.prepare_several(BOTH, (SELECTION,)), planner)
    labels = [stage.label for stage in planner.stages]
    assert labels[-5:] == ["selection", "images/base", "scores", "comparison", "report"]
    fourteen.run(BOTH, SELECTION)
    planner = Planner(fourteen.store)
    evaluate(fourteen.prepare_several(BOTH, (SELECTION,)), planner)
    assert planner.complete and "images/candidate" in [stage.label for stage in planner.stages]


def test_several_look_until_all_are_decided(fourteen: Evaluations) -> None:
    """Nothing is decided of a model against itself."""
    refs = fourteen.run(("base", "./style.safetensors"), *SEQUENTIAL)
    found = fourteen.file(refs, "report", "report.json")["comparisons"]
    assert {slug: [look["prompts"] for look in one["looks"]] for slug, one in found.items()} == {
        "1-base": [10, 12, 14],
        "2-style": [10, 12, 14],
    }


def test_too_few_prompts_to_divide_are_refused(evaluations: Evaluations) -> None:
    with pytest.raises(UserError, match=r"evaluation\.selection: expected prompts.*got 2"):
        evaluations.run(BOTH, "evaluation.selection={share: 0.1}")


def test_the_command_that_makes_it_again_names_all_candidates(evaluations: Evaluations) -> None:
    place = evaluations.folder / "short.yaml"
    given = 'evaluation.candidates=["trained", "base"]'
    config = read_config(place, [given])
    words = ["--set", f"'{given}'"]
    assert made_by(place, [given], config, (), ()).endswith(f"short.yaml {' '.join(words)}")
    assert made_by(place, [], config, ("trained", "base"), ()) == made_by(place, [given], config, (), ())
    assert made_by(place, [], config, (), ()) == f"sdxl-flows run {os.path.relpath(place)}", "they stand in the file"


def test_a_quick_look_is_a_few_prompts_without_gates(fourteen: Evaluations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fourteen.folder)
    changes = ["evaluation.gates=[{metric: clip_i, require: better}]", *SEQUENTIAL]
    config = quick_look(Path("short.yaml"), changes, ["base", "dog.safetensors:0.5", "trained"], 4, fourteen.store)
    asked = config.evaluation
    assert asked.gates == () and asked.stop == "fixed" and asked.prompt_set.sample == 4 and asked.baseline == "base"
    assert asked.candidates == (f"{Path.cwd()}/dog.safetensors:0.5", "trained")
    whole = quick_look(Path("short.yaml"), [], ["base", "trained"], 99, fourteen.store).evaluation
    assert whole.prompt_set.sample is None


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["base"], "models: expected two at least"),
        (["base", "shrt:0.5"], "Did you mean 'short'"),
        (["base", "./dog.safetensors"], "Name a configuration: --config FILE"),
    ],
)
def test_what_cannot_be_looked_at_is_told(models: list[str], said: str, fourteen: Evaluations) -> None:
    with pytest.raises(UserError, match=said):
        quick_look(None, [], models, 4, fourteen.store)


def test_models_are_compared_by_the_run_that_is_among_them(
    evaluations: Evaluations, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its report, and thereby its configuration, is at hand."""
    shutil.copytree(evaluations.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    store, models = ArtifactStore(tmp_path / "store"), ["base", "short:0.5", "./dog.safetensors"]
    command = "sdxl-flows compare base short:0.5 ./dog.safetensors --prompts 8"
    config = quick_look(None, [], models, 8, store)
    evaluate(prepare_experiment(config, store, command), partial(materialise, store=store, device="cpu"))
    done = cli("compare", *models)
    assert done.returncode == 0, done.stderr
    place = Path(done.stdout.splitlines()[-1].removeprefix("report: "))
    document: dict[str, Any] = json.loads((place.parent / "report.json").read_text())
    assert [one["name"] for one in document["candidates"]] == ["short x 0.5", "dog"]
    assert document["command"] == command


def records(evaluations: Evaluations, refs: dict[str, Any], label: str) -> list[dict[str, Any]]:
    lines = (evaluations.store.path(refs[label]) / "records.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def artifacts(report: dict[str, Any]) -> list[str]:
    return [stated["artifact"] for stated in report["provenance"]["artifacts"]]
