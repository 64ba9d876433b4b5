"""Which training a name stands for, and when another may take its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdxl_core.bundles import MANIFEST, bundle_name
from sdxl_core.errors import UserError
from sdxl_core.train_job import Ancestor
from sdxl_core.training_config import LoraConfig, TrainingConfig
from tasks.gc import Retention, collect, find_garbage
from tasks.store import ArtifactStore
from tasks.train import Continuing, refuse_unfinished
from tasks.trainings import (
    Resume,
    TrainingRecord,
    bundles_of,
    find_ancestor,
    kept_keys,
    read_record,
    training_key,
    training_path,
    training_records,
    write_record,
)

OLD = TrainingConfig(max_steps=10)
FASTER = TrainingConfig(max_steps=10, learning_rate=1e-3)
WIDER = TrainingConfig(max_steps=10, adapter=LoraConfig(rank=32))


def settings(training: TrainingConfig, latents: str = "abc") -> dict[str, object]:
    return {"training": training.lasting, "inputs": {"latents": latents}}


def begun(store: ArtifactStore, training: TrainingConfig, *steps: int, finished: bool = False) -> TrainingRecord:
    """A training named `dog` with bundles, empty ones, after some steps."""
    key = training_key(settings(training), None)
    for step in steps:
        folder = training_path(store, key) / "bundles" / bundle_name(step)
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")
    record = TrainingRecord(key=key, settings=settings(training), finished=finished)
    write_record(store, "dog", record)
    return record


def test_a_record_reads_back_and_an_unreadable_one_counts_as_none(store: ArtifactStore) -> None:
    record = begun(store, OLD)
    assert read_record(store, "dog") == record
    next((store.root / "trainings" / "names").glob("*.json")).write_text("{")
    assert read_record(store, "dog") is None
    assert read_record(store, "cat") is None


def test_the_length_of_a_run_is_part_of_its_key_only_if_the_rate_depends_on_it() -> None:
    def key(**changes: object) -> str:
        return training_key(settings(TrainingConfig.model_validate(changes)), None)

    assert key(max_steps=10) == key(max_steps=20)
    assert key(max_steps=10, lr_schedule="cosine") != key(max_steps=20, lr_schedule="cosine")
    assert key(seed=1) != key(seed=2)
    assert key(save_every_steps=5, keep_bundles=9, save_every_minutes=1) == key()
    ancestor = Ancestor(path=Path("step-1"), step=1, digest="d")
    assert training_key(settings(OLD), ancestor) != training_key(settings(OLD), None)


def test_an_unfinished_training_holds_its_name(store: ArtifactStore) -> None:
    begun(store, OLD, 4)
    refuse_unfinished(store, Continuing(name="dog"), settings(OLD))
    refuse_unfinished(store, Continuing(name="cat"), settings(WIDER))
    with pytest.raises(UserError) as refused:
        refuse_unfinished(store, Continuing(name="dog"), settings(WIDER, latents="abd"))
    said = str(refused.value)
    assert "training.adapter.rank: 16 -> 32" in said and "inputs.latents: 'abc' -> 'abd'" in said
    assert "--fresh" in said and "--override" not in said
    with pytest.raises(UserError, match=r"--override training\.learning_rate"):
        refuse_unfinished(store, Continuing(name="dog"), {"training": FASTER.lasting})
    refuse_unfinished(store, Continuing(name="dog", fresh=True), settings(WIDER))


def test_a_finished_training_holds_nothing(store: ArtifactStore) -> None:
    begun(store, OLD, 10, finished=True)
    refuse_unfinished(store, Continuing(name="dog"), settings(WIDER))


def test_an_override_goes_on_from_the_newest_bundle(store: ArtifactStore) -> None:
    record = begun(store, OLD, 4, 8, 12)
    override = Resume(override=("training.learning_rate",))
    found = find_ancestor(store, "dog", FASTER, override)
    assert found is not None and found.path == training_path(store, record.key) / "bundles" / bundle_name(8)
    assert find_ancestor(store, "dog", FASTER, Resume()) is None


def test_an_overridden_training_keeps_its_ancestor_when_it_goes_on(store: ArtifactStore) -> None:
    begun(store, OLD, 4)
    override = Resume(override=("training.learning_rate",))
    ancestor = find_ancestor(store, "dog", FASTER, override)
    key = training_key(settings(FASTER), ancestor)
    write_record(store, "dog", TrainingRecord(key=key, settings=settings(FASTER), finished=False, ancestor=ancestor))
    (training_path(store, key) / "bundles" / bundle_name(6)).mkdir(parents=True)
    assert find_ancestor(store, "dog", FASTER, override) == ancestor
    with pytest.raises(UserError, match="went on from step 4 of another; give --override"):
        refuse_unfinished(store, Continuing(name="dog"), settings(FASTER))


@pytest.mark.parametrize(
    ("resume", "message"),
    [
        (Resume(override=("training.adapter.rank",)), "cannot change within a run"),
        (Resume(override=("training.learning_rate",)), "there is no training 'dog' to go on from"),
        (Resume(from_bundle=Path("/nowhere/step-00000001")), "there is no such bundle"),
    ],
)
def test_what_cannot_be_gone_on_from_is_an_error(store: ArtifactStore, resume: Resume, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_ancestor(store, "dog", FASTER, resume)


def test_a_named_bundle_that_is_damaged_is_an_error(store: ArtifactStore) -> None:
    record = begun(store, OLD, 4)
    bundle = training_path(store, record.key) / "bundles" / bundle_name(4)
    assert find_ancestor(store, "dog", OLD, Resume(from_bundle=bundle)) == Ancestor.of(bundle)
    (bundle / MANIFEST).write_text(json.dumps({"weights.safetensors": {"bytes": 3, "sha256": "0"}}))
    with pytest.raises(UserError, match=r"this bundle is not whole: weights\.safetensors is missing"):
        find_ancestor(store, "dog", OLD, Resume(from_bundle=bundle))


def test_trainings_are_listed_with_their_bundles(store: ArtifactStore) -> None:
    record = begun(store, OLD, 4, 8)
    assert list(training_records(store)) == [("dog", record)]
    assert [step for step, _ in bundles_of(store, record)] == [4, 8]


def test_collection_keeps_what_names_stand_for(store: ArtifactStore) -> None:
    forgotten = begun(store, WIDER, 2)
    old = begun(store, OLD, 4)
    ancestor = find_ancestor(store, "dog", FASTER, Resume(override=("training.learning_rate",)))
    new = training_key(settings(FASTER), ancestor)
    training_path(store, new).mkdir()
    write_record(store, "dog", TrainingRecord(key=new, settings=settings(FASTER), finished=True, ancestor=ancestor))
    assert kept_keys(store) == {old.key, new}
    garbage = find_garbage(store, Retention(min_age_h=0))
    assert [path.name for path in garbage.leftovers] == [forgotten.key]
    collect(store, garbage)
    assert sorted(path.name for path in (store.root / "trainings").iterdir()) == sorted([old.key, new, "names"])
