"""Stage `faces`: the largest face of each picture, for `transform.crop: face`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdxl_core.config import TransformConfig
from tasks.digests import digest_json
from tasks.errors import ConfigError
from tasks.manifest import Json
from tasks.stage import Call, Handle, Job, Stage


@dataclass(frozen=True)
class Detector:
    """A face detector's files."""

    folder: Path
    digest: str


def _build(job: Job) -> dict[str, Json]:
    from sdxl_core.faces import InsightFace, find_faces

    return find_faces(
        dataset=job.inputs["dataset"],
        load=lambda: InsightFace(Path(job.local["detector"])),
        detector_digest=job.params["detector"],
        out=job.out,
        cells=job.store.cells("faces"),
        progress=job.progress,
    )


STAGE = Stage(kind="faces", version="1", build=_build, heavy=False)


def find(label: str, dataset: Handle, detector: Detector) -> Call:
    """`dataset` may be the instance pictures or class images."""
    return Call(STAGE, label, {"detector": detector.digest}, {"dataset": dataset}, {"detector": str(detector.folder)})


def locate_detector(transform: TransformConfig, digest_file: Callable[[Path], str]) -> Detector | None:
    """The detector that face crops ask, if they do.

    Raises:
        ConfigError: there is no such folder, no model in it, or the package that reads it is missing.
    """
    if transform.crop != "face" or transform.face.detector is None:
        return None
    folder = Path(transform.face.detector).expanduser()
    if not folder.is_absolute() or not list(folder.glob("*.onnx")):
        raise ConfigError.about(
            "transform.face.detector", expected="a folder (./buffalo_l) with an insightface model (.onnx)", got=folder
        )
    if importlib.util.find_spec("insightface") is None:
        from sdxl_core.faces import NEEDS_EXTRA

        raise ConfigError(NEEDS_EXTRA)
    return detector_in(folder, digest_file)


def detector_in(folder: Path, digest_file: Callable[[Path], str]) -> Detector:
    """A folder of models as a detector; all of them count, as the package chooses."""
    return Detector(folder, digest_json({model.name: digest_file(model) for model in sorted(folder.glob("*.onnx"))}))
