"""Where faces are in training pictures and whose they are: through crops, mirrors and sizes, worked out once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from sdxl_core.config import TransformConfig
from sdxl_core.data.crops import plan_crops
from sdxl_core.data.decode import open_rgb
from sdxl_core.data.landmarks import mirrored, points_of, read_landmarks
from sdxl_core.data.preflight import format_summary, summarise
from sdxl_core.data.records import Record, read_records, write_records
from sdxl_core.data.transform import variants
from sdxl_core.errors import UserError
from sdxl_core.faces import Face
from sdxl_core.identity.alignment import TEMPLATE_52, aligned
from sdxl_core.identity.landmarks import find_landmarks
from sdxl_core.identity.recogniser import FaceRecogniser
from sdxl_core.identity.training_faces import TrainingFaces
from tests.sdxl_core.identity_inputs import Middle, face_at, write_identity

TRANSFORMS = [
    TransformConfig(resolution_px=64),
    TransformConfig(resolution_px=128, flip=True),
    TransformConfig(resolution_px=64, crop="random", crops_per_image=3, flip=True),
    TransformConfig.model_validate(
        {"resolution_px": 96, "flip": True, "buckets": {"step_px": 16, "resolutions_px": [64, 96]}}
    ),
]


def smooth(width: int, height: int, seed: int) -> Image.Image:
    """A few waves of each colour, alike at any size."""
    v, u = np.mgrid[:height, :width] + 0.5
    u, v = u / 100, v / 100
    phases = np.random.default_rng(seed).uniform(0, 6, (3, 2))
    waves = [np.sin(4 * u + a) * np.cos(3 * v + b) for a, b in phases]
    return Image.fromarray(np.uint8(np.round(np.stack(waves, -1) * 100 + 127)))


def write_dataset(folder: Path, sizes: list[tuple[int, int]], faceless: int = 0, concepts: str = "") -> Path:
    """Width and height of each; the last `faceless` are grey."""
    (folder / "images").mkdir(parents=True)
    records = []
    for i, (width, height) in enumerate(sizes):
        plain = i >= len(sizes) - faceless
        picture = Image.new("RGB", (width, height), (50, 50, i)) if plain else smooth(width, height, i)
        picture.save(folder / "images" / f"{i}.png")
        sha256 = hashlib.sha256((folder / "images" / f"{i}.png").read_bytes()).hexdigest()
        concept = concepts[i] if concepts else None
        records.append(Record(f"images/{i}.png", sha256, width, height, "x", concept, f"{i}.png"))
    write_records(folder, records)
    return folder


def tensors_of(root: Path) -> dict[str, Tensor]:
    return load_file(root / "identity" / "identity.safetensors")


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_aligned_face_is_the_same_in_every_training_picture(tmp_path: Path, transform: TransformConfig) -> None:
    """Cut out of the training picture, it is what was embedded of the picture itself, but for resampling."""
    dataset = write_dataset(tmp_path / "data", [(150, 100), (100, 160), (120, 120)])
    write_identity(tmp_path, dataset, transform)
    tensors, network = tensors_of(tmp_path), FaceRecogniser.load(tmp_path / "face.onnx", torch.device("cpu"))
    assert int(tensors["shown_NV"].sum()) >= len(tensors["shown_NV"]), "one crop of each at least"
    for row, picture in enumerate(plan_crops(read_records(dataset), transform, {})):
        with open_rgb(dataset / picture.record.image) as opened:
            views = variants(opened, picture.size, picture.record.sha256, transform)
        for variant, view in enumerate(views):
            if not tensors["shown_NV"][row, variant]:
                continue
            crop = aligned(torch.from_numpy(view.pixels_CHW), tensors["alignment_NV23"][row, variant])
            cosine = float(network(crop[None])[0] @ tensors["embedding_NVD"][row, variant])
            assert cosine > 0.9995
            others = [float(network(crop[None])[0] @ e[variant]) for e in tensors["embedding_NVD"]]
            assert min(others) < 0.9, "faces are told apart"


def test_a_mirrored_picture_has_its_sides_changed() -> None:
    points = np.array([[10.0, 5], [20, 6], [15, 9], [11, 12], [19, 13]])
    expected = [[79, 6], [89, 5], [84, 9], [80, 13], [88, 12]]
    assert mirrored(points, 100).tolist() == expected
    assert np.array_equal(mirrored(mirrored(points, 100), 100), points)


def test_what_is_not_whole_in_a_crop_does_not_count(tmp_path: Path) -> None:
    """The face lies at the right edge of a wide picture, of which the middle is trained."""

    class AtTheEdge:
        def faces(self, picture: Image.Image) -> list[Face]:
            return [face_at(TEMPLATE_52 * 0.5 + [picture.width - 56.0, 20.0])]

    dataset = write_dataset(tmp_path / "data", [(200, 100), (100, 100)])
    transform = TransformConfig(resolution_px=64)
    assert write_identity(tmp_path, dataset, transform, detector=AtTheEdge())["shown"] == 1
    assert tensors_of(tmp_path)["shown_NV"].tolist() == [[0], [1]]
    assert bool(tensors_of(tmp_path)["embedding_NVD"].any(-1).all()), "both are known, and make the mean"
    found = read_landmarks(tmp_path / "landmarks")
    summary = summarise(read_records(dataset), transform=transform, landmarks=found)
    assert summary["identity"] == {"training_pictures": 2, "shown": 1, "without_face": [], "cut_face": ["0.png"]}
    write_records(dataset, read_records(dataset)[:1])
    with pytest.raises(UserError, match=r"expected crops with faces, got none. Set transform\.crop=face"):
        write_identity(tmp_path, dataset, transform, detector=AtTheEdge())


def test_pictures_without_a_face_are_counted_and_none_at_all_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [(100, 100)] * 3, faceless=1)
    transform = TransformConfig(resolution_px=64, flip=True)
    assert write_identity(tmp_path, dataset, transform) == {"pictures": 3, "shown": 4, "embedded": 2}
    assert not tensors_of(tmp_path)["embedding_NVD"][2].any()
    found = read_landmarks(tmp_path / "landmarks")
    summary = summarise(read_records(dataset), transform=transform, landmarks=found)
    assert summary["identity"] == {"training_pictures": 6, "shown": 4, "without_face": ["2.png"], "cut_face": []}
    said = format_summary(summary)
    assert "in 4 of 6" in said and "non-commercial research only" in said and "- 2.png" in said
    write_records(dataset, read_records(dataset)[2:])
    with pytest.raises(UserError, match="expected pictures with faces, got none"):
        write_identity(tmp_path, dataset, transform)


def test_everything_is_worked_out_once(tmp_path: Path) -> None:
    dataset, cells, detector = write_dataset(tmp_path / "data", [(100, 100)] * 2), dict[str, bytes](), Middle()
    transform = TransformConfig(resolution_px=64)
    assert write_identity(tmp_path / "a", dataset, transform, cells, detector)["embedded"] == 2
    other = TransformConfig(resolution_px=32, flip=True)
    assert write_identity(tmp_path / "b", dataset, other, cells, detector)["embedded"] == 0, "crops change nothing"
    assert write_identity(tmp_path / "c", dataset, transform, cells, detector)["embedded"] == 0
    assert detector.looked_at == 2
    for part in ("landmarks/landmarks.jsonl", "identity/identity.safetensors", "identity/index.jsonl"):
        assert (tmp_path / "a" / part).read_bytes() == (tmp_path / "c" / part).read_bytes()


class Crowd:
    """A small face on the left, a large one on the right, and points that are no face over all of the picture."""

    def faces(self, picture: Image.Image) -> list[Face]:
        small, large = face_at(TEMPLATE_52 * 0.1), face_at(TEMPLATE_52 * 0.4 + [50.0, 40.0])
        return [small, large]


def test_the_dataset_s_face_goes_before_the_largest(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [(100, 100)] * 3)
    first, second, third = read_records(dataset)
    told = [replace(first, face_box=(0.0, 0.0, 12.0, 12.0)), second, replace(third, face_box=(0.0, 80.0, 9.0, 99.0))]
    write_records(dataset, told)
    kwargs = {"load": Crowd, "detector_digest": "d", "cells": {}}
    find_landmarks(dataset=dataset, out=tmp_path / "out", **kwargs)  # type: ignore[arg-type]
    found = read_landmarks(tmp_path / "out")
    assert np.allclose(found[first.sha256], TEMPLATE_52 * 0.1)  # type: ignore[arg-type]
    assert np.allclose(found[second.sha256], TEMPLATE_52 * 0.4 + [50.0, 40.0])  # type: ignore[arg-type]
    assert found[third.sha256] is None, "nothing is found where the dataset says that the face is"


def test_points_in_one_place_are_no_face(tmp_path: Path) -> None:
    class Flat:
        def faces(self, picture: Image.Image) -> list[Face]:
            return [Face((0.0, 0.0, 50.0, 50.0), np.full((5, 2), 20.0))]

    dataset = write_dataset(tmp_path / "data", [(100, 100)])
    with pytest.raises(UserError, match="expected pictures with faces"):
        find_landmarks(dataset=dataset, load=Flat, detector_digest="d", out=tmp_path / "out", cells={})


def test_one_picture_has_one_face(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [(100, 100)])
    (record,) = read_records(dataset)
    write_records(dataset, [record, replace(record, face_box=(0.0, 0.0, 9.0, 9.0), source="again.png")])
    with pytest.raises(UserError, match=r"0\.png and again\.png: expected one face"):
        find_landmarks(dataset=dataset, load=Middle, detector_digest="d", out=tmp_path / "out", cells={})


def test_the_mean_is_of_the_concept_s_pictures_each_once(tmp_path: Path) -> None:
    """At two sizes each; one picture has no face, and one is not trained on."""
    sizes = [(100, 100)] * 6
    dataset = write_dataset(tmp_path / "data", sizes, faceless=1, concepts="aabbab")
    transform = TransformConfig.model_validate(
        {"resolution_px": 64, "flip": True, "buckets": {"step_px": 16, "resolutions_px": [48, 64]}}
    )
    write_identity(tmp_path, dataset, transform)
    records = read_records(dataset)
    trained = {record.sha256: record.concept for record in records if record.source != "1.png"}
    mean = TrainingFaces.load(tmp_path / "identity", trained, "mean")
    own = TrainingFaces.load(tmp_path / "identity", trained, "picture")
    embedding = tensors_of(tmp_path)["embedding_NVD"]
    assert embedding.shape[:2] == (12, 2)
    for variant in (0, 1):
        e = embedding[::2, variant]  # the first size of each
        expected = {"a": F.normalize(e[0] + e[4], dim=0), "b": F.normalize(e[2] + e[3], dim=0)}
        for size in ("48x48", "64x64"):
            for i in (0, 2, 3, 4):
                place = ((records[i].sha256, size), variant)
                assert torch.allclose(mean.pick([place]).reference_BD[0], expected["aabbab"[i]], atol=1e-6)
                assert torch.allclose(own.pick([place]).reference_BD[0], e[i], atol=1e-6)
                assert bool(mean.pick([place]).shown_B)
    faceless = ((records[5].sha256, "48x48"), 0)
    assert mean.pick([faceless, None]).shown_B.tolist() == [False, False]


def test_faces_of_other_pictures_are_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [(100, 100)] * 2, faceless=1)
    write_identity(tmp_path, dataset, TransformConfig(resolution_px=64))
    with pytest.raises(UserError, match="expected the faces of the pictures that are trained"):
        TrainingFaces.load(tmp_path / "identity", {"0" * 64: None}, "mean")
    faceless = read_records(dataset)[1].sha256
    with pytest.raises(UserError, match="no picture that is trained shows a face"):
        TrainingFaces.load(tmp_path / "identity", {faceless: None}, "mean")


def test_the_index_is_that_of_the_training_pictures(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", [(150, 100), (100, 100)])
    write_identity(tmp_path, dataset, TRANSFORMS[3])
    lines = [json.loads(line) for line in (tmp_path / "identity" / "index.jsonl").read_text().splitlines()]
    planned = plan_crops(read_records(dataset), TRANSFORMS[3], {})
    assert [(line["image_sha256"], line["size"]) for line in lines] == [(p.record.sha256, str(p.size)) for p in planned]
    assert points_of(planned[0], TRANSFORMS[3], {planned[0].record.sha256: None}) is None
