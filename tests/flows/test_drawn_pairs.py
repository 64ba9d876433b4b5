"""Pairs from nothing: pictures that the miniature draws and its judges prefer, each drawn and scored once."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from eval.feedback_facts import Feedback, read_feedback
from flows.preferences import relabel
from flows.wiring import finetune
from sdxl_core.data.pairs import iter_pairs
from sdxl_core.data.records import Record, read_records
from sdxl_core.errors import UserError
from tasks.config import PipelineConfig
from tasks.experiment import prepare_experiment
from tasks.manifest import Ref
from tasks.outside import verify_sources
from tasks.plan import Planner
from tasks.runs import Recorder
from tasks.sources import sources_of
from tasks.stage import Call, Handle, Pending, materialise
from tasks.store import ArtifactStore
from tasks.yaml_config import read_config
from tests.flows.conftest import Cli
from tests.flows.preferring import CLIP, PICK, TEXTS, scores_in
from tests.flows.test_pipeline import WEIGHTS

pytestmark = pytest.mark.ci

CONFIG = f"""\
name: taught
model: {{base: {WEIGHTS}/sdxl}}
dataset:
  source: drawn
  path: ./prompts.txt
  drawn: {{pictures_per_prompt: 2, sampling: {{steps: 1, width_px: 64, height_px: 64}}}}
feedback: {{judges: [{PICK}]}}
transform: {{resolution_px: 64}}
training: {{objective: {{kind: dpo}}, max_steps: 1, learning_rate: 1e-3}}
sampling: {{steps: 1, width_px: 64, height_px: 64}}
evaluation:
  prompts: ./prompts.txt
  metrics:
    - {{metric: clip_score, model: {WEIGHTS}/clip, primary: true}}
