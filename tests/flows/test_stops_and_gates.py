"""Evaluations that stop when they know enough, and verdicts, on the miniature and from the command line."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.reproduction import made_by
from flows.wiring import evaluate, self_test
from sdxl_core.errors import UserError
from tasks.experiment import prepare_experiment
from tasks.plan import Planner
from tasks.runs import Recorder, record_run
from tasks.self_test import changes, is_sound, result
from tasks.stage import Call, Pending, materialise
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.flows.conftest import Cli
from tests.flows.short import Evaluations

SEQUENTIAL = ("evaluation.stop=sequential", "evaluation.sequential={first_prompts: 10, every_prompts: 2}")
INDIFFERENT = "evaluation.sequential.indifferent={clip_i: 5.0}"


def test_a_sequential_evaluation_draws_no_more_than_it_needs(fourteen: Evaluations) -> None:
    refs = fourteen.run("base", *SEQUENTIAL, INDIFFERENT)
    assert len(fourteen.drawn(refs)) == len(fourteen.drawn(refs, "base")) == 10
    assert fourteen.built.count("comparison") == 1
    found = fourteen.file(refs, "comparison", "comparison.json")
    assert found["decided"] and [look["prompts"] for look in found["looks"]] == [10]
    records = (fourteen.store.path(refs["images/base"]) / "records.jsonl").read_text().splitlines()
    categories = [json.loads(line)["category"] for line in records]
    assert categories.count("near") == categories.count("far") == 5, "each category has its share at every look"


@pytest.mark.ci
def test_every_look_adds_its_prompts_and_costs_nothing_again(fourteen: Evaluations) -> None:
    """Nothing is ever decided between a model and itself, unless one says what does not matter."""
    refs = fourteen.run("base", *SEQUENTIAL)
    assert fourteen.built.count("images/base") == fourteen.built.count("comparison") == 3
    found = fourteen.file(refs, "comparison", "comparison.json")
    assert [look["prompts"] for look in found["looks"]] == [10, 12, 14] and not found["decided"]
    assert found["judged"][0]["delta"] == 0 and found["judged"][0]["delta_interval"]["method"] == "confidence sequence"
    assert "the prompts are used up" in (fourteen.store.path(refs["report"]) / "report.html").read_text()
    assert len(fourteen.store.cells("images")) == 14 + 4, (
        "a picture a prompt, base and candidate being one; four before"
    )
    assert fourteen.run("base", *SEQUENTIAL) == refs and fourteen.built == []
    fixed = fourteen.run("base")
    assert fourteen.drawn(fixed) == fourteen.drawn(refs), "in the end the same pictures as all at once"


def test_a_plan_ends_where_the_next_look_depends_on_what_is_found(
    fourteen: Evaluations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fourteen.folder)
    config = read_config(fourteen.folder / "short.yaml", [*SEQUENTIAL, "evaluation.candidate=base"])
    planner = Planner(fourteen.store)
    evaluate(prepare_experiment(config, fourteen.store, "test"), planner)
    labels = [stage.label for stage in planner.stages]
    assert labels.count("comparison") == 1 and labels[-1] == "report"


@pytest.mark.parametrize(
    ("candidate", "changes", "said"),
    [
        ("base", ("evaluation.sequential.first_prompts=20",), "20 prompts or more"),
        ("./elsewhere", (), "so stop: sequential saves nothing"),
    ],
)
def test_what_cannot_be_sequential_is_refused(
    candidate: str, changes: tuple[str, ...], said: str, fourteen: Evaluations
) -> None:
    refs = fourteen.run("base")
    records = (fourteen.store.path(refs["images/base"]) / "records.jsonl").read_text().splitlines()
    (fourteen.folder / "elsewhere").mkdir()
    for record in map(json.loads, records):
        shutil.copyfile(
            fourteen.store.path(refs["images/base"]) / record["file"],
            fourteen.folder / "elsewhere" / f"{record['prompt_id']}.png",
        )
    with pytest.raises(UserError, match=said):
        fourteen.run(candidate, *SEQUENTIAL, *changes)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("gate", "code", "verdict"),
    [
        ("{metric: clip_i, require: at_most, limit: 2.0}", 0, "promote"),
        ("{metric: clip_i, require: at_least, limit: 2.0}", 3, "reject"),
        ("{metric: clip_i, require: better}", 4, "inconclusive"),
        (None, 0, None),
    ],
)
def test_the_command_ends_as_the_gates_say(
    gate: str | None, code: int, verdict: str | None, fourteen: Evaluations, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [f"evaluation.gates=[{gate}]"] if gate else []
    monkeypatch.chdir(fourteen.folder.parent)
    place = fourteen.folder.relative_to(Path.cwd()) / "short.yaml"
    config = read_config(place, [*changes, "evaluation.candidate=base"])
    store = ArtifactStore(Path("store").absolute())
    recorder = Recorder(partial(materialise, store=store, device="cpu"))
    evaluate(prepare_experiment(config, store, made_by(place, changes, config, ("base",), ())), recorder)
    record_run(store, "short-base", "test", recorder.refs)
    done = cli("evaluate", place, "--candidate", "base", *(word for change in changes for word in ("--set", change)))
    assert done.returncode == code, done.stderr
    assert ("verdict: " in done.stdout) == (verdict is not None)
    if verdict:
        assert done.stdout.splitlines()[-1] == f"verdict: {verdict}"
    assert json.loads(Path("runs/short-base/report.json").read_text())["verdict"] == verdict


@pytest.fixture
def tested(fourteen: Evaluations, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two comparisons of the miniature with itself."""
    monkeypatch.chdir(fourteen.folder)
    config = read_config(fourteen.folder / "short.yaml", changes(2))
    recorder = Recorder(partial(materialise, store=fourteen.store, device="cpu"))
    self_test(prepare_experiment(config, fourteen.store, "test"), recorder)
    return result(fourteen.store, recorder.refs["self_test"])


