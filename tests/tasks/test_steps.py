"""`trained@120` and its like: what they name, before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.wiring import evaluate, finetune
from sdxl_core.adapters import TRAINED_FILE
from sdxl_core.errors import UserError
from sdxl_core.training_config import TrainingConfig
from sdxl_core.training_config.exported_steps import step_folder
from tasks.additions import ExportedStep, OwnTraining, training_of
from tasks.errors import ConfigError
from tasks.experiment import Experiment
from tasks.finished import find_finished
from tasks.manifest import Ref
from tasks.references import expand_steps, names_trained, parse_reference, split_step
from tasks.runs import publish, record_run
from tasks.stage import Call, Handle, Pending
from tasks.store import ArtifactStore
from tasks.train import trained_weights
from tests.tasks.conftest import Prepare, candidate
from tests.tasks.test_experiment import write_lora
from tests.tasks.toy import write_experiment

STEPS = ("training.max_steps=10", "training.export_every_steps=3")
BEST = (
    *STEPS,
    "training.export=best",
    "training.validation={loss: {every_steps: 5, share: 0.5}}",
)


def calls_of(experiment: Experiment) -> dict[str, Call]:
    """By label; artifacts stand in for themselves."""
    found: dict[str, Call] = {}

    def run(call: Call) -> Handle:
        found[call.label] = call
        return Ref(kind=call.stage.kind, key=call.label, digest=call.label)

    experiment = Experiment(**{**vars(experiment), "decided": lambda ref: True})
    evaluate(experiment, run)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write_experiment(tmp_path / "toy").parent
    write_lora(folder / "style.safetensors", 2.0)
    return folder


def test_a_step_is_a_name_a_scale_and_a_number() -> None:
    terms = parse_reference("trained@120:0.8 + train/1f3a@00000040 + dog@7", "x")
    assert [(term.what, term.scale, term.step) for term in terms] == [
        ("trained", 0.8, 120),
        ("train/1f3a", 1, 40),
        ("dog", 1, 7),
    ]
    assert [term.name for term in terms] == ["trained@120 x 0.8", "train/1f3a@40", "dog@7"]
    for other in ("/here/trained@120", "org/style@v2", "org/style/dog.safetensors@120"):
        assert [(term.what, term.step) for term in parse_reference(other, "x")] == [(other, None)]
    assert names_trained(["base", "./a.safetensors + trained@120:0.8"])
    assert not names_trained(["dog@120", "/trained@120", "org/trained@120"])


@pytest.mark.parametrize("what", ["trained@", "trained@0", "trained@-3", "trained@1.5", "trained@v2", "@3", "a@b@c"])
def test_what_is_no_step_is_refused(what: str) -> None:
    with pytest.raises(ConfigError, match=r"here: expected one step behind @: trained@100, got "):
        split_step(what, "here")


def test_a_step_s_pictures_have_a_key_of_their_own_and_others_keep_theirs(prepare: Prepare) -> None:
    """The last step is what was trained, by another name."""
    own, step, last = (calls_of(prepare(name, *STEPS)) for name in ("trained", "trained@6:0.5", "trained@10"))
    assert own["train"].recipe() == step["train"].recipe()
    assert "steps" not in own["images/candidate"].params
    assert step["images/candidate"].params["steps"] == {"training": 6}
    assert step["images/candidate"].params["scales"] == {"training": 0.5}
    assert last["images/candidate"].recipe() == own["images/candidate"].recipe()
    two = calls_of(prepare("trained:0.5 + trained@3:0.5", *STEPS))["images/candidate"]
    assert list(two.params["steps"].values()) == [3] and len(two.inputs) == 2


def test_an_interval_is_in_the_recipe_only_where_it_is_set(prepare: Prepare) -> None:
    plain, steps = (calls_of(prepare("trained", *overrides))["train"] for overrides in (STEPS[:1], STEPS))
    assert steps.params == {**plain.params, "export_every_steps": 3}


def test_a_model_says_which_step_it_is(prepare: Prepare) -> None:
    names = {"trained": 10, "trained@6": 6, "trained@10": 10, "trained@6:0.5": None, "base": None}
    names |= {"trained@6 + ./style.safetensors": None, "trained@3 + trained@6": None, "./style.safetensors": None}
    assert {name: candidate(prepare(name, *STEPS)).step for name in names} == names
    assert candidate(prepare("trained", *BEST)).step is None, "nobody knows before it is trained"
    assert candidate(prepare("trained@10", *BEST)).step == 10
    assert candidate(prepare("trained@6", *STEPS)).added[0].source == ExportedStep(OwnTraining(), 6)
    assert prepare("trained@6", *STEPS).name == "toy-trained-6"


def test_a_report_shows_a_training_of_its_result_alone(prepare: Prepare) -> None:
    own = Pending("train", "train")
    assert training_of(candidate(prepare("trained@10", *STEPS)), own) is own
    assert training_of(candidate(prepare("trained@6", *STEPS)), own) is None
    assert training_of(candidate(prepare("trained@10", *BEST)), own) is None


REFUSED = {
    ("trained@5", STEPS): r"expected a step that the training exports \(3, 6, 9, 10\), got trained@5$",
    ("trained@3", ()): r"exports \(2\), got trained@3\. Set training\.export_every_steps",
    ("trained@11", BEST): r"exports \(3, 6, 9, 10\), got trained@11$",
    ("trained@10", (*BEST[2:], "training.max_steps=10")): r"exports \(none\), got trained@10\. Set training\.export",
    ("trained@*", STEPS): r"expected one step behind @.*evaluation\.candidates takes trained@\*",
    ("base@3", STEPS): r"expected a base without a scale or a step, got base@3",
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]} of {len(case[1])}")
def test_a_step_that_will_not_be_there_is_refused_before_anything_runs(
    prepare: Prepare, case: tuple[str, tuple[str, ...]]
) -> None:
    name, overrides = case
    with pytest.raises(UserError, match=f"^evaluation\\.candidate: .*{REFUSED[case]}"):
        prepare(name, *overrides)


def test_all_steps_are_spelt_out_in_order() -> None:
    last = TrainingConfig(max_steps=10, export_every_steps=3)
    best = last.model_copy(update={"export": "best"})
    steps = ("trained@3", "trained@6", "trained@9")
    assert expand_steps(["base", "trained@*", "dog@3"], last, "x") == ("base", *steps, "trained", "dog@3")
    assert expand_steps(["trained@*"], best, "x") == (*steps, "trained@10")
    assert expand_steps(["/trained@* + trained@*:0.5"], last, "x", after=6) == (
        "/trained@* + trained@9:0.5",
        "/trained@* + trained:0.5",
    )
    assert expand_steps(["trained", "base"], TrainingConfig(), "x") == ("trained", "base")
    with pytest.raises(ConfigError, match=r"x: expected a training that exports steps.*Set training\.export_every"):
        expand_steps(["trained@*"], TrainingConfig(), "x")


def write_training(folder: Path, step: int, base: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_lora(folder / "pytorch_lora_weights.safetensors", step)
    facts = {"training": {"adapter": {"kind": "lora"}}, "inputs": {"model": base}, "exported": {"step": step}}
    (folder / TRAINED_FILE).write_text(json.dumps(facts))


@pytest.fixture
def finished(prepare: Prepare, store: ArtifactStore) -> Ref:
    """A training of ten steps with two others beside its result, of the run `dog`."""
    from dataclasses import replace

    from tasks.stage import materialise

    call = calls_of(prepare("trained", *STEPS))["train"]

    def build(job: object) -> dict[str, int]:
        out: Path = job.out  # type: ignore[attr-defined]
        write_training(out, 10, "m")
        for step in (3, 6):
            write_training(out / step_folder(step), step, "m")
        return {"steps": 10}

    ref = materialise(replace(call, inputs={}, stage=replace(call.stage, build=build)), store, "cpu")
    record_run(store, "dog", "command", {"train": ref})
    return ref


def test_steps_of_finished_runs_are_named_alike(prepare: Prepare, store: ArtifactStore, finished: Ref) -> None:
    for name in ("dog@6", f"train/{finished.key[:9]}@6"):
        [one] = candidate(prepare(name)).added
        assert one.source == ExportedStep(finished, 6) and one.step == 6
        assert calls_of(prepare(name))["images/candidate"].params["steps"] == {"training": 6}
    assert candidate(prepare("dog@6")).name == "dog@6"
    for name in ("dog", "dog@10"):
        [one] = candidate(prepare(name)).added
        assert one.source == finished and one.step == 10
    with pytest.raises(UserError, match=r"dog: expected a step that it exported \(3, 6, 10\), got 9"):
        prepare("dog@9")
    found = find_finished(store, "dog", 6)
    assert found.name == "dog@6" and found.folder == store.path(finished) / "steps" / "00000006"


def test_what_a_result_is_known_by_does_not_change_with_the_steps_beside_it(
    store: ArtifactStore, finished: Ref
) -> None:
    place = store.path(finished)
    assert trained_weights(place) == [place / "pytorch_lora_weights.safetensors"]
    step = place / "steps" / "00000003"
    assert trained_weights(step) == [step / "pytorch_lora_weights.safetensors"]


def test_steps_are_published_and_none_of_an_earlier_run_stay(
    store: ArtifactStore, finished: Ref, tmp_path: Path
) -> None:
    target = tmp_path / "runs" / "dog"
    (target / "steps" / "00000099").mkdir(parents=True)
    publish(store, {"train": finished}, target)
    assert sorted(path.name for path in (target / "steps").iterdir()) == ["00000003", "00000006"]
    shutil.rmtree(store.path(finished) / "steps")
    publish(store, {"train": finished}, target)
    assert not (target / "steps").exists() and (target / "pytorch_lora_weights.safetensors").is_file()


def test_a_run_that_begins_with_another_s_bundle_has_no_earlier_steps(
    prepare: Prepare, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdxl_core.train_job import Ancestor

    ancestor = Ancestor(path=Path("/elsewhere/step-00000004"), step=4, digest="d")
    monkeypatch.setattr("tasks.experiment.find_ancestor", lambda *_: ancestor)
    assert candidate(prepare("trained@6", *STEPS)).step == 6
    with pytest.raises(UserError, match=r"exports \(6, 9, 10\), got trained@3"):
        prepare("trained@3", *STEPS)


def test_finetune_judges_a_step_too(prepare: Prepare) -> None:
    labels: list[str] = []

    def run(call: Call) -> Handle:
        labels.append(call.label)
        return Pending(call.stage.kind, call.label)

    finetune(prepare("trained@6", *STEPS), run)
    assert labels.index("train") < labels.index("images/candidate") and labels[-1] == "report"