"""


class Drawn:
    """An experiment that draws what it learns from, up to its labels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(folder / "store")
        (folder / "prompts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
        (folder / "taught.yaml").write_text(CONFIG)

    def config(self, *overrides: str) -> PipelineConfig:
        with contextlib.chdir(self.folder):
            return read_config(self.folder / "taught.yaml", overrides)

    def relabel(self, *overrides: str) -> dict[str, Ref]:
        recorder = Recorder(lambda call: materialise(call, self.store, "cpu"))
        relabel(prepare_experiment(self.config(*overrides), self.store, "test"), recorder)
        return recorder.refs

    def plan(self, *overrides: str) -> dict[str, Call]:
        calls = dict[str, Call]()

        def run(call: Call) -> Handle:
            calls[call.label] = call
            return Ref(kind=call.stage.kind, key="k", digest=call.label)

        finetune(prepare_experiment(self.config(*overrides), self.store, "test"), run)
        return calls

    def records(self, refs: dict[str, Ref]) -> list[Record]:
        return read_records(self.store.path(refs["dataset"]))

    def facts(self, refs: dict[str, Ref]) -> Feedback:
        return read_feedback(self.store.path(refs["feedback"]))


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    return Drawn(tmp_path)


def test_more_pictures_draw_and_score_only_the_new_ones(drawn: Drawn, opened: Counter[str]) -> None:
    few = drawn.relabel()
    assert drawn.store.summary(few["dataset"]) == {"pictures": 4, "generated": 4}
    opened.clear()
    more = drawn.relabel("dataset.drawn.pictures_per_prompt=4", "feedback.pairs_per_prompt=2")
    assert drawn.store.summary(more["dataset"]) == {"pictures": 8, "generated": 4}
    old, new = drawn.records(few), drawn.records(more)
    assert [one for one in new if one in old] == old
    assert set(opened) == {one.sha256 for one in new} - {one.sha256 for one in old}
    assert drawn.facts(more).pairs == 4 and drawn.facts(few).pairs == 2


def test_the_best_of_a_prompt_is_preferred_to_its_worst(drawn: Drawn) -> None:
    refs = drawn.relabel("dataset.drawn.pictures_per_prompt=3")
    place = drawn.store.path(refs["feedback"])
    scores = scores_in(place)
    pairs = list(iter_pairs(place))
    assert [pair.text for pair in pairs] == list(TEXTS)
    for pair in pairs:
        mine = {line["sha256"]: line["scores"]["pick_score"] for line in scores if line["text"] == pair.text}
        assert len(mine) == 3 and pair.human_label is None and pair.label == 1.0
        assert (mine[pair.first], mine[pair.second]) == (max(mine.values()), min(mine.values()))
    margins = sorted(pair.margin for pair in pairs if pair.margin is not None)
    kept = drawn.relabel("dataset.drawn.pictures_per_prompt=3", f"feedback.min_margin={margins[1]}")
    assert [pair.margin for pair in iter_pairs(drawn.store.path(kept["feedback"]))] == margins[1:]
    assert (drawn.facts(kept).pairs, drawn.facts(kept).ties, drawn.facts(kept).human) == (2, 1, None)


def test_pictures_to_learn_from_have_noise_of_their_own(drawn: Drawn, caplog: pytest.LogCaptureFixture) -> None:
    """The evaluation of the same prompts by the same seed judges others, and the user is told."""
    found = drawn.plan()
    assert "2 of the evaluation's 2 prompts are drawn to learn from" in caplog.text
    assert found["dataset"].stage.kind == "drawn" and found["train"].inputs["pairs"].kind == "feedback"
    refs = drawn.relabel()
    cells = set(drawn.store.cells("images"))
    materialise(found["images/base"], drawn.store, "cpu")
    assert len(set(drawn.store.cells("images")) - cells) == len(TEXTS) and len(drawn.records(refs)) == 4


def test_another_model_draws_other_pictures(drawn: Drawn, short_run: Path) -> None:
    """Known by its bytes, whatever it is called."""
    base = drawn.relabel()
    shutil.copyfile(short_run / "style.safetensors", drawn.folder / "style.safetensors")
    other = drawn.relabel(f"dataset.drawn.model={drawn.folder}/style.safetensors")
    assert {one.sha256 for one in drawn.records(base)}.isdisjoint(one.sha256 for one in drawn.records(other))
    assert drawn.relabel(f"dataset.drawn.model={WEIGHTS}/sdxl")["dataset"] == base["dataset"]
    with pytest.raises(UserError, match=r"dataset\.drawn\.model.*train/KEY"):
        drawn.plan("dataset.drawn.model=trained@100")


def test_what_is_drawn_and_who_judged_are_sources(drawn: Drawn) -> None:
    refs = drawn.relabel()
    manifests = {label: drawn.store.manifest(ref.kind, ref.key) for label, ref in refs.items()}
    names = {label: {s.name for s in sources_of(one.recipe)} for label, one in manifests.items() if one is not None}
    assert names == {"dataset": {"base model", "prompts"}, "feedback": {"scorer weights (pick_score: model)"}}
    sources = [source for one in manifests.values() if one is not None for source in sources_of(one.recipe)]

    def today() -> dict[str, str]:
        document = drawn.config().model_dump(mode="json", exclude_unset=True)
        found = verify_sources(drawn.store, sources, document, drawn.folder)
        return {one.name.partition("  ")[0]: one.state for one in found}

    assert set(today().values()) == {"unchanged"} and set(today()) == set.union(*names.values())
    (drawn.folder / "prompts.txt").write_text("another\n")
    assert today()["prompts"] == "changed since"


def test_the_preflight_tells_of_the_pairs_that_are_learned_from(drawn: Drawn) -> None:
    def up_to_preflight(call: Call) -> Handle:
        if call.stage.kind in ("drawn", "feedback", "preflight"):
            return materialise(call, drawn.store, "cpu")
        return Pending(call.stage.kind, call.label)

    recorder = Recorder(up_to_preflight)
    finetune(prepare_experiment(drawn.config(), drawn.store, "test"), recorder)
    told = json.loads((drawn.store.path(recorder.refs["preflight"]) / "preflight.json").read_text())
    assert told["pairs"]["pairs"] == 2 and told["pictures"] == 4


def test_a_changed_rule_only_labels_anew(drawn: Drawn) -> None:
    drawn.relabel()
    planner = Planner(drawn.store)
    relabel(prepare_experiment(drawn.config("feedback.min_margin=0.1"), drawn.store, "test"), planner)
    assert [stage.label for stage in planner.stages if stage.action == "run"] == ["feedback"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["feedback=null"], "nobody says which pictures are better"),
        (
            ["dataset.source=prompt", "dataset.drawn=null", "training.objective.kind=diffusion"],
            "expected a dataset.source with pairs.*got prompt",
        ),
        (["dataset.drawn=null"], "belong together, got source: drawn without the section"),
        (["dataset.source=prompt"], "belong together, got source: prompt with the section"),
        (["dataset.masks=alpha"], "masks has no effect on drawn pictures"),
        (["feedback.pairs_per_prompt=2"], r"expected 1 at most, got 2. Set dataset.drawn.pictures_per_prompt=4"),
        (["feedback.keep_ties=true"], "keep_ties has no effect on drawn pictures"),
        (["dataset.path=./promts.txt"], r"dataset.path: expected a prompt file.*prompts.txt"),
        (["dataset.path=./twice.jsonl"], "expected every prompt once, got that of a and b"),
        (["dataset.path=./open.txt"], r"dataset.path: open.txt: 1 of 1 prompts leave \{subject\} open"),
        (["dataset.drawn.model=./prompts.txt"], "dataset.drawn.model: expected an existing LoRA file"),
        (["feedback.judges.0.model=./nowhere"], r"feedback.judges.0.model: expected a folder or file that exists"),
    ],
)
def test_what_does_not_fit_is_refused(drawn: Drawn, overrides: list[str], message: str) -> None:
    lines = [{"id": "a", "prompt": "the same"}, {"id": "b", "prompt": "the same"}]
    (drawn.folder / "twice.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (drawn.folder / "open.txt").write_text("a photo of {subject}\n")
    with pytest.raises(UserError, match=message), contextlib.chdir(drawn.folder):
        drawn.plan(*overrides)


def test_the_command_says_who_agrees_and_where_the_labels_are(drawn: Drawn, cli: Cli) -> None:
    drawn.relabel(f"feedback.judges=[{PICK}, {CLIP}]")
    done = cli("relabel", "taught.yaml", "--set", f"feedback.judges=[{PICK}, {CLIP}]")
    assert done.returncode == 0, done.stderr
    assert "PickScore" in done.stdout and "CLIP score" in done.stdout and "the rule (mean)" in done.stdout
    place = Path(done.stdout.splitlines()[-1].removeprefix("feedback: "))
    assert read_feedback(place).pairs == 2
    refused = cli("relabel", "taught.yaml", "--set", "feedback=null")
    assert refused.returncode == 2 and refused.stderr.startswith("error: dataset.source = drawn")
