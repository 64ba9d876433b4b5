"""What a report states of its lineage: every key comes out of it alone, and nothing in it says when or where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.stated import StatedLineage
from tasks.digests import canonical_json
from tasks.lineage import lineage
from tasks.manifest import Manifest
from tasks.provenance import SHORT, _apart, _Pool, _whole, provenance, stated_recipe, stated_ref
from tasks.store import ArtifactStore
from tests.tasks.toy import fill_store, write_experiment

PROMPTS = 3 * SHORT
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3 * SHORT) | st.dictionaries(st.text(), inside),
    max_leaves=60,
)


@pytest.fixture
def report(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Of an experiment with prompts enough to be a long list."""
    monkeypatch.chdir(tmp_path)
    config = write_experiment(tmp_path / "toy")
    prompts = [{"id": f"p{number}", "prompt": f"a photo of a person {number}"} for number in range(PROMPTS)]
    (tmp_path / "toy/prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    fill_store(config, store, "sdxl-flows run toy/toy.yaml")
    [found] = store.manifests("report")
    return found


@pytest.fixture
def stated(store: ArtifactStore, report: Manifest) -> StatedLineage:
    """After a journey through the report.json."""
    read: dict[str, Any] = json.loads((store.path(report.ref) / "report.json").read_text())
    return StatedLineage.model_validate(read["provenance"])


def test_every_key_comes_out_of_the_report_alone(store: ArtifactStore, report: Manifest, stated: StatedLineage) -> None:
    made_from = {manifest.ref: manifest for manifest in lineage(store, report.recipe.inputs.values())}
    assert {stated_ref(one) for one in stated.artifacts} == set(made_from)
    for one in stated.artifacts:
        recipe = stated_recipe(one, stated.items)
        assert recipe.key == stated_ref(one).key
        assert recipe == made_from[stated_ref(one)].recipe


def test_inputs_come_first(stated: StatedLineage) -> None:
    seen = set[str]()
    for one in stated.artifacts:
        assert {below.artifact for below in one.inputs.values()} <= seen
        seen.add(one.artifact)


def test_prompts_stand_there_once(stated: StatedLineage) -> None:
    """Although two models draw them."""
    drawn = [one for one in stated.artifacts if one.label.startswith("images/")]
    assert len(drawn) == 2 and all(one.params["prompts"]["items"] == [[0, PROMPTS]] for one in drawn)
    assert json.dumps(stated.model_dump()).count("a photo of a person 7") == 1


def test_it_says_neither_when_nor_where(
    store: ArtifactStore, report: Manifest, stated: StatedLineage, tmp_path: Path
) -> None:
    text = stated.model_dump_json()
    assert str(tmp_path) not in text and report.created[:10] not in text
    assert stated.model_dump(mode="json") == provenance(store, report.recipe.inputs.values())


def test_sources_are_named(stated: StatedLineage) -> None:
    named = {one.label: [source.what for source in one.sources] for one in stated.artifacts}
    assert named["dataset"] == ["dataset files"]
    assert named["text"] == ["text encoders"]
    assert named["latents"] == ["VAE"]
    assert named["images/base"] == ["base model", "prompts"]
    assert named["scores"] == ["scorer weights (clip_i: model)"]
    assert named["comparison"] == []


def test_a_changed_entry_of_a_long_list_is_noticed(stated: StatedLineage) -> None:
    drawn = next(one for one in stated.artifacts if one.label == "images/base")
    items = [{**stated.items[0], "prompt": "a photo of somebody else"}, *stated.items[1:]]
    with pytest.raises(ValueError, match="digest"):
        stated_recipe(drawn, items)


@pytest.mark.ci
@given(st.lists(VALUES, max_size=4))
def test_taking_lists_apart_loses_nothing(values: list[Any]) -> None:
    """Several values share one pool."""
    pool = _Pool()
    apart = json.loads(json.dumps([_apart({"it": value}, pool) for value in values]))
    items = json.loads(json.dumps(pool.values))
    assert [canonical_json(_whole(value, items)["it"]) for value in apart] == [canonical_json(v) for v in values]
    assert len({canonical_json(item) for item in items}) == len(items)
