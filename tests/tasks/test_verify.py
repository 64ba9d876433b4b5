"""One lineage recomputed: whatever is changed in the store, in copies or at the sources is found, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tasks.damage import damage_of_all
from tasks.errors import ConfigError
from tasks.manifest import MANIFEST, FileRecord, Ref, content_digest
from tasks.outside import verify_sources
from tasks.runs import publish, record_run
from tasks.store import ArtifactStore
from tasks.verify import BAD, Found, sources_in, verify_artifacts, verify_published
from tasks.verify_target import find_target
from tests.tasks.toy import fill_store, write_experiment

ELSEWHERE = "0" * 32
SOURCES = {"dataset files", "base model", "VAE", "text encoders", "prompts", "scorer weights (clip_i: model)"}


@dataclass(frozen=True)
class World:
    """A finished run with its copies; `runs/toy` and `toy/` lie in the working folder."""

    store: ArtifactStore
    refs: dict[str, Ref]
    copies: Path

    def place(self, label: str) -> Path:
        return self.store.path(self.refs[label])

    def manifest(self, label: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place(label) / MANIFEST).read_text())
        return found

    def rewrite(self, label: str, manifest: dict[str, Any]) -> None:
        (self.place(label) / MANIFEST).write_text(json.dumps(manifest))

    def report(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the published report.json."""
        document = json.loads((self.copies / "report.json").read_text())
        change(document)
        (self.copies / "report.json").write_text(json.dumps(document))

    def stated(self, document: dict[str, Any], label: str) -> dict[str, Any]:
        return next(one for one in document["provenance"]["artifacts"] if one["label"] == label)

    def verify(self, what: str = "toy") -> Iterator[Found]:
        target = find_target(self.store, what)
        yield from verify_artifacts(self.store, target)
        yield from verify_published(self.store, target)
        yield from verify_sources(self.store, sources_in(self.store, target), target.config, target.home)

    def states(self, what: str = "toy") -> dict[str, str]:
        """By label or name, all but those that are as they were."""
        found = (one for one in self.verify(what) if one.state not in ("whole", "unchanged"))
        return {one.name.split("  ")[0]: one.state for one in found}


