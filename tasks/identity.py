"""Stage `identity`: where the face is in each training picture and whose it is, for the identity loss."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.config import TransformConfig
from sdxl_core.identity.face_model import LICENCE, WHERE, find_recogniser, finds_landmarks
from sdxl_core.identity.onnx_graph import NEEDS_EXTRA, read_graph
from sdxl_core.training_config import TrainingConfig
from tasks.errors import ConfigError
from tasks.faces import Detector, detector_in
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage

_LOG = logging.getLogger("sdxl_flows")


@dataclass(frozen=True)
class FaceModel:
    """What the identity loss knows faces by."""

    recogniser: Path
    digest: str
    detector: Detector


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.identity.targets import embed_faces

    return embed_faces(
        transform=TransformConfig.model_validate(job.params["transform"]),
        dataset=job.inputs["dataset"],
        faces=job.inputs.get("faces"),
        landmarks=job.inputs["landmarks"],
        recogniser=Path(job.local["face_model"]),
        recogniser_digest=job.params["face_model"],
        out=job.out,
        cells=job.store.cells("identity"),
        device=job.device,
        progress=job.progress,
    )


STAGE = Stage(kind="identity", version="1", build=_build)


def embed(pictures: Mapping[str, Handle], transform: TransformConfig, face_model: FaceModel) -> Call:
    """`pictures` holds `dataset`, `landmarks` and, if a detector decides the crops, `faces`."""
    params = {"transform": transform.lasting, "face_model": face_model.digest}
    return Call(STAGE, "identity", params, pictures, {"face_model": str(face_model.recogniser)})


def locate_face_model(
    training: TrainingConfig, transform: TransformConfig, digest_file: Callable[[Path], str]
) -> FaceModel | None:
    """The recogniser and the detector that the identity loss asks for, if it is on.

    The detector is that of the face crops, or the one beside the recogniser. Nothing is ever downloaded.

    Raises:
        UserError: one is not there or is something else, or a package is missing.
    """
    config = training.consistency.identity_loss
    if config is None:
        return None
    place = Path(config.face_model).expanduser()
    if not place.is_absolute() or not place.exists():
        what = "an existing local file or folder (./buffalo_l)"
        raise ConfigError.about(f"{WHERE}.face_model", expected=what, got=place)
    for package in ("onnx", "insightface"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(NEEDS_EXTRA.replace("onnx", package))
    recogniser = find_recogniser(place)
    folder = Path(transform.face.detector).expanduser() if transform.face.detector else recogniser.parent
    if not any(finds_landmarks(read_graph(model, with_constants=False)) for model in sorted(folder.glob("*.onnx"))):
        raise ConfigError.about(
            WHERE,
            expected="a face detector with landmarks (det_10g.onnx) beside the recogniser",
            got=f"none in {folder}",
            fix="Set transform.face.detector to the folder of one",
        )
    _LOG.warning("%s: %s", WHERE, LICENCE)
    return FaceModel(recogniser, digest_file(recogniser), detector_in(folder, digest_file))
