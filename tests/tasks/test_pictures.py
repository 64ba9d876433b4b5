"""Crops, masks, faces and concepts from a configuration: refused where they do not fit, wired, keyed, and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sdxl_core.config import TransformConfig
from sdxl_core.data.crop_report import EpochSpec
from sdxl_core.data.preflight import format_summary, summarise
from sdxl_core.errors import UserError
from sdxl_core.training_config import ConceptConfig
from tasks.errors import ConfigError
from tasks.manifest import Ref
from tasks.stage import Job, materialise
from tasks.store import ArtifactStore
from tests.sdxl_core.data.test_preflight import record
from tests.tasks.toy import Plan


def pack(folder: Path) -> Path:
    folder.mkdir()
    (folder / "det.onnx").write_bytes(b"a model")
    return folder


REFUSED = {
    ("training.masked_loss={}",): r"training\.masked_loss needs masks: set dataset\.masks",
    ("dataset.masks=alpha",): r"dataset\.masks are not used",
    ("transform.crop=face",): r"transform\.crop = face needs to know where faces are",
    ("transform.crop=face", "transform.face.detector=/nowhere"): r"transform\.face\.detector: expected a folder",
    ("training.concepts.dog.repeats=0",): r"training\.concepts\.dog\.repeats: .*greater than 0",
    ("training.concepts.dog.repeat=2",): r"training\.concepts\.dog\.repeat: unknown key.*Did you mean 'repeats'",
    ("transform.buckets={step_px: 12}",): r"transform\.buckets\.step_px: .*multiple of 8",
    ("transform.buckets={stpe_px: 8}",): r"transform\.buckets\.stpe_px: unknown key.*'step_px'",
    ("dataset.masks=./nowhere", "training.masked_loss={}"): r"dataset\.masks .*nowhere: expected a folder",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_settings_that_do_not_fit_are_refused_before_anything_runs(plan: Plan, overrides: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=REFUSED[overrides]):
        plan(*overrides)


def test_without_the_extra_a_detector_is_refused_by_its_name(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[faces\]'"):
        plan("transform.crop=face", f"transform.face.detector={pack(tmp_path / 'pack')}")


def test_faces_are_found_in_pictures_and_class_images_and_decide_the_crops(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    folder = pack(tmp_path / "pack")
    calls = plan("transform.crop=face", f"transform.face.detector={folder}")
    assert calls["faces"].inputs["dataset"] != calls["class_faces"].inputs["dataset"]
    for label, found in (("preflight", "faces"), ("latents", "faces"), ("class_latents", "class_faces")):
        faces_in = calls[label].inputs["faces"]
        assert isinstance(faces_in, Ref) and faces_in.digest == found
    keyed = json.dumps([dict(calls[label].params) for label in ("faces", "preflight", "latents", "class_latents")])
    assert str(tmp_path) not in keyed, "places are in no key"
    (folder / "det.onnx").write_bytes(b"another model")
    assert plan("transform.crop=face", f"transform.face.detector={folder}")["faces"].params != calls["faces"].params
    assert "faces" not in plan("dataset.face_box_column=text", "transform.crop=face"), "columns need no detector"


def test_where_masks_lie_is_in_no_key(plan: Plan, tmp_path: Path) -> None:
    keys = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8), 255).save(tmp_path / name / "0.png")
        keys.append(plan(f"dataset.masks={tmp_path / name}", "training.masked_loss={}")["dataset"].recipe().key)
    assert keys[0] == keys[1]
    Image.new("L", (8, 8), 200).save(tmp_path / "b" / "0.png")
    changed = plan(f"dataset.masks={tmp_path / 'b'}", "training.masked_loss={}")["dataset"]
    assert changed.recipe().key != keys[0] != plan()["dataset"].recipe().key


def test_masked_loss_and_concepts_cost_no_new_latents(plan: Plan) -> None:
    plain, other = plan(), plan("training.concepts={(none): {repeats: 2}}")
    assert other["latents"].recipe().key == plain["latents"].recipe().key
    assert other["train"].recipe().key != plain["train"].recipe().key


# --- preflight ---

RECORDS = [
    record("wide", 300, 200, concept="dog"),
    record("high", 100, 160, concept="dog"),
    record("square", 40, 40, concept="cat"),
]
BUCKETS = TransformConfig.model_validate({"resolution_px": 64, "buckets": {"step_px": 8}, "crop": "face"})


def test_preflight_tells_buckets_enlargements_faces_and_epochs() -> None:
    """3:2 and 5:8 are nearest to 5:3 and 3:5, of which there are buckets of 80 x 48; shares worked out by hand."""
    epoch = EpochSpec(rows_per_step=4, concepts={"cat": ConceptConfig(repeats=2.5)}, class_image_px=None)
    summary = summarise(RECORDS, transform=BUCKETS, faces={"digest of w": (1, 2, 3, 4)}, epoch=epoch)
    assert summary["crops"]["buckets"] == {
        "sizes": {"48x80": 1, "64x64": 1, "80x48": 1},
        "median_kept": 0.96,  # 100 x 160 to 50 x 80, of which 48 x 80
        "most_enlarged": 1.6,  # 40 to 64
    }
    assert summary["crops"]["least_kept"] == {"source": "wide", "share": 0.9}  # to 80 x 53.3, of which 80 x 48
    assert summary["crops"]["enlarged"] == ["square"]
    assert summary["crops"]["without_face"] == ["high", "square"]
    assert summary["epoch"] == {"rows": 4.5, "steps": 1.125, "rows_of": {"cat": 2.5, "dog": 2}}
    text = format_summary(summary)
    for part in (
        "in 3 buckets",
        "48x80: 1",
        "none is left out",
        "up to 1.6 times",
        "2; their center is kept",
        "1.125 steps",
    ):
        assert part in text, part
    assert json.loads(json.dumps(summary)) == summary


def test_preflight_refuses_what_training_would() -> None:
    plain = EpochSpec(rows_per_step=1, concepts={}, class_image_px=(64, 64))
    with pytest.raises(UserError, match=r"pictures of 48x80, 64x64, 80x48 and class images of 64x64"):
        summarise(RECORDS, transform=BUCKETS, epoch=plain)
    summarise(RECORDS, transform=TransformConfig(resolution_px=64), epoch=plain)
    unknown = plain.model_copy(update={"concepts": {"dgo": ConceptConfig()}, "class_image_px": None})
    with pytest.raises(UserError, match=r"training\.concepts\.dgo.*has cat, dog.*Did you mean 'dog'"):
        summarise(RECORDS, transform=BUCKETS, epoch=unknown)


def test_the_stage_reports_on_a_dataset_artifact(plan: Plan, tmp_path: Path) -> None:
    """The stage itself, on the artifact of the stage before, without any model: only a tokenizer is asked."""
    calls, store = plan("prior=null", "training.objective={kind: diffusion}"), ArtifactStore(tmp_path / "store")
    pictures = materialise(calls["dataset"], store, "cpu")
    tokenizer = tmp_path / "model" / "tokenizer"
    tokenizer.mkdir(parents=True)
    words = ["a", "a</w>", "<|startoftext|>", "<|endoftext|>"]
    (tokenizer / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    job = Job(
        params=calls["preflight"].params,
        local={"model": str(tmp_path / "model")},
        inputs={"dataset": store.path(pictures)},
        digests={},
        out=tmp_path / "out",
        work=tmp_path / "work",
        inherited=(),
        store=store,
        device="cpu",
        progress=lambda done, total: None,
    )
    assert calls["preflight"].stage.build(job)["pictures"] == 3
    document = json.loads((tmp_path / "out" / "preflight.json").read_text())
    assert document["epoch"] == {"rows": 3, "steps": 3, "rows_of": {"(none)": 3}}