@pytest.mark.ci
def test_a_model_is_not_found_better_than_itself(tested: dict[str, Any]) -> None:
    assert (tested["drawn_again"], tested["equal"]) == (4, 4), "nothing was remembered, and no bit differs"
    assert [found["outcome"] for found in tested["comparisons"]] == ["no_difference"] * 2
    for found in tested["comparisons"]:
        assert [metric["facts"]["name"] for metric in found["judged"]] == ["clip_i"], (
            "SSIM compares pictures of one noise"
        )
        assert (found["prompts"], found["replicates"]) == (14, 1)
        assert found["judged"][0]["delta"] != 0 and found["health"]["identical_pairs"] == 0, (
            "other noise, other pictures"
        )
    assert is_sound(tested)


@pytest.mark.ci
def test_a_self_test_that_finds_something_is_not_sound(tested: dict[str, Any]) -> None:
    one, other = tested["comparisons"]
    assert is_sound({**tested, "comparisons": [{**one, "outcome": "better"}]}), "one in twenty comes by chance"
    assert not is_sound({**tested, "comparisons": [{**one, "outcome": "better"}, {**other, "outcome": "worse"}]})
    assert not is_sound({**tested, "equal": 3})


def test_a_sequential_configuration_is_tested_with_all_its_prompts(
    fourteen: Evaluations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fourteen.folder)
    config = read_config(fourteen.folder / "short.yaml", [*SEQUENTIAL, *changes(1)])
    calls: list[Call] = []

    def run(call: Call) -> Pending:
        calls.append(call)
        return Pending(call.stage.kind, call.label)

    self_test(prepare_experiment(config, fourteen.store, "test"), run)
    assert [call.label for call in calls] == ["dataset", "images/base", "scores", "self_test"]
    assert len(calls[1].params["prompts"]) == 14 and calls[1].params["replicates"] == 2
