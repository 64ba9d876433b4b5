"""The identity loss from a configuration: refused where it does not fit, wired, and in every key that it decides."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sdxl_core.errors import UserError
from sdxl_core.train_job import TrainJob
from tasks.digests import FileDigests
from tasks.errors import ConfigError
from tasks.manifest import Ref
from tasks.stage import Job
from tasks.store import ArtifactStore
from tests.sdxl_core.face_models import colour_reader, iresnet
from tests.tasks.toy import Plan


@pytest.fixture
def plan(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """As if insightface were installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return plan


def detector(path: Path, outputs: int = 9) -> Path:
    """What has a detector's outputs, and finds nothing."""
    names = [f"out{i}" for i in range(outputs)]
    shown = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 64, 64])
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    nodes = [helper.make_node("Mul", ["input.1", "zero"], [name]) for name in names]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 64]) for name in names]
    graph = helper.make_graph(nodes, "detector", [shown], values, [zero])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def pack(folder: Path) -> Path:
    """A face pack: a recogniser and a detector."""
    colour_reader(folder / "rec.onnx")
    detector(folder / "det.onnx")
    return folder


def using(place: Path, **settings: object) -> str:
    return f"training.consistency.identity_loss={json.dumps({'face_model': str(place), **settings})}"


def test_the_stages_feed_each_other_and_training(plan: Plan, tmp_path: Path) -> None:
    calls = plan(using(pack(tmp_path / "pack")))
    fed = {
        label: {name: ref.digest for name, ref in call.inputs.items() if isinstance(ref, Ref)}
        for label, call in calls.items()
    }
    assert fed["landmarks"] == {"dataset": "dataset"}
    assert fed["preflight"] == fed["identity"] == {"dataset": "dataset", "landmarks": "landmarks"}
    assert fed["latents"] == {"dataset": "dataset"}, "what the VAE sees does not change"
    assert fed["train"]["identity"] == "identity"
    assert list(calls).index("identity") < list(calls).index("latents"), "what is refused is refused early"
    assert "landmarks" not in plan() and "identity" not in plan()
    assert calls["latents"].recipe().key == plan()["latents"].recipe().key


def test_face_crops_and_the_identity_loss_go_together(plan: Plan, tmp_path: Path) -> None:
    """The crops' own detector then finds the landmarks too, and what decided the crops is told."""
    other = pack(tmp_path / "other")
    calls = plan(using(pack(tmp_path / "pack")), "transform.crop=face", f"transform.face.detector={other}")
    assert set(calls["identity"].inputs) == {"dataset", "faces", "landmarks"}
    assert calls["landmarks"].params == calls["faces"].params
    assert calls["landmarks"].local["detector"] == str(other)


def test_the_face_model_is_its_bytes(plan: Plan, tmp_path: Path) -> None:
    first, copy = (plan(using(pack(tmp_path / name))) for name in ("a", "b"))
    for label in ("landmarks", "identity", "train"):
        assert first[label].recipe().key == copy[label].recipe().key
        assert str(tmp_path) not in json.dumps(dict(first[label].params))
    by_file = plan(using(tmp_path / "a" / "rec.onnx"))
    assert by_file["train"].recipe().key == first["train"].recipe().key
    iresnet(tmp_path / "a" / "rec.onnx")
    changed = plan(using(tmp_path / "a"))
    for label in ("identity", "train"):
        assert changed[label].params["face_model"] != first[label].params["face_model"]
    assert first["train"].params["face_model"] == first["identity"].params["face_model"]


def test_training_depends_on_the_vae_where_it_decodes(plan: Plan, tmp_path: Path) -> None:
    plain, with_loss = plan(), plan(using(pack(tmp_path / "pack")))
    assert plain["train"].params["face_model"] is None
    assert plain["train"].params["model"] != with_loss["train"].params["model"]


def test_the_licence_is_told(plan: Plan, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("sdxl_flows").propagate = True
    plan()
    assert "non-commercial" not in caplog.text
    plan(using(pack(tmp_path / "pack")))
    assert "licensed for non-commercial research only" in caplog.text


def test_what_is_not_there_or_something_else_is_refused(plan: Plan, tmp_path: Path) -> None:
    folder = pack(tmp_path / "pack")
    refusals = {
        using(tmp_path / "nowhere"): r"face_model: expected an existing local file or folder",
        using(Path("buffalo_l")): r"face_model: expected an existing local file or folder \(\./buffalo_l\)",
        using(folder / "det.onnx"): r"det\.onnx: expected a face recogniser.*9 outputs",
        using(folder, max_timestep=1001): r"max_timestep: expected at most 1000, all there are, got 1001",
        using(folder, wieght=1): r"wieght: unknown key.*Did you mean 'weight'",
    }
    for override, message in refusals.items():
        with pytest.raises(UserError, match=message):
            plan(override)
    detector(folder / "det.onnx", outputs=6)  # boxes alone
    with pytest.raises(ConfigError, match=r"expected a face detector with landmarks.*Set transform\.face\.detector"):
        plan(using(folder))


@pytest.mark.parametrize("package", ["onnx", "insightface"])
def test_without_the_extra_its_name_is_told(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else object())
    with pytest.raises(ConfigError, match=rf"needs the package {package}: .*pip install -e '\.\[faces\]'"):
        plan(using(pack(tmp_path / "pack")))


def test_the_trainer_is_told_where_faces_and_face_model_are(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it exports says by the digest which one it was."""
    given: list[TrainJob] = []
    monkeypatch.setattr("tasks.train.run_trainer", lambda task, *others: given.append(task) or {})
    folder = pack(tmp_path / "pack")
    for overrides in ([using(folder)], []):
        call = plan(*overrides)["train"]
        job = Job(
            params=call.params,
            local=call.local,
            inputs={name: tmp_path / name for name in call.inputs},
            digests={name: f"digest of {name}" for name in call.inputs},
            out=tmp_path / "out",
            work=tmp_path / "work",
            inherited=(),
            store=ArtifactStore(tmp_path / "store"),
            device="cpu",
            progress=lambda done, total: None,
        )
        call.stage.build(job)
    told, plain = given
    assert (told.face_targets, told.face_model) == (tmp_path / "identity", folder / "rec.onnx")
    assert told.identity["identity"] == "digest of identity"
    assert told.identity["face_model"] == FileDigests(tmp_path / "digests.sqlite")(folder / "rec.onnx")
    assert (plain.face_targets, plain.face_model) == (None, None) and "face_model" not in plain.identity