@pytest.fixture
def world(store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    refs = fill_store(write_experiment(tmp_path / "toy"), store, "sdxl-flows run toy/toy.yaml")
    labels = {manifest.ref: manifest.label for manifest in store.manifests()}
    by_label = {labels[ref]: ref for ref in refs}
    record_run(store, "toy", "sdxl-flows run toy/toy.yaml", by_label)
    publish(store, by_label, tmp_path / "runs" / "toy")
    return World(store, by_label, tmp_path / "runs" / "toy")


@pytest.mark.parametrize("what", ["toy", "runs/toy/report.html", "runs/toy/report.json", "report/"])
def test_what_nobody_touched_is_whole(world: World, what: str) -> None:
    what = f"report/{world.refs['report'].key}" if what == "report/" else what
    found = list(world.verify(what))
    assert {one.state for one in found} == {"whole", "unchanged"}
    checked = {one.artifact for one in found if one.artifact}
    reached = {(ref.kind, ref.key) for ref in world.refs.values()}
    assert checked == reached if what == "toy" else reached - checked == {("preflight", world.refs["preflight"].key)}
    named = {one.name.split("  ")[0] for one in found if one.state == "unchanged"}
    assert named == SOURCES | ({"tokenizer"} if what == "toy" else set())


def test_a_flipped_byte_is_found(world: World) -> None:
    (file,) = world.place("latents").glob("*.html")
    changed = bytearray(file.read_bytes())
    changed[3] ^= 1
    file.write_bytes(changed)
    assert world.states() == {"latents": "damaged"}


def test_edited_parameters_give_another_key(world: World) -> None:
    manifest = world.manifest("train")
    manifest["recipe"]["params"]["max_steps"] += 1
    world.rewrite("train", manifest)
    assert world.states() == {"train": "damaged"}
    assert [key for _, key, _ in damage_of_all(world.store)] == [world.refs["train"].key]


def test_an_edited_input_is_found_and_the_input_is_not_blamed(world: World) -> None:
    manifest = world.manifest("train")
    manifest["recipe"]["inputs"]["latents"]["digest"] = "1" * 64
    world.rewrite("train", manifest)
    assert world.states() == {"train": "damaged"}
    assert world.states(str(world.refs["train"])) == {"train": "damaged"}


def test_an_input_renamed_to_another_artifact_is_found(world: World) -> None:
    """The key depends on what inputs hold, so it stays the same."""
    manifest = world.manifest("train")
    manifest["recipe"]["inputs"]["latents"] |= {"kind": "text", "key": world.refs["text"].key}
    world.rewrite("train", manifest)
    assert world.states() == {"text": "contradiction"}


def test_swapped_folders_are_found(world: World, tmp_path: Path) -> None:
    one, other = world.place("latents"), world.place("class_latents")
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    assert world.states() == {"latents": "damaged", "class_latents": "damaged"}


def test_bytes_changed_together_with_their_digests_contradict_what_was_made_of_them(world: World) -> None:
    manifest = world.manifest("dataset")
    (world.place("dataset") / "summary.md").write_text("x")
    manifest["files"]["summary.md"] = {"sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    manifest["files"]["summary.md"]["bytes"] = 1
    files = {name: FileRecord(**record) for name, record in manifest["files"].items()}
    world.rewrite("dataset", manifest | {"digest": content_digest(files)})
    assert not list(damage_of_all(world.store))
    assert world.states() == {"dataset": "contradiction"}
    [found] = [one for one in world.verify() if one.state in BAD]
    for who in ("report.json", "latents", "text", "the run's record"):
        assert who in found.why


def test_a_report_resealed_contradicts_the_run_s_record(world: World) -> None:
    manifest = world.manifest("report")
    del manifest["files"]["summary.md"]
    (world.place("report") / "summary.md").unlink()
    files = {name: FileRecord(**record) for name, record in manifest["files"].items()}
    world.rewrite("report", manifest | {"digest": content_digest(files)})
    assert world.states() == {"report": "contradiction"}


def test_a_file_that_was_added_is_found(world: World) -> None:
    """It would be drawn with: a training's weights are all of its files of that name."""
    (world.place("train") / "more.safetensors").write_text("x")
    assert world.states() == {"train": "contradiction"}


def test_what_is_gone_is_no_damage_and_the_rest_is_checked(world: World) -> None:
    shutil.rmtree(world.place("latents"))
    shutil.rmtree(world.place("train"))
    [file] = world.place("dataset").glob("*.html")
    gone = {"latents": "gone", "train": "gone", "runs/toy": "not found"}
    assert world.states() == gone
    assert world.states("runs/toy/report.json") == gone
    file.write_text("x")
    assert world.states(f"report/{world.refs['report'].key}") == {
        "latents": "gone", "train": "gone", "dataset": "damaged"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["report.json", "report.html", "summary.md", "scores.parquet"])
def test_changed_copies_are_found(world: World, name: str) -> None:
    (world.copies / name).write_bytes((world.copies / name).read_bytes().replace(b"judged", b"Judged"))
    for what in ("toy", "runs/toy/report.html", "runs/toy/report.json"):
        assert world.states(what) == {f"runs/toy/{name}": "contradiction"}


def test_changed_numbers_are_found_though_title_and_lineage_are_changed_too(world: World) -> None:
    def change(document: dict[str, Any]) -> None:
        document["title"] = "other"
        document["comparison"]["judged"] = [{"delta": 99}]

    world.report(change)
    assert world.states("runs/toy/report.json") == {"runs/toy/report.json": "contradiction"}


def test_a_recipe_stated_otherwise_is_found(world: World) -> None:
    world.report(lambda document: world.stated(document, "train")["params"].update(max_steps=9))
    assert world.states("runs/toy/report.json") == {"train": "contradiction", "runs/toy/report.json": "contradiction"}


def test_a_content_stated_otherwise_is_found(world: World) -> None:
    world.report(lambda document: world.stated(document, "comparison").update(content="3" * 64))
    found = world.states("runs/toy/report.json")
    assert found == {"comparison": "contradiction", "runs/toy/report.json": "contradiction"}


def test_names_that_lead_out_of_the_store_are_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.place("latents"), tmp_path / ELSEWHERE)
    manifest = world.manifest("train")
    manifest["recipe"]["inputs"]["latents"] |= {"kind": "../..", "key": ELSEWHERE}
    world.rewrite("train", manifest)
    assert world.states() == {"latents": "contradiction"}
    [found] = [one for one in world.verify() if one.state in BAD]
    assert found.why.endswith("names what cannot be an artifact")
    manifest["recipe"]["params"] = {}
    world.rewrite("train", manifest)
    assert world.states(str(world.refs["train"])) == {"train": "damaged", "latents": "contradiction"}


def test_sources_may_have_changed_since(world: World, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "white").save(tmp_path / "toy/pictures/0.png")
    (tmp_path / "toy/prompts.jsonl").write_text('{"id": "p0", "prompt": "a cat"}\n')
    shutil.rmtree(tmp_path / "toy/clip")
    assert world.states() == {
        "dataset files": "changed since",
        "prompts": "changed since",
        "scorer weights (clip_i: model)": "not found",
    }


def test_sources_that_were_moved_are_not_found(world: World, tmp_path: Path) -> None:
    (tmp_path / "toy").rename(tmp_path / "moved")
    assert world.states() == dict.fromkeys(SOURCES | {"tokenizer"}, "not found")


def test_a_weight_of_the_base_changes_what_has_it(world: World, tmp_path: Path) -> None:
    with (tmp_path / "toy/sdxl/vae/config.json").open("a") as file:
        file.write(" ")
    assert world.states() == {"VAE": "changed since", "base model": "changed since"}


def test_nothing_is_changed_by_looking(world: World) -> None:
    def bytes_of_all() -> dict[Path, bytes]:
        return {
            path: path.read_bytes() for path in sorted((world.store.root / "artifacts").rglob("*")) if path.is_file()
        }

    (world.place("train") / "summary.md").write_text("x")
    before = bytes_of_all()
    assert world.states() == {"train": "damaged"}
    assert bytes_of_all() == before


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("tooy", "Did you mean 'toy'"),
        ("train/0000", "no artifact"),
        ("../store/train", "no artifact"),
        ("train/../report", "no artifact"),
        ("nowhere/report.html", "no such file"),
        ("toy/toy.yaml", "another file"),
    ],
)
def test_what_is_nothing_is_named(world: World, what: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_target(world.store, what)


def test_a_report_of_another_store_is_none(world: World, tmp_path: Path) -> None:
    """Its own account is checked nevertheless."""
    found = list(
        verify_artifacts(empty := ArtifactStore(tmp_path / "empty"), find_target(empty, "runs/toy/report.json"))
    )
    assert {one.state for one in found} == {"gone"}
    (world.copies / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match="got neither"):
        find_target(empty, "runs/toy/report.json")


def test_every_artifact_names_its_own_lineage(world: World) -> None:
    for manifest in world.store.manifests():
        assert {one.state for one in world.verify(str(manifest.ref))} <= {"whole", "unchanged"}
        assert len({one.name for one in world.verify(str(manifest.ref))}) >= 1 + len(manifest.recipe.inputs)
